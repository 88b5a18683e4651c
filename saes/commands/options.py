"""Options that several commands share."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class TextOptions:
    """What is left out is as it was in the SAE's training."""

    model: str | None = None
    """By default the model whose activations it was trained on."""
    revision: str | None = None
    """Training checkpoint of the model; by default the one it was trained on."""
    context: int | None = None
    """Tokens a row; by default as in training, else the model's context, at most 512."""
    packing: Literal["packed", "document"] | None = None
    """As for `interp cache`; by default as in training."""
    bos: Literal["model", "row", "document", "never"] | None = None
    """As for `interp cache`; by default as in training."""
    site: str | None = None
    """Where the SAE reads, such as blocks.3.hook_resid_post; by default what its files say."""
    target_site: str | None = None
    """Where what a transcoder reconstructs is, such as blocks.3.hook_mlp_out; by default what its files say."""
