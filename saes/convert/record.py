"""An SAE as plain data: what a reader of another tool's files returns, and what a writer takes.

``saes.SAE`` builds itself from a record and makes one of itself, so that no format knows of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from saes.activations import Activation
from saes.convert.weights import widest

_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True, kw_only=True)
class Record:
    """Weights under our names and in our orientation, and how they are used."""

    activation: Activation
    """The activation, which turns pre-activations into latents."""
    weights: Mapping[str, Any]
    """Tensors on the CPU: ``W_enc`` [d_in, d_sae], ``W_dec`` [d_sae, d_out], ``b_dec`` [d_out], and what the activation
    and a skip connection add."""
    subtract_b_dec: bool = True
    """Whether ``b_dec`` is taken from inputs before they are encoded."""
    layer_norm: bool = False
    """Whether inputs are layer-normalised before they are encoded."""
    scales: tuple[float, float] = (1.0, 1.0)
    """What inputs, and outputs, were multiplied by where the weights were trained; the SAE takes raw ones."""
    site: str | None = None
    """The site that it reads; None where it is not known."""
    target_site: str | None = None
    """The site that a transcoder reconstructs; None for an SAE, which reconstructs what it reads."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Where the weights come from, as JSON can hold it."""
    where: Path | None = None
    """Where it was read, for messages."""

    def __post_init__(self) -> None:
        """Raises ValueError where a weight is missing, not a tensor, of a dtype that no SAE has, or not a matrix."""
        if missing := sorted({"W_enc", "W_dec", "b_dec"} - set(self.weights)):
            raise ValueError(f"{self.where} lacks {', '.join(missing)}")
        for name, value in self.weights.items():
            if not isinstance(value, Tensor):
                raise ValueError(f"{self.where}: {name} is a {type(value).__name__}, not a tensor")
            if value.dtype not in _DTYPES:
                raise ValueError(f"{self.where}: {name} is of {value.dtype}; there are {', '.join(map(str, _DTYPES))}")
        for name in ("W_enc", "W_dec"):
            if self.weights[name].ndim != 2:
                shape = tuple(self.weights[name].shape)
                raise ValueError(f"{self.where}: {name} has shape {shape}, expected a matrix")

    @property
    def d_in(self) -> int:
        """Width of the input."""
        return int(self.weights["W_enc"].shape[0])

    @property
    def d_sae(self) -> int:
        """Number of latents."""
        return int(self.weights["W_enc"].shape[1])

    @property
    def d_out(self) -> int:
        """Width of the output."""
        return int(self.weights["W_dec"].shape[1])

    @property
    def skip(self) -> bool:
        """Whether there is a skip connection."""
        return "W_skip" in self.weights

    @property
    def dtype(self) -> torch.dtype:
        """The narrowest that holds every weight as it is, but for thresholds, which keep their own."""
        return widest(value for name, value in self.weights.items() if name != "threshold")


OURS = "deepfield"
"""Under this key other tools' configurations keep what only we say."""
_KEPT = ("source", "train")
_SAID = ("text", "model")
"""Of what another tool's files say, what a third tool's must say too."""


def ours(sae: Record) -> dict[str, Any]:
    """What a file of another tool's keeps for us: where the SAE belongs, and how it came about."""
    another = sae.provenance.get("imported")
    said = {name: another[name] for name in _SAID if name in another} if isinstance(another, dict) else {}
    return {"site": sae.site, "target_site": sae.target_site} | kept(sae.provenance) | said


def kept(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """What of a provenance is of the dictionary itself, whatever file holds it."""
    return {name: provenance[name] for name in _KEPT if name in provenance}


def model_of(sae: Record) -> str | None:
    """The model's name, where it is known."""
    parts = (sae.provenance.get(name) for name in ("source", "imported"))
    said = (part.get("model") for part in parts if isinstance(part, dict))
    return next((name for name in said if isinstance(name, str) and name), None)


def imported(form: str, *, ours: Any = None, **facts: Any) -> dict[str, Any]:
    """Provenance of an SAE of another tool: its ``format``, and what its files say, without what they leave out.

    Args:
        form: Name of the format.
        ours: What ``ours`` wrote there, if we wrote the file: the model, its checkpoint and the text are known again.
        facts: ``config``, as the file has it; ``model``, its name; ``transcoder``, whether it is one; ``module``, whose
            input or output the site was read from; ``place``, why a site is not known; ``text``, how the model was run
            (see ``saes.same_model``).
    """
    known = {name: ours[name] for name in _KEPT if isinstance(ours, dict) and isinstance(ours.get(name), dict)}
    said = {name: _without_ours(value) for name, value in facts.items() if value not in (None, False)}
    if isinstance(ours, dict):  # what an SAE of a third tool says of its training, where this file says nothing
        if isinstance(text := ours.get("text"), dict):
            said["text"] = text | said.get("text", {})
        if isinstance(model := ours.get("model"), str):
            said.setdefault("model", model)
    return known | {"imported": {"format": form} | said}


def _without_ours(value: Any) -> Any:
    """What a configuration says but for what we wrote there, which stands beside it."""
    if not isinstance(value, dict):
        return value
    return {name: _without_ours(inner) for name, inner in value.items() if name != OURS}


@runtime_checkable
class Recordable(Protocol):
    """What can be written for other tools."""

    def record(self) -> Record:
        """Itself as plain data."""
