"""Does ``bpbench.check`` say what is wrong, where it is, and how sure that is?"""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

import bpbench
from bpbench import MLP
from bpbench.verify.findings import Finding
from tests import people
from tests.checked import SQUARED, TANH_BINARY, places, spoilt
from tests.handwritten import Handwritten, Mistake, step_a


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
            MLP((5, 4, 3), "tanh", "softmax", "cross_entropy"),
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
    assert "as many samples as a layer has units" in report.findings[0].where


def test_layers_in_reverse_order_are_seen_where_all_have_one_shape():
    network = MLP((4, 4, 4, 4))
    right = Handwritten(network)

    def function(W, b, x, y):
        dW, db = right(W, b, x, y)
        return dW[::-1], db[::-1]

    assert places(bpbench.check(network, function)) == [("layers in reverse order", None, "dW")]


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


def test_a_transpose_that_shows_only_between_equal_neighbours_is_wrong_for_any_sizes():
    def spoil(W, b, x, y, dW, db):
        return [g.T if g.shape[0] == g.shape[1] else g for g in dW], db

    report = bpbench.check(SQUARED, spoilt(spoil))
    assert report.verdict == "wrong"
    assert places(report)[0] == ("dW transposed", 1, "dW")
    assert "9-6-6 and 11-7-7" in report.findings[0].why


# ── What misbehaves ──────────────────────────────────────────────────────────────────────────────


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


def test_gradients_that_ignore_an_argument_are_said_to():
    right, own = Handwritten(SQUARED), np.random.default_rng(1).standard_normal((3, 4))

    def function(W, b, x, y):
        return right([W[0], own], b, x, y)

    report = bpbench.check(SQUARED, function)
    assert ("arguments ignored", 1, "W") in places(report)
    assert "it works only at its own sizes" in report.subject


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


# ── How sure it is ───────────────────────────────────────────────────────────────────────────────


def test_an_output_that_is_bent_too_is_told_from_a_wrong_slope_by_the_loss():
    network = MLP((5, 4, 3), "relu", "identity")
    bent = Handwritten(MLP((5, 4, 3), "relu", "relu"))

    def with_loss(W, b, x, y):
        a = np.maximum(np.maximum(x @ W[0].T + b[0], 0) @ W[1].T + b[1], 0)
        return ((a - y) ** 2).sum() / 2 / len(x), *bent(W, b, x, y)

    name = "another activation in the forward pass"
    assert places(bpbench.check(network, with_loss)) == [(name, 1, "a")]
    without = bpbench.check(network, bent)
    (finding,) = without.findings
    assert finding.certainty == "possible"
    assert finding.alternatives[0].startswith("f' of another activation in delta[1]")
    assert "Possible; as possible: f' of another activation" in str(finding)


def test_a_function_of_fixed_size_is_explained_on_that_size_and_not_called_certain():
    report = bpbench.check(MLP((2, 2, 1), bias=False), people.unit_by_unit_of_a_fixed_size)
    assert places(report) == [("output f' missing", 1, "dW")]
    assert report.findings[0].certainty == "likely"
    assert "on other sizes" in report.findings[0].why


def test_an_error_that_nothing_explains_is_unknown_and_shown():
    def spoil(W, b, x, y, dW, db):
        factors = np.random.default_rng(3).uniform(0.5, 1.5, dW[0].shape)
        return [dW[0] * factors, dW[1]], db

    report = bpbench.check(SQUARED, spoilt(spoil))
    assert places(report) == [("unknown", 0, "dW")]
    assert report.findings[0].certainty == "unexplained"
    assert "median" in report.findings[0].say


def test_a_forward_pass_that_nothing_explains_is_placed_where_it_goes_wrong():
    right = Handwritten(SQUARED)

    def dropped(s, j):
        return step_a(s, j) * (np.random.default_rng(j).random(s.z[j].shape) < 0.5)

    kind = Mistake("dropout", {"a": dropped}, (), (), "any", None)
    right.plants = [(kind, 0)]
    report = bpbench.check(SQUARED, right)
    assert places(report) == [("unknown", 0, "a")]
    assert report.findings[0].certainty == "unexplained"


# ── L2 and the loss ──────────────────────────────────────────────────────────────────────────────


def test_weight_decay_belongs_to_the_gradient_where_it_is_asked_for():
    assert bpbench.check(SQUARED, Handwritten(SQUARED, l2=0.3), l2=0.3).verdict == "right"
    missing = bpbench.check(SQUARED, Handwritten(SQUARED), l2=0.3)
    assert places(missing) == [("L2 missing", 1, "dW"), ("L2 missing", 0, "dW")]
    uncalled = bpbench.check(SQUARED, Handwritten(SQUARED, l2=0.3))
    assert places(uncalled)[0] == ("L2 that the loss does not have", 1, "dW")


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


# ── The report ───────────────────────────────────────────────────────────────────────────────────


def test_the_assertion_for_pytest_fails_with_the_report():
    bpbench.testing.assert_gradients_right(SQUARED, Handwritten(SQUARED))
    with pytest.raises(AssertionError, match="had already been moved by 0"):
        bpbench.testing.assert_gradients_right(SQUARED, people.step_within_the_pass)


def test_a_tensor_that_cannot_be_compared_has_no_error():
    report = bpbench.check(
        SQUARED,
        spoilt(lambda W, b, x, y, dW, db: ([2 * dW[0], dW[1][:2]], [db[0], db[1] * np.nan])),
    )
    errors = {tensor.place: tensor for tensor in report.tensors}
    assert [place for place, error in errors.items() if not error.compared] == ["dW[1]", "db[1]"]
    rows = [line.split() for line in str(report).splitlines()]
    assert ["dW[1]", "–", "–", f"{errors['dW[1]'].detection_limit:.1e}"] in rows
    page = report._repr_html_()  # in a notebook
    assert "<th>detection limit</th>" in page
    assert "<td>–</td>" in page
    assert f"<li>{report.findings[0]}</li>" in page
    assert report.worst_sigmas == errors["dW[0]"].sigmas > 1e10
    assert report.max_scaled_error == pytest.approx(1)
    document = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert [t["error"] is None for t in document["tensors"]] == [False, True, False, True]


def test_how_sure_a_finding_is_stands_in_fields_of_its_own():
    sure = Finding("sign", 1, "dW", "turned", why="it gives these numbers")
    assert (str(sure), sure.certain) == ("turned. Certain: it gives these numbers", True)
    likely = Finding("sign", 1, "dW", "turned", "likely", "it fits here", where="at 0")
    assert (str(likely), likely.certain) == (
        "at 0: turned. Likely, not certain: it fits here", False,
    )  # fmt: skip
    possible = Finding("sign", 1, "dW", "turned", "possible", alternatives=("a", "b", "c", "d"))
    assert str(possible) == "turned. Possible; as possible: a; or b; or c; or 1 more"
    assert str(Finding("unknown", 1, "dW", "off", "unexplained")) == "off"
    plain = possible.as_dict()
    assert (plain["certain"], plain["certainty"]) == (False, "possible")
    assert plain["say"] == str(possible)


def test_where_a_gradient_is_cut_what_else_would_look_so_is_not_certain():
    def spoil(W, b, x, y, dW, db):
        return [np.clip(g, -1, 1) for g in dW], [np.clip(g, -1, 1) for g in db]

    report = bpbench.check(SQUARED, spoilt(spoil))
    assert {f.mistake for f in report.findings if f.certain} == {"clipping"}, str(report)
    others = [f for f in report.findings if f.mistake != "clipping"]
    assert {f.alternatives for f in others} == {("clipping",)}
    assert {f.where for f in others} == {"where the gradient is large"}
