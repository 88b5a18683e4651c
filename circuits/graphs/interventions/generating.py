"""Latents changed while a model runs freely, text that it generates with a cache included."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from circuits.graphs.interventions.changes import LatentChange, checked_changes
from circuits.graphs.linear.local_model import open_anatomy, reading_place
from circuits.graphs.linear.transcoders import Transcoder, Transcoders, transcoders_of
from circuits.runs.runner import hook_at
from interp.models.feed_forward import stack_of
from interp.sites.parts import parts_of
from interp.steering.positions import Positions


@contextmanager
def intervening(
    model: Any,
    transcoders: Transcoders,
    changes: Sequence[LatentChange],
    *,
    scope: Any = "all",
    prompt_length: int | None = None,
) -> Iterator[None]:
    """Within the block every forward pass runs with changed latents, live, ``generate`` with its cache included.

    Args:
        model: A bridge or a plain Hugging Face model.
        transcoders: As for :func:`circuits.attribution_graph`.
        changes: Those with a position happen there, counted from the first token; the others where ``scope`` says.
        scope: As for :func:`interp.steering.steer`: ``all``, ``prefill``, ``decode``, ``last`` or a mask.
        prompt_length: As there.

    Raises:
        ValueError: changes, transcoders or scope that do not fit; families whose MLP is no module of its own.

    Example:
        >>> import interp, saes
        >>> model = interp.load_model("embedded")
        >>> transcoders = saes.embedded_transcoders()
        >>> from circuits.graphs import LatentChange, intervening
        >>> ids = model.to_tokens("Once upon a time")
        >>> clean = model(ids)
        >>> with intervening(model, transcoders, [LatentChange(0, 875, 5.0)]):
        ...     changed = model(ids)
        >>> bool((changed != clean).any())
        True
    """
    given = transcoders_of(model, open_anatomy(model), transcoders)
    if any(change.position is not None and change.position < 0 for change in changes):
        raise ValueError("positions are counted from the first token; while text is generated there is no last one")
    longest = max((change.position or 0 for change in changes), default=0) + 1
    checked_changes(changes, given, torch.ones(longest, dtype=torch.bool))
    parts = parts_of(model)
    if parts.family.mlp is None:
        raise ValueError("in this family no module is the MLP, so positions are not known where it runs")
    stack = stack_of(model)
    factor = parts.family.residual_multiplier
    added: dict[int, Tensor] = {}
    with ExitStack() as hooks:
        groups: dict[int | None, list[LatentChange]] = defaultdict(list)
        for change in changes:
            groups[change.position].append(change)
        where = {
            position: Positions(
                model, stack, scope if position is None else torch.arange(position + 1) == position,
                prompt_length=prompt_length,
            )
            for position in groups
        }  # fmt: skip
        for positions in where.values():
            positions.attach(hooks)

        def follow(one: Transcoder, convert: Any) -> Any:
            def followed(_module: nn.Module, _entering: bool, value: Tensor) -> Tensor:
                if one is given[0]:
                    added.clear()
                with torch.no_grad():
                    x = convert(value)
                    latents = one.part.encode(x.to(one.part.W_enc.dtype))
                    for change in changes:
                        if change.layer != one.layer:
                            continue
                        delta = change.delta((latents.values * (latents.indices == change.index)).sum(-1))
                        selected = where[change.position].select(value)
                        delta = delta if selected is None else delta * selected
                        index = torch.tensor([change.index], device=x.device)
                        for number, layer in enumerate(one.writes):
                            more = (delta[..., None] * one.decoder(index, number)).to(value.dtype)
                            added[layer] = more if layer not in added else added[layer] + more
                return value

            return followed

        def write(layer: int) -> Any:
            def written(_module: nn.Module, _entering: bool, value: Tensor) -> Tensor:
                return value + added[layer] / factor if layer in added else value

            return written

        for one in given:
            module, entering, convert = reading_place(parts, one.read)
            hooks.callback(hook_at(module, entering, follow(one, convert)).remove)
        for layer, block in enumerate(parts.blocks):
            hooks.callback(hook_at(block.mlp_added, False, write(layer)).remove)
        yield
