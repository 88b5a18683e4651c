"""What ``test_parallel`` starts on several processes.

``python -m tests.saes.distributed.runs FOLDER`` trains every case of the table, each in a folder of its own. With
``CASE SHARDS HOW`` it trains one, and its last process ends at step 11: HOW is ``killed`` (SIGKILL) or ``fails``.
"""

import os
import signal
import sys
from pathlib import Path

import torch

from interp import Site, processes
from saes import TrainConfig, selection, train
from saes.training import loop, train_all
from saes.training.optimiser.kinds import KINDS
from tests.saes.sources import MemorySource, planted

ROWS, BATCH, STEPS = 513, 256, 20
"""The last batch of each epoch is of one row: one of two processes has none."""


def config(out: Path, activation: str, **changes: object) -> TrainConfig:
    """20 steps in which gradients are clipped and latents die."""
    with_k = activation in ("topk", "batchtopk", "matryoshka")
    options = {"k": 4 if with_k else None, "d_sae": 96, "clip": 0.3, "dead_after_tokens": 1, "lr": 1e-3} | changes
    return TrainConfig(
        site=options.pop("site", "in"),  # type: ignore[arg-type]
        out=out,
        activation=activation,
        tokens=STEPS * BATCH,
        batch_size=BATCH,
        checkpoint_every=7,
        log_every=1,
        **options,  # type: ignore[arg-type]
    )


PLACES: dict[str, object] = {"site": None, "reads": ("in", "mid"), "writes": ("out", "end")}
CROSSCODER: dict[str, object] = {
    "site": None,
    "kind": "crosscoder",
    "reads": ("in", "out"),
    "options": {"decoder_norms": True},
}
VARIANTS = ("topk", "batchtopk", "matryoshka", "jumprelu", "gated", "relu", "afa")
CASES: dict[str, tuple[str, dict[str, object]]] = {
    **{name: (name, {}) for name in VARIANTS},
    "jumprelu-l0": ("jumprelu", {"l0": 4.0}),
    "afa-centred": ("afa", {"loss_weights": {"afa": 0.0, "afa_centred": 1.0}}),
    "transcoder": ("topk", {"target_site": "out", "skip": True}),
    "wide-k": ("topk", {"k": 64}),
    "set": ("topk", PLACES | {"kind": "transcoders"}),
    "clt": ("jumprelu", PLACES | {"kind": "clt", "skip": True, "loss_weights": {"tanh": 0.1, "pre_act": 1e-3}}),
    "clt-budget": ("batchtopk", PLACES | {"kind": "clt", "budget": "all"}),
    "crosscoder": ("batchtopk", CROSSCODER),
    "signum": ("topk", {"optimizer": "signum"}),
    "muon": ("topk", {"optimizer": "muon"}),
    "soap": ("gated", {"optimizer": "soap"}),
    # The test leaves its folder as one process leaves it that ends in the middle.
    "continued": ("matryoshka", {}),
}
BOTH_WAYS = ("batchtopk", "afa", "gated", "transcoder", "clt-budget")
"""Cases for four processes, two by two."""


def shares_latents(case: str) -> bool:
    """Whether processes can share the latents of this one."""
    return not KINDS[str(CASES[case][1].get("optimizer", "adam"))].whole


class Source(MemorySource):
    """Another site is a turned copy of the first."""

    def at(self, site: Site):  # type: ignore[no-untyped-def]
        """See ``MemorySource``."""
        turned = self.data.flip(-1) if str(site) in ("out", "end") else self.data
        return turned + turned.roll(1, -1) if str(site) in ("mid", "end") else turned


def source() -> Source:
    """The same rows in every process."""
    return Source(planted(ROWS, d=32, features=64)[0])


def main(folder: Path) -> None:
    """Every case with the rows shared, and with the latents shared; with four processes, both at once."""
    size = processes.current().size
    selection.FIRST, selection.SAMPLE = 8, 512  # so that both ways of selecting are taken
    for shards in (1, 2) if size == 2 else (2,):
        for name, (activation, changes) in CASES.items():
            if (size == 2 or name in BOTH_WAYS) and (shards == 1 or shares_latents(name)):
                run = config(folder / f"{name}-{shards}", activation, latent_shards=shards, **changes)
                (trained,), (again,) = train_all([run], source()), train_all([run], source())
                for name, parameter in trained.named_parameters():  # what is finished is returned to all
                    assert torch.equal(parameter, again.get_parameter(name))
                assert not trained.training | again.training


def ending(folder: Path, case: str, shards: int, how: str) -> None:
    """End at a step: the last process, by an error or by SIGKILL, or the "first" by SIGKILL."""
    step = loop.train_step

    def last_step(state, *arguments, **options):  # type: ignore[no-untyped-def]
        job = processes.current()
        if state.step == 11 and job.rank == (0 if how == "first" else job.size - 1):
            if how in ("killed", "first"):
                os.kill(os.getpid(), signal.SIGKILL)
            raise ValueError("no more")
        step(state, *arguments, **options)

    loop.train_step = last_step
    activation, changes = CASES[case]
    train(config(folder, activation, latent_shards=shards, **changes), source())


if __name__ == "__main__":
    if len(sys.argv) == 2:
        main(Path(sys.argv[1]))
    else:
        ending(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4])
