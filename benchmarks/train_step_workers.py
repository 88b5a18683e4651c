"""Contestants of the training-step benchmark: one step of a TopK SAE as the library's own trainer takes it.

    python benchmarks/train_step_workers.py NAME SETTINGS.json     (started by train_step.py)

A step is the forward pass, the backward pass, Adam, and whatever else that trainer does every step (clipping, decoder
norms, counting dead latents). Weights are each library's own; the activations are the same. Imports are inside the
functions because no environment has all of these libraries.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from worker import Contestant, serve

BATCHES = 8
ENOUGH_STEPS = 100_000


@dataclass(frozen=True)
class Settings:
    """Sizes of the SAE and the batch."""

    d_in: int
    d_sae: int
    k: int
    batch: int
    threads: int
    scratch: str

    def activations(self) -> torch.Tensor:
        """Standard normal, so that a row has about the norm sqrt(d_in)."""
        generator = torch.Generator().manual_seed(1)
        return torch.randn(BATCHES * self.batch, self.d_in, generator=generator)

    def batches(self) -> Iterator[torch.Tensor]:
        """The same few batches over and over."""
        return itertools.cycle(self.activations().split(self.batch))


class InMemory:
    """A source for our trainer."""

    def __init__(self, data: torch.Tensor) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def batches_of(self, sites: Any, batch_size: int, seed: int = 0, start: int = 0) -> Iterator[Any]:
        for part in self.data.split(batch_size):
            yield dict.fromkeys(sites, part)


def deepfield(settings: Settings, *, screened: bool = True) -> Contestant:
    from saes import TrainConfig
    from saes.kernels.cpu_screen import Screen
    from saes.training.initial import initial_state
    from saes.training.step import train_step

    if not screened:
        Screen.pays = staticmethod(lambda *_: False)  # type: ignore[method-assign]
    config = TrainConfig(
        site="blocks.0.hook_resid_post",
        out=Path(settings.scratch) / "deepfield",
        k=settings.k,
        d_sae=settings.d_sae,
        batch_size=settings.batch,
        tokens=ENOUGH_STEPS * settings.batch,
    )
    data = settings.activations()
    state, batches = initial_state(config, InMemory(data)), itertools.cycle(data.split(settings.batch))
    return Contestant(lambda: train_step(state, next(batches), config), ("deepfield", "torch"))


def sparsify(settings: Settings) -> Contestant:
    """``Trainer.fit``'s inner loop with optimizer="adam", which needs a language model to be called itself."""
    from sparsify import SparseCoder, SparseCoderConfig

    torch.manual_seed(0)
    sae = SparseCoder(settings.d_in, SparseCoderConfig(num_latents=settings.d_sae, k=settings.k))
    optimizer = torch.optim.Adam(sae.parameters(), lr=1e-4)
    batches = settings.batches()
    fired = torch.zeros(settings.d_sae, dtype=torch.bool)

    def run() -> None:
        x = next(batches)
        sae.set_decoder_norm_to_unit_norm()
        out = sae(x, total_variance=(x - x.mean(0)).pow(2).sum())
        fired[out.latent_indices.flatten()] = True
        float(out.fvu.detach())
        out.fvu.backward()
        sae.remove_gradient_parallel_to_decoder_directions()
        optimizer.step()
        optimizer.zero_grad()

    return Contestant(run, ("eai-sparsify", "torch"))


def saelens(settings: Settings) -> Contestant:
    from sae_lens.config import SAETrainerConfig
    from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.training.sae_trainer import SAETrainer

    torch.manual_seed(0)
    sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=settings.d_in, d_sae=settings.d_sae, k=settings.k))
    config = SAETrainerConfig(
        total_training_samples=ENOUGH_STEPS * settings.batch, train_batch_size_samples=settings.batch, lr_end=3e-5
    )
    trainer: Any = SAETrainer(config, sae, settings.batches())

    def run() -> None:
        trainer.step(next(trainer.data_provider))
        trainer.n_training_steps += 1

    return Contestant(run, ("sae-lens", "torch"))


def dictionary_learning(settings: Settings) -> Contestant:
    from dictionary_learning.trainers.top_k import TopKTrainer

    trainer = TopKTrainer(
        steps=ENOUGH_STEPS,
        activation_dim=settings.d_in,
        dict_size=settings.d_sae,
        k=settings.k,
        layer=0,
        lm_name="none",
        seed=0,
        device="cpu",
    )
    batches, steps = settings.batches(), itertools.count()
    return Contestant(lambda: trainer.update(next(steps), next(batches)), ("dictionary-learning", "torch"))


CONTESTANTS: dict[str, Callable[[Settings], Contestant]] = {
    "deepfield": deepfield,
    "deepfield-again": deepfield,  # a control: how far its ratio is from 1 is how far any ratio can be trusted
    "deepfield-float32-only": lambda settings: deepfield(settings, screened=False),
    "sparsify": sparsify,
    "saelens": saelens,
    "dictionary_learning": dictionary_learning,
}

if __name__ == "__main__":
    name, settings_file = sys.argv[1:]
    asked = Settings(**json.loads(Path(settings_file).read_text()))
    torch.set_num_threads(asked.threads)
    serve(lambda: CONTESTANTS[name](asked))
