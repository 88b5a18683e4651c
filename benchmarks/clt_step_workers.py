"""The contestants of ``clt_step.py``, each in a process of its own."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker import Contestant, serve


@dataclass(frozen=True)
class Settings:
    """Sizes, and a folder for files."""

    layers: int
    d: int
    d_sae: int
    k: int
    batch: int
    threads: int
    scratch: str
    device: str = "cpu"


def _data(settings: Settings) -> list[tuple[Any, Any]]:
    """Two batches: at every layer sums of a few random directions, and random maps of them."""
    import torch

    torch.set_num_threads(settings.threads)
    generator = torch.Generator().manual_seed(0)
    reads, writes = [], []
    for _ in range(settings.layers):
        directions = torch.randn(2 * settings.d, settings.d, generator=generator) / settings.d**0.5
        codes = torch.rand(2 * settings.batch, 2 * settings.d, generator=generator)
        reads.append(codes.where(codes > 0.95, torch.zeros(())) @ directions * settings.d**0.5)
        writes.append((reads[-1] @ torch.randn(settings.d, settings.d, generator=generator) / settings.d**0.5).relu())
    return list(zip(reads, writes, strict=True))


def deepfield(settings: Settings) -> Contestant:
    """The step of ``saes.training.train_step``."""
    import torch

    from interp import Site
    from saes import TrainConfig
    from saes.training.initial import initial_state
    from saes.training.step import train_step

    data = _data(settings)
    reads, writes = ([f"{name}{layer}" for layer in range(settings.layers)] for name in ("in", "out"))
    at = {
        Site.parse(name): rows
        for names, which in ((reads, 0), (writes, 1))
        for name, rows in zip(names, [pair[which] for pair in data], strict=True)
    }

    class Source:
        def __len__(self) -> int:
            return 2 * settings.batch

        def batches_of(self, sites: Any, batch_size: int, seed: int = 0, start: int = 0) -> Any:
            for begin in range(start * batch_size, len(self), batch_size):
                yield {site: at[site][begin : begin + batch_size] for site in sites}

    config = TrainConfig(
        out=Path(settings.scratch), kind="clt", reads=tuple(reads), writes=tuple(writes), k=settings.k,
        d_sae=settings.d_sae, batch_size=settings.batch, decoder="free", tokens=100 * settings.batch, log_every=1,
        device=settings.device,
    )  # fmt: skip
    state = initial_state(config, Source())
    both = Source().batches_of([Site.parse(n) for n in reads + writes], settings.batch)
    batches = itertools.cycle([{site: rows.to(settings.device) for site, rows in batch.items()} for batch in both])

    def run() -> Any:
        batch = next(batches)
        read, written = ([batch[Site.parse(name)] for name in names] for names in (reads, writes))
        train_step(state, read, config, target=written)
        return torch.tensor(state.metrics["loss"])

    return Contestant(run, ("torch",), _save)


def dense_einsum(settings: Settings) -> Contestant:
    """Dense latents, and an einsum over layers for each layer written."""
    import torch

    from saes import Layout, TopK
    from saes.places import Dictionary
    from saes.training.figures.site_statistics import SiteStatistics

    device, layers = torch.device(settings.device), range(settings.layers)
    data = [(read.to(device), written.to(device)) for read, written in _data(settings)]
    scales = [[SiteStatistics.of(rows, site="x").scale("variance") for rows in pair] for pair in data]
    names = tuple(f"in{i}" for i in layers), tuple(f"out{i}" for i in layers)
    start = Dictionary(
        Layout("clt", *names), ((settings.d,) * settings.layers,) * 2, d_sae=settings.d_sae, activation=TopK(settings.k)
    )
    start.initialise(seed=0, means=[data[i][1].mean(0).cpu() * scales[i][1] for i in layers])
    parts = [part for part, _ in start.to(device).placed()]
    W_enc = torch.nn.Parameter(torch.stack([part.W_enc.detach() for part in parts]))
    b_enc = torch.nn.Parameter(torch.stack([part.b_enc.detach() for part in parts]))
    decoders = [
        torch.nn.Parameter(torch.stack([parts[layer].at_place(m - layer).detach() for layer in range(m + 1)]))
        for m in layers
    ]
    b_dec = torch.nn.Parameter(torch.stack([part.b_dec.detach() for part in parts]))
    del start, parts
    parameters = [W_enc, b_enc, *decoders, b_dec]
    optimizer = torch.optim.Adam(parameters, lr=2e-4 / (settings.d_sae / 16_384) ** 0.5, eps=1e-18, fused=True)
    peak, step = optimizer.param_groups[0]["lr"], itertools.count()
    batches = itertools.cycle([slice(0, settings.batch), slice(settings.batch, 2 * settings.batch)])

    def run() -> Any:
        rows = next(batches)
        optimizer.param_groups[0]["lr"] = peak * min(1.0, (next(step) + 1) / 5)  # deepfield's warm-up
        x, y = (torch.stack([data[i][w][rows] * scales[i][w] for i in layers], 1) for w in (0, 1))
        pre = torch.einsum("nld,ldf->nlf", x, W_enc) + b_enc
        values, indices = pre.topk(settings.k, dim=-1)
        features = torch.zeros_like(pre).scatter(-1, indices, values.relu())
        outputs = [torch.einsum("nlf,lfd->nd", features[:, : m + 1], decoders[m]) for m in layers]
        x_hat = torch.stack(outputs, 1) + b_dec
        loss = (y - x_hat).square().mean((0, 2)).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        return loss.detach()

    return Contestant(run, ("torch",), _save)


def _save(loss: Any, path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"loss": loss.reshape(1)}, path)


CONTESTANTS: dict[str, Callable[[Settings], Contestant]] = {"deepfield": deepfield, "dense-einsum": dense_einsum}

if __name__ == "__main__":
    chosen = Settings(**json.loads(Path(sys.argv[2]).read_text()))
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    serve(lambda: CONTESTANTS[sys.argv[1]](chosen))
