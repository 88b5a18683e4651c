"""Does a family's declaration describe this model? Measured once a model, at the first use of what relies on it.

On a few random tokens: the embedding (and positions) is what enters the first block; what attention and MLP of each
block add makes the residual stream after it of the stream before it, and that is what enters the next block; and the
neurons are the activated gate times the branch beside it. Together: embedding plus the sum of what every block adds is
the final residual. A changed model, or another version of transformers, that computes something else is refused.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

import torch
import transformers
from torch import Tensor, nn

from interp.models.bridge import computed
from interp.models.plain import PlainCopy
from interp.sites.engines import run_with_hooks
from interp.sites.hooks import Hook, hook_of
from interp.sites.parts import Parts, parts_of
from interp.sites.site import Site, declared_parts

_ROWS, _LENGTH = 2, 6
_checked: WeakSet[nn.Module] = WeakSet()


@dataclass(frozen=True, kw_only=True)
class StreamCheck:
    """How far a model is from its family's declaration."""

    gap: float
    """Largest difference, relative to the largest value of what is compared; NaN where a value is not finite."""
    where: str
    """Which equation is farthest from holding."""
    tolerance: float
    """1e-4, or eight steps of the weights' dtype where these are larger."""


def require_declared(model: Any) -> None:
    """Check a bridge or Hugging Face model, the first time that it is seen, where its family is declared.

    Raises:
        ValueError: the model computes something else than its family's declaration says.
    """
    if model in _checked or model.training or declared_parts(model) is None:
        return
    found = check_declaration(model)
    if math.isnan(found.gap):  # which whoever measures activations is told at the site where they stop being finite
        return
    if found.gap > found.tolerance:
        name = getattr(model, "original_model", model).config.model_type
        raise ValueError(
            f"this {name!r} model is not what interp.models.families declares: {found.where} differs by {found.gap:.2g}"
            f" of its largest value (transformers {transformers.__version__}). If its modules were changed, load it"
            " again; otherwise the declaration needs to be brought up to date"
        )
    _checked.add(model)


@torch.no_grad()
def check_declaration(model: Any) -> StreamCheck:
    """Compare a model with its family's declaration, on tokens that are the same every time; nobody's hooks run.

    Raises:
        ValueError: a family that is not declared.
    """
    root = PlainCopy(model).model
    parts = parts_of(root)
    hooks = _hooks(parts)
    seen: dict[Any, Tensor] = {}

    def keep(key: Any, passing: Any) -> bool:
        value = passing[0] if isinstance(passing, tuple) else passing
        convert = hooks[key].convert
        # Copied, since some blocks add to what their modules give in place.
        seen.setdefault(key, (value if convert is None else convert(value)).clone())
        return False

    embedding: Any = root.get_input_embeddings()  # type: ignore[operator]
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(embedding.weight.shape[0], (_ROWS, _LENGTH), generator=generator)
    run_with_hooks(root, tokens.to(embedding.weight.device), {"use_cache": False}, hooks, keep)
    dtype = next(root.parameters()).dtype
    tolerance = max(1e-4, 8 * torch.finfo(dtype).eps)
    if not all(value.isfinite().all() for value in seen.values()):
        return StreamCheck(gap=math.nan, where="", tolerance=tolerance)
    gap, where = max(
        (
            float((found.float() - wanted.float()).abs().max() / wanted.float().abs().max().clamp_min(1e-30)),
            where,
        )
        for where, found, wanted in _equations(parts, seen)
    )
    return StreamCheck(gap=gap, where=where, tolerance=tolerance)


_OF_A_BLOCK = ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post", "mlp_pre", "mlp_post")


def _hooks(parts: Parts) -> dict[Any, Hook]:
    named = {Site(kind): hook_of(parts, kind, None, batch=_ROWS) for kind in ("embed", "pos_embed")}
    for layer, block in enumerate(parts.blocks):
        named |= {Site(kind, layer): hook_of(parts, kind, layer, batch=_ROWS) for kind in _OF_A_BLOCK}
        if (up := block.up if block.gate_up is None else block.gate_up) is not None:
            named[Site("path", layer, path="up")] = Hook(module=up)
    return {site: hook for site, hook in named.items() if hook is not None}


def _equations(parts: Parts, seen: dict[Site, Tensor]) -> Iterator[tuple[str, Tensor, Tensor]]:
    """What is compared, as computed from its parts, and as it is."""
    stream, name = seen[Site("embed")], "embedding plus positions"
    if Site("pos_embed") in seen:
        stream = stream + seen[Site("pos_embed")]
    for layer, block in enumerate(parts.blocks):
        pre, post = seen[Site("resid_pre", layer)], seen[Site("resid_post", layer)]
        yield f"{name} and what enters block {layer}", stream, pre
        middle = pre + seen[Site("attn_out", layer)]
        if parts.family.post_layer_norm:
            middle = computed(block.norm1, middle)  # type: ignore[arg-type]
        if Site("resid_mid", layer) in seen:
            yield f"the residual stream behind attention of block {layer}", middle, seen[Site("resid_mid", layer)]
        after = middle + seen[Site("mlp_out", layer)]
        if parts.family.post_layer_norm:
            after = computed(block.norm2, after)  # type: ignore[arg-type]
        yield f"the residual stream behind block {layer}", after, post
        if block.activation is not None and Site("mlp_pre", layer) in seen:  # an MLP that was replaced shows no neurons
            neurons = computed(block.activation, seen[Site("mlp_pre", layer)])
            if (up := seen.get(Site("path", layer, path="up"))) is not None:
                neurons = neurons * (up if block.gate_up is None else up.chunk(2, -1)[1])
            yield f"the neurons of block {layer}", neurons, seen[Site("mlp_post", layer)]
        stream, name = post, f"what leaves block {layer - 1}"
