"""A dictionary over several places from the weights of its parts, as another tool's files hold them, and those weights
from a dictionary; and such files, a number each, counted: one that is missing would only shift the others."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from safetensors import safe_open
from torch import Tensor

from interp.files.outside import reading
from saes.activations import Activation
from saes.convert.weights import all_finite, widest
from saes.places.dictionary import Dictionary
from saes.places.layout import Layout


@torch.no_grad()
def filled(
    layout: Layout,
    weights: Sequence[Mapping[str, Any]],
    *,
    activation: Activation,
    provenance: dict[str, Any],
    where: Path,
    names: Sequence[str] | None = None,
) -> Dictionary:
    """A dictionary whose parts have these weights; nothing is subtracted from inputs.

    Args:
        layout: Kind and places; all places of one side are equally wide.
        weights: Of each part, under an SAE's names: ``W_enc`` [d_in, d_sae], ``W_dec``, a list of blocks [d_sae, d] for
            the places that it writes, its own first (each is copied once, from a file that may be mapped), ``b_enc``,
            ``b_dec`` of its own places, and ``threshold`` and ``W_skip`` [d_out, d_in] where there are such.
        activation: Of every part.
        provenance: Where it comes from.
        where: The folder, for messages.
        names: What messages call the parts; by default layer 0, layer 1, ..

    Raises:
        ValueError: a weight is missing, of another shape than the others ask for, not finite, or used by no rule.
    """
    names = [f"layer {number}" for number in range(len(weights))] if names is None else names
    first = weights[0]
    for name, its in zip(names, weights, strict=True):
        if missing := sorted({"W_enc", "W_dec", "b_dec"} - set(its)):
            raise ValueError(f"{where}: {name} lacks {', '.join(missing)}")
        if its["W_enc"].ndim != 2:
            raise ValueError(f"{where}: W_enc of {name} has shape {tuple(its['W_enc'].shape)}, expected a matrix")
    d_read, d_sae = first["W_enc"].shape
    part = layout.parts[0]
    with torch.device("meta"):  # memory only once every shape is known to be right
        dictionary = Dictionary(
            layout,
            (
                (d_read // len(part.reads),) * len(layout.reads),
                (len(first["b_dec"]) // len(part.own),) * len(layout.writes),
            ),
            d_sae=d_sae,
            activation=activation,
            skip="W_skip" in first,
            subtract_b_dec=False,
            provenance=provenance,
            dtype=widest(
                tensor
                for its in weights
                for key, value in its.items()
                if key != "threshold"  # which keeps its own
                for tensor in (value if key == "W_dec" else (value,))
            ),
        )
    for name, (empty, _), its in zip(names, dictionary.placed(), weights, strict=True):
        wanted: dict[str, Any] = {key: tuple(parameter.shape) for key, parameter in empty.named_parameters()}
        wanted["W_dec"] = [(d_sae, width) for width in empty.written_widths]
        found: dict[str, Any] = {key: tuple(its[key].shape) for key in its if key != "W_dec"}
        found["W_dec"] = [tuple(block.shape) for block in its["W_dec"]]
        if found != wanted:
            raise ValueError(f"{where}: {name} has {found}, expected {wanted}")
        for key, value in its.items():
            if not all(all_finite(tensor) for tensor in (value if key == "W_dec" else (value,))):
                raise ValueError(f"{where}: {name}: {key} is not finite")
    dictionary.to_empty(device="cpu")
    for (empty, _), its in zip(dictionary.placed(), weights, strict=True):
        for key, parameter in empty.named_parameters():
            if key != "W_dec":
                parameter.copy_(its[key])
        for number, block in enumerate(its["W_dec"]):
            empty.at_place(number).copy_(block)
    return dictionary


@torch.no_grad()
def held(dictionary: Dictionary, *, tool: str, allowed: Sequence[str]) -> list[dict[str, Any]]:
    """The weights of every part as ``filled`` takes them, for a tool that subtracts nothing from inputs.

    BatchTopK and Matryoshka get a threshold for every latent, as JumpReLU has it: outside training they are the same.
    Where b_dec is subtracted it becomes a part of b_enc, computed in float64 and rounded once.

    Args:
        dictionary: Whose weights.
        tool: Its name, for messages.
        allowed: Names of the activations that it holds.

    Raises:
        ValueError: another activation, a selection by decoder norms, or places of several widths.
    """
    activation, widths = dictionary.activation, {*dictionary.read_widths, *dictionary.written_widths}
    if activation.name not in allowed:
        raise ValueError(f"{tool} holds {', '.join(allowed)}, not {activation.name}")
    if getattr(activation, "decoder_norms", False):
        raise ValueError(f"{tool} selects latents by their values alone, not times decoder norms as this one does")
    if len(widths) > 1:
        raise ValueError(f"{tool} holds places of one width; these have {', '.join(map(str, sorted(widths)))}")
    found = []
    for part, _ in dictionary.placed():
        its: dict[str, Any] = {name: parameter.detach().cpu() for name, parameter in part.named_parameters()}
        its["W_dec"] = its["W_dec"].split(part.written_widths, dim=1)
        if "threshold" in its:
            its["threshold"] = its["threshold"].clamp_min(0).expand(part.d_sae)
        if part.subtract_b_dec:
            its["b_enc"] = (its["b_enc"] - its["b_dec"].double() @ its["W_enc"].double()).to(its["b_enc"])
        found.append(its)
    return found


def stored_rows(
    path: Path,
    name: str,
    latents: Int[Tensor, " n"],
    *,
    before: tuple[slice, ...] = (),
    after: tuple[slice, ...] = (),
) -> Tensor:
    """Rows of a few latents from one tensor of a safetensors file, read without the rest of it.

    ``before`` and ``after`` are what is taken along the axes before and behind that of the latents.

    Raises:
        ValueError: no such file or tensor, or latents that it does not have.
    """
    with reading(path), safe_open(path, framework="pt") as file:
        stored, axis = file.get_slice(name), len(before)
        d_sae = stored.get_shape()[axis]
        if len(latents) and not 0 <= int(latents.min()) <= int(latents.max()) < d_sae:
            raise ValueError(f"latents run from {int(latents.min())} to {int(latents.max())}; there are {d_sae}")
        rows = [stored[(*before, slice(i, i + 1), *after)] for i in latents.tolist() or [0]]
        return torch.cat(rows, dim=axis).narrow(axis, 0, len(latents))


def numbered(folder: Path, name: str) -> int:
    """How many files ``{name}_{number}.safetensors`` there are; they must be numbered from 0 without a gap.

    Raises ValueError where there is none, or one is missing.
    """
    numbers = sorted(
        int(match[1])
        for file in folder.glob(f"{name}_*.safetensors")
        if (match := re.fullmatch(rf"{name}_(\d+)\.safetensors", file.name))
    )
    if not numbers:
        raise ValueError(f"there is no {name}_0.safetensors")
    if numbers != list(range(len(numbers))):
        missing = sorted(set(range(numbers[-1])) - set(numbers))
        raise ValueError(f"{name}_{missing[0]}.safetensors is missing: there are numbers up to {numbers[-1]}")
    return len(numbers)
