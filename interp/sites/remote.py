"""Captures on another machine: an nnsight trace that a server of NDIF runs, on a model too large for this one.

The block of the trace is sent as source code, and this package is not on the server: it must use nothing but torch and
plain Python.
"""

import sys
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from interp.sites.site import Site, find_module


def is_remotable(model: Any) -> bool:
    """Whether nnsight can send a trace of this model to a server: its TransformersModel and the like."""
    if sys.modules.get("nnsight") is None:  # so no model is one of its own
        return False
    from nnsight.modeling.mixins.remotable import Remotable

    return isinstance(model, Remotable)


def module_of(model: Any) -> nn.Module:
    """The Hugging Face model inside, which may be without weights (device meta)."""
    return model._module


def run_remotely(
    model: Any,
    inputs: Tensor,
    options: dict[str, Any],
    sites: Iterable[Site],
    *,
    positions: slice | Tensor | None,
    stop: bool,
    host: bool | str,
) -> dict[Site, Tensor]:
    """The sites' tensors from one forward pass at ``host``: True is NDIF, a URL another server, ``local`` a rehearsal.

    A rehearsal sends the trace through the same serialisation and runs it here.
    """
    from nnsight import save

    path_of = {id(module): path for path, module in module_of(model).named_modules()}
    modules = {site: find_module(module_of(model), site) for site in sites}
    if missing := [str(site) for site, module in modules.items() if module is None]:
        raise ValueError(
            f"{', '.join(missing)} cannot be taken from another machine, where only outputs of modules can: ask for the"
            " path of a module"
        )
    asked = {site: path_of[id(module)] for site, module in modules.items()}
    paths = list(asked.values())
    with model.trace(remote=host) as tracer:
        found = save({})
        with tracer.invoke(inputs, **options):
            pass
        for path in paths:
            with tracer.invoke():
                value = model.get(path).output
                while not isinstance(value, torch.Tensor):
                    value = next(iter(value.values() if isinstance(value, dict) else value))
                found[path] = value if positions is None else value[:, positions]
                if stop and len(found) == len(paths):
                    tracer.stop()
    return {site: found[path].detach().cpu() for site, path in asked.items()}
