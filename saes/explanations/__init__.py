"""What a latent stands for, in a sentence by a judge, and how far that sentence holds: where it fires, what it does."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
