"""Activations of transformers: load a model, name a place in it, capture, cache to disk, read back."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interp.capturing import ActivationCache as ActivationCache
    from interp.capturing import capture as capture
    from interp.models import load_model as load_model
    from interp.sites import Site as Site
    from interp.store import ActivationStore as ActivationStore

_HOMES = {
    "ActivationCache": "interp.capturing",
    "ActivationStore": "interp.store",
    "Site": "interp.sites",
    "capture": "interp.capturing",
    "load_model": "interp.models",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """Import on first use, so that ``interp --help`` does not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'interp' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(_HOMES[name]), name)
