"""Training: from a store of activations to a saved SAE, resumable at every checkpoint."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
