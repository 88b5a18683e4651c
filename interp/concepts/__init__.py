"""Concept activation vectors, one a layer, and whether a model uses the concept (TCAV, Kim et al., arXiv 1711.11279;
over layers GCAV, arXiv 2508.21197).

``cav`` separates activations of a concept from others and says how well on held-out ones; ``tcav`` is the share of
inputs whose target rises along it. ``across_layers`` does both at every layer against random sets, with significance
and stability; ``fused`` makes one vector of all layers. A concept that can be read off need not be used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
