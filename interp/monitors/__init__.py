"""What shows that training is about to become unstable (Wortsman et al. 2023, arXiv 2309.14322).

Attention logits that grow (above 10⁴ training diverged there), output logits that drift (log Z), gradients that fall to
the optimiser's ε so that updates shrink. ``measure`` takes them of one model, ``measurement`` over checkpoints,
``extrapolate`` from small models to large ones; ``learning_rate_sensitivity`` sums up a sweep of learning rates.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
