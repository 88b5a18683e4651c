"""Neural codes: the pattern of signs of a network's neurons, and what it alone knows (He et al. 2021, "Neural networks
behave as hash encoders", arXiv 2101.05490).

Of ReLU neurons, inputs with one code lie in one linear region. Of GELU and SiLU neurons the sign is that of what enters
the activation, and there are no regions. ``codes`` takes them of a language model, ``pack`` of any activations;
``probe_codes`` asks what they say about classes, ``measurement`` follows them over checkpoints.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
