"""The dark matter of an SAE: its error, split into parts, measured and explained."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saes.dark_matter.decomposition import Decomposition as Decomposition
    from saes.dark_matter.decomposition import ErrorSplit as ErrorSplit
    from saes.dark_matter.decomposition import Figures as Figures
    from saes.dark_matter.decomposition import decompose as decompose
    from saes.dark_matter.decomposition import split_error as split_error

__all__ = ["Decomposition", "ErrorSplit", "Figures", "decompose", "split_error"]


def __getattr__(name: str) -> Any:
    """Import on first use: the command line needs the settings, and must not wait for torch."""
    if name not in __all__:
        raise AttributeError(f"module 'saes.dark_matter' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module("saes.dark_matter.decomposition"), name)
