"""A TopK training step on one GPU, in bfloat16: ours, dense PyTorch (compiled), and sparsify where it is installed; and
that of a cross-layer transcoder, beside the dense arithmetic that others publish (``clt_step.py``).

    python benchmarks/gpu_step.py --d-in 768 --d-sae 24576 --batch 32768

Prints first what decides everything else, the bare encoder product and ``torch.topk`` of its result, then the steps, in
turn, with the most memory that each held beyond weights, gradients and Adam's two moments. Needs ``pip install
'deepfield[gpu]'``; sparsify is ``pip install --no-deps eai-sparsify simple-parsing natsort``. ``--device cpu`` shows
that the script runs, and nothing else.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from clt_step_workers import CONTESTANTS, Settings
from interleave import machine
from torch import Tensor, nn
from train_step_workers import InMemory

from saes import TrainConfig
from saes.training.initial import initial_state
from saes.training.step import train_step

Step = Callable[[], object]


def ours(x: Tensor, d_sae: int, k: int, out: Path) -> Step:
    config = TrainConfig(
        site="blocks.0.hook_resid_post",
        out=out,
        k=k,
        d_sae=d_sae,
        batch_size=len(x),
        tokens=10_000 * len(x),
        precision="bfloat16",
        device=str(x.device),
    )

    state = initial_state(config, InMemory(x.cpu()))
    return lambda: train_step(state, x, config)


def dense(x: Tensor, d_sae: int, k: int, out: Path) -> Step:
    """The step as one writes it: every product dense, compiled, and Adam fused."""
    torch.manual_seed(0)
    encoder, decoder = nn.Linear(x.shape[1], d_sae).to(x.device), nn.Linear(d_sae, x.shape[1]).to(x.device)
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-4, fused=True)

    @torch.compile
    def loss_of(x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16):
            values, indices = encoder(x - decoder.bias).relu().topk(k, sorted=False)
            latents = torch.zeros(len(x), d_sae, dtype=values.dtype, device=x.device).scatter(1, indices, values)
            return (decoder(latents).float() - x).square().mean()

    def step() -> None:
        optimizer.zero_grad()
        loss_of(x).backward()
        optimizer.step()

    return step


def sparsify(x: Tensor, d_sae: int, k: int, out: Path) -> Step:
    """``Trainer.fit``'s inner loop with optimizer="adam"."""
    from sparsify import SparseCoder, SparseCoderConfig  # type: ignore  # a peer, installed only for this

    torch.manual_seed(0)
    sae = SparseCoder(x.shape[1], SparseCoderConfig(num_latents=d_sae, k=k), device=x.device)
    optimizer = torch.optim.Adam(sae.parameters(), lr=1e-4)

    def step() -> None:
        sae.set_decoder_norm_to_unit_norm()
        with torch.autocast(x.device.type, torch.bfloat16):
            fvu = sae(x, total_variance=(x - x.mean(0)).pow(2).sum()).fvu
        fvu.backward()
        sae.remove_gradient_parallel_to_decoder_directions()
        optimizer.step()
        optimizer.zero_grad()

    return step


def seconds(run: Step, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def peak_gib(run: Step, device: torch.device) -> float:
    """The most memory a step holds beyond what it found."""
    if device.type != "cuda":
        return float("nan")
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    return float(torch.cuda.max_memory_allocated() - before) / 2**30


def print_bare_products(x: torch.Tensor, d_sae: int, k: int, *, rounds: int) -> None:
    """What no step can be faster than: the encoder's product, and the selection from its result."""
    half, W_enc = x.bfloat16(), torch.randn(x.shape[-1], d_sae, device=x.device, dtype=torch.bfloat16)
    pre = half @ W_enc
    bare: dict[str, Step] = {"x @ W_enc": lambda: half @ W_enc, "torch.topk of it": lambda: pre.topk(k, dim=-1)}
    for name, run in bare.items():
        times = [seconds(run, x.device) for _ in range(rounds + 3)][3:]
        print(f"{name}: {statistics.median(times) * 1e3:.3f} ms")


def print_steps(steps: dict[str, Step], device: torch.device, *, tokens: int, rounds: int) -> None:
    """Each in turn, beside the first."""
    for step in steps.values():
        for _ in range(3):
            step()
    peaks = {name: peak_gib(step, device) for name, step in steps.items()}
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            taken[name].append(seconds(step, device))
    first = next(iter(taken.values()))
    print("| step | median ms | tokens/s | time / ours | peak beyond state, GiB |\n|---|---|---|---|---|")
    for name, times in taken.items():
        ratio = statistics.median(a / b for a, b in zip(times, first, strict=True))
        median = statistics.median(times)
        print(f"| {name} | {median * 1e3:.2f} | {tokens / median:,.0f} | {ratio:.2f} | {peaks[name]:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--d-in", type=int, default=768)
    parser.add_argument("--d-sae", type=int, default=24_576)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--batch", type=int, default=32_768)
    parser.add_argument("--layers", type=int, default=6, help="of a cross-layer transcoder")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cuda")
    asked = parser.parse_args()
    device = torch.device(asked.device)
    x = torch.randn(asked.batch, asked.d_in, device=device)
    print_bare_products(x, asked.d_sae, asked.k, rounds=asked.rounds)

    with tempfile.TemporaryDirectory() as out:
        steps = {}
        for make in (ours, dense, sparsify):
            try:
                steps[make.__name__] = make(x, asked.d_sae, asked.k, Path(out))
            except ModuleNotFoundError as error:
                print(f"{make.__name__}: left out, {error}")
        print_steps(steps, device, tokens=asked.batch, rounds=asked.rounds)
        del steps
        sizes = {"layers": asked.layers, "d": asked.d_in, "d_sae": asked.d_sae // 4, "k": asked.k}
        settings = Settings(**sizes, batch=asked.batch // 4, threads=2, scratch=out, device=str(device))
        print(f"\nCross-layer transcoder, {sizes}, batch {settings.batch}, float32:")
        clts = {name: make(settings).run for name, make in CONTESTANTS.items()}
        print_steps(clts, device, tokens=settings.batch, rounds=asked.rounds)
    card = torch.cuda.get_device_name() if device.type == "cuda" else machine()["cpu"]
    whole = asked.batch * asked.d_sae * 2 / 2**30
    print(f"{card}, torch {torch.__version__}, {machine()['date']}; a [batch, d_sae] matrix is {whole:.2f} GiB in bf16")


if __name__ == "__main__":
    main()
