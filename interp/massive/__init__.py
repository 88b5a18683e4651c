"""Massive activations: single entries of the residual stream that are thousands of times its median.

A hidden state is the residual stream after a block (before the final norm); its largest magnitudes and its median are
taken over all positions and dimensions of one sequence (Sun et al. 2024, arXiv 2402.17762; Gallego-Feliciano et al.
2025, arXiv 2508.03616). Blocks and positions are counted from 0.

``layer_stats`` measures, ``detect`` applies Sun et al.'s rule, ``attention_sinks`` and ``find_super_weights`` look at
what comes with them, ``intervene`` overwrites them, ``sweep`` follows them through training.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
