"""The split of an SAE's error against errors that were planted."""

import pytest
import torch
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score
from torch import Tensor

from interp import metrics
from saes.dark_matter import decompose, split_error
from saes.dark_matter.split.least_squares import NormalEquations
from saes.dark_matter.split.reconstructions import RowsInMemory


def data(n: int = 4000, d: int = 8, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def test_parts_add_up_to_the_error() -> None:
    x = data()
    x_hat = 0.7 * x + 0.2 * data(seed=1)
    split = decompose(x, x_hat, documents=torch.arange(4000) // 100)
    torch.testing.assert_close(split.linear_error + split.nonlinear_error, x - x_hat, rtol=0, atol=1e-5)
    assert (split.n_train, split.n_test) == (2400, 1600)
    assert split.fvu.n == split.r2_vector.n == 16


def test_shrinkage_is_linear_error() -> None:
    """An SAE that only shrinks: the whole error is linear in x, whatever the shrinkage."""
    x = data()
    split = decompose(x, 0.6 * x)
    assert split.r2_vector.value == pytest.approx(1.0, abs=1e-9)
    assert split.fvu.value == pytest.approx(0.16, rel=0.01)
    assert split.fvu_nonlinear.value == pytest.approx(0.0, abs=1e-9)


def test_planted_mixture_is_measured() -> None:
    """Error = 0.3 x + noise of variance 0.16: R² = 0.09 / 0.25, FVU 0.25, of which 0.16 is not linear."""
    x = data(40_000)
    split = decompose(x, 0.7 * x - 0.4 * data(40_000, seed=1))
    for estimate, expected in (
        (split.r2_vector, 0.36),
        (split.r2_vector_pooled, 0.36),
        (split.fvu, 0.25),
        (split.fvu_nonlinear, 0.16),
    ):
        assert abs(estimate.value - expected) < 5 * estimate.standard_error
        assert 0 < estimate.standard_error < 0.02


def test_introduced_error_is_not_linear() -> None:
    x = data(20_000)
    split = decompose(x, x - 0.5 * data(20_000, seed=1))
    assert split.r2_vector.value == pytest.approx(0.0, abs=0.01)
    assert split.fvu_nonlinear.value == pytest.approx(split.fvu.value, rel=0.01)


def test_norm_probe_predicts_the_squared_norm() -> None:
    """||e||² = w·x on data whose first coordinate is positive; the vector's direction is random."""
    x = data(20_000).abs()
    direction = torch.nn.functional.normalize(data(20_000, seed=1), dim=-1)
    split = decompose(x, x - direction * x[:, :1].sqrt())
    assert split.r2_norm.value == pytest.approx(1.0, abs=1e-6)
    assert split.r2_vector.value < 0.01


def test_intercept_matters_for_a_constant_error() -> None:
    x = data(20_000)
    constant = x - 5 - 0.1 * data(20_000, seed=1)
    assert decompose(x, constant).r2_vector.value < -1
    assert decompose(x, constant, fit_intercept=True).r2_vector.value == pytest.approx(0.0, abs=0.01)


def test_pooled_and_mean_r2_differ() -> None:
    """Two dimensions, the large one predictable: 0.5 as a mean, nearly 1 pooled."""
    x = torch.cat([10 * data(20_000, 1), data(20_000, 1, seed=1)], dim=1)
    x_hat = torch.cat([0 * x[:, :1], x[:, 1:] - data(20_000, 1, seed=2)], dim=1)
    split = decompose(x, x_hat)
    assert split.r2_vector.value == pytest.approx(0.5, abs=0.01)
    assert split.r2_vector_pooled.value == pytest.approx(0.99, abs=0.01)


def test_too_few_tokens() -> None:
    with pytest.raises(ValueError, match="too few for d = 8: fitting needs 40"):
        decompose(data(20), data(20))
    with pytest.raises(ValueError, match="at least one document"):
        decompose(data(), data(seed=1), documents=torch.zeros(4000, dtype=torch.long), train_fraction=0.9)
    with pytest.raises(ValueError, match="train_fraction is 1"):
        decompose(data(), data(seed=1), train_fraction=1.0)


# D1 to D5: planted dictionaries whose figures have a closed form.


def sparse_codes(n: int, h: int, *, p: float = 0.1, seed: int = 0) -> Tensor:
    """Bernoulli(p) times 2 Exp(1): mean 2p, variance 4 (2p - p²)."""
    generator = torch.Generator().manual_seed(seed)
    active = torch.rand(n, h, generator=generator) < p
    return active * 2 * torch.empty(n, h).exponential_(generator=generator)


def dictionary(h: int, d: int, seed: int = 7) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(h, d, generator=generator), dim=-1)


@pytest.mark.parametrize(("dense", "introduced"), [(0.0, 0.0), (0.0, 0.3), (0.3, 0.0), (0.3, 0.3), (1.0, 0.6)])
def test_closed_form_of_an_overcomplete_dictionary(dense: float, introduced: float) -> None:
    """D1: 64 features in 32 dimensions, 16 unlearned; even with nothing introduced the nonlinear part is not 0."""
    n, d, h, unlearned = 60_000, 32, 64, 16
    atoms, codes = dictionary(h, d), sparse_codes(n, h)
    x = codes @ atoms + dense * data(n, d, seed=1)
    x_hat = codes[:, unlearned:] @ atoms[unlearned:] + introduced * data(n, d, seed=2)
    split = decompose(x, x_hat, documents=torch.arange(n) // 100, fit_intercept=True, train_fraction=0.5)
    v = 4 * (2 * 0.1 - 0.1**2)
    dense_part = dense**2 * torch.eye(d)
    total = v * atoms.T @ atoms + dense_part
    shared = v * atoms[:unlearned].T @ atoms[:unlearned] + dense_part
    error = shared + introduced**2 * torch.eye(d)
    expected = (error - shared @ torch.linalg.inv(total) @ shared.T).trace() / total.trace()
    assert split.fvu_nonlinear.value == pytest.approx(float(expected), rel=0.03)
    if (dense, introduced) == (0.0, 0.3):
        assert float(expected) == pytest.approx(0.151, abs=0.005), "far from the introduced share"
        assert introduced**2 * d / float(total.trace()) == pytest.approx(0.059, abs=0.002)


def test_independent_features_are_split_exactly() -> None:
    """D2: 24 features in 32 dimensions can all be read off x linearly."""
    n, d, h, unlearned = 60_000, 32, 24, 8
    atoms, codes = dictionary(h, d), sparse_codes(n, h)
    x, learned, documents = codes @ atoms, codes[:, unlearned:] @ atoms[unlearned:], torch.arange(n) // 100
    exact = decompose(x, learned, documents=documents, train_fraction=0.5)
    assert exact.r2_vector.value > 1 - 1e-6
    assert exact.fvu_nonlinear.value < 1e-10
    noisy = decompose(x, learned + 0.3 * data(n, d, seed=2), documents=documents, train_fraction=0.5)
    assert noisy.fvu_nonlinear.value == pytest.approx(0.09 * 32 / (4 * (2 * 0.1 - 0.1**2) * 24), rel=0.02)


@pytest.mark.parametrize("alpha", [0.1, 1.0])
def test_shrinkage_and_a_dead_sae_are_linear(alpha: float) -> None:
    """D3: R² is 1 for any shrinkage, also for an SAE that gives 0: FVU and b* tell them apart."""
    x = data() + 1
    split = decompose(x, (1 - alpha) * x)
    held = x[split.held]
    assert split.r2_vector.value == pytest.approx(1, abs=1e-9)
    torch.testing.assert_close(split.probe.weights, alpha * torch.eye(8, dtype=torch.float64), rtol=0, atol=1e-4)
    assert (split.shrinkage, split.off_shrinkage) == pytest.approx((alpha, 0), abs=1e-4)
    assert split.fvu_nonlinear.value == pytest.approx(0, abs=1e-9)
    expected = alpha**2 * held.square().sum() / (held - held.mean(0)).square().sum()
    assert split.fvu.value == pytest.approx(float(expected), rel=1e-5)


def test_metric_definitions() -> None:
    """D4: e = s (sqrt(R) x + sqrt(1 - R) n) with s = (10, 1), R = (0.9, 0.1)."""
    x, s, r = data(60_000, 2), torch.tensor([10.0, 1.0]), torch.tensor([0.9, 0.1])
    split = decompose(x, x - s * (r.sqrt() * x + (1 - r).sqrt() * data(60_000, 2, seed=1)))
    assert split.r2_vector.value == pytest.approx(0.50, abs=0.01)
    assert split.r2_vector_pooled.value == pytest.approx((100 * 0.9 + 0.1) / 101, abs=0.005)


def test_figures_are_held_out() -> None:
    """D4: with as many rows as dimensions random targets are fitted exactly, and predicted not at all."""
    x, e = data(250, 40), data(250, 40, seed=1)
    split = decompose(x, x - e, train_fraction=0.8)
    assert split.n_train == 200
    assert split.r2_vector.value < 0


def test_with_and_without_intercept_are_both_measured() -> None:
    """D4: centred x, error 5 + n: about -25 without, about 0 with."""
    x = data(20_000)
    split = decompose(x, x - 5 - data(20_000, seed=1))
    without, with_one = split.figures
    assert (without.fit_intercept, with_one.fit_intercept) == (False, True)
    assert without.r2_vector.value == pytest.approx(-25, abs=0.7)
    assert with_one.r2_vector.value == pytest.approx(0, abs=0.01)
    assert decompose(x, x - 5 - data(20_000, seed=1), fit_intercept=True).r2_vector == with_one.r2_vector


def test_norm_probe_is_exact_for_fixed_active_values() -> None:
    """D5: orthonormal features with one active value each: ||x||² = x · Q v, and Q a* = v. The error here is x."""
    n, d = 20_000, 64
    basis = torch.linalg.qr(data(d, d, seed=3).double()).Q
    values = 1 + torch.rand(d, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    codes = (torch.rand(n, d, generator=torch.Generator().manual_seed(5)) < 0.05) * values
    x = codes @ basis
    assert decompose(x, torch.zeros_like(x), documents=torch.arange(n) // 100).r2_norm.value == pytest.approx(
        1, abs=1e-9
    )
    probe = NormalEquations(d, 1).add(x, x.square().sum(-1, keepdim=True)).solve(fit_intercept=False)
    torch.testing.assert_close((basis @ probe.weights)[:, 0], values, rtol=0, atol=1e-10)


def test_norm_probe_of_exponential_and_gaussian_codes() -> None:
    """D5: R² = cov(w², w)² / (var w var w²) = 0.75 for Bernoulli(0.05) Exp(1); 0 for Gaussian codes."""
    n, d = 120_000, 64
    basis = torch.linalg.qr(data(d, d, seed=3)).Q
    p = 0.05
    covariance, variance, variance_of_squares = 6 * p - 2 * p * p, 2 * p - p * p, 24 * p - 4 * p * p
    assert covariance**2 / (variance * variance_of_squares) == pytest.approx(0.7501, abs=1e-4)
    exponential = sparse_codes(n, d, p=p) / 2 @ basis
    documents = torch.arange(n) // 100
    split = decompose(exponential, 0 * exponential, documents=documents, fit_intercept=True)
    assert split.r2_norm.value == pytest.approx(0.74, abs=0.025)
    gaussian = data(n, d)
    split = decompose(gaussian, 0 * gaussian, documents=documents, fit_intercept=True)
    assert abs(split.r2_norm.value) < 0.02


def test_agrees_with_scikit_learn_on_the_same_split() -> None:
    """Both from the same difference in float64; the data's condition number is 9, which leaves 13 digits of 16."""
    x = data(5000) @ data(8, 8, seed=3) + 2
    error = 0.2 * x + 0.5 * data(5000, seed=1) * x.norm(dim=-1, keepdim=True)
    documents = torch.arange(5000) // 50
    x_hat = x - error
    split = decompose(x, x_hat, documents=documents)
    held, error = split.held.numpy(), (x.double() - x_hat.double()).numpy()
    for figures in split.figures:
        model = LinearRegression(fit_intercept=figures.fit_intercept).fit(x[~split.held].double().numpy(), error[~held])
        guess = model.predict(x[split.held].double().numpy())
        for average, ours in (("uniform_average", figures.r2_vector), ("variance_weighted", figures.r2_vector_pooled)):
            assert ours.value == pytest.approx(r2_score(error[held], guess, multioutput=average), abs=1e-9)
        norm = (error**2).sum(1)
        model = LinearRegression(fit_intercept=figures.fit_intercept).fit(x[~split.held].double().numpy(), norm[~held])
        expected = r2_score(norm[held], model.predict(x[split.held].double().numpy()))
        assert figures.r2_norm.value == pytest.approx(expected, abs=1e-9)


def test_standard_errors_cover_the_spread_between_texts() -> None:
    """The bootstrap over documents against the spread over 60 independent data sets."""
    found = []
    for seed in range(60):
        size = torch.rand(40, generator=torch.Generator().manual_seed(seed)).repeat_interleave(50)[:, None]
        x = data(2000, 2, seed=1000 + seed)
        x_hat = x - 0.5 * x - 2 * size * data(2000, 2, seed=2000 + seed)
        found.append(decompose(x, x_hat, documents=torch.arange(2000) // 50, seed=seed))
    for name in ("fvu", "fvu_nonlinear", "r2_vector", "r2_norm"):
        estimates = [getattr(split, name) for split in found]
        spread = torch.tensor([e.value for e in estimates]).std()
        mean_error = torch.tensor([e.standard_error for e in estimates]).mean()
        assert 0.6 < mean_error / spread < 1.6, name


def test_one_held_out_document_is_resampled_in_blocks_of_rows() -> None:
    """Against the delta method over the same blocks; figures of fewer rows, where the loss is known, count theirs."""
    x = data(4000)
    x_hat = 0.7 * x - 0.4 * data(4000, seed=1) * (1 + torch.linspace(0, 3, 4000)).sin()[:, None]
    documents = torch.arange(4000) // 2000
    loss = data(4000, 1, seed=2)[:, 0]
    loss[::7] = torch.nan
    split = decompose(x, x_hat, documents=documents, train_fraction=0.5, loss=loss)
    held = split.held
    assert len(documents[held].unique()) == 1
    error, variation = (x - x_hat)[held].square().sum(-1), (x[held] - x[held].mean(0)).square().sum(-1)
    units = torch.arange(2000) * 45 // 2000
    expected = metrics.ratio(error, variation, groups=units)
    assert (split.fvu.n, split.fvu.blocks) == (45, True)
    assert split.fvu.value == pytest.approx(expected.value, rel=1e-6)
    assert split.fvu.standard_error == pytest.approx(expected.standard_error, rel=0.25)
    for estimate in (*split.norm_baselines.values(), split.r2_vector, split.r2_norm, split.fvu_nonlinear):
        assert estimate.blocks
        assert 0 < estimate.standard_error < 1
    assert "loss" in split.norm_baselines


def test_documents_do_not_leak_and_the_token_split_does() -> None:
    """Every document has an error of its own direction, which a neighbour gives away; the label says which split."""
    documents = torch.arange(4000) // 8
    marks = 3 * data(500, 40, seed=5)[documents]
    x = torch.cat([marks, data(4000, 4)], dim=1)
    error = torch.cat([0 * marks, data(500, 4, seed=6)[documents]], dim=1)
    by_document = decompose(x, x - error, documents=documents)
    by_token = decompose(x, x - error, documents=documents, split_by="token")
    assert (by_document.split_by, by_token.split_by) == ("document", "token")
    assert by_document.r2_vector_pooled.value < by_token.r2_vector_pooled.value - 0.05


def test_baselines_of_the_norm() -> None:
    """Norms that a token's identity decides but for noise; the position, and what nothing decides."""
    n = 20_000
    generator = torch.Generator().manual_seed(0)
    tokens, positions = (torch.randint(0, 20, (n,), generator=generator) for _ in range(2))
    squared = 1 + tokens.float() + 2 * torch.rand(n, generator=generator)
    x = data(n)
    direction = torch.nn.functional.normalize(data(n, seed=1), dim=-1)
    loss = squared.clone()
    loss[::7] = torch.nan
    split = decompose(
        x, x - direction * squared.sqrt()[:, None], tokens=tokens, positions=positions, loss=loss, l0=tokens % 2
    )
    found = split.norm_baselines
    assert set(found) == {"token", "position", "activation_norm", "loss", "l0"}
    explained = (400 - 1) / 12 / ((400 - 1) / 12 + 4 / 12)
    assert found["token"].value == pytest.approx(explained, abs=0.003)
    assert found["loss"].value == pytest.approx(1, abs=1e-6)
    assert found["position"].value == pytest.approx(0, abs=0.01)
    assert found["activation_norm"].value == pytest.approx(0, abs=0.01)
    assert found["l0"].value == pytest.approx(r2_of_parity(), abs=0.01)


def r2_of_parity() -> float:
    """Tokens 0 to 19: odd ones are larger by 1 on average, of a variance of 399/12 + 1/3."""
    return 0.25 / (399 / 12 + 4 / 12)


def test_token_baseline_is_held_out() -> None:
    """Every token id is its own class: in sample it would predict everything, held out nothing."""
    x = data(2000)
    split = decompose(x, 0.5 * x, tokens=torch.arange(2000))
    assert split.norm_baselines["token"].value < 0.01


def test_rows_that_are_not_finite_are_named() -> None:
    x, x_hat = data(), data(seed=1)
    x_hat[1234, 3] = torch.inf
    documents, positions = torch.arange(4000) // 100, torch.arange(4000) % 100
    with pytest.raises(ValueError, match=r"x_hat is not finite in 1 rows: row 1234 \(document 12 position 34\)"):
        decompose(x, x_hat, documents=documents, positions=positions)
    x[7] = torch.nan
    with pytest.raises(ValueError, match="x is not finite"):
        decompose(x, x_hat, documents=documents)


def test_ridges_are_measured_beside_the_probe() -> None:
    x, e = data(300, 40), data(300, 40, seed=1)
    split = split_error(
        RowsInMemory(x=x, x_hat=x - e, documents=torch.arange(300)), ridges=(0.0, 1e6), train_fraction=0.8
    )
    plain, heavy = split.figures[:2]
    assert (plain.ridge, heavy.ridge) == (0.0, 1e6)
    assert plain.r2_vector.value < heavy.r2_vector.value < 0.01
