"""Overwrite massive activations and see what the model loses (Sun et al. 2024, arXiv 2402.17762, section 3).

Entries of the residual stream after one block or several are set to zero, to their mean on held-out text, or to a
value; later blocks compute with them. Two controls do the same to other entries. Some models do not mind (GPT-2, OPT):
a change of nothing is a result.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp import metrics
from interp.massive.detection import MassiveActivation, detect
from interp.massive.stats import layer_stats
from interp.metrics import Estimate
from interp.models.bridge import Model
from interp.models.loading import require_raw_weights
from interp.sites.capturing import capture
from interp.sites.site import Site, check_site
from interp.terminal.progress import counted


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A place in the hidden state after a block, in one sequence or in all of them.

    Example:
        >>> from interp.massive import Entry
        >>> Entry(layer=1, position=0, dim=17).sequence is None  # of all of them
        True
    """

    layer: int
    """Block after which it is, from 0."""
    position: int
    """Position of its token in the sequence."""
    dim: int
    """Dimension of the residual stream."""
    sequence: int | None = None
    """The one sequence that it is in; None for all of them."""


@dataclass(frozen=True, kw_only=True)
class Effect:
    """What overwriting some entries did; losses are nats a predicted token, ± over sequences.

    Example:
        >>> import interp, torch
        >>> from interp.massive import Entry, intervene
        >>> model = interp.load_model("embedded")
        >>> tokens = torch.arange(1, 65).view(2, 32)
        >>> effect = intervene(model, tokens, entries=[Entry(layer=1, position=0, dim=17)], to=100.0).effect
        >>> effect.entries, effect.kl.n  # one in each of two sequences
        (2, 2)
        >>> effect.kl.value > 0.01
        True
    """

    entries: int
    """Entries that were overwritten, over all sequences."""
    loss: Estimate
    """Loss with the entries overwritten, in nats a token."""
    change: Estimate
    """Loss after minus before, paired by sequence."""
    kl: Estimate
    """KL(before || after) of the next token's distribution, in nats a position."""

    @property
    def perplexity(self) -> float:
        """exp(loss); infinite where that is more than a float holds."""
        return _perplexity(self.loss)


@dataclass(frozen=True, kw_only=True)
class Intervention:
    """Effects of one intervention and of its controls.

    Example:
        >>> import interp, torch
        >>> from interp.massive import Entry, intervene
        >>> model = interp.load_model("embedded")
        >>> tokens = torch.arange(1, 65).view(2, 32)
        >>> found = intervene(model, tokens, entries=[Entry(layer=1, position=0, dim=17)])
        >>> found.layers, found.to, found.perplexity_before > 1
        ((1,), 'zero', True)
        >>> [round(each.change.value, 1) for each in (found.effect, found.random_dim, found.random_token)]
        [-0.0, 0.0, 0.0]
    """

    layers: tuple[int, ...]
    """Blocks after which entries were overwritten."""
    to: str
    """What the entries were set to, such as zero or mean."""
    loss_before: Estimate
    """Loss of the model as it is, in nats a token."""
    effect: Effect
    """What overwriting the chosen entries did."""
    random_dim: Effect
    """Control: the same positions, as many other dimensions drawn at random."""
    random_token: Effect
    """Control: the same dimensions, at other positions drawn at random."""

    @property
    def perplexity_before(self) -> float:
        """exp(loss_before)."""
        return _perplexity(self.loss_before)


@torch.no_grad()
def intervene(
    model: Model,
    tokens: Int[Tensor, "sequences position"],
    *,
    entries: Iterable[Entry | MassiveActivation] | None = None,
    to: Literal["zero", "mean"] | float = "zero",
    heldout: Int[Tensor, "other position"] | None = None,
    seed: int = 0,
    batch: int = 1,
) -> Intervention:
    """Loss, perplexity and next-token KL with ``entries`` overwritten, beside the same for control entries.

    Hooks are gone afterwards, also after an error.

    Args:
        model: from ``load_model``.
        tokens: rows of one length.
        entries: of one layer or of several, which are all overwritten in the same pass. By default the massive
            activations of ``tokens`` in the layer where they emerge; those of all layers, which keeps later blocks from
            writing them again, are ``massive.detect(massive.layer_stats(model, tokens))``.
        to: ``zero``; ``mean``, the signed mean of that dimension over tokens of the same class in ``heldout``; or a
            number. Classes are the first position, each token id that is massive elsewhere, and all other tokens.
        heldout: rows of other text, for ``mean``.
        seed: of the controls.
        batch: sequences a forward pass.

    Raises:
        ValueError: weights were processed; no entry, or one outside the hidden states; ``mean`` without ``heldout``.

    Example:
        >>> import interp, torch
        >>> from interp.massive import Entry
        >>> model = interp.load_model("embedded")
        >>> tokens = torch.arange(1, 65).view(2, 32)
        >>> found = interp.massive.intervene(model, tokens, entries=[Entry(layer=1, position=0, dim=17)])
        >>> found.effect.entries, found.to
        (2, 'zero')
    """
    require_raw_weights(model, purpose="intervene on massive activations")
    chosen = _massive_at_first_layer(model, tokens) if entries is None else tuple(entries)
    places = _places(model, tokens, chosen)
    layers = tuple(sorted({layer for layer, *_ in places}))
    values = _Values(model, layers, to, heldout)
    generator = torch.Generator().manual_seed(seed)
    others = _other_dims(places, model.cfg.d_model, generator), _other_positions(places, tokens, generator)
    effects = _run(model, tokens, [places, *others], values, batch)
    return Intervention(
        layers=layers,
        to=str(to),
        loss_before=effects[0],
        effect=effects[1],
        random_dim=effects[2],
        random_token=effects[3],
    )


Place = tuple[int, int, int, int]
"""Layer, sequence, position, dimension."""


def _massive_at_first_layer(model: Model, tokens: Tensor) -> tuple[MassiveActivation, ...]:
    found = detect(layer_stats(model, tokens))
    if not found:
        raise ValueError(
            "no activation is massive by the default thresholds, so there is nothing to overwrite; name an"
            " entry by its layer, position and dim"
        )
    return tuple(each for each in found if each.layer == found.first_layer)


def _places(model: Model, tokens: Tensor, entries: Sequence[Entry | MassiveActivation]) -> list[Place]:
    if not entries:
        raise ValueError("there is no entry to overwrite; give at least one")
    for layer in {entry.layer for entry in entries}:
        check_site(model, Site("resid_post", layer))
    sequences, positions = tokens.shape
    places: dict[Place, None] = {}
    for entry in entries:
        rows = range(sequences) if entry.sequence is None else [entry.sequence]
        for place in ((row, entry.position, entry.dim) for row in rows):
            if not all(0 <= i < n for i, n in zip(place, (sequences, positions, model.cfg.d_model), strict=True)):
                raise ValueError(
                    f"{entry} is outside {sequences} sequences of {positions} tokens in {model.cfg.d_model} dimensions"
                )
            places[entry.layer, *place] = None
    return list(places)


class _Values:
    """What an entry is set to."""

    def __init__(self, model: Model, layers: Sequence[int], to: str | float, heldout: Tensor | None) -> None:
        if isinstance(to, str) and to not in ("zero", "mean"):
            raise ValueError(f"to={to!r} is neither 'zero', 'mean' nor a number")
        self._constant = None if to == "mean" else 0.0 if to == "zero" else float(to)
        if self._constant is None:
            if heldout is None:
                raise ValueError("to='mean' needs heldout=..., rows of text that the effect is not measured on")
            self._measure(model, layers, heldout)

    def _measure(self, model: Model, layers: Sequence[int], heldout: Tensor) -> None:
        sites = {layer: Site("resid_post", layer) for layer in layers}
        self._start, self._rest = (dict.fromkeys(layers, torch.zeros(())) for _ in range(2))
        for rows in heldout.split(1):
            cache = capture(model, rows, list(sites.values()))
            for layer, site in sites.items():
                hidden = cache[site][0].cpu().double() / len(heldout)
                self._start[layer] = self._start[layer] + hidden[0]
                self._rest[layer] = self._rest[layer] + hidden[1:].mean(0)
        self._massive: dict[tuple[int, int, int], list[float]] = {}
        for each in detect(layer_stats(model, heldout)):
            if each.layer in sites and each.position:
                self._massive.setdefault((each.layer, each.token, each.dim), []).append(each.value)

    def of(self, place: Place, tokens: Tensor) -> float:
        """For one entry."""
        if self._constant is not None:
            return self._constant
        layer, row, position, dim = place
        if position == 0:
            return float(self._start[layer][dim])
        massive = self._massive.get((layer, int(tokens[row, position]), dim))
        return sum(massive) / len(massive) if massive else float(self._rest[layer][dim])


def _other_dims(places: list[Place], width: int, generator: torch.Generator) -> list[Place]:
    taken = {dim for *_, dim in places}
    free = torch.tensor([dim for dim in range(width) if dim not in taken])
    drawn = free[torch.randperm(len(free), generator=generator)].tolist()
    twin = dict(zip(sorted(taken), drawn, strict=False))
    return [(layer, row, position, twin[dim]) for layer, row, position, dim in places]


def _other_positions(places: list[Place], tokens: Tensor, generator: torch.Generator) -> list[Place]:
    taken: dict[int, set[int]] = {}
    for _, row, position, _ in places:
        taken.setdefault(row, set()).add(position)
    twins: dict[tuple[int, int], int] = {}
    for row, positions in taken.items():
        free = torch.tensor([i for i in range(tokens.shape[1]) if i not in positions])
        drawn = free[torch.randperm(len(free), generator=generator)].tolist()
        twins |= {(row, position): other for position, other in zip(sorted(positions), drawn, strict=False)}
    return [(layer, row, twins[row, position], dim) for layer, row, position, dim in places if (row, position) in twins]


def _run(
    model: Model, tokens: Tensor, variants: list[list[Place]], values: _Values, batch: int
) -> tuple[Estimate, Effect, Effect, Effect]:
    """The clean loss, and the effect of each variant; every batch meets all of them before the next."""
    before: list[Tensor] = []
    after: list[list[Tensor]] = [[] for _ in variants]
    divergence: list[list[Tensor]] = [[] for _ in variants]
    for begin in counted(range(0, len(tokens), batch), "intervene", unit="batches"):
        rows = tokens[begin : begin + batch]
        clean = model(rows)
        before.append(metrics.cross_entropy(clean, rows).mean(1))
        for number, places in enumerate(variants):
            inside = [
                (layer, row - begin, position, dim)
                for layer, row, position, dim in places
                if 0 <= row - begin < len(rows)
            ]
            logits = _overwritten(model, rows, {place: values.of(place, rows) for place in inside})
            after[number].append(metrics.cross_entropy(logits, rows).mean(1))
            divergence[number].append(metrics.kl(clean, logits).mean(1))
    loss = torch.cat(before)
    effects = [
        Effect(
            entries=len(places),
            loss=metrics.mean(torch.cat(losses)),
            change=metrics.mean(torch.cat(losses) - loss),
            kl=metrics.mean(torch.cat(kls)),
        )
        for places, losses, kls in zip(variants, after, divergence, strict=True)
    ]
    return metrics.mean(loss), *effects  # type: ignore[return-value]


def _overwritten(model: Model, rows: Tensor, values: dict[Place, float]) -> Float[Tensor, "batch position vocab"]:
    def hook_of(layer: int) -> Callable[..., Tensor]:
        of_layer = {place[1:]: value for place, value in values.items() if place[0] == layer}
        index = torch.tensor(list(of_layer), dtype=torch.long).T

        def hook(value: Tensor, hook: Any) -> Tensor:
            changed = value.clone()
            new = torch.tensor(list(of_layer.values()), dtype=value.dtype, device=value.device)
            changed[tuple(index.to(value.device))] = new
            return changed

        return hook

    layers = sorted({layer for layer, *_ in values})
    return model.run_with_hooks(rows, fwd_hooks=[(str(Site("resid_post", layer)), hook_of(layer)) for layer in layers])


def _perplexity(loss: Estimate) -> float:
    return math.exp(loss.value) if loss.value < 700 else math.inf
