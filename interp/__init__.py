"""Activations of transformers: load a model, name a place in it, capture, cache to disk, read back."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interp.models.loading import load_model as load_model
    from interp.sites.capturing import ActivationCache as ActivationCache
    from interp.sites.capturing import capture as capture
    from interp.sites.site import Site as Site
    from interp.store.activation_store import ActivationStore as ActivationStore

_HOMES = {
    "ActivationCache": "interp.sites.capturing",
    "ActivationStore": "interp.store.activation_store",
    "Site": "interp.sites.site",
    "capture": "interp.sites.capturing",
    "load_model": "interp.models.loading",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """Import on first use, so that ``interp --help`` does not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'interp' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(_HOMES[name]), name)
