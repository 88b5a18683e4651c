"""From a store on disk: the same figures as in memory, the paper's experiments on a tiny model, and what is refused."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from interp import ActivationStore, Site
from interp.store.caching import cache_activations
from interp.store.masks import Masks
from interp.tokens.token_rows import TokenRows
from saes import SAE, TopK
from saes.dark_matter import decompose, split_error
from saes.dark_matter.experiments.components import component_prediction
from saes.dark_matter.experiments.downstream import SPLICES, downstream
from saes.dark_matter.experiments.error_saes import ErrorParts, train_on_error
from saes.dark_matter.experiments.norm_prediction import VECTORS, norm_prediction
from saes.dark_matter.experiments.token_losses import token_losses
from saes.dark_matter.matching import check_same_activations, trained_on_same_text
from saes.dark_matter.split import kept_tokens
from saes.dark_matter.split.kept_tokens import keep_tokens
from saes.dark_matter.split.least_squares import LinearMap
from saes.dark_matter.split.reconstructions import RowsInMemory, RowsOfSAE
from tests.interp.store.stores import random_rows, tiny_bridge

SITE, BEFORE, MLP = (
    Site.parse(f"blocks.{name}") for name in ("1.hook_resid_post", "0.hook_resid_post", "1.hook_mlp_out")
)


@dataclasses.dataclass(frozen=True)
class Made:
    model: Any
    rows: TokenRows
    store: ActivationStore


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("dark")
    model = tiny_bridge(folder / "model")
    rows = random_rows(folder / "rows", rows=60)
    store = cache_activations(model, rows, [BEFORE, MLP, SITE], folder / "store", shard_bytes=100_000)
    return Made(model, rows, store)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the streams have several blocks."""
    monkeypatch.setattr(kept_tokens, "BLOCK_NUMBERS", 300 * 32)


def sae_of(made: Made, site: Site = SITE, *, k: int = 8, d_sae: int = 64, seed: int = 0) -> SAE:
    """Random weights, so the error is large; but it knows where it belongs."""
    sae = SAE(32, d_sae, TopK(k=k), site=str(site), provenance={"source": made.store.provenance})
    return sae.initialise(seed=seed, mean=made.store.read(site).mean(0))


def test_streamed_figures_are_those_in_memory(made: Made) -> None:
    sae, kept = sae_of(made), keep_tokens(made.store, SITE)
    streamed = split_error(RowsOfSAE.by_encoder(kept, sae, SITE), tokens=kept.ids, positions=kept.positions)
    x = made.store.read(SITE)
    with torch.no_grad():
        whole = decompose(
            x, sae(x), documents=kept.documents, tokens=kept.ids, positions=kept.positions, l0=sae.encode(x).l0
        )
    assert streamed.n_train + streamed.n_test == len(x) == 60 * 32
    torch.testing.assert_close(streamed.probe.weights, whole.probe.weights, rtol=1e-5, atol=1e-6)
    for name in ("fvu", "fvu_nonlinear", "r2_vector", "r2_vector_pooled", "r2_norm", "l0"):
        mine, theirs = getattr(streamed, name), getattr(whole, name)
        assert mine.value == pytest.approx(theirs.value, abs=1e-6), name
        assert mine.standard_error == pytest.approx(theirs.standard_error, abs=1e-6), name
    assert streamed.norm_baselines.keys() == whole.norm_baselines.keys() >= {"token", "position", "l0"}


def test_masks_choose_the_tokens(made: Made) -> None:
    kept = keep_tokens(made.store, SITE, max_tokens=1000, drop_first=3, special_ids=[0], drop_special=True)
    columns = made.store.tokens(slice(1000))
    expected = (columns.positions >= 3) & (columns.tokens != 0)
    assert torch.equal(kept.rows, expected.nonzero()[:, 0])
    chosen = torch.arange(len(kept)) % 3 == 0
    which, x = zip(*((which, at[SITE]) for which, at in kept.blocks([SITE], chosen)), strict=True)
    assert torch.equal(torch.cat(which), chosen.nonzero()[:, 0])
    assert torch.equal(torch.cat(x), made.store.read(SITE)[kept.rows[chosen]])
    limit = 1.2
    norms = made.store.read(SITE).norm(dim=-1)
    below = keep_tokens(made.store, SITE, drop_norm_above=limit)
    assert torch.equal(below.rows, (norms <= limit * norms.median()).nonzero()[:, 0])
    assert below.norm_limit == pytest.approx(limit * float(norms.median()))
    with pytest.raises(ValueError, match=r"drop_norm_above is 0.5; it must be 1 or more"):
        keep_tokens(made.store, SITE, drop_norm_above=0.5)
    with pytest.raises(ValueError, match="drop_first 99 leaves none of 1920 tokens"):
        keep_tokens(made.store, SITE, drop_first=99)
    with pytest.raises(ValueError, match="which tokens are special is not known"):
        keep_tokens(made.store, SITE, drop_special=True)


def test_massive_and_special_tokens_are_warned_of(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    (first,) = keep_tokens(made.store, SITE).warnings
    assert "may be BOS tokens: leave them out with drop_first=1" in first
    assert keep_tokens(made.store, SITE, drop_first=1).warnings == ()
    (special,) = keep_tokens(made.store, SITE, special_ids=[0]).warnings
    assert "tokens are special (BOS, separators): leave them out with drop_special" in special
    monkeypatch.setattr(kept_tokens, "MASSIVE_TIMES", 1.3)
    massive, _ = keep_tokens(made.store, SITE).warnings
    assert "are massive (norm above 1.3 times the median)" in massive
    assert "drop_norm_above=1.3" in massive


def test_activations_that_are_not_finite_are_named(made: Made) -> None:
    kept = keep_tokens(made.store, SITE)
    sae = sae_of(made)
    bad = 777
    x_bad = made.store.read(SITE)[bad]

    def reconstruct(x: Tensor) -> Any:
        found = RowsOfSAE.by_encoder(kept, sae, SITE).reconstruct(x)
        found.x_hat[(x == x_bad).all(-1)] = torch.nan
        return found

    where = f"document {int(kept.documents[bad])} position {int(kept.positions[bad])}"
    with pytest.raises(ValueError, match=f"the SAE's reconstruction at {SITE} is not finite for 1 of .*: {where}"):
        split_error(RowsOfSAE(kept=kept, site=SITE, reconstruct=reconstruct))


def test_norms_of_the_parts(made: Made) -> None:
    kept = keep_tokens(made.store, SITE)
    rows = RowsOfSAE.by_encoder(kept, sae_of(made), SITE)
    split = split_error(rows)
    found = norm_prediction(rows, split)
    assert found.r2["error"].value == pytest.approx(split.r2_norm.value, abs=1e-9)
    assert found.squared_norms.shape == (len(kept), len(VECTORS))
    x = made.store.read(SITE).double()
    torch.testing.assert_close(found.squared_norms[:, 0], x.square().sum(-1))
    torch.testing.assert_close(found.squared_norms[:, 3], split.probe(x).square().sum(-1))
    assert found.norm_share["linear"].value + found.norm_share["nonlinear"].value > 1


def test_pursuit_reconstructs_the_same_tokens_better(made: Made) -> None:
    kept, sae = keep_tokens(made.store, SITE), sae_of(made)
    encoder = split_error(RowsOfSAE.by_encoder(kept, sae, SITE))
    pursuit = split_error(RowsOfSAE.by_pursuit(kept, sae, SITE))
    assert encoder.l0 is not None
    assert pursuit.l0 is not None
    assert pursuit.l0.value <= encoder.l0.value + 1e-9
    assert pursuit.fvu.value < 0.8 * encoder.fvu.value
    assert torch.equal(pursuit.held, encoder.held)


def test_pursuit_of_a_layer_normalised_sae_is_in_its_units(made: Made) -> None:
    kept, plain, normalising = keep_tokens(made.store, SITE), sae_of(made), sae_of(made)
    normalising.layer_norm = True
    x = made.store.read(SITE)[:100]
    mean, std = x.mean(-1, keepdim=True), x.std(-1, keepdim=True)
    expected = RowsOfSAE.by_pursuit(kept, plain, SITE).reconstruct((x - mean) / (std + 1e-5)).x_hat * std + mean
    torch.testing.assert_close(RowsOfSAE.by_pursuit(kept, normalising, SITE).reconstruct(x).x_hat, expected)


def test_components_predict_the_error(made: Made) -> None:
    """Against a plain least-squares fit of everything at once; and the MLP's exact output tells more than noise."""
    kept, sae = keep_tokens(made.store, SITE), sae_of(made)
    rows = RowsOfSAE.by_encoder(kept, sae, SITE)
    split = split_error(rows)
    components = {"before": (sae_of(made, BEFORE), BEFORE), "mlp": (sae_of(made, MLP), MLP)}
    found = component_prediction(rows, split, components)
    assert list(found.r2) == ["before", "mlp", "together"]
    x = made.store.read(SITE)
    with torch.no_grad():
        error = x.double() - sae(x).double()
        outputs = torch.cat([s(made.store.read(site)).double() for s, site in components.values()], dim=1)
    linear = split.probe(x)
    held = split.held
    for name, z in (("before", outputs[:, :32]), ("mlp", outputs[:, 32:]), ("together", outputs)):
        for target, y in (("error", error), ("linear", linear), ("nonlinear", error - linear)):
            weights = torch.linalg.lstsq(z[~held], y[~held], driver="gelsd").solution
            residual, centred = y[held] - z[held] @ weights, y[held] - y[held].mean(0)
            expected = (1 - residual.square().sum(0) / centred.square().sum(0)).mean()
            assert found.r2[name][target].value == pytest.approx(float(expected), abs=1e-6)
    assert found.fvu_after["together"].value < split.fvu.value
    with pytest.raises(ValueError, match=r"too few for d = 640"):
        component_prediction(rows, split, {str(i): components["mlp"] for i in range(20)})


def test_loss_with_each_part_spliced_in(made: Made) -> None:
    """D8: nothing recovered by the SAE itself, all by both parts; the sign of the error matters."""
    sae = sae_of(made)
    kept = keep_tokens(made.store, SITE, drop_first=4)
    split = split_error(RowsOfSAE.by_encoder(kept, sae, SITE))
    options: dict[str, Any] = {"held_documents": kept.documents[split.held].unique(), "first_position": 4}
    found = downstream(made.model, made.rows, sae, SITE, split.probe, **options)
    assert tuple(found.ce) == SPLICES
    assert found.recovered["sae"].value == pytest.approx(0, abs=1e-6)
    assert 100 * found.recovered["sae_and_both"].value == pytest.approx(100, abs=0.1)
    assert abs(found.ce["sae"].value - found.ce_clean.value) > 1e-4
    assert found.fvu_removed["sae_and_linear"] == pytest.approx(
        1 - split.fvu_nonlinear.value / split.fvu.value, abs=1e-4
    )
    assert found.norm_share["sae_and_both"] == 1
    # A probe of the wrong sign must be seen, and so must an error of the wrong sign.
    flipped = LinearMap(weights=-split.probe.weights, intercept=-split.probe.intercept)
    wrong = downstream(made.model, made.rows, sae, SITE, flipped, **options)
    assert wrong.fvu_removed["sae_and_linear"] < 0 < found.fvu_removed["sae_and_linear"]
    assert wrong.ce["sae_and_linear"].value != pytest.approx(found.ce["sae_and_linear"].value, abs=1e-3)


def test_first_positions_stay_clean_bit_for_bit(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """D8. What the model computes at positions before the first spliced one is what it computes without a splice."""
    from saes.dark_matter.experiments import downstream as module

    seen: list[tuple[Tensor, Tensor]] = []

    def spliced(model: Any, ids: Tensor, site: Site, replacement: Tensor, *, where: Tensor) -> Tensor:
        logits = original(model, ids, site, replacement, where=where)
        seen.append(((logits == model(ids)).all(-1), where))
        return logits

    original = module.spliced_logits
    monkeypatch.setattr(module, "spliced_logits", spliced)
    sae = sae_of(made)
    probe = LinearMap(weights=0.1 * torch.eye(32, dtype=torch.float64), intercept=torch.zeros(32, dtype=torch.float64))
    norms = made.store.read(SITE).norm(dim=-1).view(60, 32)
    options: dict[str, Any] = {"massive_norm": float(norms.quantile(0.8)), "clean_ids": [3, 5]}
    downstream(
        made.model,
        made.rows,
        sae,
        SITE,
        probe,
        held_documents=torch.arange(99),
        first_position=5,
        max_rows=8,
        **options,
    )
    for same, where in seen:
        assert same[:, :5].all()
        assert not where[:, :5].any()
    run = torch.linspace(0, 59, 8).round().long()
    ids = made.rows.tensor_of("ids")[run]
    expected = (norms[run] <= options["massive_norm"]) & (ids != 3) & (ids != 5)
    expected[:, :5] = False
    assert torch.equal(seen[0][1], expected)
    assert not seen[0][0][expected].any()
    with pytest.raises(ValueError, match="no held-out token"):
        downstream(made.model, made.rows, sae, SITE, probe, held_documents=torch.tensor([10**6]), max_rows=8)


def test_losses_stand_at_the_token_before(made: Made) -> None:
    kept = keep_tokens(made.store, SITE, drop_first=2)
    found = token_losses(made.model, made.rows, kept, max_rows=30)
    assert found is not None
    ids, documents = made.rows.tensor_of("ids"), made.rows.tensor_of("documents")
    with torch.no_grad():
        logs = made.model(ids).log_softmax(-1)
    row, run = kept.rows // 32, np.linspace(0, 59, 30).round()
    assert not found[torch.isin(row, torch.tensor(run).long())].isnan().all()
    for i in range(0, len(kept), 7):
        r, position = int(row[i]), int(kept.positions[i])
        if r not in run or position == 31 or documents[r, position] != documents[r, position + 1]:
            assert found[i].isnan()
        else:
            assert float(found[i]) == pytest.approx(-float(logs[r, position, ids[r, position + 1]]), abs=1e-4)


def test_losses_of_a_store_with_a_norm_mask_are_not_guessed(made: Made, tmp_path: Path) -> None:
    masked = cache_activations(made.model, made.rows, [SITE], tmp_path, masks=Masks(drop_norm_above=1.01))
    assert len(masked) < len(made.store)
    kept = keep_tokens(masked, SITE)
    assert token_losses(made.model, made.rows, kept, max_rows=4) is None
    assert kept.norm_limit == float(masked.read(SITE).norm(dim=-1).max()), "so that the others stay clean in the splice"


def test_a_source_of_error_parts(made: Made) -> None:
    """Only rows that the probe was fitted on, each once an epoch; any start gives what the whole epoch gives."""
    sae, kept = sae_of(made), keep_tokens(made.store, SITE, drop_first=1)
    rows = RowsOfSAE.by_encoder(kept, sae, SITE)
    split = split_error(rows)
    source = ErrorParts(rows, split)
    linear, nonlinear = Site.parse("linear_error"), Site.parse("nonlinear_error")
    epoch = list(source.batches_of([linear, nonlinear], 100, seed=3))
    assert [len(batch[linear]) for batch in epoch[:-1]] == [100] * (len(epoch) - 1)
    assert sum(len(batch[linear]) for batch in epoch) == len(source) == split.n_train
    x = made.store.read(SITE)[kept.rows[~split.held]]
    with torch.no_grad():
        error = x - sae(x)
    together = torch.cat([batch[linear] + batch[nonlinear] for batch in epoch])
    key = torch.argsort(together[:, 0]), torch.argsort(error[:, 0])
    torch.testing.assert_close(together[key[0]], error[key[1]], rtol=0, atol=1e-4)
    later = list(source.batches_of([linear], 100, seed=3, start=4))
    assert len(later) == len(epoch) - 4
    for a, b in zip(later, epoch[4:], strict=True):
        torch.testing.assert_close(a[linear], b[linear], rtol=0, atol=1e-5)


def test_saes_on_the_parts(made: Made, tmp_path: Path) -> None:
    rows = RowsOfSAE.by_encoder(keep_tokens(made.store, SITE), sae_of(made), SITE)
    split = split_error(rows)
    found = train_on_error(rows, split, tmp_path, d_sae=48, k=4, tokens=20_000, batch_size=200, seeds=(0, 1, 2))
    assert {part: len(values) for part, values in found.fvu.items()} == {"linear_error": 3, "nonlinear_error": 3}
    for part, mean in found.over_seeds.items():
        assert mean.n == 3
        assert mean.value == pytest.approx(np.mean([e.value for e in found.fvu[part]]))
        assert mean.standard_error > 0
    assert (tmp_path / "linear_error" / "seed2" / "cfg.json").is_file()


def test_an_sae_of_other_activations_is_refused(made: Made) -> None:
    sae = sae_of(made)
    assert check_same_activations(sae, made.store, name="mine") == SITE
    assert trained_on_same_text(sae, made.store)
    sae.provenance = {"source": {**made.store.provenance, "model": "other", "weights": "sha256:1"}}
    with pytest.raises(ValueError, match=r"mine was trained on other \(weights sha256:1\), .*store was cached from"):
        check_same_activations(sae, made.store, name="mine")
    sae.provenance = {}
    assert not trained_on_same_text(sae, made.store)
    sae.site = "blocks.2.hook_resid_post"
    with pytest.raises(ValueError, match=r"mine is of site blocks.2.hook_resid_post, .*holds blocks.0"):
        check_same_activations(sae, made.store, name="mine")
    sae.site = None
    with pytest.raises(ValueError, match="mine does not say which site it belongs to"):
        check_same_activations(sae, made.store, name="mine")
    narrow = SAE(16, 64, TopK(k=4), site=str(SITE))
    with pytest.raises(ValueError, match=r"narrow takes activations of width 16, those in .* have 32"):
        check_same_activations(narrow, made.store, name="narrow")
    coder = SAE(32, 64, TopK(k=4), subtract_b_dec=False, site=str(SITE), target_site=str(MLP))
    with pytest.raises(ValueError, match="coder is a transcoder from"):
        check_same_activations(coder, made.store, name="coder")


def test_too_few_tokens_are_refused(made: Made) -> None:
    kept = keep_tokens(made.store, SITE, max_tokens=200)
    with pytest.raises(ValueError, match="too few for d = 32: fitting needs 160 or more"):
        split_error(RowsOfSAE.by_encoder(kept, sae_of(made), SITE))


def test_rows_in_memory_are_rows_too(made: Made) -> None:
    x = made.store.read(SITE)
    rows = RowsInMemory(x=x, x_hat=0.5 * x, documents=torch.arange(len(x)) // 20)
    assert norm_prediction(rows, split_error(rows)).norm_share["linear"].value == pytest.approx(1)
