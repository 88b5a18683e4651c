"""Several processes that train one SAE: who holds which rows and which latents, and what they add up.

A single process is a ``Group``, for which every sum is its own. Several are a ``Grid`` with the same methods:
some hold other rows of the batch (data parallel), some other latents (each has d_sae / latent_shards of them), or both.

Each process differentiates its share of the loss, and the shares add up to the loss: so the gradient of a weight is the
sum over the processes that hold it, whichever way the work was divided.
"""

import atexit
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.linalg import vector_norm

from interp import processes


class Group:
    """One process that trains alone; ``Grid`` says the same of several."""

    leads: bool = True
    """Whether this is the process that writes what is written once."""
    latent_shards: int = 1

    def rows(self, batch: Float[Tensor, "n d"]) -> Float[Tensor, "mine d"]:
        """This process's rows of a batch."""
        return batch

    def shares(self, means: Float[Tensor, " terms"], mine: int, rows: int) -> Float[Tensor, " terms"]:
        """This process's share of means over a batch of ``rows``, from the means over its own ``mine``."""
        return means

    def total(self, shares: Tensor) -> Tensor:
        """Sum over all processes."""
        return shares

    def first_latent(self, d_sae: int) -> int:
        """Index, in the whole SAE, of this process's first of ``d_sae`` latents."""
        return 0

    def own(
        self, indices: Int[Tensor, "n k"], kept: Bool[Tensor, "n k"], d_sae: int
    ) -> tuple[Int[Tensor, "n k"], Bool[Tensor, "n k"]]:
        """Of slots that name latents of the whole SAE: the index among this process's ``d_sae``, and whether it is."""
        return indices, kept

    def over_rows(self, partial: Tensor) -> Tensor:
        """Sum over the processes that hold other rows."""
        return partial

    def over_latents(self, partial: Tensor) -> Tensor:
        """Sum over the processes that hold other latents, differentiable.

        All of them must compute the same with it afterwards: the gradient relies on that.
        """
        return partial

    def row_norm(self, slots: Float[Tensor, "n k_max"]) -> Float[Tensor, " n"]:
        """Norm of each row over the latents of all processes; at a row of zeros its gradient is 0."""
        return vector_norm(slots, dim=-1)

    def count(self, mine: int) -> int:
        """``total`` of a number."""
        return mine

    def mean(self, rows: Tensor) -> Tensor:
        """Mean over the first dimension, of the rows of all processes."""
        return rows.mean(0)

    def smallest(self, values: Tensor) -> Tensor:
        """The smallest value on any process; infinity where none has any."""
        return values.min() if values.numel() else values.new_tensor(torch.inf)

    def everywhere(self, values: Float[Tensor, " mine"]) -> Float[Tensor, " all"]:
        """The values of all processes, one after another; each may bring another number."""
        return values

    def beside(self, values: Tensor) -> Tensor:
        """Along the last dimension, the values of the processes that hold other latents: [n, m] to [n, shards * m]."""
        return values

    def keep_largest(self, values: Float[Tensor, "*n m"], k: int) -> Float[Tensor, "*n m"]:
        """Zero what is not among the ``k`` largest of its row over all latents; a process brings its own m <= k."""
        return values

    def sum_gradients(self, module: nn.Module) -> None:
        """Give every weight the gradient of the whole loss."""

    def gradient_norm(self, module: nn.Module) -> Float[Tensor, ""]:
        """Norm of all gradients together."""
        return nn.utils.get_total_norm([p.grad for p in module.parameters() if p.grad is not None])

    def agree(self, numbers: Sequence[float]) -> list[float]:
        """The leader's numbers."""
        return list(numbers)

    def part(self, name: str, whole: Tensor) -> Tensor:
        """This process's part of a weight ``name`` (or of a moment of it) that the leader holds, laid out as that is.

        On the other processes only its shape, dtype and layout in memory count.
        """
        return whole

    def whole(self, name: str, local: Tensor) -> Tensor:
        """What ``part`` divided, on every process, in main memory where there are several."""
        return local


ALONE = Group()


def arrange(*, latent_shards: int, d_sae: int) -> Group:
    """The group of the processes that torchrun started, or ``ALONE``.

    Raises:
        ValueError: processes, or latents, cannot be divided evenly.
    """
    job = processes.current()
    if job.size % latent_shards:
        raise ValueError(
            f"latent_shards is {latent_shards}, which does not divide the {job.size} processes of this run: start a"
            f" multiple of {latent_shards} with torchrun --nproc-per-node, or leave latent_shards at 1"
        )
    if d_sae % latent_shards:
        lower = d_sae // latent_shards * latent_shards
        raise ValueError(
            f"d_sae is {d_sae}, which latent_shards = {latent_shards} does not divide: every process holds as many"
            f" latents; choose {lower or latent_shards} or {lower + latent_shards}"
        )
    if job.size == 1:
        return ALONE
    from saes.distributed.grid import Grid  # a third of a second that one process need not wait for

    mesh = _mesh(job.size // latent_shards, latent_shards)
    return Grid(mesh=mesh, leads=job.leads, latent_shards=latent_shards)


@cache
def _mesh(rows: int, latents: int) -> DeviceMesh:
    """Connects the processes, once for each arrangement. Bad news does not travel while they connect, so all wait."""
    job, device = processes.current(), processes.default_device()
    job.wait_for_all()
    if not dist.is_initialized():
        if device is not None:
            torch.cuda.set_device(device)
        backend = "gloo" if device is None else "cpu:gloo,cuda:nccl"
        dist.init_process_group(backend, store=job.store("tensors"), rank=job.rank, world_size=job.size)
        atexit.register(_leave)
    mesh = init_device_mesh("cpu" if device is None else "cuda", (rows, latents), mesh_dim_names=("rows", "latents"))
    job.wait_for_all()
    return mesh


@contextmanager
def one_for_all() -> Iterator[None]:
    """Inside, an error on one process ends all: the others raise it too, where they wait for that process.

    Raises:
        ValueError: another process failed; the message is its own.
    """
    job = processes.current()
    try:
        with job.telling_others():
            yield
        job.wait_for_all()
    except BaseException as error:
        reason = job.failed_elsewhere()
        _leave()  # so that the others' sums fail at once
        job.linger()
        if reason and isinstance(error, RuntimeError):  # gloo and nccl only say that another process has gone
            raise ValueError(reason) from error
        raise


def _leave() -> None:
    if processes.current().size > 1 and dist.is_initialized():
        dist.destroy_process_group()
