"""One report of what happens inside a model while it trains: everything that applies, in order, in one figure."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
