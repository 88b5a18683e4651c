"""Several processes that train one SAE: who holds which rows and which latents, and what they add up.

A single process is a ``Group``, for which every sum is its own. Several are a ``Grid`` with the same methods:
some hold other rows of the batch (data parallel), some other latents (each has d_sae / latent_shards of them), or both.

Each process differentiates its share of the loss, and the shares add up to the loss: so the gradient of a weight is the
sum over the processes that hold it, whichever way the work was divided.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.linalg import vector_norm


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
