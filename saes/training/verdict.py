"""Whether a training run is any good: watched while it runs, and said in a line at its end.

A reconstruction whose FVU is above 1 is worse than the mean of the activations. That is no error, since sparsity may be
bought at any price, so it is told; one that stays thousands of times worse comes of a learning rate that is too high,
and stops the run.
"""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.files.outside import read_json
from interp.files.writing import write_json
from saes.places.dictionary import Dictionary, parts_of
from saes.sae import SAE
from saes.training.config import TrainConfig
from saes.training.figures.fvu import fvu_of

logger = logging.getLogger(__name__)

HOPELESS = 10_000.0
"""An FVU from which no run comes back; random weights of a wide SAE may have hundreds."""
RUINED = 1e6
"""An FVU that the last steps alone have made: what has it is not saved."""
NEAR = 0.15
"""Share of the L0 asked for by which that of the last rows may be off: they are few."""
FILE = "verdict.json"
_PATIENCE = 100
_ROWS = 1024


class Watch:
    """The FVU of a run past the warm-up of its learning rate, step by step as it is logged."""

    def __init__(self, config: TrainConfig, peak_lr: float) -> None:
        self._peak_lr, self._told = peak_lr, False
        self._begin = int(config.warmup * config.steps)
        self._patience = max(_PATIENCE, config.steps // 20)
        self._last = {1.0: self._begin, HOPELESS: self._begin}
        """Up to which step the FVU was not above this."""

    def see(self, step: int, fvu: float | None) -> None:
        """Take the FVU at ``step`` in; None tells nothing.

        Raises FloatingPointError where it has stayed above ``HOPELESS`` for a twentieth of the run, and 100 steps.
        """
        if step < self._begin or fvu is None:
            return
        for limit in self._last:
            if not fvu > limit:
                self._last[limit] = step
        if step - self._last[HOPELESS] >= self._patience:
            raise FloatingPointError(
                f"training diverged: the FVU has been above {HOPELESS:g} since step {self._last[HOPELESS]}, and is"
                f" {fvu:.3g} at step {step}: lower lr ({self._peak_lr:g})"
            )
        if step - self._last[1.0] >= self._patience and not self._told:
            self._told = True
            logger.warning(
                "the FVU has been above 1 since step %d, and is %.3g at step %d: the mean of the activations would be a"
                " better reconstruction; lower --lr (%g)",
                *(self._last[1.0], fvu, step, self._peak_lr),
            )


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The trained SAE, or dictionary, on the last batch of its training."""

    fvu: float | None
    """Of several places written, their mean; None where the batch has no variance."""
    l0: float
    """Active latents a token, of all parts."""
    dead: int | None
    """Latents that counted as dead at the end; None where the run was too short for any to count."""
    latents: int
    """Latents of all parts."""
    d_in: int
    """Width of what is read, of all places."""
    tokens: int
    """Rows that FVU and L0 are of."""
    activation: str | None = None
    """Name of the activation; None in the files of earlier versions."""
    dead_after: int | None = None
    """Tokens of silence after which a latent counts as dead; None in the files of earlier versions."""
    l0_asked: float | None = None
    """L0 of all parts that was asked for (--l0); None where none was."""

    def faults(self) -> list[str]:
        """What is wrong with it, with what helps."""
        found = []
        if self.fvu is not None and not self.fvu <= 1:
            found.append(
                f"FVU {self.fvu:.3g} is above 1: the mean of the activations is a better reconstruction; lower --lr, or"
                " train on more tokens"
            )
        if self.dead is not None and 2 * self.dead > self.latents:
            found.append(
                f"{self.dead:,} of {self.latents:,} latents are dead: lower --d-sae or --lr, or train on more tokens"
            )
        if self.l0_asked is not None and abs(self.l0 - self.l0_asked) > NEAR * self.l0_asked:
            found.append(
                f"L0 {self.l0:.1f} is not the {self.l0_asked:g} that was asked for: train on more tokens, or ask for"
                " what these activations bear"
            )
        if self.l0 > self.d_in:
            fix = "lower --k, or raise the weight of the sparsity loss (--loss-weights.NAME)"
            if self.activation == "afa":
                fix = (
                    "top-AFA chooses so many; lower the weight of its loss (--loss-weights.afa 0.008), add an L1 loss"
                    " (--loss-weights.l1 0.5), or take a variant with --k"
                )
            found.append(
                f"L0 {self.l0:.1f} is above the {self.d_in:,} dimensions that are read: nothing is sparse; {fix}"
            )
        return found

    def __str__(self) -> str:
        fvu = "no FVU (the activations are all equal)" if self.fvu is None else f"FVU {self.fvu:.3f}"
        dead = "" if self.dead is None else f", {self.dead:,} of {self.latents:,} latents dead"
        untold = (
            "; too short a run to tell which latents are dead: that takes"
            f" {self.dead_after:,} activations of silence, so train on more --tokens, or lower --dead-after-tokens"
        )
        figures = f"{fvu}, L0 {self.l0:.1f}{dead} on {self.tokens:,} of the last activations of training"
        return figures + (untold if self.dead is None else "")

    def to_json(self) -> dict[str, Any]:
        """Figures and faults, as plain data."""
        return asdict(self) | {"faults": self.faults()}


@torch.no_grad()
def judge(sae: SAE | Dictionary, config: TrainConfig, batch: dict[str, Float[Tensor, "n _"]], *, dead: int) -> Verdict:
    """Of what takes raw activations, as it will be saved, on the first rows of a batch; ``dead`` latents count as such
    at the end of the run.

    Raises FloatingPointError where the FVU is not finite or above ``RUINED``: that is not to be saved.
    """
    device = parts_of(sae)[0].W_enc.device
    reads, writes = ([batch[place][:_ROWS].to(device) for place in places] for places in config.places)
    if isinstance(sae, SAE):
        latents: Sequence[Any] = (sae.eval().encode(reads[0]),)
        x_hats: Sequence[Tensor] = (sae(reads[0]),)
    else:
        latents, x_hats = sae.eval().encode(reads), sae(reads)
    known = [value for pair in zip(writes, x_hats, strict=True) if (value := fvu_of(*pair)) is not None]
    fvu = sum(known) / len(known) if len(known) == len(writes) else None
    if fvu is not None and not fvu <= RUINED:
        rate = config.peak_lr(parts_of(sae)[0].d_in)
        raise FloatingPointError(
            f"training diverged: it ends with an FVU of {fvu:.3g}, and nothing is saved: lower lr ({rate:g})"
        )
    return Verdict(
        fvu=fvu,
        l0=sum(float(its.l0.float().mean()) for its in latents),
        dead=dead if config.tokens >= config.dead_after else None,
        latents=sum(part.d_sae for part in parts_of(sae)),
        d_in=sum(x.shape[-1] for x in reads),
        tokens=len(reads[0]),
        activation=config.activation,
        dead_after=config.dead_after,
        l0_asked=None if config.l0 is None else config.l0 * len(latents),
    )


def save_verdict(verdict: Verdict, folder: Path) -> None:
    """Beside the log, so that the command says the same when it runs again."""
    write_json(folder / FILE, asdict(verdict))


def read_verdict(folder: Path) -> Verdict | None:
    """What ``save_verdict`` wrote; None where an older version trained there."""
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        return Verdict(**read_json(path))
    except TypeError as error:
        raise ValueError(f"{path} does not hold the figures at the end of a training run") from error
