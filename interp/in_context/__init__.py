"""When a network learns from its context, and when from its weights (Reddy 2023, "The mechanistic basis of data
dependence and abrupt learning in an in-context classification task", arXiv 2312.03002).

Sequences of items and labels, of which the last item is to be labelled (``sequences``); the four accuracies that tell
both ways of answering apart, and where attention goes (``measure``); a small network that learns the task within
minutes (``train``), and which of its measures changed first (``interp.trajectory.change_points``).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
