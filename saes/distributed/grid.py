"""Several processes as a grid: along one of its sides they share the rows of a batch, along the other the latents.

Weights are described by ``torch.distributed.tensor``, replicated or sharded over latents; what is computed with is the
local part of each, a plain tensor, so that kernels and the optimizer are those of a single process.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard, distribute_tensor

from saes.distributed.group import Group

LATENT_DIMENSION = {"W_enc": 1, "b_dec": None, "W_skip": None, "silent": -1}
"""Which dimension of a weight counts latents; 0 for those not named here, None where none does."""


def latent_dimension(name: str, tensor: Tensor) -> int | None:
    """The dimension of the weight ``name``, of its gradient or its moments, that counts latents."""
    dimension = LATENT_DIMENSION.get(name.rpartition(".")[2], 0) if tensor.ndim else None  # "parts.0.W_enc" too
    return None if dimension is None else dimension % tensor.ndim


@dataclass(frozen=True, kw_only=True)
class Grid(Group):
    """Several processes: rows of the batch are shared along one side of the mesh, latents along the other."""

    mesh: DeviceMesh
    """Which process has which rows and latents."""
    leads: bool
    """Whether this process writes files and logs."""
    latent_shards: int
    """How many processes share the latents."""

    def rows(self, batch: Float[Tensor, "n d"]) -> Float[Tensor, "mine d"]:
        """Contiguous rows; numbers differ by at most one, and a process has none where there are too few."""
        place, parts = self.mesh.get_local_rank("rows"), self.mesh.size(0)
        return batch[len(batch) * place // parts : len(batch) * (place + 1) // parts]

    def shares(self, means: Float[Tensor, " terms"], mine: int, rows: int) -> Float[Tensor, " terms"]:
        """See ``Group``. Processes that share latents compute the same means, so each counts for its part."""
        if not mine:  # the mean over no rows is not a number
            means = means.nan_to_num()
        return means * (mine / rows / self.latent_shards)

    def total(self, shares: Tensor) -> Tensor:
        """See ``Group``; has no gradient."""
        return _summed(shares, None)

    def first_latent(self, d_sae: int) -> int:
        """See ``Group``."""
        return self.mesh.get_local_rank("latents") * d_sae

    def own(
        self, indices: Int[Tensor, "n k"], kept: Bool[Tensor, "n k"], d_sae: int
    ) -> tuple[Int[Tensor, "n k"], Bool[Tensor, "n k"]]:
        """See ``Group``."""
        local = indices - self.first_latent(d_sae)
        mine = (local >= 0) & (local < d_sae)
        return local.where(mine, 0), kept & mine

    def over_rows(self, partial: Tensor) -> Tensor:
        """See ``Group``; has no gradient."""
        return _summed(partial, self.mesh.get_group("rows"))

    def over_latents(self, partial: Tensor) -> Tensor:
        """See ``Group``; summed in float32 at least."""
        if self.latent_shards == 1:
            return partial
        return _SumOverLatents.apply(partial, self.mesh.get_group("latents"), self.latent_shards)

    def row_norm(self, slots: Float[Tensor, "n k_max"]) -> Float[Tensor, " n"]:
        """See ``Group``."""
        if self.latent_shards == 1:
            return super().row_norm(slots)
        squares = slots.to(torch.promote_types(slots.dtype, torch.float32)).square()
        # The gradient of a square root at 0 is NaN, that of the bound is 0.
        return self.over_latents(squares.sum(-1)).clamp_min(torch.finfo(squares.dtype).tiny).sqrt()

    def count(self, mine: int) -> int:
        """See ``Group``."""
        return int(_summed(torch.tensor(mine, device=self.mesh.device_type), None))

    def mean(self, rows: Tensor) -> Tensor:
        """See ``Group``."""
        return self.over_rows(rows.sum(0)) / self.over_rows(rows.new_tensor(len(rows)))

    def smallest(self, values: Tensor) -> Tensor:
        """See ``Group``."""
        least = super().smallest(values).float()
        dist.all_reduce(least, dist.ReduceOp.MIN)
        return least

    def everywhere(self, values: Float[Tensor, " mine"]) -> Float[Tensor, " all"]:
        """See ``Group``."""
        numbers = _gathered(torch.tensor(len(values), device=values.device), None)
        longest = int(max(numbers))
        padded = values.new_zeros(longest)
        padded[: len(values)] = values
        return torch.cat([part[:n] for part, n in zip(_gathered(padded, None), numbers, strict=True)])

    def beside(self, values: Tensor) -> Tensor:
        """See ``Group``; has no gradient."""
        if self.latent_shards == 1:
            return values
        return torch.cat(_gathered(values, self.mesh.get_group("latents")), dim=-1)

    def keep_largest(self, values: Float[Tensor, "*n m"], k: int) -> Float[Tensor, "*n m"]:
        """See ``Group``; the gradient reaches what is kept."""
        if self.latent_shards == 1:
            return values
        offered = values.new_full((*values.shape[:-1], k), -torch.inf)
        offered[..., : values.shape[-1]] = values.detach()
        every = self.beside(offered)
        kept = torch.zeros_like(every, dtype=torch.bool).scatter_(-1, every.topk(k, dim=-1).indices, True)
        mine = kept.unflatten(-1, (-1, k))[..., self.mesh.get_local_rank("latents"), : values.shape[-1]]
        return values * mine

    def sum_gradients(self, module: nn.Module) -> None:
        """See ``Group``; a weight that got no gradient here, where there were no rows, may have one elsewhere."""
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                sharded = self.latent_shards > 1 and latent_dimension(name, parameter) is not None
                parameter.grad = _summed(gradient, self.mesh.get_group("rows") if sharded else None)

    def gradient_norm(self, module: nn.Module) -> Float[Tensor, ""]:
        """See ``Group``; replicated weights count once."""
        sharded: list[Tensor] = []
        replicated: list[Tensor] = []
        for name, parameter in module.named_parameters():
            if parameter.grad is not None:
                (replicated if latent_dimension(name, parameter) is None else sharded).append(parameter.grad)
        squares = [nn.utils.get_total_norm(gradients).square() for gradients in (sharded, replicated)]
        return (self.over_latents(squares[0]) + squares[1]).sqrt()

    def agree(self, numbers: Sequence[float]) -> list[float]:
        """See ``Group``."""
        shared = torch.tensor(numbers, dtype=torch.float64, device=self.mesh.device_type)
        dist.broadcast(shared, src=0)
        return shared.tolist()

    def part(self, name: str, whole: Tensor) -> Tensor:
        """See ``Group``."""
        local = distribute_tensor(whole, self.mesh, self._placements(name, whole)).to_local()
        dimension = latent_dimension(name, whole)
        like = whole if dimension is None else whole.narrow(dimension, 0, local.shape[dimension])
        return torch.empty_like(like).copy_(local)

    def whole(self, name: str, local: Tensor) -> Tensor:
        """See ``Group``."""
        described = DTensor.from_local(local, self.mesh, self._placements(name, local), run_check=False)
        return described.full_tensor().cpu()  # a GPU may hold a part, but not the whole

    def _placements(self, name: str, tensor: Tensor) -> list[Placement]:
        dimension = latent_dimension(name, tensor)
        return [Replicate(), Replicate() if dimension is None else Shard(dimension)]


def _summed(partial: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """A new tensor; of any layout, as long as memory is dense in it."""
    total = partial.clone()
    memory = total if total.is_contiguous() else total.mT  # W_enc lies transposed
    dist.all_reduce(memory, group=group)
    return total


def _gathered(values: Tensor, group: dist.ProcessGroup | None) -> list[Tensor]:
    values = values.contiguous()
    every = [torch.empty_like(values) for _ in range(dist.get_world_size(group))]
    dist.all_gather(every, values, group=group)
    return every


class _SumOverLatents(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, partial: Tensor, group: dist.ProcessGroup, shards: int) -> Tensor:
        ctx.shards, ctx.dtype = shards, partial.dtype
        wide = partial.to(torch.promote_types(partial.dtype, torch.float32)) if partial.is_floating_point() else partial
        return _summed(wide, group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        # Every process has the same gradient, of its own share of the loss; their sum is that of the loss.
        return (gradient * ctx.shards).to(ctx.dtype), None, None
