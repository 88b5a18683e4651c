"""Change latents and see what follows, on one prompt or while text is generated."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
