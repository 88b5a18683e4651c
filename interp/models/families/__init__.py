"""One table of model families: what is known of the parts of a block, as data. Adding a family is one declaration."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
