"""What a study measures, and on how much; the command line is made from this class, so nothing slow is imported."""

from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter

from interp.counts import Count
from saes.dark_matter.split.split_by import SplitBy


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Defaults take the paper's choices where they are sound."""

    site: str | None = None
    """Site of the SAEs, by default what their files say."""
    tokens: Count = 250_000
    """Tokens of the store to use, its first ones."""
    drop_first: int | None = None
    """Leave out that many positions of every row (the paper: 200); by default those that the SAEs were not trained
    on."""
    drop_norm_above: float | None = None
    """Leave out tokens with a norm above this many times the median, such as 10."""
    drop_special: bool | None = None
    """Leave out BOS, separators and other special tokens; by default where the SAEs were not trained on them."""
    fit_intercept: bool = False
    """Of the probe that makes the parts (the paper: none); the figures of both kinds are measured."""
    ridges: Annotated[tuple[float, ...], Parameter(consume_multiple=True)] = (0.0,)
    """Ridges of the probe: figures of each; the first makes the parts."""
    split_by: SplitBy = "document"
    """Hold out whole documents, or tokens as the paper does."""
    train_fraction: float = 0.6
    """Share to fit on."""
    seed: int = 0
    """Of the split and the bootstrap."""
    pursuit: bool = True
    """Encode by gradient pursuit too."""
    pursuit_tokens: Count = 20_000
    """To encode by it."""
    downstream: bool = True
    """Measure the model's loss, where the store has its tokens beside it."""
    downstream_tokens: Count = 16_384
    """To run through the model, in rows spread evenly over the text."""
    train_on_error: bool = False
    """Train SAEs on both parts of the error."""
    error_tokens: Count = 2_000_000
    """To train each on."""
    error_d_sae: int = 4096
    """How many latents each of them has."""
    error_k: int = 32
    """Active latents of each."""
    error_seeds: int = 3
    """SAEs for each part."""
