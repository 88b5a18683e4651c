"""A dictionary over several places from the weights of its parts, as another tool's files hold them; and such files,
a number each, counted: one that is missing would only shift the others."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from saes.activations import Activation
from saes.convert.weights import all_finite
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
            dtype=first["W_enc"].dtype,
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
