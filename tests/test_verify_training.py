"""What the judge says of a few steps of training: right ones, wrong ones, chaotic ones."""

from dataclasses import replace

import numpy as np
import pytest

import bpbench
from bpbench import MLP, SGD, Adam, Parameters, RMSProp, initial_parameters
from bpbench.activations import hidden_activations
from bpbench.arithmetic.rounding import precision
from bpbench.losses import LOSSES
from bpbench.verify import truth
from bpbench.verify.error_propagation import ErrorPropagation
from bpbench.verify.training import simulate
from bpbench.verify.verdict import judge_training

OUTPUTS = [(output, loss) for loss, row in LOSSES.items() for output in row.allowed]
OPTIMIZERS = (
    SGD(0.3), SGD(0.1, l2=0.01), SGD(0.1, momentum=0.9), SGD(0.1, momentum=0.9, nesterov=True),
    RMSProp(0.01), Adam(0.01), Adam(0.01, l2=0.01),
)  # fmt: skip
STEPS, BATCH, ROWS = 12, 8, 40


def task(network=None, seed=0, scheme="xavier"):
    network = network or MLP((6, 9, 7, 4), hidden="tanh", output="softmax", loss="cross_entropy")
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((ROWS, network.sizes[0])), rng.random((ROWS, network.sizes[-1]))
    order = rng.permuted(np.tile(np.arange(ROWS), (STEPS, 1)), axis=1)[:, :BATCH]
    y = y / y.sum(axis=1, keepdims=True)
    return network, initial_parameters(network, seed, scheme), x, y, order


def trained(network, parameters, x, y, order, optimizer, dtype="float64"):
    """Losses and final parameters as the equations give them."""
    model = bpbench.get_backend("numpy", dtype=dtype).model(network, parameters)
    return model.train(x, y, order, optimizer), model.parameters()


# ── Right ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_correct_training_is_right_for_each_optimizer(optimizer, dtype):
    for given in (task(), task(MLP((6, 12, 3), hidden="relu"), 1, "normal")):
        report = judge_training(*given, optimizer, *trained(*given, optimizer, dtype), dtype)
        assert report.verdict == "right", str(report)
        assert report.worst_sigmas < 5
        assert report.detection_limit < (1e-3 if dtype == "float32" else 1e-11)


@pytest.mark.parametrize("hidden", hidden_activations())
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_correct_training_is_never_wrong_for_any_activation_and_loss(hidden, dtype):
    for seed, (output, loss) in enumerate(OUTPUTS):
        network = MLP((5, 8, 3), hidden=hidden, output=output, loss=loss, bias=seed % 3 > 0)
        given = task(network, seed, ("normal", "he")[seed % 2])
        optimizer = OPTIMIZERS[seed % len(OPTIMIZERS)]
        with np.errstate(all="ignore"):  # unbounded outputs may diverge, which is no mistake
            found = trained(*given, optimizer, dtype)
        report = judge_training(*given, optimizer, *found, dtype)
        assert report.verdict in ("right", "noise-limited", "vacuous"), str(report)


def test_losses_alone_can_be_judged():
    given, optimizer = task(), SGD(0.3)
    losses, _ = trained(*given, optimizer, "float32")
    report = judge_training(*given, optimizer, losses, None, "float32")
    assert report.verdict == "right"
    assert [t.name for t in report.tensors] == ["losses"]
    assert judge_training(*given, optimizer, losses * 1.01, None, "float32").verdict == "wrong"


def test_a_simulation_can_be_used_again():
    network, parameters, x, y, order = given = task()
    optimizer = Adam(0.01)
    start, single = parameters.astype("float32"), [v.astype("float32") for v in (x, y)]
    expected = simulate(network, start, *single, order, optimizer, "float32")
    found = trained(*given, optimizer, "float32")
    again = judge_training(*given, optimizer, *found, "float32", expected=expected)
    assert again == judge_training(*given, optimizer, *found, "float32")


def test_a_machine_whose_longdouble_is_no_wider_judges_training_alike(monkeypatch):
    given = task()
    losses, final = trained(*given, Adam(0.01), "float64")
    monkeypatch.setattr(truth, "EXTENDED", "doubledouble")
    assert judge_training(*given, Adam(0.01), losses, final, "float64").verdict == "right"
    assert judge_training(*given, Adam(0.01), losses * 1.001, final, "float64").verdict == "wrong"


# ── Wrong ──────────────────────────────────────────────────────────────────────────────────────


def step_skipped(given, optimizer, number=7):
    """The losses of every step, but one of them moves nothing."""
    network, parameters, x, y, order = given
    run = truth.Run(network, parameters, x, y, optimizer, "float64")
    losses = []
    for step, rows in enumerate(order):
        kept = list(run.W), list(run.b), [(u.m, u.v) for u in run.updates]
        losses.append(run.step(rows).loss)
        if step == number:
            run.W, run.b = kept[0], kept[1]
            for update, (m, v) in zip(run.updates, kept[2], strict=True):
                update.m, update.v = m, v
    return np.array(losses), Parameters(tuple(run.W), tuple(run.b))


def losses_after_the_step(given, optimizer):
    network, parameters, x, y, order = given
    run = truth.Run(network, parameters, x, y, optimizer, "float64")
    losses = []
    for rows in order:
        run.step(rows)
        now = Parameters(tuple(run.W), tuple(run.b))
        after = truth.backpropagate(
            network, now, x[rows], y[rows], l2=optimizer.l2, dtype="float64"
        )
        losses.append(after.loss)
    return np.array(losses), now


def stale_parameters(given, optimizer):
    """Every step differentiates at the parameters of the step before."""
    network, parameters, x, y, order = given
    values = [*parameters.W, *parameters.b]
    updates = [truth.OptimizerState(optimizer, value) for value in values]
    losses, before = [], values
    for rows in order:
        at = Parameters(tuple(before[: network.layers]), tuple(before[network.layers :]))
        found = truth.backpropagate(network, at, x[rows], y[rows], l2=optimizer.l2, dtype="float64")
        now = Parameters(tuple(values[: network.layers]), tuple(values[network.layers :]))
        right = truth.backpropagate(
            network, now, x[rows], y[rows], l2=optimizer.l2, dtype="float64"
        )
        losses.append(right.loss)
        before = values
        gradients = (*found.gradients.W, *found.gradients.b)
        values = [v - u.step(g) for v, u, g in zip(values, updates, gradients, strict=True)]
    return np.array(losses), Parameters(
        tuple(values[: network.layers]), tuple(values[network.layers :])
    )


def one_other_row(given, optimizer):
    network, parameters, x, y, order = given
    order = order.copy()
    order[STEPS - 1, 2] = next(row for row in range(ROWS) if row not in order[STEPS - 1])
    return trained(network, parameters, x, y, order, optimizer)


def with_optimizer(**fields):
    return lambda given, optimizer: trained(*given, replace(optimizer, **fields))


def right_losses_but_nothing_moved(given, optimizer):
    return trained(*given, optimizer)[0], given[1]


def one_bias_not_moved(given, optimizer):
    losses, final = trained(*given, optimizer)
    return losses, Parameters(final.W, (final.b[0], given[1].b[1], *final.b[2:]))


def l2_missing_from_the_loss(given, optimizer):
    losses, final = trained(*given, optimizer)
    return trained(*given, replace(optimizer, l2=0.0))[0][:1].repeat(
        STEPS
    ) * 0 + losses - 1e-3, final


MISTAKES = {
    "a step skipped": (step_skipped, OPTIMIZERS),
    "the last step skipped": (lambda g, o: step_skipped(g, o, STEPS - 1), OPTIMIZERS),
    "losses after the step": (losses_after_the_step, OPTIMIZERS),
    "gradients one step late": (stale_parameters, OPTIMIZERS),
    "one row of the last batch is another": (one_other_row, OPTIMIZERS),
    "nothing moved": (right_losses_but_nothing_moved, OPTIMIZERS),
    "one bias not moved": (one_bias_not_moved, OPTIMIZERS),
    "losses off by a little": (l2_missing_from_the_loss, OPTIMIZERS),
    "learning rate off by a thousandth": (
        lambda g, o: trained(*g, replace(o, learning_rate=1.001 * o.learning_rate)),
        OPTIMIZERS,
    ),
    "l2 ignored": (with_optimizer(l2=0.0), [o for o in OPTIMIZERS if o.l2]),
    "nesterov ignored": (with_optimizer(nesterov=False), OPTIMIZERS[3:4]),
    "momentum ignored": (with_optimizer(momentum=0.0), OPTIMIZERS[2:3]),
    "another decay": (with_optimizer(decay=0.9), OPTIMIZERS[4:5]),
    "another beta2": (with_optimizer(beta2=0.99), OPTIMIZERS[5:6]),
    "another epsilon": (with_optimizer(epsilon=1e-5), OPTIMIZERS[4:6]),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_training_is_wrong(mistake, dtype):
    make, optimizers = MISTAKES[mistake]
    given = task()
    for optimizer in optimizers:
        losses, final = make(given, optimizer)
        report = judge_training(*given, optimizer, losses, final.astype(dtype), dtype)
        assert report.verdict == "wrong", f"{optimizer}\n{report}"
        assert all(t.sigmas <= 8 for t in report.tensors) is False
        assert report.findings


def test_epsilon_inside_the_root_is_wrong():
    network, parameters, x, y, order = given = task()

    class Inside(truth.OptimizerState):
        def step(self, g):
            o = self.optimizer
            self.v = o.decay * self.v + (1 - o.decay) * g * g
            return o.learning_rate * g / np.sqrt(self.v + o.epsilon)

    optimizer = RMSProp(0.01, epsilon=1e-4)
    run = truth.Run(network, parameters, x, y, optimizer, "float64")
    run.updates = [Inside(optimizer, value) for value in (*run.W, *run.b)]
    losses = np.array([run.step(rows).loss for rows in order])
    final = Parameters(tuple(run.W), tuple(run.b))
    assert judge_training(*given, optimizer, losses, final, "float64").verdict == "wrong"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda losses, final: (losses[:-1], final), "losses has shape (11,); expected (12,)"),
        (lambda losses, final: (losses, final.astype("float32")), "W[0] is float32"),
        (lambda losses, final: (losses, Parameters(final.W)), "b[0] is missing"),
        (lambda losses, final: (np.full(STEPS, np.nan), final), "losses holds nan"),
        (
            lambda losses, final: (
                losses,
                Parameters((final.W[0] * np.inf, *final.W[1:]), final.b),
            ),
            "W[0] holds nan or infinity",
        ),
    ],
)
def test_what_cannot_be_compared_is_a_finding(change, says):
    given, optimizer = task(), SGD(0.1)
    report = judge_training(*given, optimizer, *change(*trained(*given, optimizer)), "float64")
    assert report.verdict == "wrong"
    assert any(says in finding.say for finding in report.findings), str(report)


# ── What nobody could have seen ────────────────────────────────────────────────────────────────


def test_training_whose_correct_runs_part_is_noise_limited():
    network = MLP((6, 20, 20, 4), hidden="tanh", output="softmax", loss="cross_entropy")
    given, optimizer = task(network, scheme="normal"), SGD(10, momentum=0.9)
    losses, final = trained(*given, optimizer, "float32")
    assert np.isfinite(losses).all()
    report = judge_training(*given, optimizer, losses, final, "float32")
    assert report.verdict == "noise-limited"
    assert "correct runs part here" in report.findings[0].say
    assert judge_training(*given, optimizer, losses * 1.01, final, "float32").verdict == "wrong"


@pytest.mark.parametrize("rate", [0.5, 3.0])
def test_units_that_cross_their_corner_in_training_are_not_called_wrong(rate):
    network = MLP((6, 30, 20, 4), hidden="relu", output="softmax", loss="cross_entropy")
    verdicts = set()
    for seed in range(3):
        network, parameters, x, y, order = task(network, seed, "he")
        given, optimizer = (network, parameters, x, y, np.tile(order, (8, 1))), SGD(rate)
        report = judge_training(
            *given, optimizer, *trained(*given, optimizer, "float32"), "float32"
        )
        verdicts.add(report.verdict)
        off = trained(*given, SGD(1.01 * rate), "float32")
        assert judge_training(*given, optimizer, *off, "float32").verdict == "wrong"
    assert verdicts <= {"right", "kink", "noise-limited"}


def test_training_that_overflows_is_not_called_wrong_for_it():
    given = task(MLP((6, 8, 4), hidden="softplus", output="identity"))
    with np.errstate(all="ignore"):
        losses, final = trained(*given, SGD(1e6), "float32")
        assert not np.isfinite(losses).all()
        report = judge_training(*given, SGD(1e6), losses, final, "float32")
    assert report.verdict == "noise-limited"


def test_a_loss_whose_sum_overflows_before_its_mean_is_taken_is_not_called_wrong_for_it():
    network, parameters, x, y, order = task(MLP((6, 8, 4), output="identity"))
    y = y + 6e18  # a mean of squares that float32 holds, from a sum that it does not
    given = (network, parameters, x, y, order)
    with np.errstate(all="ignore"):
        losses, final = trained(*given, SGD(1e-30), "float32")
        assert np.isinf(losses).all()
        report = judge_training(*given, SGD(1e-30), losses, final, "float32")
    assert report.verdict != "wrong", str(report)


def test_a_learning_rate_of_0_is_vacuous():
    given = task()
    report = judge_training(*given, SGD(0.0), *trained(*given, SGD(0.0)), "float64")
    assert report.verdict == "vacuous"
    losses, final = trained(*given, SGD(1e-3))
    assert judge_training(*given, SGD(0.0), losses, final, "float64").verdict == "wrong"


# ── The variance through the optimizers ────────────────────────────────────────────────────────


@pytest.mark.parametrize("optimizer", OPTIMIZERS[:1] + OPTIMIZERS[2:6], ids=str)
def test_errors_of_gradients_grow_through_the_optimizer_as_sampled(optimizer):
    # Gradients with independent errors of a thousandth: the spread of 500 samples of the final
    # parameter, against the standard deviation that is carried along.
    rng = np.random.default_rng(0)
    gradients, sigma = rng.uniform(0.5, 1.5, STEPS), 1e-3
    propagation = ErrorPropagation(optimizer, np.zeros(1), precision("float64"))
    exact, noisy = (
        truth.OptimizerState(optimizer, np.zeros(1)),
        truth.OptimizerState(optimizer, np.zeros(500)),
    )
    value, values = np.ones(1), np.ones(500)
    for g in gradients:
        value = value - exact.step(np.array([g]))
        values = values - noisy.step(g + sigma * rng.standard_normal(500))
        propagation.step(np.array([g]), np.array([sigma**2]), value)
    spread = np.sqrt(((values - value) ** 2).mean())
    carried = float(np.sqrt(propagation.variance[0]))
    if isinstance(optimizer, Adam):  # the errors of its long memory are added, an upper bound
        assert spread < carried < 10 * spread
    else:
        assert carried == pytest.approx(spread, rel=0.1)
