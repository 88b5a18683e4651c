"""Peers of the quality benchmark: TopK SAEs as each library's own trainer makes them, in its own environment.

    python benchmarks/sae_quality_workers.py PEER JOBS.json     (started by sae_quality.py)

Every job names a file of batches in the order of training, k, the number of latents, a seed, a learning rate (null: the
library's default) and a folder, into which the SAE is written in the library's own format. What is not named is at the
library's default.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file


@dataclass(frozen=True)
class Job:
    """One SAE to train."""

    rows: str
    model: str
    order_seed: int
    steps: int
    batch: int
    k: int
    d_sae: int
    seed: int
    lr: float | None
    out: str

    def batches(self) -> Iterator[torch.Tensor]:
        """Epoch after epoch, each shuffled by its own seed: the batches that deepfield's trainer sees, too."""
        data, done, epoch = load_file(self.rows)["x"], 0, self.order_seed
        while done < self.steps:
            order = torch.randperm(len(data), generator=torch.Generator().manual_seed(epoch))
            for begin in range(0, len(order), self.batch):
                if done < self.steps:
                    yield data[order[begin : begin + self.batch]]
                done += 1
            epoch += 1


def sparsify(job: Job) -> None:
    """``Trainer.fit``'s inner loop with its default, signum without a schedule; itself it wants a language model."""
    from schedulefree import ScheduleFreeWrapper
    from sparsify import SparseCoder, SparseCoderConfig
    from sparsify.sign_sgd import SignSGD

    torch.manual_seed(job.seed)
    batches = list(job.batches())
    sae = SparseCoder(batches[0].shape[1], SparseCoderConfig(num_latents=job.d_sae, k=job.k))
    rate = job.lr or 5e-3 / (job.d_sae / 2**14) ** 0.5
    optimizer = ScheduleFreeWrapper(SignSGD([{"params": sae.parameters(), "lr": rate}]), momentum=0.95)
    optimizer.train()
    sae.b_dec.data = batches[0].mean(0)
    for x in batches:
        sae.set_decoder_norm_to_unit_norm()
        out = sae(x, total_variance=(x - x.mean(0)).pow(2).sum())
        out.fvu.backward()
        sae.remove_gradient_parallel_to_decoder_directions()
        optimizer.step()
        optimizer.zero_grad()
    optimizer.eval()
    sae.save_to_disk(Path(job.out))


def saelens(job: Job) -> None:
    """``SAETrainer.fit`` without its surroundings."""
    from sae_lens.config import SAETrainerConfig
    from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.training.sae_trainer import SAETrainer

    torch.manual_seed(job.seed)
    batches = list(job.batches())
    sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=batches[0].shape[1], d_sae=job.d_sae, k=job.k))
    rate = job.lr or 3e-4
    config = SAETrainerConfig(
        total_training_samples=job.steps * job.batch, train_batch_size_samples=job.batch, lr=rate, lr_end=rate / 10
    )
    trainer = SAETrainer(config, sae, iter(batches))
    for x in batches:
        trainer.step(x)
        trainer.n_training_steps += 1
    sae.save_inference_model(job.out)


def dictionary_learning(job: Job) -> None:
    """``trainSAE``; its warm-up of 1,000 steps cannot be had in fewer, where it is a tenth of them."""
    from dictionary_learning.trainers.top_k import TopKTrainer
    from dictionary_learning.training import trainSAE

    batches = list(job.batches())
    options = {
        "trainer": TopKTrainer,
        "steps": job.steps,
        "activation_dim": batches[0].shape[1],
        "dict_size": job.d_sae,
        "k": job.k,
        "layer": 0,
        "lm_name": job.model,
        "seed": job.seed,
        "device": "cpu",
        "lr": job.lr,
    }
    if job.steps <= 1000:
        options["warmup_steps"] = job.steps // 10
    folder = Path(job.out)
    trainSAE(iter([*batches, batches[0]]), [options], job.steps, save_dir=str(folder), device="cpu")


PEERS: dict[str, Callable[[Job], None]] = {
    "sparsify": sparsify,
    "saelens": saelens,
    "dictionary_learning": dictionary_learning,
}

if __name__ == "__main__":
    name, jobs_file = sys.argv[1:]
    torch.set_num_threads(1)
    for asked in json.loads(Path(jobs_file).read_text()):
        PEERS[name](Job(**asked))
        print(json.dumps(asked), flush=True)
