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
    dtype: Literal["float32", "bfloat16", "float16", "float64"] | None = None
    """Of the model's weights in memory; by default float32."""
    site: str | None = None
    """Where the SAE reads, such as blocks.3.hook_resid_post; by default what its files say."""
    target_site: str | None = None
    """Where what a transcoder reconstructs is, such as blocks.3.hook_mlp_out; by default what its files say."""


@dataclass(frozen=True, kw_only=True)
class MeasuredText(TextOptions):
    """And which of its tokens are measured."""

    first_position: int | None = None
    """Earlier positions of a row stay clean and are not counted; by default those that it was not trained on, or 0."""
    drop_special: bool | None = None
    """Leave out BOS, separators and other special tokens; by default as in training."""
