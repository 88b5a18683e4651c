"""Awkward cases that every backend is held to, as data: the tests run them, and ``benchmarks/gpu_checks.py`` on a card.

A case takes a backend, makes its tensors on torch's default device, and fails by AssertionError.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from saes.kernels import reference
from saes.kernels.backend import Backend
from saes.kernels.decode import decode
from saes.kernels.encode import pre_activations

Shape = tuple[int, int, int, int]
# n, d, d_sae, k: no size a multiple of a tile; one latent, all of them; a single row; several tiles of every kind.
SHAPES: list[Shape] = [
    (5, 17, 40, 3),
    (1, 1, 1, 1),
    (3, 7, 20, 20),
    (70, 9, 300, 1),
    (4, 33, 257, 16),
    (2, 520, 130, 40),
]
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
PRODUCTS = ("gather_sum", "gather_dot", "sum_by_latent")


def normal(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """The same numbers on every device."""
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), device="cpu")
    return drawn.to(torch.get_default_device(), dtype)


def distinct(n: int, k: int, d_sae: int) -> Tensor:
    """Other latents in every row, with latent 0 in each of them."""
    drawn = torch.rand(n, d_sae, generator=torch.Generator().manual_seed(3), device="cpu")
    drawn[:, 0] = 2
    return drawn.topk(k, dim=-1).indices.to(torch.get_default_device())


def close(actual: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    """Equal up to the rounding of ``dtype``, relative to the largest number."""
    assert actual.dtype == dtype
    scale = max(1.0, float(expected.detach().abs().max()) if expected.numel() else 0.0)
    torch.testing.assert_close(actual.float(), expected.float(), rtol=0, atol=TOLERANCE[dtype] * scale)


def check_top(found: tuple[Tensor, Tensor], x: Tensor, table: Tensor, bias: Tensor | None, k: int) -> None:
    """Distinct latents whose exact products are the k largest, with the values that belong to them."""
    values, indices = found
    assert (values.shape, values.dtype) == ((len(x), k), x.dtype)
    exact = x.double() @ table.double().T + (0 if bias is None else bias.double())
    assert all(len(set(row)) == k for row in indices.tolist())
    at = exact.gather(1, indices)
    close(values, at, x.dtype)
    close(at.sort(-1).values.to(x.dtype), exact.topk(k).values.sort(-1).values, x.dtype)


def top(backend: Backend, shape: Shape, dtype: torch.dtype, *, with_bias: bool) -> None:
    """Random operands."""
    n, d, d_sae, k = shape
    x, table = normal(n, d, seed=0, dtype=dtype), normal(d_sae, d, seed=1, dtype=dtype)
    bias = normal(d_sae, seed=2, dtype=dtype) if with_bias else None
    check_top(backend.top(x, table, bias, k), x, table, bias, k)


def sparse_product(backend: Backend, shape: Shape, dtype: torch.dtype, *, name: str) -> None:
    """Some slots are empty (weight 0), and every row names latent 0."""
    n, d, d_sae, k = shape
    indices, weights = distinct(n, k, d_sae), normal(n, k, seed=4, dtype=dtype)
    weights[:, -1] = 0
    rows, table = normal(n, d, seed=0, dtype=dtype), normal(d_sae, d, seed=1, dtype=dtype)
    arguments = {
        "gather_sum": (indices, weights, table),
        "gather_dot": (indices, rows, table),
        "sum_by_latent": (indices, weights, rows, d_sae),
    }[name]
    close(getattr(backend, name)(*arguments), getattr(reference, name)(*arguments), dtype)


def top_with_ties(backend: Backend) -> None:
    """Whole numbers, so that sums are exact: most values are equal, and which of them is taken does not matter."""
    x, table = normal(9, 6, seed=0).round(), normal(300, 6, seed=1).round()
    check_top(backend.top(x, table, None, 40), x, table, None, 40)


def top_where_one_tile_holds_all(backend: Backend) -> None:
    """The largest latents are neighbours: no share of a tile would be enough."""
    x, table = normal(6, 8, seed=0).abs(), normal(700, 8, seed=1)
    table[300:330] = table[300:330].abs() + 5
    check_top(backend.top(x, table, None, 24), x, table, None, 24)


def top_of_rows_of_zeros(backend: Backend) -> None:
    """Every product is 0, or the bias."""
    x, table, bias = torch.zeros(3, 5), normal(140, 5, seed=1), normal(140, seed=2)
    for b in (None, bias):
        check_top(backend.top(x, table, b, 7), x, table, b, 7)


def no_rows(backend: Backend) -> None:
    """Every function returns as many."""
    x, table = torch.zeros(0, 5), normal(140, 5, seed=1)
    values, indices = backend.top(x, table, None, 7)
    assert (values.shape, indices.shape) == ((0, 7), (0, 7))
    assert backend.gather_sum(indices, values, table).shape == (0, 5)
    assert not backend.sum_by_latent(indices, values, x, 140).any()


def a_nan_row_gives_nan_and_spoils_no_other(backend: Backend) -> None:
    """The trainer turns it into an error that names the step; see also test_training."""
    x, table = normal(5, 6, seed=0), normal(300, 6, seed=1)
    x[2, 3] = torch.nan
    values, indices = backend.top(x, table, None, 4)
    assert values[2].isnan().any()
    assert ((indices >= 0) & (indices < 300)).all()
    rest = [0, 1, 3, 4]
    check_top((values[rest], indices[rest]), x[rest], table, None, 4)


def gradients_are_those_of_the_dense_products(backend: Backend, dtype: torch.dtype) -> None:
    """Through ``top`` and ``decode``, to x, W_enc, b_enc, b_dec and W_dec."""
    n, d, d_sae, k = 7, 10, 200, 5
    weights = {
        "x": normal(n, d, seed=0, dtype=dtype),
        "W_enc": normal(d_sae, d, seed=1, dtype=dtype).T,
        "b_enc": normal(d_sae, seed=2, dtype=dtype),
        "b_dec": normal(d, seed=3, dtype=dtype),
        "W_dec": normal(d_sae, d, seed=4, dtype=dtype),
    }
    target = normal(n, d, seed=5)

    def sparse(w: dict[str, Tensor]) -> Tensor:
        values, indices = pre_activations(w["x"], w["W_enc"], w["b_enc"], w["b_dec"]).top(k)
        return decode(values.relu(), indices, w["W_dec"])

    chosen = pre_activations(*(weights[name] for name in ("x", "W_enc", "b_enc", "b_dec"))).top(k)[1]

    def dense(w: dict[str, Tensor]) -> Tensor:
        pre = (w["x"] - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
        kept = torch.zeros_like(pre).scatter(1, chosen, 1.0)
        return (pre.relu() * kept) @ w["W_dec"]

    def gradients(function: Callable[[dict[str, Tensor]], Tensor], wide: bool) -> dict[str, Tensor]:
        leaves = {name: (w.float() if wide else w).detach().requires_grad_() for name, w in weights.items()}
        ((function(leaves).float() - target) ** 2).mean().backward()
        assert all(w.grad is not None for w in leaves.values())
        return {name: w.grad for name, w in leaves.items() if w.grad is not None}

    actual, expected = gradients(sparse, False), gradients(dense, True)
    for name, gradient in expected.items():
        close(actual[name], gradient, dtype)


def selection_is_the_same_under_autocast(backend: Backend) -> None:
    """Products in bfloat16, weights and what comes out of the decoder in float32, and a gradient for all."""
    x, W_enc = normal(6, 16, seed=0), normal(400, 16, seed=1).T.detach().requires_grad_()
    W_dec = normal(400, 16, seed=2).requires_grad_()
    with torch.autocast(x.device.type, torch.bfloat16):
        values, indices = pre_activations(x, W_enc, None, None).top(4)
        output = decode(values.relu(), indices, W_dec)
    assert (values.dtype, output.dtype) == (torch.bfloat16, torch.float32)
    check_top((values, indices), x.bfloat16(), W_enc.T.bfloat16(), None, 4)
    output.square().mean().backward()
    assert W_enc.grad is not None
    assert W_enc.grad.dtype == torch.float32
    assert W_enc.grad.any(dim=0).sum() > 4


def of_shapes(shapes: list[Shape]) -> dict[str, Callable[[Backend], None]]:
    """Each function of a backend on random operands of each shape, in each dtype."""
    cases: dict[str, Callable[[Backend], None]] = {}
    for dtype in TOLERANCE:
        for shape in shapes:
            place = f"{'x'.join(map(str, shape))} {str(dtype).removeprefix('torch.')}"
            for with_bias in (True, False):
                name = f"top {place} {'with' if with_bias else 'without'} bias"
                cases[name] = partial(top, shape=shape, dtype=dtype, with_bias=with_bias)
            for product in PRODUCTS:
                cases[f"{product} {place}"] = partial(sparse_product, shape=shape, dtype=dtype, name=product)
    return cases


CASES: dict[str, Callable[[Backend], None]] = {
    **of_shapes(SHAPES),
    "top with ties": top_with_ties,
    "top where one tile holds all": top_where_one_tile_holds_all,
    "top of rows of zeros": top_of_rows_of_zeros,
    "no rows": no_rows,
    "a nan row": a_nan_row_gives_nan_and_spoils_no_other,
    **{
        f"gradients {str(dtype).removeprefix('torch.')}": partial(
            gradients_are_those_of_the_dense_products, dtype=dtype
        )
        for dtype in TOLERANCE
    },
    "selection under autocast": selection_is_the_same_under_autocast,
}
"""Name -> case; the name's first word says what computes."""
