"""How scores are computed: exactly, by gradients, along paths, by relevance."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
