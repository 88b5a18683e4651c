"""A vision-language-action policy small enough to train here, and the closed loop in which its steering is tested."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
