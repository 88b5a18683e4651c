"""Sublayer gain: by how much each matrix of a block stretches what enters it, on real activations and at most.

The gain is RMS(W x) / RMS(x); the top singular value bounds it. Robust layerwise scaling rules keep the top singular
value the same at every width; ``width_exponent`` says whether they do, ``gains`` measures one model, ``measurement``
its checkpoints.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
