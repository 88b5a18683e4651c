"""Which backend multiplies: by the device of the tensors, or as asked for with ``use``.

A backend is a module with four functions. Latents' weights are rows of a ``table`` [d_sae, d]: W_enc transposed, or
W_dec. The encoder needs ``top``, the decoder ``gather_sum``; the gradients are the other two and ``gather_sum`` again.
"""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

NAMES = ("reference", "cpu", "gpu")
_HALF_OR_SINGLE = (torch.float32, torch.float16, torch.bfloat16)
_asked: list[str] = []


@runtime_checkable
class Backend(Protocol):
    """What every backend computes, as ``saes.kernels.reference`` does."""

    def top(
        self, x: Float[Tensor, "n d"], table: Float[Tensor, "d_sae d"], bias: Float[Tensor, " d_sae"] | None, k: int
    ) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
        """The k largest entries of each row of ``x @ table.T + bias``, in any order, and where they are.

        Among equals any may be taken. A row whose products are NaN has NaN among its values.
        """
        ...

    def gather_sum(
        self, indices: Int[Tensor, "n k"], weights: Float[Tensor, "n k"], table: Float[Tensor, "d_sae d"]
    ) -> Float[Tensor, "n d"]:
        """For each row the weighted sum of the table's rows at ``indices``."""
        ...

    def gather_dot(
        self, indices: Int[Tensor, "n k"], rows: Float[Tensor, "n d"], table: Float[Tensor, "d_sae d"]
    ) -> Float[Tensor, "n k"]:
        """For each row its products with the table's rows at ``indices``."""
        ...

    def sum_by_latent(
        self, indices: Int[Tensor, "n k"], weights: Float[Tensor, "n k"], rows: Float[Tensor, "n d"], d_sae: int
    ) -> Float[Tensor, "d_sae d"]:
        """For each latent the weighted sum of the rows that name it in ``indices``: ``gather_sum`` transposed."""
        ...


def backend_for(table: Tensor) -> Backend:
    """The backend for a table: ``cpu`` and ``gpu`` (Triton) on their devices, ``reference`` elsewhere.

    Raises ValueError where ``use`` asked for Triton and it is not installed.
    """
    name = _asked[-1] if _asked else _by_device(table)
    if name == "gpu" and not _has_triton():
        raise ValueError("the gpu backend needs Triton, which is not installed: pip install 'deepfield[gpu]'")
    return cast(Backend, import_module(f"saes.kernels.{name}"))


@contextmanager
def use(name: str) -> Iterator[None]:
    """Inside, the backend ``name`` computes everything, whatever the device and the thread (backward has its own).

    Raises ValueError where there is none of that name.
    """
    if name not in NAMES:
        raise ValueError(f"there is no backend {name!r}; there are {', '.join(NAMES)}")
    _asked.append(name)
    try:
        yield
    finally:
        _asked.pop()


def _by_device(table: Tensor) -> str:
    if table.device.type == "cpu":
        return "cpu"
    return "gpu" if table.is_cuda and table.dtype in _HALF_OR_SINGLE and _has_triton() else "reference"


@cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None
