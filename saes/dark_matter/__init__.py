"""The dark matter of an SAE: its error, split into parts, measured and explained."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
