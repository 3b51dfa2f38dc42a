"""Is every planted mistake found, put in its place, and explained, and nothing else said?"""

from __future__ import annotations

import random

import numpy as np
import pytest

import bpbench
from bpbench import MLP
from bpbench.verify.diagnose import diagnose
from bpbench.verify.diagnose.fits import combine, fit
from bpbench.verify.diagnose.mistakes.factors import read_factor
from bpbench.verify.diagnose.probe import Answer, draw, generic, own_sizes
from tests.handwritten import Handwritten
from tests.mistakes import BESIDE, LAYOUTS, MISTAKES, laid_out, layers_of

NETWORKS = (
    MLP((7, 6, 4)),
    MLP((6, 5, 7, 3), "tanh", "softmax", "cross_entropy"),
    MLP((8, 7, 5), "relu", "sigmoid", "binary_cross_entropy"),
    MLP((5, 6, 8, 4), ("gelu", "elu"), "identity"),
    MLP((6, 7, 4), "leaky_relu", "softmax"),
    MLP((7, 5, 6), "softplus", "tanh"),
    MLP((5, 8, 3), "silu", "sigmoid", bias=False),
    MLP((2, 3, 1)),
    MLP((4, 6, 5, 1), ("identity", "relu"), "sigmoid", "binary_cross_entropy"),
)
"""Every activation and loss, hidden and at the output; one and several outputs; without biases."""


def planted(network, *plants, l2=0.0, layout=LAYOUTS[0]):
    """The report on a function with mistakes planted at layers."""
    return bpbench.check(network, laid_out(Handwritten(network, plants, l2), *layout), l2=l2)


def cases(number, mistake):
    """Two networks for a kind of mistake, and a layer of each, in turn."""
    suited = [(net, layers) for net in NETWORKS if (layers := layers_of(mistake, net))]
    for turn in range(min(2, len(suited))):
        network, layers = suited[(number + 2 * turn) % len(suited)]
        yield network, layers[(number + turn) % len(layers)], LAYOUTS[(number + turn) % 4]


@pytest.mark.parametrize(
    ("number", "mistake"), list(enumerate(MISTAKES)), ids=lambda value: getattr(value, "name", "")
)
def test_each_kind_of_mistake_is_found_placed_and_explained(number, mistake):
    tried = 0
    for network, layer, layout in cases(number, mistake):
        report = planted(
            network, (mistake, layer), l2=0.1 if mistake.needs_l2 else 0.0, layout=layout
        )
        about = f"{network}, layer {layer}, {layout}\n{report}"
        assert report.verdict == "wrong", about
        first = report.findings[0]
        assert first.mistake in mistake.causes, about
        assert first.layer in (layer, None), about
        # without biases nothing tells delta from dW in the lowest layer
        beside = ("delta", "dW") if layer == 0 and not network.bias else ()
        assert first.tensor in (*mistake.tensors, *beside), about
        others = [f for f in report.findings[1:] if f.certain and f.mistake not in mistake.causes]
        assert {f.mistake for f in others} <= BESIDE, about
        tried += 1
    assert tried, "no network suits this kind"


def test_pairs_of_mistakes_in_different_layers_are_both_named():
    rng = random.Random(4)
    single = [mistake for mistake in MISTAKES if mistake.place != "all"]
    asked = named = 0
    missed = []
    while asked < 12:
        network, pair = rng.choice(NETWORKS[:6]), rng.sample(single, 2)
        places = [layers_of(mistake, network) for mistake in pair]
        if not all(places):
            continue
        layers = [rng.choice(layers) for layers in places]
        if layers[0] == layers[1]:
            continue
        asked += 1
        report = planted(
            network, *zip(pair, layers, strict=True), layout=rng.choice(LAYOUTS),
            l2=0.1 if any(mistake.needs_l2 for mistake in pair) else 0.0,
        )  # fmt: skip
        found = all(
            any(f.mistake in mistake.causes and f.layer in (layer, None) for f in report.findings)
            for mistake, layer in zip(pair, layers, strict=True)
        )
        named += found
        missed += [] if found else [f"{network} {[m.name for m in pair]} {layers}\n{report}"]
    assert named >= 0.8 * asked, "\n".join(missed)


@pytest.mark.parametrize("network", NETWORKS, ids=str)
def test_right_gradients_are_right_in_every_layout(network):
    for layout in LAYOUTS:
        report = planted(network, layout=layout)
        assert report.verdict == "right", str(report)
        assert not report.findings


def test_ten_layers_are_peeled_to_the_bottom():
    network = MLP((6, 9, 8, 7, 9, 8, 7, 6, 9, 7, 4), "tanh")
    kinds = {mistake.name: mistake for mistake in MISTAKES}
    plants = (
        (kinds["hidden f' missing"], 8), (kinds["sign of one dW"], 5),
        (kinds["db averaged"], 3), (kinds["f'(a)"], 0),
    )  # fmt: skip
    report = planted(network, *plants)
    assert [(f.mistake, f.layer, f.tensor) for f in report.findings] == [
        ("hidden f' missing", 8, "delta"), ("sign", 5, "dW"), ("db averaged", 3, "db"),
        ("f'(a)", 0, "delta"),
    ]  # fmt: skip


def test_a_formula_that_gives_the_very_numbers_comes_before_rounding_that_would_explain_them():
    kinds = {mistake.name: mistake for mistake in MISTAKES}
    network = MLP((8, 5, 6), "leaky_relu", "softmax", "cross_entropy")
    plants = ((kinds["W scaled in the forward pass"], 1), (kinds["another slope"], 0))
    report = planted(network, *plants)
    assert [(f.mistake, f.layer, f.certain) for f in report.findings] == [
        ("W scaled in the forward pass", 1, True), ("wrong derivative", 0, True),
    ]  # fmt: skip


# ── How sure it is ─────────────────────────────────────────────────────────────────────────────


def answers_of(function, probes):
    found = []
    for probe in probes:
        dW, db = function(list(probe.W), list(probe.b), probe.x, probe.y)
        found.append(Answer(tuple(map(np.asarray, dW)), tuple(map(np.asarray, db))))
    return found


def test_where_sizes_cannot_tell_two_factors_apart_both_are_named_and_neither_is_certain():
    network = MLP((5, 4, 2))

    def halved(W, b, x, y):
        dW, db = Handwritten(network)(W, b, x, y)
        return [g / 2 for g in dW], [g / 2 for g in db]

    asked = own_sizes(network, 0)
    (finding,) = diagnose(asked, answers_of(halved, asked)).findings
    assert not finding.certain
    assert "half missing or extra" in f"{finding.mistake} {finding}"
    assert "mean over outputs too" in f"{finding.mistake} {finding}"
    others = generic(network, 0)  # three and six outputs: now they can be told apart
    (finding,) = diagnose(others, answers_of(halved, others)).findings
    assert (finding.mistake, finding.certain) == ("half missing or extra", True)


@pytest.mark.parametrize("spoilt", ["W", "b"])
def test_what_nothing_explains_is_unknown_in_its_place_and_the_rest_is_right(spoilt):
    network = MLP((5, 6, 4, 3), "tanh")

    def odd(W, b, x, y):
        dW, db = Handwritten(network)(W, b, x, y)
        which = dW if spoilt == "W" else db
        which[1] = which[1] + 0.1 * np.sin(np.arange(which[1].size)).reshape(which[1].shape)
        return dW, db

    asked = generic(network, 0)
    diagnosis = diagnose(asked, answers_of(odd, asked))
    (finding,) = diagnosis.findings
    assert (finding.mistake, finding.layer, finding.tensor) == ("unknown", 1, f"d{spoilt}")
    assert not finding.certain
    assert not diagnosis.complete


def test_below_an_unknown_delta_the_layers_are_judged_on_what_came_down():
    network = MLP((5, 6, 4, 3), "tanh")

    class Odd(Handwritten):
        def take(self, step, s, layer):
            value = super().take(step, s, layer)
            if step == "hidden" and layer == 1:
                value = value + 0.1 * np.cos(np.arange(value.size)).reshape(value.shape)
            if step == "db" and layer == 0:
                value = value / s.m
            return value

    asked = generic(network, 0)
    findings = diagnose(asked, answers_of(Odd(network), asked)).findings
    assert [(f.mistake, f.layer, f.tensor, f.certain) for f in findings] == [
        ("unknown", 1, "delta", False), ("db averaged", 0, "db", True),
    ]  # fmt: skip


def test_a_wrong_derivative_that_nobody_foresaw_is_written_down():
    network = MLP((5, 6, 4), "sigmoid")

    def odd(W, b, x, y):
        class Odd(Handwritten):
            def take(self, step, s, layer):
                if step == "hidden":
                    return s.c[layer] * (0.7 + 0.2 * s.a[layer] - 0.5 * s.a[layer] ** 2)
                return super().take(step, s, layer)

        return Odd(network)(W, b, x, y)

    asked = generic(network, 0)
    (finding,) = diagnose(asked, answers_of(odd, asked)).findings
    assert (finding.mistake, finding.layer) == ("wrong derivative", 0)
    assert "0.7 + 0.2 a - 0.5 a^2" in finding.say


# ── Fits ───────────────────────────────────────────────────────────────────────────────────────

SIZES = {
    "m": np.array([5.0, 4.0]), "n_L": np.array([3.0, 6.0]), "n_1": np.array([11.0, 8.0]),
    "n_out": np.array([7.0, 9.0]), "n_in": np.array([11.0, 8.0]),
}  # fmt: skip


@pytest.mark.parametrize(
    ("factors", "tensor", "expected"),
    [
        ([1, 1], "delta", []),
        ([5, 4], "delta", ["no 1/m"]),
        ([1 / 5, 1 / 4], "dW", ["1/m twice"]),
        ([1 / 5, 1 / 4], "db", ["db averaged"]),
        ([-5, -4], "delta", ["sign", "no 1/m"]),
        ([1 / 3, 1 / 6], "delta", ["mean over outputs too"]),
        ([2 / 3, 2 / 6], "delta", ["half missing or extra", "mean over outputs too"]),
        ([5 / 3, 4 / 6], "delta", ["divided by the wrong axis"]),
        ([0.5, 0.4], "delta", ["hard-coded batch size"]),
        ([0.03, 0.03], "delta", ["learning rate folded in"]),
    ],
)
def test_a_factor_is_named_by_what_it_is_in_every_probe(factors, tensor, expected):
    read = read_factor(np.array(factors, float), SIZES, tensor, 1e-9)
    assert [name for name, _ in read[0]] == expected


def test_factors_that_follow_no_rule_are_not_named():
    assert read_factor(np.array([0.3, 0.7]), SIZES, "delta", 1e-9) == []
    assert read_factor(np.array([0.0, 1.0]), SIZES, "delta", 1e-9) == []


def test_a_fit_gives_the_factor_and_what_is_left():
    target = np.array([2.0, 4.0, -6.0])
    found = fit(np.array([[1.0, 2.0, -3.0], [1.0, 2.0, 3.0], [0.0, 0.0, 0.0]]), target)
    assert found.factor[0] == 2
    assert found.miss[0] == 0
    assert found.miss[1] > 0.5
    assert found.miss[2] == np.inf


def test_a_sum_of_terms_is_fitted_only_where_numbers_are_left_to_tell():
    columns = [np.array([1.0, 0.0, 1.0, 2.0]), np.array([0.0, 1.0, 1.0, 5.0])]
    weights, miss = combine(columns, 3 * columns[0] - 2 * columns[1])
    np.testing.assert_allclose(weights, [3, -2])
    assert miss < 1e-12
    assert combine([c[:2] for c in columns], np.ones(2))[1] == np.inf


def test_probes_are_drawn_so_that_a_gradient_tells_the_delta_that_was_used():
    for network in NETWORKS:
        for probe in generic(network, 0):
            sizes = probe.network.sizes
            assert len(set(sizes)) == len(sizes)
            assert probe.samples < min(sizes[:-1])
    probe = draw(NETWORKS[0], 4, 0, 0.0, "a test")
    again = draw(NETWORKS[0], 4, 0, 0.0, "a test")
    assert all(map(np.array_equal, probe.W, again.W))
