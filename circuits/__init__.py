"""Circuits: patching, attribution, relevance and circuit graphs over the places that `interp` names.

Everything opens on first use, so that importing costs nothing; ``__init__.pyi`` beside this lists what there is.
"""

import lazy_loader

from interp import __version__ as __version__

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
