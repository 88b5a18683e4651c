"""Training steps held to the reference, on any device, as data: ``benchmarks/gpu_checks.py`` runs them on a card.

A case takes the name of a backend and a device; it fails by AssertionError, or returns what it measured.
"""

import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from interp import Site
from saes import JumpReLU, TrainConfig, sae, train
from saes.activations import activation_to_config
from saes.kernels import encode
from saes.kernels.backend import use
from saes.training.checkpoints import resume, save_checkpoint
from saes.training.initial import initial_state
from saes.training.step import train_step
from saes.training.stepping.state import TrainState
from tests.saes.kernels.kernel_checks import TOLERANCE, close
from tests.saes.sources import MemorySource, planted
from tests.saes.variants import VARIANTS

STEPS = 8
Size = tuple[int, int, int]
"""d_in, d_sae, rows of a batch."""
SMALL: Size = (9, 301, 20)
LARGE: Size = (200, 3001, 300)
# Of JumpReLU's threshold gradient the suite's own row, with its narrow kernel, would show next to nothing.
SETTINGS: dict[str, dict[str, Any]] = {
    **{name: {"variant": variant} for name, variant in (VARIANTS | {"jumprelu": JumpReLU()}).items()},
    "topk, tied": {"variant": VARIANTS["topk"], "decoder": "tied"},
    "topk, layer_norm": {"variant": VARIANTS["topk"], "normalise": "layer_norm"},
    "topk, skip transcoder": {"variant": VARIANTS["topk"], "target_site": "blocks.0.hook_mlp_out", "skip": True},
}

WAITS = {
    "topk": 7,
    "batchtopk": 17,
    "matryoshka": 17,
    "jumprelu": 10,
    "gated": 10,
    "relu": 10,
    "afa": 9,
    "afa-parity": 9,
}
"""How often a step waits for the GPU, by variant: three checks that nothing diverged, whether to clip, how many are
dead and which were active; and whatever needs the number of selected latents."""


def config_of(name: str, precision: str, device: str, out: Path, size: Size) -> TrainConfig:
    """A short run of a variant; latents that are silent for a step count as dead, so that an auxiliary loss works."""
    settings, (_, d_sae, batch) = dict(SETTINGS[name]), size
    options = activation_to_config(settings.pop("variant"))
    return TrainConfig(
        site="blocks.0.hook_mlp_in",
        out=out,
        activation=options.pop("name"),
        k=options.pop("k", None),
        options=options,
        d_sae=d_sae,
        batch_size=batch,
        tokens=STEPS * batch,
        lr=1e-3,
        dead_after_tokens=1,
        checkpoint_every=2,
        precision=precision,
        device=device,
        **settings,
    )


def data(size: Size) -> MemorySource:
    """Four batches of sums of planted features, and noise, so that no two pre-activations are equal."""
    d_in, _, batch = size
    noise = torch.randn(4 * batch, d_in, generator=torch.Generator().manual_seed(5))
    return MemorySource(planted(4 * batch, d=d_in, features=2 * d_in)[0] + 0.1 * noise)


@contextmanager
def sparse_products_always() -> Iterator[None]:
    """Inside, the kernels multiply also where so many latents are active that dense products would be faster."""
    limits = encode.DENSE_ABOVE, sae.GATHER_UP_TO
    encode.DENSE_ABOVE = sae.GATHER_UP_TO = 1.0
    try:
        yield
    finally:
        encode.DENSE_ABOVE, sae.GATHER_UP_TO = limits


def step_is_the_references(backend: str, device: str, *, name: str, precision: str, size: Size) -> str:
    """After two steps by the reference, a third by both: gradients, through Adam's moments, and then the weights.

    Every product is the kernels', also of variants that would be dense with so many latents active.

    In float32 the reference runs on the CPU. In bfloat16 it runs on the same device, since near-ties of values with 8
    bits fall otherwise where products are summed in another order.
    """
    with tempfile.TemporaryDirectory() as folder, sparse_products_always():
        config, source = config_of(name, precision, device, Path(folder), size), data(size)
        aside = replace(config, device="cpu") if precision == "float32" else config
        batches = list(_batches(source, config))
        expected, actual = initial_state(aside, source), initial_state(config, source)
        with use("reference"):
            for batch in batches[:2]:
                _step(expected, batch, aside)
            save_checkpoint(expected, Path(folder))
            resume(actual, Path(folder))
            before = _weights(actual)
            _step(expected, batches[2], aside)
        with use(backend):
            _step(actual, batches[2], config)
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    largest = 0.0
    for (weight, other), parameter in zip(expected.sae.named_parameters(), actual.sae.parameters(), strict=True):
        for key, moment in expected.optimizer.state.get(other, {}).items():
            mine = actual.optimizer.state[parameter][key].cpu().float()
            scale = float(moment.abs().max()) or 1.0
            off = float((mine - moment.cpu()).abs().max()) / scale
            largest = max(largest, off)
            assert off <= TOLERANCE[dtype], f"{weight}, {key}: off by {off:.1e} of its largest entry"
        if not parameter.requires_grad:
            close(parameter.detach().cpu(), other.detach().cpu(), torch.float32)
    assert torch.equal(actual.silent.cpu(), expected.silent.cpu()), "other latents were active"
    assert actual.metrics.keys() == expected.metrics.keys()
    _weights_follow_moments(actual, before, config)
    return f"gradients within {largest:.0e}"


def _weights_follow_moments(state: TrainState, before: dict[str, Tensor], config: TrainConfig) -> None:
    """Adam's own formula in float64, then rows of norm 1."""
    beta1, beta2 = state.optimizer.param_groups[0]["betas"]
    rate, eps = (state.optimizer.param_groups[0][key] for key in ("lr", "eps"))
    after = _weights(state)
    wanted = dict(before)
    for name, parameter in state.sae.named_parameters():
        if not (moments := state.optimizer.state.get(parameter)) or parameter.grad is None:
            continue
        mean, square = (moments[key].cpu().double() for key in ("exp_avg", "exp_avg_sq"))
        step = float(moments["step"])
        slope = (square / (1 - beta2**step)).sqrt() + eps
        wanted[name] = before[name] - rate / (1 - beta1**step) * mean / slope
    if config.decoder == "tied":
        wanted["W_enc"] /= wanted["W_enc"].norm(dim=0)
        wanted["W_dec"] = wanted["W_enc"].T
    else:
        wanted["W_dec"] /= wanted["W_dec"].norm(dim=-1, keepdim=True)
    for name, weights in wanted.items():
        if state.sae.get_parameter(name).requires_grad:
            clamped = weights.clamp(min=0) if name == "threshold" else weights
            close(after[name].float(), clamped, torch.float32)


def resumed_is_bit_equal(backend: str, device: str, *, name: str, precision: str, size: Size) -> str:
    """A run that stops at its sixth batch and is started again, against one that goes through."""

    class Stopped(Exception):
        pass

    class Stopping(MemorySource):
        left = 0

        def batches_of(
            self, sites: Sequence[Site], batch_size: int, seed: int = 0, start: int = 0
        ) -> Iterator[dict[Site, Tensor]]:
            for batch in super().batches_of(sites, batch_size, seed, start):
                if not self.left:
                    raise Stopped
                self.left -= 1
                yield batch

    with tempfile.TemporaryDirectory() as folder, use(backend):
        config = config_of(name, precision, device, Path(folder) / "straight", size)
        straight = train(config, data(size))
        config = replace(config, out=Path(folder) / "stopped")
        try:
            source = Stopping(data(size).data)
            sites = 1 if config.target_site is None else 2
            source.left = sites * 4 + 5  # an epoch of each site is read for its mean and norm
            train(config, source)
            raise AssertionError("the run was not stopped")
        except Stopped:
            kept = sorted(path.name for path in (config.out / "checkpoints").iterdir())
        resumed = train(config, data(size))
    assert kept[-1] == "step000000004.safetensors", kept
    for weight, parameter in straight.named_parameters():
        mine = resumed.get_parameter(weight)
        differ = int((mine != parameter).sum())
        assert torch.equal(mine, parameter), f"{weight}: {differ} of {parameter.numel()} entries differ"
    return "every bit"


def step_holds_no_dense_matrix(backend: str, device: str, *, name: str, precision: str, size: Size) -> str:
    """A TopK step never holds an entry for each row and latent, while no latent is dead: on a GPU by peak memory, of
    which even a byte for each is too much; elsewhere by the size of everything that an operation returns."""
    _, d_sae, batch = size
    with _after_two_steps(backend, device, name, precision, size, dead_after_tokens=10**9) as (step, state):
        state.optimizer.zero_grad(set_to_none=True)
        if device == "cpu":
            with Largest() as largest:
                step()
            assert largest.numel < batch * d_sae, f"an operation returned {largest.numel:,} entries"
            return f"at most {largest.numel:,} entries of {batch * d_sae:,}"
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        gradients = sum(p.grad.nbytes for p in state.sae.parameters() if p.grad is not None)
        held = torch.cuda.max_memory_allocated() - before - gradients
    assert held < batch * d_sae, f"beyond state and gradients a step held {held / 2**20:,.0f} MiB"
    return f"{held / 2**20:,.0f} MiB beyond state and gradients; the matrix in bfloat16: {batch * d_sae / 2**19:,.0f}"


def step_waits_no_oftener(backend: str, device: str, *, name: str, precision: str, size: Size) -> str:
    """How often a step that is not logged stops until the GPU has answered: no oftener than ``WAITS`` allows.

    Without a GPU those operations are counted that would make it wait there.
    """
    with _after_two_steps(backend, device, name, precision, size) as (step, _):
        if device == "cpu":
            with Waits() as counted:
                step()
            number = counted.number
        else:
            torch.cuda.set_sync_debug_mode("warn")
            try:
                with warnings.catch_warnings(record=True) as told:
                    warnings.simplefilter("always")
                    step()
            finally:
                torch.cuda.set_sync_debug_mode("default")
            number = sum("synchronizing CUDA operation" in str(warning.message) for warning in told)
    most = WAITS[name.split(",")[0]]
    assert number <= most, f"waits {number} times, more than the {most} that are known"
    return f"{number} of {most}"


class Largest(TorchDispatchMode):
    """The most entries that an operation inside returned."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor) and tensor.dtype != torch.uint8:  # bytes are copies of Triton's interpreter
                self.numel = max(self.numel, tensor.numel())
        return result


class Waits(TorchDispatchMode):
    """How many operations inside need, on a GPU, a number or a shape before the program can go on."""

    NEED: ClassVar = {torch.ops.aten._local_scalar_dense: 1, torch.ops.aten.nonzero: 1, torch.ops.aten.bincount: 2}
    MASKED: ClassVar = (torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_)
    number = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        packet = func.overloadpacket
        masks = (i for i in args[1] if i is not None and i.dtype == torch.bool) if packet in self.MASKED else ()
        self.number += self.NEED.get(packet, 0) + any(True for _ in masks)
        return func(*args, **(kwargs or {}))


@contextmanager
def _after_two_steps(
    backend: str, device: str, name: str, precision: str, size: Size, **changes: Any
) -> Iterator[tuple[Callable[[], None], TrainState]]:
    """The third step, whose batch is there already and which is not logged, and its state."""
    with tempfile.TemporaryDirectory() as folder, use(backend):
        config = replace(config_of(name, precision, device, Path(folder), size), log_every=100, **changes)
        source = data(size)
        state = initial_state(config, source)
        batches = [{site: rows.to(device) for site, rows in batch.items()} for batch in _batches(source, config)]
        for batch in batches[:2]:
            _step(state, batch, config)
        yield lambda: _step(state, batches[2], config), state


def _batches(source: MemorySource, config: TrainConfig) -> Iterator[dict[str, Tensor]]:
    sites = {name: Site.parse(name) for name in (config.site, config.target_site) if name is not None}
    for batch in source.batches_of(list(sites.values()), config.batch_size):
        yield {name: batch[site] for name, site in sites.items()}


def _step(state: TrainState, batch: dict[str, Tensor], config: TrainConfig) -> None:
    train_step(state, batch[config.site], config, target=batch.get(config.target_site or ""))


def _weights(state: TrainState) -> dict[str, Tensor]:
    return {name: weights.detach().cpu().double() for name, weights in state.sae.named_parameters()}


Case = Callable[[str, str], str]


def of_every_variant(
    case: Callable[..., str],
    sizes: Sequence[Size],
    *,
    names: Sequence[str] = tuple(SETTINGS),
    precisions: Sequence[str] = ("float32", "bfloat16"),
) -> dict[str, Case]:
    """The case for each variant, in each precision and size."""
    return {
        f"{name}: {precision} {'x'.join(map(str, size))}": partial(case, name=name, precision=precision, size=size)
        for size in sizes
        for precision in precisions
        for name in names
    }
