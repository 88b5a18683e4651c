"""Hold chosen activations at given values in every forward pass, gradients through all the rest (Singh et al. 2024,
"What needs to go right for an induction head?", arXiv 2404.07129).

Within ``clamp`` a model runs, and trains, with a head's attention made perfect, forbidden, or taken from elsewhere.
Around the checkpoints of a finished run that is a progress measure (``measurement``): what would the loss be if this
part of the circuit were there already? ``trilinear_losses`` is the paper's toy, in which a clamp shortens the plateau.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
