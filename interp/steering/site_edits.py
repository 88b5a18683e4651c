"""Change what passes a site, whichever site, while a model runs: the value that a function returns, or a tensor."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint

from interp.arguments.kinds import require
from interp.models.bridge import is_bridge, remove_hook
from interp.models.families.table import declared
from interp.models.feed_forward import stack_of
from interp.models.source import require_raw_weights
from interp.sites.kinds import KINDS
from interp.sites.site import Site, check_site, find_module
from interp.steering.positions import Positions

Edit = Callable[[Tensor], Tensor | None] | Tensor | float
"""A function of the site's tensor, which returns a new one or None for no change; or what to put there, broadcast."""


@contextmanager
def intervene(
    model: Any,
    edits: Mapping[str | Site, Edit],
    *,
    scope: Any = "all",
    prompt_length: int | None = None,
) -> Iterator[None]:
    """Within the block every forward pass of ``model`` runs with the edits, ``capture`` and ``generate`` included.

    Edits work on copies: what others captured stays as it was. Gradients flow through what a function does, and into a
    tensor that is put there. Contexts inside each other apply in the order in which they were entered, and edits of one
    site within each other too; ``capture`` inside sees what the edits left. All are gone when the block ends.

    Args:
        model: A bridge from ``load_model``; or any torch model, for the sites that :func:`interp.capture` finds there.
        edits: Site -> function of its tensor (shapes as :func:`interp.capture` returns them: ``[batch, position, …]``,
            ``[batch, head, query, key]`` of scores and patterns, without the head's axis where the site names one),
            or a number or tensor that broadcasts to it.
        scope: Which positions (queries of scores and patterns) change, as in :func:`interp.steering.steer`.
        prompt_length: As there.

    Raises:
        ValueError: a site that the model lacks, or a named one in a family in which no test compared it; a value of
            another shape; processed weights; no edit at all.

    Example:
        >>> import interp
        >>> model = interp.load_model("embedded")
        >>> site = "blocks.1.hook_mlp_out"
        >>> with interp.intervene(model, {site: 0.0}):
        ...     interp.capture(model, "Emma was", site)[site].abs().max().item()
        0.0
    """
    require_raw_weights(model, purpose="intervene")
    require(
        edits, Mapping, what="a mapping of sites", fix="{'blocks.3.hook_mlp_out': 0.0}, or a function or tensor for 0.0"
    )
    sites = {Site.parse(site): edit for site, edit in edits.items()}
    for site, edit in sites.items():
        if not callable(edit):
            require(
                edit,
                (int, float, Tensor),
                what=f"an edit of {site}",
                fix="a number, a tensor, or a function of its tensor",
            )
    if not sites:
        raise ValueError("no edit was given; pass {site: function or tensor}, such as {'blocks.3.hook_mlp_out': 0.0}")
    if scales := [str(site) for site in sites if site.kind.endswith("_scale")]:
        raise ValueError(f"{', '.join(scales)}: what a norm divides by can be read, not set; edit what enters the norm")
    modules = {site: _module(model, site) for site in sites}
    everywhere = isinstance(scope, str) and scope == "all"
    positions = None if everywhere else Positions(model, stack_of(model), scope, prompt_length=prompt_length)
    with ExitStack() as hooks:
        if positions is not None:
            positions.attach(hooks)
        for site, edit in sites.items():
            change = _change(site, edit, positions)
            module = modules[site]
            if site.kind == "resid_mid":
                change = _carried_on(change, _module(model, Site("resid_post", site.layer)), hooks)
            if isinstance(module, HookPoint):  # which knows how to bring its tensor into the site's shape, and back
                module.add_hook(lambda value, hook, change=change: change(value))
                hooks.callback(remove_hook, module, module.fwd_hooks[-1])
            else:
                hooks.callback(module.register_forward_hook(_on_output(change)).remove)
        yield


def _module(model: Any, site: Site) -> nn.Module:
    """The module whose output an edit of the site changes, where tests compared what comes of it."""
    check_site(model, site)
    module = find_module(model, site)
    if is_bridge(model) and site.kind != "path":
        config = model.original_model.config
        family = declared(config)
        if family is None or site.kind not in family.editable or module is None:
            kinds = [] if family is None else [kind for kind in KINDS if kind in family.editable]
            raise ValueError(
                f"{site} of a {config.model_type!r} model cannot be edited: no test compared what comes of it, or it"
                f" is not what follows in the bridge. Kinds that can be are {', '.join(kinds) or 'none'}; otherwise"
                " name a module by its path, or use interp.steering.edits.steer_residual"
            )
    if module is None:
        raise ValueError(
            f"{site} is not the output of a module of this {type(model).__name__}, so it can be read, not set: edit it"
            " in a model from interp.load_model, or name a module by its path"
        )
    return module


def _carried_on(change: Callable[[Tensor], Tensor], end: nn.Module, hooks: ExitStack) -> Callable[[Tensor], Tensor]:
    """A bridge shows the stream between attention and MLP where it enters the MLP's norm, so that an edit there would
    change that branch alone. What it adds is added to the stream too, at the block's ``end``, before other edits."""
    added: dict[str, Tensor] = {}

    def and_remember(old: Tensor) -> Tensor:
        new = change(old)
        added["here"] = new - old
        return new

    assert isinstance(end, HookPoint)
    end.add_hook(lambda value, hook: value + added.pop("here"), prepend=True)
    hooks.callback(remove_hook, end, end.fwd_hooks[0])
    return and_remember


def _on_output(change: Callable[[Tensor], Tensor]) -> Callable[[nn.Module, Any, Any], Any]:
    """Of a module that returns several things, the first is the site's tensor."""

    def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    return hook


def _change(site: Site, edit: Edit, positions: Positions | None) -> Callable[[Tensor], Tensor]:
    pairs = site.kind in ("scores", "pattern")

    def change(whole: Tensor) -> Tensor:
        axis = None if site.head is None else KINDS[site.kind].head_dim
        old = whole if axis is None else whole.select(axis, int(site.head or 0))
        new = _edited(site, edit, old)
        if new is None:
            return whole
        if positions is not None:
            selected = positions.select(whole.transpose(1, 2) if pairs else whole)
            assert selected is not None
            new = torch.where(_beside(selected, old, heads=pairs and axis is None), new, old)
        return new if axis is None else whole.select_scatter(new, axis, int(site.head or 0))

    return change


def _edited(site: Site, edit: Edit, old: Tensor) -> Tensor | None:
    value = edit(old) if callable(edit) else edit
    if value is None:
        return None
    value = torch.as_tensor(value).to(old.device, old.dtype)
    try:
        return value.expand_as(old)
    except RuntimeError:
        raise ValueError(
            f"the value for {site} has shape {list(value.shape)}, which does not broadcast to {list(old.shape)} there"
        ) from None


def _beside(selected: Bool[Tensor, "rows length"], old: Tensor, *, heads: bool) -> Tensor:
    """The positions as a mask that broadcasts to the site's tensor; of scores and patterns they are the queries."""
    if heads:
        selected = selected[:, None]
    return selected.reshape(*selected.shape, *[1] * (old.ndim - selected.ndim))
