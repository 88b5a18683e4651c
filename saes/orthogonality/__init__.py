"""How nearly orthogonal dictionaries are, by their decoder rows and by the norms of latents and activations."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
