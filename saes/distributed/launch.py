"""How several processes that train one SAE find each other, and leave when one of them fails."""

import atexit
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from interp import processes
from saes.distributed.group import ALONE, Group


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
        ValueError: another process failed, and the message is its own, or it ended without one.
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
        if isinstance(error, RuntimeError) and job.size > 1:  # gloo and nccl only say that another process has gone
            if reason:
                raise ValueError(reason) from error
            if isinstance(error, dist.DistError) or "gloo" in str(error):
                raise ValueError(job.lost("another process")) from error
        raise


def _leave() -> None:
    if processes.current().size > 1 and dist.is_initialized():
        dist.destroy_process_group()
