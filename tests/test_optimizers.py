"""Descriptions of optimizers: their ranges, and the way through plain data and back."""

import math

import pytest

from bpbench import SGD, Adam, RMSProp, UsageError
from bpbench.optimizers import FORMULAS, OPTIMIZERS, from_description, step


@pytest.mark.parametrize(
    "optimizer",
    [SGD(0.1), SGD(1, l2=0.1, momentum=0.9, nesterov=True), RMSProp(0.01), Adam(0.1, beta1=0.5)],
)
def test_an_optimizer_is_made_again_from_its_description(optimizer):
    assert from_description(optimizer.describe()) == optimizer


def test_an_optimizer_prints_what_differs_from_its_defaults():
    assert str(SGD(0.1)) == "SGD(learning_rate=0.1)"
    assert str(SGD(0.1, momentum=0.9, nesterov=True)) == (
        "SGD(learning_rate=0.1, momentum=0.9, nesterov=True)"
    )
    assert str(Adam(0.001, epsilon=1e-7)) == "Adam(learning_rate=0.001, epsilon=1e-07)"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SGD(-1), "learning_rate is -1; expected a number, at least 0"),
        (lambda: SGD(float("nan")), "learning_rate is nan"),
        (lambda: SGD("fast"), "learning_rate is 'fast'"),
        (lambda: SGD(0.1, momentum=1), "momentum is 1; .* less than 1"),
        (lambda: SGD(0.1, nesterov=True), "needs a momentum above 0"),
        (lambda: SGD(0.1, momentum=0.9, nesterov="yes"), "expected True or False"),
        (lambda: RMSProp(0.1, decay=2), "decay is 2"),
        (lambda: Adam(0.1, beta2=1.0), "beta2 is 1.0"),
        (lambda: Adam(0.1, l2=-1e-3), "l2 is -0.001"),
        (lambda: from_description({"name": "Adm", "learning_rate": 1}), "did you mean 'Adam'"),
    ],
)
def test_an_optimizer_out_of_range_is_refused(make, message):
    with pytest.raises(UsageError, match=message):
        make()


def test_every_described_optimizer_has_its_formula():
    assert FORMULAS.keys() == OPTIMIZERS.keys()


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        (SGD(0.5), (0.5 * 2, 0.5 * 3)),
        (SGD(0.5, momentum=0.5), (0.5 * 2, 0.5 * (0.5 * 2 + 3))),
        (SGD(0.5, momentum=0.5, nesterov=True), (0.5 * (2 + 0.5 * 2), 0.5 * (3 + 0.5 * 4))),
        (RMSProp(0.5, decay=0.75, epsilon=1), (0.5 * 2 / 2, 0.5 * 3 / (3**0.5 + 1))),
        # m = 1 and 2, v = 1 and 3; corrections 1/2 and 3/4 of m, 1/4 and 7/16 of v
        (Adam(0.5, beta1=0.5, beta2=0.75, epsilon=1),
         (0.5 * 2 / 3, 0.5 * (2 / 0.75) / ((3 / (7 / 16)) ** 0.5 + 1))),
    ],
    ids=str,
)  # fmt: skip
def test_two_steps_worked_out_by_hand(optimizer, expected):
    moments = (0.0,) * FORMULAS[optimizer.name].moments(optimizer)
    for t, (g, update) in enumerate(zip((2.0, 3.0), expected, strict=True), 1):
        found, moments = step(optimizer, g, moments, math.sqrt, lambda beta, t=t: 1 - beta**t)
        assert found == pytest.approx(update, rel=1e-15)
