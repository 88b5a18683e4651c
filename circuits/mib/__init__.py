"""The MIB benchmark's recipe: its two areas, its circuit files, and models without shared keys."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
