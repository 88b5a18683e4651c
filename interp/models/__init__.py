"""A name becomes a model: found, loaded with its published weights, and known by its fingerprint."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
