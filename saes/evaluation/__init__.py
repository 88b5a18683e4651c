"""What an SAE is worth: reconstruction, sparsity, and the model's loss with it spliced in."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
