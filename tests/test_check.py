"""Does ``bpbench.check`` take people's functions as they write them?"""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import bpbench
from bpbench import MLP, Parameters
from tests import people
from tests.checked import SQUARED, TANH_BINARY, places, spoilt
from tests.handwritten import Handwritten

RELU_ENTROPY = MLP((5, 4, 3), "relu", "softmax", "cross_entropy")


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


# ── Layouts ──────────────────────────────────────────────────────────────────────────────────────


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
    assert "runs with W (n_out, n_in), samples in rows" in other.findings[0].say


# ── What is returned ─────────────────────────────────────────────────────────────────────────────


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


def test_complex_arrays_that_hold_real_numbers_are_real():
    right = Handwritten(SQUARED)

    def function(W, b, x, y):
        dW, db = right(W, b, x, y)
        return [g.astype(complex) for g in dW], db

    assert bpbench.check(SQUARED, function).verdict == "right"


def test_float32_code_is_judged_in_float32():
    def spoil(W, b, x, y, dW, db):
        return [g.astype(np.float32) for g in dW], [g.astype(np.float32) for g in db]

    assert bpbench.check(SQUARED, spoilt(spoil), dtype="float32").verdict == "right"


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


# ── Sizes ────────────────────────────────────────────────────────────────────────────────────────


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
    assert report.findings[0].where == "right for your sizes, but not for all"


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


# ── The caller's own case ────────────────────────────────────────────────────────────────────────


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


# ── What cannot be meant ─────────────────────────────────────────────────────────────────────────


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
