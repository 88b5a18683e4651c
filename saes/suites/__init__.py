"""Evaluations beyond reconstruction: what latents say, what they hide, and whether a ground truth is found again."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
