"""Does ``bpbench.check`` take people's functions as they write them, and say what is wrong?"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

import bpbench
from bpbench import MLP, Parameters
from tests import people
from tests.handwritten import Handwritten, Mistake, step_a

ROOT = Path(__file__).resolve().parent.parent
SQUARED = MLP((5, 4, 3))
TANH_BINARY = MLP((5, 4, 3), "tanh", "sigmoid", "binary_cross_entropy")
TANH_ENTROPY = MLP((5, 4, 3), "tanh", "softmax", "cross_entropy")
RELU_ENTROPY = MLP((5, 4, 3), "relu", "softmax", "cross_entropy")


def places(report):
    return [(finding.mistake, finding.layer, finding.tensor) for finding in report.findings]


# ── As people write it ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("function", "network", "layout"),
    [
        (
            people.columns_with_a_dictionary,
            TANH_BINARY,
            "(n_out, n_in), samples in columns, b (n, 1)",
        ),
        (
            people.rows_with_class_numbers,
            RELU_ENTROPY,
            "(n_in, n_out), samples in rows, b (n,), y as class numbers",
        ),
        (
            people.theta_with_a_column_of_biases,
            MLP((5, 4, 3), loss="binary_cross_entropy"),
            "W (n_out, n_in), samples in rows, b first in W",
        ),
        (people.ones_after_the_inputs, MLP((5, 4, 3), "tanh", "tanh"), "b last in W"),
        (people.theta_as_matrices, MLP((5, 4, 3), loss="binary_cross_entropy"), "b first in W"),
        (people.a_dictionary_by_kind_and_layer, MLP((4, 6, 5, 2)), "samples in columns"),
        (
            people.names_that_say_what_they_hold,
            MLP((5, 4, 3), "tanh", "identity"),
            "samples in rows",
        ),
        (people.layers_by_names, MLP((5, 4, 3)), "(n_in, n_out), samples in rows, b (n,)"),
        (people.one_column_at_a_time, SQUARED, "(n_out, n_in), one sample at a time, as a column"),
        (people.one_vector_with_outer_products, MLP((5, 4, 3), "tanh", "identity"), "as a vector"),
        (people.plain_python_loops, MLP((5, 4, 6, 3)), "(n_out, n_in), samples in rows"),
        (people.pairs_of_layers, SQUARED, "(n_out, n_in), samples in rows"),
        (people.arguments_by_name_only, MLP((4, 6, 5, 2)), "(n_out, n_in), samples in rows"),
        (people.biases_first_one_column_at_a_time, MLP((4, 6, 5, 2)), "as a column"),
        (people.pairs_as_parameters, MLP((5, 4, 3), "tanh", "tanh"), "(n_in, n_out)"),
    ],
)
def test_right_gradients_in_any_style_are_right_and_the_layout_is_said(function, network, layout):
    report = bpbench.check(network, function)
    assert report.verdict == "right", str(report)
    assert layout in report.subject


@pytest.mark.parametrize(
    ("function", "network", "expected"),
    [
        (
            people.error_turned_round,
            MLP((3, 4, 1), bias=False),
            [("sign", 1, "delta"), ("no 1/m", 1, "delta")],
        ),
        (
            people.summed_with_the_wrong_activation_below,
            TANH_ENTROPY,
            [("no 1/m", 1, "delta"), ("f' of another activation", 0, "delta")],
        ),
        (
            people.derivative_of_what_is_activated_already,
            SQUARED,
            [("f'(a)", 1, "delta"), ("f'(a)", 0, "delta")],
        ),
        (people.step_within_the_pass, SQUARED, [("W already updated", 0, "delta")]),
        (
            people.relu_masked_by_the_gradient,
            MLP((5, 4, 3), "relu", "identity"),
            [("ReLU mask from the wrong place", 0, "delta")],
        ),
        (
            people.bias_summed_to_a_number,
            MLP((5, 4, 3), output="sigmoid", loss="binary_cross_entropy"),
            [("db summed over everything", 0, "db"), ("db summed over everything", 1, "db")],
        ),
    ],
)
def test_wrong_gradients_as_questions_show_them_are_explained(function, network, expected):
    report = bpbench.check(network, function)
    assert report.verdict == "wrong"
    assert places(report) == expected, str(report)
    assert all(finding.certain for finding in report.findings)


def test_an_axis_that_is_guessed_from_the_number_of_samples_is_found():
    network = MLP((5, 4, 6))
    right = Handwritten(network)

    def function(W, b, x, y):
        dW, db = right(W, b, x, y)
        return dW, [g[::-1] if len(x) == len(g) else g for g in db]

    report = bpbench.check(network, function)
    assert report.verdict == "wrong"
    assert "as many samples as a layer has units" in report.findings[0].say


def test_layers_in_reverse_order_are_seen_where_all_have_one_shape():
    network = MLP((4, 4, 4, 4))
    right = Handwritten(network)

    def function(W, b, x, y):
        dW, db = right(W, b, x, y)
        return dW[::-1], db[::-1]

    assert places(bpbench.check(network, function)) == [("layers in reverse order", None, "dW")]


def test_an_output_that_is_bent_too_is_told_from_a_wrong_slope_by_the_loss():
    network = MLP((5, 4, 3), "relu", "identity")
    bent = Handwritten(MLP((5, 4, 3), "relu", "relu"))

    def with_loss(W, b, x, y):
        a = np.maximum(np.maximum(x @ W[0].T + b[0], 0) @ W[1].T + b[1], 0)
        return ((a - y) ** 2).sum() / 2 / len(x), *bent(W, b, x, y)

    name = "another activation in the forward pass"
    assert places(bpbench.check(network, with_loss)) == [(name, 1, "a")]
    without = bpbench.check(network, bent)
    assert not without.findings[0].certain
    assert "as possible: f' of another activation" in without.findings[0].say


def test_results_that_the_next_call_overwrites_are_right_and_said_to_be_so():
    right, buffers = Handwritten(SQUARED), {}

    def function(W, b, x, y):
        dW, db = right(W, b, x, y)
        kept = buffers.setdefault(tuple(w.shape for w in W), (dW, db))
        for old, new in zip((*kept[0], *kept[1]), (*dW, *db), strict=True):
            old[...] = new
        return kept

    report = bpbench.check(SQUARED, function)
    assert report.verdict == "right"
    assert places(report) == [("result overwritten by the next call", None, "dW")]


def laid_out(function, weights, samples, biases):
    """A function of bpbench's layout, in another."""

    def in_layout(W, b, x, y):
        if weights == "in_out":
            W = [w.T for w in W]
        if samples == "columns":
            x, y = x.T, y.T
        shape = {"flat": (-1,), "row": (1, -1), "column": (-1, 1)}[biases]
        assert all(v.shape == v.reshape(shape).shape for v in b)
        dW, db = function(W, [v.reshape(-1) for v in b], x, y)
        return [g.T for g in dW] if weights == "in_out" else dW, [g.reshape(shape) for g in db]

    return in_layout


@pytest.mark.parametrize(
    ("weights", "samples", "biases"),
    list(itertools.product(("out_in", "in_out"), ("rows", "columns"), ("flat", "row", "column"))),
)
def test_every_layout_is_found_out(weights, samples, biases):
    report = bpbench.check(SQUARED, laid_out(Handwritten(SQUARED), weights, samples, biases))
    assert report.verdict == "right", str(report)
    assert {"out_in": "W (n_out, n_in)", "in_out": "W (n_in, n_out)"}[weights] in report.subject
    assert f"samples in {samples}" in report.subject


def test_a_layout_that_is_given_is_not_guessed():
    right = bpbench.check(SQUARED, Handwritten(SQUARED), weights="out_in", samples="rows")
    assert right.verdict == "right"
    assert "as given" in right.subject
    other = bpbench.check(SQUARED, Handwritten(SQUARED), weights="in_out", samples="rows")
    assert places(other) == [("layout", None, None), ("raises", None, None)]
    assert "does run with W (n_out, n_in), samples in rows" in other.findings[0].say


FORMS = {
    "(loss, dW, db)": lambda dW, db: (0.0, dW, db),
    "tuples": lambda dW, db: (tuple(dW), tuple(db)),
    "flat": lambda dW, db: (dW[0], db[0], dW[1], db[1]),
    "flat from the output back": lambda dW, db: (dW[1], db[1], dW[0], db[0]),
    "flat by kind": lambda dW, db: (*dW, *db),
    "flat with the loss last": lambda dW, db: (dW[0], db[0], dW[1], db[1], 0.0),
    "pairs": lambda dW, db: list(zip(dW, db, strict=True)),
    "dict by name": lambda dW, db: {"dW1": dW[0], "db1": db[0], "dW2": dW[1], "db2": db[1]},
    "dict of lists": lambda dW, db: {"W": dW, "b": db, "loss": 0.0},
    "dict of grads": lambda dW, db: {
        "grad_W2": dW[1],
        "grad_b2": db[1],
        "grad_W1": dW[0],
        "grad_b1": db[0],
    },
    "loss and dict": lambda dW, db: (0.0, {"weights": dW, "biases": db}),
    "numbers in lists": lambda dW, db: ([g.tolist() for g in dW], [g.tolist() for g in db]),
    "object arrays": lambda dW, db: (
        np.array([*dW, None], object)[:2],
        np.array([*db, None], object)[:2],
    ),
    "Parameters": lambda dW, db: Parameters(tuple(dW), tuple(db)),
}


@pytest.mark.parametrize("form", FORMS)
def test_gradients_come_in_any_form(form):
    right = Handwritten(SQUARED)

    def function(W, b, x, y):
        return FORMS[form](*right(W, b, x, y))

    report = bpbench.check(SQUARED, function)
    assert {f.tensor for f in report.findings} <= {"loss"}, str(report)
    assert all(tensor.sigmas < 8 for tensor in report.tensors)


@pytest.mark.parametrize("framework", ["torch", "jax", "tensorflow"])
def test_arrays_of_the_frameworks_are_taken(framework):
    right = Handwritten(SQUARED)

    def function(W, b, x, y):
        dW, db = right(W, b, x, y)
        return [convert(g) for g in dW], [convert(g) for g in db]

    if framework == "torch":
        import torch

        convert = lambda g: torch.tensor(g, requires_grad=True)  # noqa: E731
    elif framework == "tensorflow":
        import tensorflow

        convert = tensorflow.constant
    else:
        import jax

        convert = jax.numpy.asarray  # float32 unless the process has x64 on
        if not jax.config.jax_enable_x64:
            report = bpbench.check(SQUARED, function)
            assert places(report) == [("float32 somewhere", None, None)]
            assert bpbench.check(SQUARED, function, dtype="float32").verdict == "right"
            return
    assert bpbench.check(SQUARED, function).verdict == "right"


# ── What misbehaves ────────────────────────────────────────────────────────────────────────────


def spoilt(spoil, network=SQUARED):
    """The right function, with something done to its arguments and results."""
    right = Handwritten(network)

    def function(W, b, x, y):
        return spoil(W, b, x, y, *right(W, b, x, y))

    return function


def raises(W, b, x, y, dW, db):
    raise KeyError("b3")


def in_place(W, b, x, y, dW, db):
    x -= x.mean()
    return dW, db


def in_the_list(W, b, x, y, dW, db):
    W[0] = W[0] - 0.25 * dW[0]
    return dW, db


RNG = np.random.default_rng(0)
SEEN = {}


def accumulates(W, b, x, y, dW, db):
    for key, gradients in (("W", dW), ("b", db)):
        for i, g in enumerate(gradients):
            SEEN[key, i, g.shape] = SEEN.get((key, i, g.shape), 0) + g
            gradients[i] = SEEN[key, i, g.shape]
    return dW, db


@pytest.mark.parametrize(
    ("spoil", "expected", "words"),
    [
        (raises, ("raises", None, None), "KeyError: 'b3' (line"),
        (lambda W, b, x, y, dW, db: None, ("nothing returned", None, None), "return dW, db"),
        (lambda W, b, x, y, dW, db: "gradients", ("result not understood", None, None), "a str"),
        (lambda W, b, x, y, dW, db: (dW[:1], db), ("wrong count", None, "dW"), "expected 2"),
        (lambda W, b, x, y, dW, db: ([dW[0], dW[1][:2]], db), ("wrong shape", 1, "dW"), "(2, 4)"),
        (lambda W, b, x, y, dW, db: ([dW[0] * np.nan, dW[1]], db), ("not finite", 0, "dW"), "nan"),
        (lambda W, b, x, y, dW, db: ([dW[0], "no"], db), ("no array", 1, "dW"), "a str"),
        (lambda W, b, x, y, dW, db: ([1j * dW[0], dW[1]], db), ("no array", 0, "dW"), "numbers"),
        (
            lambda W, b, x, y, dW, db: (dW[::-1], db[::-1]),
            ("layers in reverse order", None, "dW"),
            "output back",
        ),
        (in_place, ("inputs changed in place", None, "x"), "x"),
        (in_the_list, ("inputs changed in place", 0, "W"), "moved by -0.25 times the gradient"),
        (accumulates, ("accumulated", 1, "dW"), "zero before each pass"),
        (
            lambda W, b, x, y, dW, db: ([g * RNG.random() for g in dW], db),
            ("not deterministic", None, None),
            "dropout",
        ),
        (
            lambda W, b, x, y, dW, db: (
                [g.astype(np.float32) for g in dW],
                [g.astype(np.float32) for g in db],
            ),
            ("float32 somewhere", None, None),
            "float32 arrays",
        ),
    ],
)
def test_misbehaviour_is_a_finding_and_no_traceback(spoil, expected, words):
    report = bpbench.check(SQUARED, spoilt(spoil))
    assert report.verdict == "wrong"
    assert places(report)[0] == expected, str(report)
    assert words in report.findings[0].say
    assert report.findings[0].certain


@pytest.mark.parametrize("value", [[], (), {}, ([], []), {1: 2}, [None], {"W": None}, np.zeros(0)])
@pytest.mark.parametrize("bias", [True, False])
def test_nothing_usable_is_a_finding_with_and_without_biases(value, bias):
    report = bpbench.check(MLP((4, 3, 2), bias=bias), lambda W, b, x, y: value)
    assert report.verdict == "wrong"
    assert report.findings[0].mistake in ("result not understood", "wrong count", "wrong shape")


def test_arguments_that_are_not_named_come_in_order():
    right = Handwritten(SQUARED)
    assert bpbench.check(SQUARED, lambda *arguments: right(*arguments)).verdict == "right"

    def one_too_many(W, b, x, y, learning_rate):
        return right(W, b, x, y)

    report = bpbench.check(SQUARED, one_too_many)
    assert places(report) == [("raises", None, None)]
    assert "missing 1 required positional argument: 'learning_rate'" in report.findings[0].say


def test_complex_arrays_that_hold_real_numbers_are_real():
    right = Handwritten(SQUARED)

    def function(W, b, x, y):
        dW, db = right(W, b, x, y)
        return [g.astype(complex) for g in dW], db

    assert bpbench.check(SQUARED, function).verdict == "right"


def test_gradients_that_ignore_an_argument_are_said_to():
    right, own = Handwritten(SQUARED), np.random.default_rng(1).standard_normal((3, 4))

    def function(W, b, x, y):
        return right([W[0], own], b, x, y)

    report = bpbench.check(SQUARED, function)
    assert ("arguments ignored", 1, "W") in places(report)
    assert "it works only at its own sizes" in report.subject


def test_a_function_that_works_with_one_sample_only_is_told_of_y():
    network = MLP((2, 3, 1))

    def function(W, b, x, y):
        h = people.sigmoid(x @ W[0].T + b[0])
        o = people.sigmoid(h @ W[1].T + b[1])
        d2 = (o - y.ravel()) * o * (1 - o) / len(x)
        d1 = d2 @ W[1] * h * (1 - h)
        return [d1.T @ x, d2.T @ h], [d1.sum(0), d2.sum(0)]

    report = bpbench.check(network, function)
    assert report.verdict == "wrong"
    assert places(report)[0][0] == "y of shape (m,) against (m,1)"


def test_noise_is_said_and_nothing_else_is_made_of_it():
    def spoil(W, b, x, y, dW, db):
        dropped = np.random.default_rng().random(dW[1].shape) < 0.5
        return [dW[0] * 2, dW[1] * dropped], db

    report = bpbench.check(SQUARED, spoilt(spoil))
    assert places(report) == [("not deterministic", None, None)]
    assert "(dW[1], the others do not)" in report.findings[0].say


def test_a_step_that_shrinks_from_call_to_call_is_told_from_noise():
    calls = itertools.count()

    def spoil(W, b, x, y, dW, db):
        rate = 1 / (1 + 0.01 * next(calls))
        return [rate * g for g in dW], [rate * g for g in db]

    report = bpbench.check(SQUARED, spoilt(spoil))
    assert places(report) == [("factor of its own in each call", None, None)]


def test_a_forward_pass_that_nothing_explains_is_placed_where_it_goes_wrong():
    network = MLP((5, 4, 6, 3))
    right = Handwritten(network)

    def dropped(s, j):
        return step_a(s, j) * (np.random.default_rng(j).random(s.z[j].shape) < 0.5)

    kind = Mistake("dropout", {"a": dropped}, (), (), "any", None)
    right.plants = [(kind, 0)]
    report = bpbench.check(network, right)
    assert places(report) == [("unknown", 0, "a")]
    assert not report.findings[0].certain


def test_a_function_of_fixed_size_is_explained_on_that_size_and_not_called_certain():
    report = bpbench.check(MLP((2, 2, 1), bias=False), people.unit_by_unit_of_a_fixed_size)
    assert places(report) == [("output f' missing", 1, "dW")]
    assert not report.findings[0].certain


def test_a_gradient_copied_from_another_layer_is_told_from_where():
    right = Handwritten(MLP((3, 4, 4, 2)))

    def function(W, b, x, y):
        assert W[0].shape[0] == W[1].shape[0]
        dW, db = right(W, b, x, y)
        return dW, [db[0], db[0], db[2]]

    report = bpbench.check(MLP((3, 4, 4, 2)), function)
    assert ("db of another layer", 1, "db") in places(report)
    assert "db[0] is returned as db[1] too" in str(report)


def test_two_mistakes_in_the_lowest_layer_are_both_certain():
    def spoil(W, b, x, y, dW, db):
        h = people.sigmoid(x @ W[0].T + b[0])
        o = people.sigmoid(h @ W[1].T + b[1])
        delta = (o - y) * o * (1 - o) / len(x) @ W[1]
        return [delta.T @ x, dW[1]], [delta.mean(axis=0), db[1]]

    report = bpbench.check(SQUARED, spoilt(spoil))
    assert places(report) == [("hidden f' missing", 0, "delta"), ("db averaged", 0, "db")]
    assert all(finding.certain for finding in report.findings)


def test_an_error_that_nothing_explains_is_unknown_and_shown():
    def spoil(W, b, x, y, dW, db):
        factors = np.random.default_rng(3).uniform(0.5, 1.5, dW[0].shape)
        return [dW[0] * factors, dW[1]], db

    report = bpbench.check(SQUARED, spoilt(spoil))
    assert places(report) == [("unknown", 0, "dW")]
    assert not report.findings[0].certain
    assert "median" in report.findings[0].say


def test_a_missing_transpose_is_found_though_the_function_raises_on_its_own_sizes():
    def function(W, b, x, y):
        h = people.sigmoid(x @ W[0].T + b[0])
        o = people.sigmoid(h @ W[1].T + b[1])
        d2 = (o - y) * o * (1 - o) / len(x)
        d1 = (d2 @ W[1].T) * h * (1 - h)
        return [d1.T @ x, d2.T @ h], [d1.sum(0), d2.sum(0)]

    report = bpbench.check(SQUARED, function)
    assert places(report) == [("W not transposed", 0, "delta"), ("raises", None, None)]
    assert "d2 @ W[1].T" in report.findings[1].say


# ── Sizes ──────────────────────────────────────────────────────────────────────────────────────


def fixed(W, b, x, y, hidden_slope):
    """A program for 2-3-1 and nothing else, as the example of docs/equations.md."""
    (w1, w2), (b1, b2) = W, b
    z = np.array([[sum(w1[j, i] * s[i] for i in range(2)) + b1[j] for j in range(3)] for s in x])
    h = people.sigmoid(z.reshape(-1, 3))
    o = people.sigmoid(h @ w2.reshape(3, 1) + b2)
    d2 = (o - y) * o * (1 - o) / len(x)
    d1 = d2 * w2.reshape(1, 3) * hidden_slope(z, h)
    return d1.T @ x, d1.sum(0), d2.T @ h, d2.sum(0)


def test_a_function_of_one_size_is_checked_at_its_own():
    network = MLP((2, 3, 1))
    right = bpbench.check(network, lambda W, b, x, y: fixed(W, b, x, y, lambda z, h: h * (1 - h)))
    assert right.verdict == "right", str(right)
    assert "it works only at its own sizes" in right.subject
    wrong = bpbench.check(network, lambda W, b, x, y: fixed(W, b, x, y, lambda z, h: z * (1 - z)))
    assert places(wrong) == [("z(1-z), 1-z^2", 0, "delta")]


def test_what_is_right_for_the_callers_sizes_only_is_right_and_limited():
    def spoil(W, b, x, y, dW, db):
        n = y.shape[1]
        return [g / n for g in dW], [g / n for g in db]

    report = bpbench.check(MLP((4, 3, 1)), spoilt(spoil, MLP((4, 3, 1))))
    assert report.verdict == "right"
    assert places(report) == [("mean over outputs too", 1, "delta")]
    assert "right for your sizes, but not for all" in report.findings[0].say


def test_a_transpose_that_shows_only_between_equal_neighbours_is_wrong_for_any_sizes():
    def spoil(W, b, x, y, dW, db):
        return [g.T if g.shape[0] == g.shape[1] else g for g in dW], db

    report = bpbench.check(SQUARED, spoilt(spoil))
    assert report.verdict == "wrong"
    assert places(report)[0] == ("dW transposed", 1, "dW")
    assert "9-6-6 and 11-7-7" in report.findings[0].say


# ── The caller's own case, l2, dtype, the loss ─────────────────────────────────────────────────


def test_a_dead_network_is_vacuous():
    network = MLP((3, 4, 2), "relu", "identity")
    dead = Parameters((np.ones((4, 3)), np.ones((2, 4))), (np.full(4, -100.0), np.zeros(2)))
    report = bpbench.check(
        network, Handwritten(network), parameters=dead, x=np.ones((2, 3)), y=np.ones((2, 2))
    )
    assert report.verdict == "vacuous"
    assert report.findings


def test_a_case_of_ones_own_comes_whole_or_not_at_all():
    with pytest.raises(bpbench.UsageError, match="parameters, x and y together"):
        bpbench.check(SQUARED, Handwritten(SQUARED), x=np.ones((2, 5)))


def test_weight_decay_belongs_to_the_gradient_where_it_is_asked_for():
    assert bpbench.check(SQUARED, Handwritten(SQUARED, l2=0.3), l2=0.3).verdict == "right"
    missing = bpbench.check(SQUARED, Handwritten(SQUARED), l2=0.3)
    assert places(missing) == [("L2 missing", 1, "dW"), ("L2 missing", 0, "dW")]
    uncalled = bpbench.check(SQUARED, Handwritten(SQUARED, l2=0.3))
    assert places(uncalled)[0] == ("L2 that the loss does not have", 1, "dW")


def test_float32_code_is_judged_in_float32():
    def spoil(W, b, x, y, dW, db):
        return [g.astype(np.float32) for g in dW], [g.astype(np.float32) for g in db]

    assert bpbench.check(SQUARED, spoilt(spoil), dtype="float32").verdict == "right"


def with_loss(loss):
    right = Handwritten(SQUARED)

    def function(W, b, x, y):
        h = people.sigmoid(x @ W[0].T + b[0])
        o = people.sigmoid(h @ W[1].T + b[1])
        return loss(o, y), *right(W, b, x, y)

    return function


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (lambda o, y: ((o - y) ** 2).sum() / 2, "no 1/m"),
        (lambda o, y: ((o - y) ** 2).sum(axis=1).mean(), "half missing or extra"),
        (lambda o, y: ((o - y) ** 2).mean() / 2, "mean over outputs too"),
        (lambda o, y: np.nan, "not finite"),
        (lambda o, y: np.abs(o - y).mean(), "wrong loss"),
    ],
)
def test_a_loss_that_does_not_belong_to_the_gradient_is_found(loss, expected):
    report = bpbench.check(SQUARED, with_loss(loss))
    assert report.verdict == "wrong"
    assert places(report) == [(expected, None, "loss")]


def test_a_right_loss_is_right():
    right = with_loss(lambda o, y: ((o - y) ** 2).sum() / 2 / len(y))
    assert bpbench.check(SQUARED, right).verdict == "right"


def test_an_epsilon_in_the_loss_is_no_mistake_in_the_gradient():
    right = Handwritten(TANH_BINARY)

    def function(W, b, x, y):
        h = np.tanh(x @ W[0].T + b[0])
        o = people.sigmoid(h @ W[1].T + b[1])
        logs = y * np.log(o + 1e-9) + (1 - y) * np.log(1 - o + 1e-9)
        return -logs.sum() / len(y), *right(W, b, x, y)

    assert bpbench.check(TANH_BINARY, function).verdict == "right"


def test_an_epsilon_in_the_gradient_is_named():
    def function(W, b, x, y):
        h = np.tanh(x @ W[0].T + b[0])
        o = people.sigmoid(h @ W[1].T + b[1])
        slope = -y / (o + 1e-8) + (1 - y) / (1 - o + 1e-8)
        d2 = slope * o * (1 - o) / len(y)
        d1 = d2 @ W[1] * (1 - h**2)
        return [d1.T @ x, d2.T @ h], [d1.sum(0), d2.sum(0)]

    report = bpbench.check(TANH_BINARY, function)
    assert places(report)[0] == ("epsilon in the denominator", 1, "delta")
    assert "1e-08" in report.findings[0].say


# ── What cannot be meant ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"weights": "inout"}, "did you mean 'in_out'"),
        ({"samples": "cols"}, "columns"),
        ({"labels": "onehot"}, "as given"),
        ({"dtype": "float16"}, "float32"),
    ],
)
def test_arguments_that_cannot_be_meant_are_usage_errors(arguments, words):
    with pytest.raises(bpbench.UsageError, match=words):
        bpbench.check(SQUARED, Handwritten(SQUARED), **arguments)


def test_what_is_no_network_or_no_function_is_a_usage_error():
    with pytest.raises(bpbench.UsageError, match=r"expected bpbench\.MLP"):
        bpbench.check((5, 4, 3), Handwritten(SQUARED))
    with pytest.raises(bpbench.UsageError, match="expected a function"):
        bpbench.check(SQUARED, 3)


def test_the_assertion_for_pytest_fails_with_the_report():
    bpbench.testing.assert_gradients_right(SQUARED, Handwritten(SQUARED))
    with pytest.raises(AssertionError, match="had already been moved by 0"):
        bpbench.testing.assert_gradients_right(SQUARED, people.step_within_the_pass)


# ── The report ─────────────────────────────────────────────────────────────────────────────────


def test_the_report_is_a_table_in_a_notebook():
    page = bpbench.check(SQUARED, people.step_within_the_pass)._repr_html_()
    assert "<table>" in page
    assert "had already been moved" in page
