"""Additions to named sites of plain Hugging Face modules by hooks, from the facts that the oracle of sites has."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from interp.sites.site import Site
from tests.interp.sites.family_oracle import FACTS, head_order


def module_of(case: str, kind: str, layer: int | None) -> tuple[str, bool]:
    """The path of the module where an addition to a site is made, and whether it is made to what enters it."""
    facts = FACTS[case]
    at = f"{facts['at']}.{layer}"
    attention = f"{at}.{facts['attn']}"
    mlp = f"{at}.{facts['mlp']}" if facts["mlp"] else at
    if kind in ("q", "k", "v"):
        names = facts["qkv"].split()
        return f"{attention}.{names['qkv'.index(kind) if len(names) == 3 else 0]}", False
    written = facts.get("p1") or facts["attn"]
    return {
        "embed": (facts["embed"], False),
        "resid_pre": (at, True),
        "ln1_normalized": (f"{at}.{facts['n1']}", False),
        "z": (f"{attention}.{facts['o']}", True),
        "attn_out": (f"{at}.{written}", False),
        "resid_mid": (f"{at}.{written}", False),  # where it is added to the stream
        "ln2_normalized": (f"{at}.{facts['n2']}", False),
        "mlp_in": (mlp if facts["mlp"] else f"{at}.fc1", True),
        "mlp_pre": (f"{mlp}.{facts['gate']}", False),
        "mlp_post": (f"{mlp}.{facts['down']}", True),
        "mlp_out": (f"{at}.{facts['p2']}" if facts.get("p2") else mlp if facts["mlp"] else f"{at}.fc2", False),
        "resid_post": (at, False),
        "ln_final_normalized": (facts["final"], False),
    }[kind]


@contextmanager
def hooked(module: Any, entering: bool, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """``change`` applied to the first tensor that enters or leaves a module."""

    def on_input(_module: Any, args: Any, kwargs: Any) -> Any:
        if args:
            return (change(args[0]), *args[1:]), kwargs
        return args, kwargs | {"hidden_states": change(kwargs["hidden_states"])}

    def on_output(_module: Any, _args: Any, output: Any) -> Any:
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    if entering:
        handle = module.register_forward_pre_hook(on_input, with_kwargs=True)
    else:
        handle = module.register_forward_hook(on_output)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def added(case: str, model: Any, site: Site, addend: Tensor) -> Iterator[None]:
    """Within the block the model runs with ``addend``, of the site's shape, added there."""
    if site.kind in ("scores", "pattern"):
        with patch("torch.nn.functional.softmax", _softmax(site, addend)):
            yield
        return
    facts = FACTS[case]
    path, entering = module_of(case, site.kind, site.layer)
    module = model.get_submodule(path)
    if site.kind.endswith("_normalized") and getattr(module, "weight", None) is not None:
        addend = addend * (module.weight + (1 if facts.get("one") else 0))
    if site.kind in ("attn_out", "resid_mid", "mlp_out"):
        addend = addend / facts.get("times", 1.0)
    if site.kind == "embed":
        addend = addend / facts.get("embed_times", 1.0)

    def change(value: Tensor) -> Tensor:
        value = value.clone()
        if site.kind in ("q", "k", "v") and " " not in facts["qkv"]:
            heads = head_order(case, model.config)["qkv".index(site.kind)]
            value.unflatten(-1, (-1, addend.shape[-1]))[:, :, heads] += addend
        elif site.kind == "mlp_pre":  # alone, or before the branch that one module makes too
            value[..., : addend.shape[-1]] += addend.reshape(*value.shape[:-1], -1)
        else:
            value += addend.reshape(value.shape)
        return value

    with hooked(module, entering, change):
        yield


def _softmax(site: Site, addend: Tensor) -> Callable[..., Tensor]:
    """A softmax that adds to what enters or leaves it where attention of one layer calls it."""
    softmax, calls = torch.nn.functional.softmax, iter(range(1000))

    def changed(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if x.ndim != 4 or next(calls) != site.layer:
            return softmax(x, *args, **kwargs)
        here = torch.nn.functional.pad(addend, (0, x.shape[-1] - addend.shape[-1]))  # GPT-OSS's sinks
        if site.kind == "scores":
            return softmax(x + here, *args, **kwargs)
        return softmax(x, *args, **kwargs) + here

    return changed
