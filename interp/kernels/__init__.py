"""Lazy or rich: is a network still its linearisation, and when did its features start to move (Kumar et al. 2023,
"Grokking as the transition from lazy to rich training dynamics", arXiv 2310.06110).

``ntk`` is the neural tangent kernel of any torch model on chosen outputs; ``alignment``, ``kernel_distance`` and
``movement`` say how it stands to the task, to an earlier kernel and to earlier weights; ``measurement`` follows a
language model over its checkpoints.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
