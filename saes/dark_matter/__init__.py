"""The dark matter of an SAE: its error, split into parts, measured and explained."""

from saes.dark_matter.decomposition import Decomposition, ErrorSplit, Figures, decompose, split_error

__all__ = ["Decomposition", "ErrorSplit", "Figures", "decompose", "split_error"]
