"""Activations of transformers: load a model, name a place in it, capture, cache to disk, read back, steer.

Everything opens on first use, so that importing costs nothing; ``__init__.pyi`` beside this lists what there is.
"""

import lazy_loader

__version__ = "0.2.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
