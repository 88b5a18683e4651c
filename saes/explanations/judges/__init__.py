"""Who can be asked: what a judge is, a server that is named, and a model on this machine."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
