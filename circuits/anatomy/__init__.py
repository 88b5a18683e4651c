"""The parts of a block, what can be scored there, and how they are wired."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
