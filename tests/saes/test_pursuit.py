"""Gradient pursuit against answers that are known: orthonormal atoms, single rows, planted codes, the paper's code."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from saes.pursuit import gradient_pursuit


def reconstruct(latents: object, W_dec: Tensor) -> Tensor:
    return latents.to_dense() @ W_dec  # type: ignore[attr-defined]


def planted(n: int, d: int, atoms: int, active: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    dictionary = functional.normalize(torch.randn(atoms, d, generator=generator, dtype=torch.float64), dim=-1)
    chosen = torch.rand(n, atoms, generator=generator).topk(active, dim=-1).indices
    values = 0.5 + torch.rand(n, active, generator=generator, dtype=torch.float64)
    return torch.zeros(n, atoms, dtype=torch.float64).scatter(-1, chosen, values) @ dictionary, dictionary


def paper_pursuit(s: Tensor, D: Tensor, l0: int) -> Tensor:
    """One row, written out from the paper's code with a dense code vector. d-sized, slow, NaN once r is 0."""
    w = torch.zeros(len(D), dtype=s.dtype)
    for _ in range(l0):
        r = s - w @ D
        p = r @ D.T
        support = w != 0
        support[p.argmax()] = True
        g = p * support
        c = g @ D
        w = (w + (c @ r) / (c @ c) * g).clamp_min(0)
    return w


def test_orthonormal_atoms_give_the_largest_codes() -> None:
    """D6 (i)."""
    d, n = 16, 60
    generator = torch.Generator().manual_seed(1)
    basis = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64)).Q
    codes = torch.rand(n, d, generator=generator, dtype=torch.float64)
    l0 = torch.randint(1, d - 2, (n,), generator=generator)
    found = gradient_pursuit(codes @ basis, basis, l0).to_dense()
    rank = codes.argsort(dim=-1, descending=True).argsort(dim=-1)
    assert (found - codes * (rank < l0[:, None])).abs().max() < 1e-12


def test_a_batch_is_its_rows_one_at_a_time() -> None:
    """D6 (ii), and each row is what the paper's code gives."""
    x, dictionary = planted(40, 24, 96, 5)
    l0 = torch.randint(1, 9, (40,), generator=torch.Generator().manual_seed(2))
    together = gradient_pursuit(x, dictionary, l0, batch_rows=7).to_dense()
    for i in range(40):
        alone = gradient_pursuit(x[i : i + 1], dictionary, int(l0[i])).to_dense()[0]
        assert (together[i] - alone).abs().max() < 1e-12
        assert (together[i] - paper_pursuit(x[i], dictionary, int(l0[i]))).abs().max() < 1e-9


def test_rows_that_are_exactly_represented_stay_finite() -> None:
    """D6 (iii): the paper's code divides 0 by 0."""
    x = torch.eye(4)[:1]
    assert paper_pursuit(x[0], torch.eye(4), 3).isnan().all()
    assert torch.equal(gradient_pursuit(x, torch.eye(4), 3).to_dense(), x)
    assert torch.equal(gradient_pursuit(torch.zeros(2, 4), torch.eye(4), 3).to_dense(), torch.zeros(2, 4))


def test_planted_sparse_codes_are_found() -> None:
    """D6 (iv): 8 of 512 atoms in 64 dimensions; the error falls with every step, and far below a tied encoder's."""
    x, dictionary = planted(200, 64, 512, 8)
    errors = []
    for l0 in range(1, 9):
        found = gradient_pursuit(x, dictionary, l0)
        assert int(found.l0.max()) <= l0
        errors.append((x - reconstruct(found, dictionary)).norm(dim=-1))
    assert (torch.stack(errors).diff(dim=0) <= 1e-12).all()
    scores = x @ dictionary.T
    top = scores.topk(8, dim=-1)
    tied = torch.zeros_like(scores).scatter(-1, top.indices, top.values) @ dictionary
    relative = errors[-1].square().sum() / x.square().sum()
    assert relative < 0.02
    assert relative < 0.1 * (x - tied).square().sum() / x.square().sum()


def test_bias_and_length_of_the_atoms_do_not_change_the_reconstruction() -> None:
    x, dictionary = planted(30, 24, 96, 5)
    bias = torch.linspace(-1, 1, 24, dtype=torch.float64)
    lengths = torch.linspace(0.1, 5, 96, dtype=torch.float64)[:, None]
    plain = reconstruct(gradient_pursuit(x, dictionary, 5), dictionary)
    found = gradient_pursuit(x + bias, lengths * dictionary, 5, b_dec=bias)
    torch.testing.assert_close(reconstruct(found, lengths * dictionary), plain, rtol=0, atol=1e-9)


def test_atoms_of_length_zero_are_never_chosen() -> None:
    dictionary = torch.cat([torch.zeros(1, 4), torch.eye(4)])
    found = gradient_pursuit(torch.tensor([[1.0, 2.0, 0.0, 0.0]]), dictionary, 3).to_dense()
    assert torch.equal(found, torch.tensor([[0.0, 1.0, 2.0, 0.0, 0.0]]))


def test_impossible_l0_is_refused() -> None:
    x = torch.ones(2, 4)
    with pytest.raises(ValueError, match="l0 runs from 9 to 9; it must lie in 0 to 4"):
        gradient_pursuit(x, torch.eye(4), 9)
    with pytest.raises(ValueError, match="l0 is of 3 rows, x has 2"):
        gradient_pursuit(x, torch.eye(4), torch.ones(3, dtype=torch.long))
    assert gradient_pursuit(x, torch.eye(4), 0).l0.tolist() == [0, 0]
