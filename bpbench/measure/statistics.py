"""How sure is a time, and is one backend really faster than another? Decisions from samples alone.

Samples come from several processes, and those of one process are alike: what memory it was given,
where its code lies. So a resample of the bootstrap draws processes first, then rounds within each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from bpbench.network import Array

RESAMPLES = 2000
CONFIDENCE = 0.95
DISTURBED = 1.2
"""A canary that takes so many times as long as the middle one sits beside a disturbed sample."""
MOST_DISTURBED = 1 / 3
"""Above this share of disturbed samples a run is noisy."""
NOISY = 1.1
"""A/A: so is one that could take the same for different by so much."""

Slot = tuple[int, int]
"""The process and the round of a sample."""


@dataclass(frozen=True)
class Ratio:
    """How many times as long one takes as another: the estimate and its interval."""

    middle: float
    low: float
    high: float

    @property
    def margin(self) -> float:
        """The largest difference, as a factor of at least 1, that the interval allows."""
        return max(self.high, 1 / self.low, 1.0)


@dataclass(frozen=True)
class Decision:
    """Whether there is a difference.

    Attributes:
        verdict: "faster", "slower" or "no difference seen".
        ratio: of the times.
        minimum_detectable_difference: as a share, 0.08 is 8 %: a smaller one may not be seen.
    """

    verdict: str
    ratio: Ratio
    minimum_detectable_difference: float


def median_interval(
    samples: Sequence[float],
    processes: Sequence[int] | None = None,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> tuple[float, float]:
    """The percentile bootstrap interval of the median, over processes and the rounds in each.

    Args:
        samples: at least one; a single sample is its own interval.
        processes: the number of the process that each comes from; the same for all where None.
        confidence: between 0 and 1.
        seed: the same seed gives the same interval.

    Source: Efron & Tibshirani 1993, chapter 13; for two stages Davison & Hinkley 1997, 3.8.
    """
    groups = _grouped(samples, [0] * len(samples) if processes is None else processes)
    return _bounds(_resampled_medians(groups, np.random.default_rng(seed)), confidence)


def paired_ratio(times: Mapping[Slot, float], others: Mapping[Slot, float]) -> Ratio | None:
    """How many times as long: the median ratio of the samples of the same rounds.

    Args:
        times, others: (process, round) -> seconds. What one lacks is left out of both.

    Returns:
        None where they have no round in common.
    """
    slots = times.keys() & others.keys()
    if not slots:
        return None
    ratios = {slot: times[slot] / others[slot] for slot in slots}
    return _ratio(*_log_medians(ratios, np.random.default_rng(0)))


def unpaired_ratio(times: Mapping[Slot, float], others: Mapping[Slot, float]) -> Ratio | None:
    """The ratio of the medians of samples that were not taken in the same rounds."""
    if not times or not others:
        return None
    rng = np.random.default_rng(0)
    middle, medians = _log_medians(times, rng)
    other_middle, other_medians = _log_medians(others, rng)
    return _ratio(middle - other_middle, medians - other_medians)


def decide(ratio: Ratio, margin: float = 1.0) -> Decision:
    """Whether a ratio of times shows a difference.

    It does where its interval excludes 1 and it lies itself outside what the same code, timed
    twice, has shown.

    Args:
        ratio: times of the one over times of the other.
        margin: the A/A ratio's, at least 1.
    """
    hides = max(ratio.margin, margin) - 1
    if ratio.low > 1 and ratio.middle > margin:
        return Decision("slower", ratio, hides)
    if ratio.high < 1 and ratio.middle < 1 / margin:
        return Decision("faster", ratio, hides)
    return Decision("no difference seen", ratio, hides)


def disturbed(canaries: Sequence[float]) -> list[bool]:
    """Which samples were taken while something else kept the machine busy.

    Args:
        canaries: seconds of the same piece of arithmetic, done beside each sample of a run.
    """
    if not canaries:
        return []
    limit = DISTURBED * float(np.median(canaries))
    return [canary > limit for canary in canaries]


def undisturbed(
    slots: Sequence[Slot], samples: Sequence[float], marks: Sequence[bool]
) -> dict[Slot, float]:
    """The samples that count, by process and round.

    Args:
        slots, samples: where and how long.
        marks: whether each was disturbed; empty where nobody knows.

    Returns:
        All of them where most are disturbed, for the rest say too little then.
    """
    if not marks or 2 * sum(marks) > len(marks):
        marks = [False] * len(samples)
    each = zip(slots, samples, marks, strict=True)
    return {slot: sample for slot, sample, mark in each if not mark}


def noise(share_disturbed: float, margin: float | None) -> str:
    """What makes a run noisy, as a sentence; empty where nothing does.

    Args:
        share_disturbed: of the samples, from 0 to 1.
        margin: the A/A ratio's; None where there was none.
    """
    said = []
    if share_disturbed > MOST_DISTURBED:
        said.append(f"{share_disturbed:.0%} of the samples were disturbed by something else")
    if margin is not None and margin > NOISY:
        said.append(f"the same code timed twice may differ by {margin - 1:.0%}")
    return " and ".join(said)


def overuse(threads: int, observed: float) -> str:
    """A sentence where a backend kept more cores busy than it was given; else nothing.

    Args:
        threads: how many it was given.
        observed: CPU time over wall time.
    """
    if observed <= threads + 0.2:  # the clocks of threads and wall do not agree to the last tick
        return ""
    return f"kept {observed:.1f} cores busy, but was given {threads}"


def _grouped(values: Sequence[float], processes: Sequence[int]) -> list[list[float]]:
    pairs = sorted(zip(processes, values, strict=True))
    return [[value for _, value in group] for _, group in groupby(pairs, key=lambda p: p[0])]


def _resampled_medians(groups: Sequence[Sequence[float]], rng: np.random.Generator) -> Array:
    """The medians of RESAMPLES resamples, every process drawn with the same weight."""
    count, most = len(groups), max(map(len, groups))
    values = np.zeros((count, most))
    for row, group in zip(values, groups, strict=True):
        row[: len(group)] = group
    lengths = np.array([len(group) for group in groups])
    drawn = rng.integers(count, size=(RESAMPLES, count))
    within = (rng.random((RESAMPLES, count, most)) * lengths[drawn][..., None]).astype(int)
    resamples = values[drawn[..., None], within].reshape(RESAMPLES, -1)
    return np.asarray(np.median(resamples, axis=1))


def _log_medians(samples: Mapping[Slot, float], rng: np.random.Generator) -> tuple[float, Array]:
    """The median of the samples' logarithms, and those of the resamples."""
    slots = sorted(samples)
    logs = [float(np.log(samples[slot])) for slot in slots]
    groups = _grouped(logs, [process for process, _ in slots])
    return float(np.median(logs)), _resampled_medians(groups, rng)


def _ratio(middle: float, medians: Array) -> Ratio:
    low, high = _bounds(medians, CONFIDENCE)
    return Ratio(*np.exp([middle, low, high]).tolist())


def _bounds(values: Array, confidence: float) -> tuple[float, float]:
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)
