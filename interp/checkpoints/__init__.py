"""A model through its training: where its checkpoints are, which to take, and what changes from one to the next."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
