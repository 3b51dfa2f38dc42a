"""What the tests of ``bpbench.check`` share: networks, spoilt functions, and what was found."""

from __future__ import annotations

from bpbench import MLP
from tests.handwritten import Handwritten

SQUARED = MLP((5, 4, 3))
TANH_BINARY = MLP((5, 4, 3), "tanh", "sigmoid", "binary_cross_entropy")


def places(report):
    return [(finding.mistake, finding.layer, finding.tensor) for finding in report.findings]


def spoilt(spoil, network=SQUARED):
    """The right function, with something done to its arguments and results."""
    right = Handwritten(network)

    def function(W, b, x, y):
        return spoil(W, b, x, y, *right(W, b, x, y))

    return function
