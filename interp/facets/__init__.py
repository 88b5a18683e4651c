"""Facets of a unit: the different reasons for which a neuron or latent fires (Nguyen et al. 2016, "Multifaceted feature
visualization", arXiv 1602.03616, read for language models).

``unit_contexts`` collects where a unit of a model is active, and what was in the residual stream before it; ``facets``
clusters that, and says how many clusters there are more than in noise of the same shape.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
