"""Top-AFA against its paper: the worked example, the traps, and the acceptance list F1 to F8 of the method."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from saes import SAE, Latents, TopAFA
from saes.kernels.encode import PreActivations
from saes.losses import TERMS, Pass, afa, run


def choose(pre: Tensor, x_centred: Tensor, *, W_dec: Tensor | None = None, sentinel: str = "safe") -> Latents:
    """Selection alone, with a decoder of unit rows unless one is given."""
    d_sae, d_in = pre.shape[1], x_centred.shape[1]
    sae = SAE(d_in, d_sae, TopAFA(sentinel), dtype=torch.float64)  # type: ignore[arg-type]
    with torch.no_grad():
        sae.W_dec.copy_(normalize(torch.ones(d_sae, d_in), dim=-1) if W_dec is None else W_dec)
    return sae.activation.select(sae, PreActivations(pre), x_centred)


def select(acts: list[float] | list[list[float]], target: float, *, sentinel: str = "safe") -> Latents:
    """Unit decoder, and an input of the norm ``target``."""
    pre = torch.atleast_2d(torch.tensor(acts, dtype=torch.float64))
    return choose(pre, torch.full((len(pre), 1), target, dtype=torch.float64), sentinel=sentinel)


def test_worked_example() -> None:
    """F1: the target there is ||acts @ W_dec|| and the sentinel 1e4."""
    acts = torch.tensor([[5.0, 4, 3], [1, 1, 1], [1, 10, 2]])
    W_dec = torch.tensor([[1.0, 2], [3, 4], [5, 6]])
    latents = choose(acts, acts @ W_dec, W_dec=W_dec, sentinel="parity")
    assert latents.l0.tolist() == [2, 2, 2]
    assert latents.to_dense().tolist() == [[0, 4, 3], [0, 1, 1], [0, 10, 2]]


@pytest.mark.parametrize(("contributions", "k"), [([81, 39, 4, 1], 2), ([81, 60, 4, 1], 1)])
def test_nearest_in_norm(contributions: list[int], k: int) -> None:
    """F2, traps 1 and 2: the squared norm would give 1 for the first, first-to-exceed 2 for the second."""
    assert select([c**0.5 for c in contributions], 10.0).l0.tolist() == [k]


def test_sentinel_of_a_massive_input() -> None:
    """F3, trap 3: an input of norm 6,000 makes the paper's sentinel keep every latent."""
    acts = (10 * torch.distributions.Exponential(1.0).sample((100,))).tolist()
    assert select(acts, 6000.0, sentinel="parity").l0.item() == 100
    assert select(acts, 6000.0).values.shape[1] == 99
    some = [*acts[:40], *[-a for a in acts[40:]]]
    assert select(some, 6000.0).l0.item() == 40


def test_no_positive_latent() -> None:
    """F3: L0 0, finite output and gradient."""
    sae = random_sae()
    with torch.no_grad():
        sae.W_enc.zero_()
    x = torch.randn(4, 8, dtype=torch.float64)
    latents = sae.encode(x)
    assert latents.l0.tolist() == [0] * 4
    loss = sae.decode(latents).square().mean() + afa(forward(sae, x))
    loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in sae.parameters())


def forward(sae: SAE, x: Tensor) -> Pass:
    return run(sae, x, x, torch.zeros(sae.d_sae, dtype=torch.bool))


def random_sae(*, d_in: int = 8, d_sae: int = 24) -> SAE:
    sae = SAE(d_in, d_sae, TopAFA(), dtype=torch.float64)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        sae.W_enc.copy_(torch.randn(d_in, d_sae, generator=generator))
        sae.W_dec.copy_(torch.randn(d_sae, d_in, generator=generator))
    return sae


def test_invariances() -> None:
    """F4: the scale of the input, and of a latent's encoder against its decoder, change no selection."""
    sae, x = random_sae(), torch.randn(32, 8, dtype=torch.float64)
    mask, output = sae.encode(x).to_dense() != 0, sae(x)
    assert torch.equal(sae.encode(7.3 * x).to_dense() != 0, mask)
    scale = torch.rand(24, dtype=torch.float64) * 3 + 0.2
    with torch.no_grad():
        sae.W_dec.mul_(scale[:, None])
        sae.W_enc.div_(scale)
    assert torch.equal(sae.encode(x).to_dense() != 0, mask)
    torch.testing.assert_close(sae(x), output)
    without = choose(sae.pre_activations(x).detach(), x)
    assert not torch.equal(without.to_dense() != 0, mask)


def test_exact_on_an_orthonormal_dictionary() -> None:
    """F5: six non-negative codes come back exactly."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(64, 64, generator=generator, dtype=torch.float64)).Q
    codes = torch.zeros(50, 64, dtype=torch.float64)
    for row in codes:
        row[torch.randperm(64, generator=generator)[:6]] = 0.5 + torch.rand(6, generator=generator).double()
    sae = SAE(64, 64, TopAFA(), dtype=torch.float64)
    with torch.no_grad():
        sae.W_dec.copy_(basis)
        sae.W_enc.copy_(basis.T)
    latents = sae.encode(codes @ basis)
    assert latents.l0.tolist() == [6] * 50
    torch.testing.assert_close(latents.to_dense(), codes, rtol=0, atol=1e-12)


def test_adapts_to_each_row() -> None:
    """F6: rows of 4, 16 and 48 features in one batch get about as many latents each, and the target's norm."""
    generator = torch.Generator().manual_seed(0)
    dictionary = normalize(torch.randn(1024, 256, generator=generator, dtype=torch.float64), dim=-1)
    sizes = torch.tensor([4, 16, 48]).repeat_interleave(100)
    codes = torch.zeros(300, 1024, dtype=torch.float64)
    for row, size in zip(codes, sizes, strict=True):
        chosen = torch.randperm(1024, generator=generator)[:size]
        row[chosen] = 1 - 0.3 * torch.rand(int(size), generator=generator).log().double()
    x = codes @ dictionary
    oracle = choose(codes, x).l0.double()
    for size, expected in ((4, 3.9), (16, 15.1), (48, 45.0)):
        assert float(oracle[sizes == size].mean()) == pytest.approx(expected, rel=0.05)
    tied = choose(x @ dictionary.T, x)
    for size, expected in ((4, 4), (16, 13), (48, 24)):
        assert abs(float(tied.l0[sizes == size].median()) - expected) <= 2
    assert float((tied.values.norm(dim=-1) / x.norm(dim=-1)).mean()) == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("active", [2, 8, 32, 128])
def test_bound_on_the_norm(active: int) -> None:
    """F7: | ||Df||^2 - ||f||^2 | <= mu (s - 1) ||f||^2, with mu the dictionary's coherence."""
    generator = torch.Generator().manual_seed(active)
    dictionary = normalize(torch.randn(512, 128, generator=generator, dtype=torch.float64), dim=-1)
    mu = float((dictionary @ dictionary.T - torch.eye(512)).abs().max())
    for _ in range(50):
        f = torch.zeros(512, dtype=torch.float64)
        f[torch.randperm(512, generator=generator)[:active]] = torch.randn(active, generator=generator).double()
        gap = abs(float((f @ dictionary).square().sum() - f.square().sum()))
        assert gap <= mu * (active - 1) * float(f.square().sum())


def test_loss_and_centre() -> None:
    """F8: at x = b_dec nothing is active; the paper's loss compares with the raw norm, the centred one is 0."""
    sae = random_sae()
    with torch.no_grad():
        sae.b_dec.copy_(3 * normalize(torch.ones(8, dtype=torch.float64), dim=0))
    x = sae.b_dec.detach().expand(5, 8).clone()
    latents = sae.encode(x)
    assert latents.l0.tolist() == [0] * 5
    assert afa(forward(sae, x)).item() == pytest.approx(9.0)
    assert TERMS["afa_centred"](forward(sae, x)).item() == 0.0


def test_loss_gradient_only_through_kept_latents() -> None:
    """F8."""
    sae, x = random_sae(), torch.randn(1, 8, dtype=torch.float64)
    latents = sae.encode(x)
    afa(forward(sae, x)).backward()
    assert sae.W_enc.grad is not None
    reached = sae.W_enc.grad.abs().sum(0) > 0
    assert torch.equal(reached, latents.to_dense()[0] != 0)


def test_half_precision_input_selects_as_float32() -> None:
    """Trap 10: a cumulative sum in bfloat16 stands still long before thousands of terms."""
    pre = torch.rand(4, 4096, generator=torch.Generator().manual_seed(0)).bfloat16()
    x = torch.full((4, 1), 20.0)
    assert torch.equal(choose(pre, x).l0, choose(pre.float(), x).l0)
