"""Do the decisions about times err as seldom as they claim? Judged on noise made for this."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from bpbench.measure import statistics
from bpbench.measure.statistics import (
    Decision,
    Ratio,
    Slot,
    decide,
    median_interval,
    paired_ratio,
    unpaired_ratio,
)

PROCESSES, ROUNDS = 3, 10
"""Thirty rounds, as a run has where nobody says otherwise."""


class Machine:
    """A noisy machine: rounds that are slow for all, processes of their own speed, and spikes."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.rounds = self.rng.lognormal(0, 0.1, (PROCESSES, ROUNDS))

    def samples(self, seconds: float) -> dict[Slot, float]:
        shape = (PROCESSES, ROUNDS)
        process = self.rng.lognormal(0, 0.02, (PROCESSES, 1))
        own = self.rng.lognormal(0, 0.03, shape)
        spikes = np.where(self.rng.random(shape) < 0.1, self.rng.uniform(1, 2, shape), 1)
        times = seconds * process * own * spikes * self.rounds
        return {(p, r): float(times[p, r]) for p in range(PROCESSES) for r in range(ROUNDS)}


def compared(seed: int, factor: float) -> Decision:
    """One backend against another that takes ``factor`` times as long, with an A/A control."""
    machine = Machine(seed)
    one, other, control = (machine.samples(s) for s in (factor, 1.0, 1.0))
    ratio, same = paired_ratio(one, other), paired_ratio(control, other)
    assert ratio is not None
    assert same is not None
    return decide(ratio, same.margin)


def test_of_100_comparisons_of_the_same_at_most_5_are_called_different() -> None:
    verdicts = [compared(seed, 1.0).verdict for seed in range(100)]
    assert sum(verdict != "no difference seen" for verdict in verdicts) <= 5


def test_of_100_backends_that_take_15_percent_longer_at_least_90_are_called_slower() -> None:
    verdicts = [compared(seed, 1.15).verdict for seed in range(100)]
    assert verdicts.count("slower") >= 90
    assert "faster" not in verdicts


def test_what_takes_less_is_called_faster() -> None:
    assert compared(0, 0.5).verdict == "faster"


def test_a_difference_that_was_not_seen_is_no_larger_than_what_could_have_hidden() -> None:
    found = [compared(seed, 1.05) for seed in range(100)]
    unseen = [
        each.minimum_detectable_difference for each in found if each.verdict == "no difference seen"
    ]
    assert len(unseen) > 20
    assert sum(hidden >= 0.05 for hidden in unseen) >= 0.9 * len(unseen)


@pytest.mark.parametrize(
    ("ratio", "margin", "verdict"),
    [
        (Ratio(1.2, 1.1, 1.3), 1.0, "slower"),
        (Ratio(1.2, 1.1, 1.3), 1.25, "no difference seen"),
        (Ratio(1.2, 0.9, 1.3), 1.0, "no difference seen"),
        (Ratio(0.8, 0.7, 0.9), 1.1, "faster"),
        (Ratio(0.8, 0.7, 1.01), 1.1, "no difference seen"),
        (Ratio(0.8, 0.7, 0.9), 1.3, "no difference seen"),
    ],
)
def test_a_difference_is_outside_1_and_outside_what_the_same_code_shows(
    ratio: Ratio, margin: float, verdict: str
) -> None:
    assert decide(ratio, margin).verdict == verdict


def test_what_could_have_hidden_is_the_worse_of_the_interval_and_the_same_code() -> None:
    assert decide(Ratio(1.0, 0.8, 1.1), 1.05).minimum_detectable_difference == pytest.approx(0.25)
    assert decide(Ratio(1.0, 0.99, 1.01), 1.05).minimum_detectable_difference == pytest.approx(0.05)


def test_pairing_takes_out_what_is_slow_for_all() -> None:
    rng = np.random.default_rng(0)
    slow = rng.lognormal(0, 1, 30)
    one = {(0, r): float(1.1 * slow[r]) for r in range(30)}
    other = {(0, r): float(slow[r]) for r in range(30)}
    paired, apart = paired_ratio(one, other), unpaired_ratio(one, other)
    assert paired is not None
    assert apart is not None
    assert (paired.low, paired.middle, paired.high) == pytest.approx((1.1, 1.1, 1.1))
    assert apart.low < 0.9
    assert apart.high > 1.3


@pytest.mark.parametrize("ratio", [paired_ratio, unpaired_ratio])
def test_a_ratio_that_nothing_tells_is_none(ratio: Callable[..., Ratio | None]) -> None:
    assert ratio({}, {(0, 0): 1.0}) is None


def test_rounds_that_only_one_has_are_left_out_of_a_paired_ratio() -> None:
    ratio = paired_ratio({(0, 0): 2.0, (0, 1): 90.0}, {(0, 0): 1.0, (1, 0): 7.0})
    assert ratio == Ratio(2.0, 2.0, 2.0)


def test_processes_that_differ_make_an_interval_wide_however_many_rounds_there_are() -> None:
    samples = [1.0] * 50 + [1.2] * 50 + [1.4] * 50
    processes = [0] * 50 + [1] * 50 + [2] * 50
    assert median_interval(samples, processes) == (1.0, 1.4)
    assert median_interval(samples) == (1.2, 1.2)


def test_a_canary_tells_which_samples_were_disturbed() -> None:
    assert statistics.disturbed([1.0, 1.1, 0.9, 1.3, 1.0]) == [False, False, False, True, False]
    assert statistics.disturbed([]) == []


def test_a_noisy_run_says_why() -> None:
    assert statistics.noise(0.1, 1.05) == statistics.noise(0.1, None) == ""
    assert "50% of the samples were disturbed" in statistics.noise(0.5, 1.05)
    assert statistics.noise(0.0, 1.25) == "the same code timed twice may differ by 25%"


def test_more_cores_than_were_given_are_told() -> None:
    assert statistics.overuse(1, 1.05) == statistics.overuse(2, 0.6) == ""
    assert statistics.overuse(1, 1.96) == "kept 2.0 cores busy, but was given 1"
