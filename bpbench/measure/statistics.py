"""How sure is a median? Bootstrap intervals of samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def median_interval(
    samples: Sequence[float], confidence: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """The percentile bootstrap interval of the median.

    Args:
        samples: at least one; a single sample is its own interval.
        confidence: between 0 and 1.
        seed: the same seed gives the same interval.

    Source: Efron & Tibshirani 1993, chapter 13.
    """
    if len(samples) < 2:
        return samples[0], samples[0]
    from scipy.stats import bootstrap  # here, for it takes a second to import

    found = bootstrap(
        (np.asarray(samples),), np.median, confidence_level=confidence, method="percentile",
        n_resamples=4999, rng=np.random.default_rng(seed), vectorized=True,
    )  # fmt: skip
    return float(found.confidence_interval.low), float(found.confidence_interval.high)
