"""The mistakes that people make, as data: their names, remedies, and what each would give.

``TABLES`` holds the rows by the step that they go wrong in, ``SUMS`` those with fitted weights.
"""

from bpbench.verify.diagnose.mistakes import sums
from bpbench.verify.diagnose.mistakes.arrays import SAMPLES, SHAPES
from bpbench.verify.diagnose.mistakes.forward import CHANGES, X
from bpbench.verify.diagnose.mistakes.gradients import BIAS, INPUTS, OTHER_WEIGHTS, WEIGHTS
from bpbench.verify.diagnose.mistakes.hidden import BACKS, HIDDEN
from bpbench.verify.diagnose.mistakes.output import (
    ENTROPY,
    ENTROPY_LATE,
    ERRORS,
    JACOBIANS,
    LABELS,
    LAST,
)
from bpbench.verify.diagnose.mistakes.slopes import OF_OTHERS, OF_SOFTMAX, SLOPES

TABLES = {
    "x": X,
    "step": CHANGES,
    "error": ERRORS,
    "y": LABELS,
    "entropy": ENTROPY + ENTROPY_LATE,
    "output": JACOBIANS + LAST,
    "softmax": OF_SOFTMAX,
    "slope": SLOPES + OF_OTHERS,
    "back": BACKS,
    "hidden": HIDDEN,
    "samples": SAMPLES,
    "shape": SHAPES,
    "input": INPUTS,
    "dW": WEIGHTS + OTHER_WEIGHTS,
    "db": BIAS,
}
SUMS = {
    "delta": sums.DELTAS,
    "dW": tuple(sums.decayed("dW", 2)),
    "db": tuple(sums.decayed("db", 2)),
}
