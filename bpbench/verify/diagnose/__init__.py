"""Where is a gradient wrong, and why? Place and likely mistake, from dW and db alone.

``probe`` chooses networks on which mistakes can be told apart; ``readings`` and ``hypotheses`` hold
the wrong formulas that people write, ``fits`` names the factor by which one of them fits;
``layerwise`` explains one layer, ``chains`` all of them from the output back, ``diagnosis`` all.
"""

from bpbench.verify.diagnose.diagnosis import Diagnosis, diagnose

__all__ = ["Diagnosis", "diagnose"]
