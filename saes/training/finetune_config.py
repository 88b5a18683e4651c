"""How an SAE is fine-tuned, as data; the command line is made from this class, so nothing slow is imported."""

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from interp.counts import Count


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """How a trained SAE is fine-tuned.

    Example:
        >>> from pathlib import Path
        >>> import saes
        >>> saes.FinetuneConfig(out=Path("tuned"), tokens=20_000).loss
        'kl'
    """

    out: Path
    """Run folder; at the end it holds the SAE."""
    loss: Literal["kl", "ce"] = "kl"
    """kl: KL(clean || spliced) of the next token; ce: cross-entropy of the text with the SAE spliced in. Nats."""
    reconstruction: float = 1.0
    """Weight of the fraction of variance unexplained (FVU) beside it; 0 leaves the reconstruction free."""
    tokens: Count = 1_000_000
    """Tokens to train on; the text repeats, in a new order, until they are reached."""
    batch_rows: int = 8
    """Rows of text in each step."""
    first_position: int = 0
    """Earlier positions of a row stay clean, and no loss is taken there."""
    drop_tokens: tuple[int, ...] = ()
    """Ids of tokens whose positions stay clean too, such as BOS, where the SAE was trained without them."""
    lr: float = 5e-5
    """Peak learning rate; it rises over the first twentieth of the steps and falls linearly to zero."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    decoder: Literal["unit_norm", "free"] = "unit_norm"
    """unit_norm: rows of W_dec keep norm 1."""
    seed: int = 0
    """Seed of the order of the rows."""
    checkpoint_every: int = 200
    """Steps from one checkpoint to the next."""
    log_every: int = 10
    """Steps from one line of log.jsonl to the next."""

    def __post_init__(self) -> None:
        if isinstance(self.out, str | os.PathLike):
            object.__setattr__(self, "out", Path(self.out))

    def to_json(self) -> dict[str, Any]:
        """Plain data without the folder: moving a run does not make it another one."""
        plain = {name: value for name, value in asdict(self).items() if name != "out"}
        return plain | {"drop_tokens": list(self.drop_tokens)}
