"""Where is a gradient wrong, and why? Place and likely mistake, from dW and db alone.

``probe`` chooses networks on which mistakes can be told apart. The mistakes that people make are
rows in ``mistakes``; ``guesses`` says in what order they are tried. ``fits`` and ``evidence`` tell
whether one explains a layer; ``forward`` finds the forward passes that may be meant, ``layerwise``
explains a layer, ``search`` goes from the output back, and ``diagnosis`` says what explains all.
"""

from bpbench.verify.diagnose.diagnosis import Diagnosis, diagnose

__all__ = ["Diagnosis", "diagnose"]
