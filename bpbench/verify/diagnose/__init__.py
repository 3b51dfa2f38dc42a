"""Where is a gradient wrong, and why? Place and likely mistake, from dW and db alone.

``probe`` chooses networks on which mistakes can be told apart. The wrong formulas that people write
are in ``readings`` (the forward pass), ``output_deltas``, ``hidden_deltas``, ``slopes`` (f') and
``gradients`` (dW and db); ``fits`` names the factor by which one of them fits.
``layerwise`` explains one layer, ``chains`` all of them from the output back, ``diagnosis`` all.
"""

from bpbench.verify.diagnose.diagnosis import Diagnosis, diagnose

__all__ = ["Diagnosis", "diagnose"]
