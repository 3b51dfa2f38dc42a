"""What is a number here? Arrays, more digits than float64 has, and what rounding adds to a result.

Descriptions of activations and losses are written in it; nothing here knows a network.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Numbers = Any
"""An array of any precision: float32, float64, longdouble, or ``DoubleDouble``."""
