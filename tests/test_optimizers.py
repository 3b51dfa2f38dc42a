"""Descriptions of optimizers: their ranges, and the way through plain data and back."""

import pytest

from bpbench import SGD, Adam, RMSProp, UsageError
from bpbench.optimizers import from_description


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
