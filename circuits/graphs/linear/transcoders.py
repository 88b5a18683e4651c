"""Transcoders as a graph sees them: of each layer what is read, and the layers that its latents write to."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.anatomy.anatomy import Anatomy
from circuits.anatomy.wiring import width_of
from interp.sites.hooks import hook_of, why_absent
from interp.sites.site import Site
from saes.places.dictionary import Dictionary
from saes.places.files import load_any
from saes.places.part import Part
from saes.sae import SAE
from saes.same_model import check_same_names, name_of, said_model_of

READS = ("mlp_in", "ln2_normalized", "resid_mid", "ln1_normalized", "resid_pre")
"""Kinds of sites from which the frozen model leads to a transcoder's pre-activations by a linear map."""
Transcoders = Dictionary | SAE | Sequence[SAE] | str | Path
"""A transcoder set or cross-layer transcoder, transcoders one by one with their ``site`` and ``target_site``, or the
folder that holds a set."""


@dataclass(frozen=True, eq=False)
class Transcoder:
    """The latents that read at one layer."""

    part: SAE
    """The weights: an SAE, or a part of a dictionary over places."""
    layer: int
    """Number of the layer whose MLP input is read."""
    read: Site
    """The site that is read, a place before that MLP."""
    writes: tuple[int, ...]
    """Layers whose MLP outputs they write, the own layer first."""

    def encoder(self, latents: Int[Tensor, " n"]) -> Float[Tensor, "n d"]:
        """Of each of some latents the direction that it reads."""
        return self.part.W_enc.detach().T[latents]

    def offset(self, latents: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """What their pre-activations are where the input is zero."""
        part = self.part
        offset = part.b_enc.detach()[latents] if part.activation.uses_b_enc else part.W_enc.new_zeros(len(latents))
        return offset - self.encoder(latents) @ part.b_dec.detach() if part.subtract_b_dec else offset

    def decoder(self, latents: Int[Tensor, "*n"], number: int) -> Float[Tensor, "*n d"]:
        """What they write, a unit of them each, to the layer ``writes[number]``."""
        rows = self.part.at_place(number) if isinstance(self.part, Part) else self.part.W_dec
        return rows.detach()[latents]

    def skip(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        """What the skip connection adds at the own layer."""
        return x.to(self.part.W_skip.dtype) @ self.part.W_skip.detach().T


def transcoders_of(model: Any, anatomy: Anatomy, given: Transcoders) -> tuple[Transcoder, ...]:
    """Check transcoders against a model; one for each layer that has one, in the order of the layers.

    Raises:
        ValueError: a crosscoder, or what does not lead from the input of an MLP to its output; another model's; two of
            one layer; latents that are not their pre-activations where they are active.
    """
    if isinstance(given, str | Path):
        given = load_any(given)
    found = _of_dictionary(given) if isinstance(given, Dictionary) else _one_by_one(given)
    if not found:
        raise ValueError("transcoders is empty; pass a transcoder set, or one transcoder at least")
    width, layers = width_of(anatomy), len(anatomy.blocks)
    parameter = next(anatomy.root.parameters())
    for one in found:
        name = f"the transcoder of {one.read}"
        check_same_names(_said(given, one), name_of(model), name=name)
        if one.read.kind not in READS:
            raise ValueError(f"{name} reads no place that a graph knows: {', '.join(READS)}")
        if not all(one.layer <= layer < layers for layer in one.writes) or one.writes[0] != one.layer:
            raise ValueError(
                f"{name} writes to layers {', '.join(map(str, one.writes))}: the first is the layer that it reads, and"
                f" this model has layers 0 to {layers - 1}"
            )
        if hook_of(anatomy, one.read.kind, one.layer, batch=1) is None:
            raise ValueError(f"{name} is of another model: {why_absent(anatomy, one.read.kind, one.layer)}")
        widths = (one.part.d_in, one.part.W_dec.shape[1] // len(one.writes))
        if widths != (width, width):
            raise ValueError(f"{name} leads from {widths[0]} to {widths[1]} dimensions; this model has {width}")
        if one.part.activation.name == "gated":
            raise ValueError(f"{name} is gated: its latents are no pre-activations, so no edge adds up to them")
        if one.part.W_enc.device != parameter.device:
            raise ValueError(f"{name} is on {one.part.W_enc.device}, the model on {parameter.device}: move one of them")
    return found


def _of_dictionary(dictionary: Dictionary) -> tuple[Transcoder, ...]:
    layout = dictionary.layout
    if layout.kind not in ("transcoders", "clt"):
        raise ValueError(f"a graph takes a transcoder set or a CLT, not a {layout.kind}, which writes what it reads")
    found = []
    for part, places in dictionary.placed():
        read = Site.parse(layout.reads[places.reads[0]])
        found.append(Transcoder(part, _layer(read), read, _written([layout.writes[i] for i in places.writes])))
    return _in_order(found)


def _one_by_one(given: SAE | Sequence[SAE]) -> tuple[Transcoder, ...]:
    found = []
    for number, sae in enumerate([given] if isinstance(given, SAE) else given):
        if sae.site is not None and sae.target_site is None:
            raise ValueError(
                f"dictionary {number} is an SAE of {sae.site}, which writes what it reads; a graph takes transcoders,"
                " from an MLP's input to its output"
            )
        if sae.site is None or sae.target_site is None:
            raise ValueError(
                f"transcoder {number} does not say where it reads and writes; call .place('blocks.0.mlp.hook_in',"
                " 'blocks.0.hook_mlp_out') with its layer"
            )
        if sae.layer_norm:
            raise ValueError(f"transcoder {number} is of layer-normalised activations: its input is no linear map")
        read = Site.parse(sae.site)
        found.append(Transcoder(sae, _layer(read), read, _written([sae.target_site])))
    return _in_order(found)


def _layer(site: Site) -> int:
    if site.layer is None or site.head is not None:
        raise ValueError(f"{site} is no place before the MLP of one layer")
    return site.layer


def _written(names: Sequence[str]) -> tuple[int, ...]:
    sites = [Site.parse(name) for name in names]
    if wrong := [str(site) for site in sites if site.kind != "mlp_out"]:
        raise ValueError(f"a graph's transcoders write MLP outputs (blocks.0.hook_mlp_out), not {', '.join(wrong)}")
    return tuple(_layer(site) for site in sites)


def _in_order(found: Sequence[Transcoder]) -> tuple[Transcoder, ...]:
    layers = [one.layer for one in found]
    if twice := sorted({layer for layer in layers if layers.count(layer) > 1}):
        raise ValueError(f"layer {twice[0]} has two transcoders; pass one a layer")
    return tuple(sorted(found, key=lambda one: one.layer))


def _said(given: Transcoders, one: Transcoder) -> str | None:
    return said_model_of(given.provenance if isinstance(given, Dictionary) else one.part.provenance)


def written_by(transcoders: Sequence[Transcoder], layer: int) -> list[tuple[Transcoder, int]]:
    """Which transcoders write to a layer, and the number of that layer among what each writes."""
    return [(one, one.writes.index(layer)) for one in transcoders if layer in one.writes]


def own_of(transcoders: Sequence[Transcoder], layer: int) -> Transcoder | None:
    """The transcoder whose bias and skip connection a layer's output has; None where nothing reads there."""
    return next((one for one in transcoders if one.layer == layer), None)


def kept_positions(length: int, leave_out: Sequence[int]) -> Tensor:
    """Boolean ``[position]``: where transcoders stand in for MLPs.

    Raises:
        ValueError: a position that the prompt does not have, or nothing kept.
    """
    if wrong := [p for p in leave_out if not -length <= p < length]:
        raise ValueError(f"leave_out names position {wrong[0]}; the prompt has positions 0 to {length - 1}")
    kept = torch.ones(length, dtype=torch.bool)
    kept[list(leave_out)] = False
    if not kept.any():
        raise ValueError(
            f"leave_out leaves nothing of the prompt, which has {length} tokens: give a longer one, or leave out less"
        )
    return kept
