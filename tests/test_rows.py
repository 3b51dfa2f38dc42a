"""Rows of activations and losses: what they claim holds, and what has none is refused by all."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

import bpbench
from bpbench import MLP, SGD, Unsupported, UsageError
from bpbench.activations import ACTIVATIONS, Activation, Rounding, hidden_activations
from bpbench.arithmetic.doubledouble import DoubleDouble
from bpbench.arithmetic.rounding import precision
from bpbench.backends.numpy_reference import NumPyBackend
from bpbench.conformance import conform, contracts, training
from bpbench.conformance.contract import case, every_network
from bpbench.losses import LOSSES, ByOutput, Loss, check_targets, completed, find_loss
from bpbench.optimizers import OPTIMIZERS, Optimizer
from bpbench.verify import truth
from bpbench.verify.diagnose.probe import expected_outputs
from bpbench.verify.error_propagation import ErrorPropagation
from bpbench.verify.verdict import judge, judge_training

from .conftest import SLOW

# ── A loss and an activation that no backend has heard of ──────────────────────────────────────


def _sign(a, y):
    return np.where(a >= y, np.ones_like(a), -np.ones_like(a)) / float(len(y))


def _sign_variance(a, y, Va, p):  # near y, rounding decides the sign
    return np.where(np.abs(a - y) < 8 * np.sqrt(Va), 4.0, 4 * p.unit**2) / len(y) ** 2


ABSOLUTE_ERROR = Loss(
    outputs=None, output="identity", default_of=(), classes=False,
    unfit=lambda y: None, draw=LOSSES["half_squared_error"].draw,
    entries=lambda z, a, y: abs(a - y),
    variance=lambda z, a, y, entries, Vz, Va, p: Va + (p.unit * entries) ** 2,
    derivative=ByOutput(_sign, lambda a, y: 0.0, _sign_variance), saturating=800.0, large=1.0,
)  # fmt: skip


def _mish(z):
    t = ACTIVATIONS["tanh"].careful(ACTIVATIONS["softplus"].careful(z)[0])
    return z * t[0], t[0] + z * t[1] * ACTIVATIONS["sigmoid"].careful(z)[0]


def _mish_rounding(z, a, slope, p):
    size = 8 * p.unit * (1 + np.abs(z))
    return Rounding(2.0, size, size)


MISH = Activation(
    careful=_mish, plain=_mish, rounding=_mish_rounding,
    on_the_way=lambda z: np.maximum(1, np.abs(z)), spread=1.5, slope_of_output=None,
)  # fmt: skip


@pytest.fixture
def new_rows(monkeypatch):
    """The names of a loss and of an activation that have just been added."""
    monkeypatch.setitem(LOSSES, "unheard_of_loss", ABSOLUTE_ERROR)
    monkeypatch.setitem(ACTIVATIONS, "unheard_of", MISH)


# ── Backends ───────────────────────────────────────────────────────────────────────────────────


def test_every_mode_is_right_with_every_row_or_says_what_it_lacks(spec):
    # The slow ones share the formulas of the others: the losses, and test_adapters, are enough.
    for network in every_network()[-len(LOSSES) if spec in SLOW else 0 :]:
        probe = case(network, 4)
        try:
            model = bpbench.get_backend(spec).model(network, probe.parameters)
            found = model.backpropagate(probe.x, probe.y)
        except Unsupported as error:
            said = str(error)
            assert any(name in said for name in (*network.activations, network.loss)), said
            continue
        report = judge(network, probe.parameters, probe.x, probe.y, found, "float32")
        assert report.verdict == "right", report


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        ({"loss": "unheard_of_loss", "output": "sigmoid"}, "unheard_of_loss"),
        ({"loss": "unheard_of_loss", "output": "softmax"}, "unheard_of_loss"),
        ({"hidden": "unheard_of"}, "unheard_of"),
        ({"output": "unheard_of"}, "unheard_of"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value.values()),
)
def test_every_mode_refuses_a_row_that_it_has_no_formula_for(spec, new_rows, changes, missing):
    network = replace(MLP((5, 4, 3), "tanh", "sigmoid"), **changes)
    message = f"^{spec} has no formula for (activation|loss) '{missing}'; it has: "
    with pytest.raises(Unsupported, match=message):
        bpbench.get_backend(spec).model(network, case(network).parameters)


def test_a_row_that_a_backend_lacks_leaves_out_nothing_else_and_is_named(new_rows):
    report = conform("numpy:fast", dtypes=["float64"])
    assert report.passed
    assert len(report.tried) == len(contracts("numpy:fast", dtypes=["float64"]))
    assert "no formula for unheard_of, unheard_of_loss" in str(report)


class NoTanhAndWrong(NumPyBackend):
    """Lacks what most contracts are tried on, and doubles dW of the output."""

    def model(self, network, parameters):
        if "tanh" in network.activations:
            raise Unsupported("no tanh here")
        model = super().model(network, parameters)
        right = model.differentiate

        def doubled(*given):
            found = right(*given)
            W = found.gradients.W
            wrong = replace(found.gradients, W=(*W[:-1], 2 * W[-1]))
            return replace(found, gradients=wrong)

        model.differentiate = doubled
        return model


def test_a_formula_that_is_lacking_hides_no_other_broken_contract():
    report = conform(NoTanhAndWrong, dtypes=["float64"])
    assert not report.passed
    assert "no tanh here" in str(report)


@dataclass(frozen=True)
class LooksLikeSGD(SGD):
    """A class of another's name, with a formula of its own."""


LooksLikeSGD.__name__ = "SGD"


def test_a_class_of_another_ones_name_is_not_taken_for_it(spec):
    probe = case(MLP((5, 4, 3)))
    model = bpbench.get_backend(spec).model(probe.network, probe.parameters)
    with pytest.raises(Unsupported, match=r"optimizer 'tests\.test_rows\.LooksLike"):
        model.train(probe.x, probe.y, [[0, 1]], LooksLikeSGD(learning_rate=0.1))


def test_a_wrong_gradient_of_a_new_loss_is_not_explained_by_another_loss(new_rows):
    for output in ("sigmoid", "identity"):
        network = MLP((5, 4, 3), "tanh", output, "unheard_of_loss")

        def squared(W, b, x, y, network=network):
            given = replace(network, loss="half_squared_error"), bpbench.Parameters(W, b), x, y
            found = truth.backpropagate(*given, dtype="float64").gradients
            return list(found.W), list(found.b)

        report = bpbench.check(network, squared)
        assert report.verdict == "wrong"
        assert not any(finding.certain for finding in report.findings), report


# ── The judge ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("output", ["identity", "sigmoid", "softmax", "unheard_of"])
def test_the_judge_knows_a_new_loss_and_a_new_activation_by_their_rows_alone(new_rows, output):
    network = MLP((5, 4, 3), "unheard_of", output, "unheard_of_loss")
    probe = case(network)
    given = (probe.parameters, probe.x, probe.y)
    right = truth.backpropagate(network, *given, dtype="float32")
    assert judge(network, *given, right, "float32").verdict == "right"
    other = replace(network, loss="half_squared_error")
    wrong = truth.backpropagate(other, *given, dtype="float32")
    assert judge(network, *given, wrong, "float32").verdict == "wrong"
    start, order, optimizer = probe.parameters.astype("float32"), np.array([[0, 1, 2]]), SGD(0.1)
    trained = truth.train(network, start, *given[1:], order, optimizer, dtype="float32")
    asked = (network, *given, order, optimizer)
    assert judge_training(*asked, *trained, "float32").verdict != "wrong"


@pytest.mark.parametrize(
    "changes", [{"loss": "unheard_of_loss"}, {"hidden": "unheard_of"}], ids=str
)
def test_the_judge_raises_for_what_has_no_row(monkeypatch, changes):
    plain = MLP((5, 4, 3), "tanh", "identity")
    probe = case(plain)
    given = (probe.parameters, probe.x, probe.y)
    found = truth.backpropagate(plain, *given, dtype="float32")
    with monkeypatch.context() as added:
        added.setitem(LOSSES, "unheard_of_loss", ABSOLUTE_ERROR)
        added.setitem(ACTIVATIONS, "unheard_of", MISH)
        network = replace(plain, **changes)
    with pytest.raises(
        UsageError, match=r"(loss 'unheard_of_loss'|activation 'unheard_of') is unknown"
    ):
        judge(network, *given, found, "float32")
    with pytest.raises(UsageError, match="is unknown; expected one of: "):
        replace(plain, **changes)


@dataclass(frozen=True)
class Sign(SGD):
    """A step whose formula no table has, though it is a kind of SGD."""


def test_judge_and_conformance_raise_for_an_optimizer_without_an_entry(monkeypatch):
    network, optimizer = MLP((5, 4, 3)), Sign(learning_rate=0.1)
    probe = case(network)
    with pytest.raises(
        UsageError, match=r"the truth has no formula for .*Sign; it has those for Ad"
    ):
        judge_training(
            network, probe.parameters, probe.x, probe.y, [[0, 1]], optimizer, [0.0],
            probe.parameters, "float32",
        )  # fmt: skip
    with pytest.raises(UsageError, match=r"no formula for .*Sign"):
        ErrorPropagation(optimizer, np.zeros(2), precision("float32"))
    monkeypatch.setitem(OPTIMIZERS, "Sign", Sign)
    with pytest.raises(UsageError, match="what to ask of Sign"):
        training.every_optimizer()


def test_conformance_asks_for_every_row_and_every_optimizer():
    networks = every_network()
    asked = {name for network in networks for name in network.activations}
    assert asked == set(ACTIVATIONS)
    assert {network.loss for network in networks} == set(LOSSES)
    assert {type(optimizer) for optimizer in training.every_optimizer()} == {*OPTIMIZERS.values()}
    assert all(issubclass(kind, Optimizer) for kind in OPTIMIZERS.values())


# ── What rows claim of themselves ──────────────────────────────────────────────────────────────

rng = np.random.default_rng(0)
NEAR = rng.standard_normal((40, 5)) * 2
WIDE = np.concatenate([rng.standard_normal((300, 5)) * scale for scale in (1e-3, 1, 8, 60)])


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_derivative_is_that_of_differences_in_extended_precision(name):
    row, h = ACTIVATIONS[name], 2.0**-24
    c = DoubleDouble(rng.standard_normal(NEAR.shape))
    a, slope = row.careful(DoubleDouble(NEAR))
    found = c * slope if row.rows is None else row.rows.carry(a, c)
    for column in range(NEAR.shape[1]):
        step = DoubleDouble(h * np.eye(NEAR.shape[1])[column])
        above, below = (row.careful(DoubleDouble(NEAR) + s)[0] for s in (step, -step))
        expected = ((above - below) * c / (2 * h)).sum(axis=1)
        error = (found[:, column] - expected).astype(float)
        assert np.abs(error).max() < 1e-12, name


@pytest.mark.parametrize("name", hidden_activations())
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_both_formulas_stay_within_the_rounding_that_is_allowed(name, dtype):
    row, p = ACTIVATIONS[name], precision(dtype)
    z = WIDE.astype(dtype)
    exact = [v.astype(np.longdouble) for v in row.careful(DoubleDouble(z))]
    wide = [v.astype(np.float64) for v in (z, *exact)]
    allowed = row.rounding(*wide, p)
    with np.errstate(over="ignore"):
        for formula in (row.careful, row.plain):
            for got, true, sigma in zip(formula(z), exact, allowed[1:], strict=True):
                assert got.dtype == dtype
                beyond = np.abs(got - true) > 8 * sigma + 2 * p.tiny + 2 * p.unit * np.abs(true)
                assert not beyond.any(), (name, z[beyond][:3])


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_outputs_are_probabilities_where_the_row_says_so_and_there_alone(name):
    row = ACTIVATIONS[name]
    z = np.concatenate([WIDE, 100 * WIDE])
    a = row.careful(z)[0]
    assert row.probabilities == (a.min() >= 0 and a.max() <= 1)
    assert (row.on_the_way(z) >= 1).all()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_corners_and_formulas_of_the_output_are_those_of_the_derivative(name):
    row = ACTIVATIONS[name]
    a, slope = row.careful(NEAR)
    if row.slope_of_output is not None:
        np.testing.assert_allclose(row.slope_of_output(a), slope, rtol=1e-9, atol=1e-14)
    if row.rows is None:
        sides = [row.careful(np.array([[side * 1e-9]]))[1].item() for side in (-1, 1)]
        expected = [sides[0]] * 2 if row.corner is None else [row.corner, 1]
        assert sides == pytest.approx(expected)
        bends = [row.careful(np.array([[s * 1e-4, s * 2e-4]]))[1] for s in (-1, 1)]
        jump = abs(np.diff(bends[0]) + np.diff(bends[1])).item() > 1e-6  # of f'' at 0
        assert row.piecewise == (jump or row.corner is not None)


@pytest.mark.parametrize("name", LOSSES)
def test_drawn_targets_are_such_as_the_loss_allows(name):
    row = LOSSES[name]
    assert row.output in row.allowed
    assert set(row.default_of) <= set(row.allowed) <= set(ACTIVATIONS)
    for output in row.allowed:
        y = expected_outputs(MLP((4, 3), output=output, loss=name), 6, np.random.default_rng(0))
        assert y.shape == (6, 3)
        check_targets(name, y)
        assert completed(output, name, "none") == (output, name)
    if row.unfit(1000 * np.eye(3)) is not None:
        with pytest.raises(UsageError, match=f"here: y goes from 0 to 1000; loss '{name}' expects"):
            check_targets(name, 1000 * np.eye(3), "here: ")


def test_what_is_not_named_is_completed():
    assert completed(None, None, "cross_entropy") == ("softmax", "cross_entropy")
    assert completed(None, None, "half_squared_error") == ("sigmoid", "half_squared_error")
    assert completed("softmax", None, "half_squared_error") == ("softmax", "cross_entropy")
    assert completed("sigmoid", None, "cross_entropy") == ("sigmoid", "half_squared_error")
    assert completed(None, "binary_cross_entropy", "none") == ("sigmoid", "binary_cross_entropy")
    with pytest.raises(UsageError, match="loss 'hinge' is unknown"):
        completed(None, "hinge", "none")
    with pytest.raises(UsageError, match="loss 'hinge' is unknown"):
        find_loss("hinge")
