"""What latents respond to, against brute force over dense activations."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from interp import capture
from interp.models.loading import _bridge
from interp.sites.site import Site
from interp.tokens.token_rows import TokenRows
from saes import SAE, TopK
from saes.activations import Activation
from saes.features.book import nearest_latents
from saes.features.examples import LatentCounts, Text, count_latents, spread_over_density, top_examples
from saes.features.logit_effects import logit_effects, through_final_norm
from tests.saes.evaluation.evaluated import CONTEXT, SITE, WIDTH, sae_at_site, text_rows
from tests.saes.variants import VARIANTS
from tests.tiny_models import FAMILIES, tiny_model
from tests.tiny_models import WIDTH as TINY_WIDTH


@pytest.fixture
def rows(embedded: Any, tmp_path: Path) -> TokenRows:
    return text_rows(embedded.tokenizer, tmp_path)


def text_of(model: Any, rows: TokenRows, **options: Any) -> Text:
    return Text(model=model, rows=rows, site=Site.parse(SITE), **options)


@torch.no_grad()
def dense_activations(sae: SAE, model: Any, rows: TokenRows, first_position: int = 0) -> tuple[Tensor, Tensor]:
    """All of them at once, 0 where a token is not measured; and which are."""
    x = capture(model, rows.tensor_of("ids"), [SITE], attention_mask=rows.tensor_of("documents") >= 0)[SITE]
    kept = rows.tensor_of("documents") >= 0
    kept[:, :first_position] = False
    return sae.encode(x).to_dense() * kept[..., None], kept


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("first_position", [0, 3])
def test_counts(embedded: Any, rows: TokenRows, variant: Activation, first_position: int) -> None:
    sae = sae_at_site(variant)
    counts = count_latents(sae, text_of(embedded, rows, first_position=first_position, batch_rows=3))
    dense, kept = dense_activations(sae, embedded, rows, first_position)
    assert counts.tokens == int(kept.sum())
    assert torch.equal(counts.active, (dense != 0).sum((0, 1)))
    torch.testing.assert_close(counts.maximum, dense.amax((0, 1)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("before", "after"), [(0, 0), (3, 2), (40, 40)])
@pytest.mark.parametrize("first_position", [0, 3])
def test_examples(embedded: Any, rows: TokenRows, before: int, after: int, first_position: int) -> None:
    """Two of four rows, found in batches of three; passages end at the row's ends and before padding."""
    sae = sae_at_site(TopK(20))
    dense, _ = dense_activations(sae, embedded, rows, first_position)
    peaks, positions = dense.max(1)
    latents = [5, 0, 199, *peaks.sum(0).argsort(descending=True)[:10].tolist()]
    text = text_of(embedded, rows, first_position=first_position, batch_rows=3)
    found = top_examples(sae, text, latents, k=2, before=before, after=after)
    lengths = (rows.tensor_of("documents") >= 0).sum(1)
    for latent, examples in zip(latents, found, strict=True):
        best = [row for row in peaks[:, latent].argsort(descending=True)[:2].tolist() if peaks[row, latent] > 0]
        assert [example.row for example in examples] == best
        for example in examples:
            position = int(positions[example.row, latent])
            first, last = max(0, position - before), min(int(lengths[example.row]), position + after + 1)
            assert (example.position, example.first) == (position, first)
            assert example.ids == tuple(rows.ids[example.row, first:last].tolist())
            expected = dense[example.row, first:last, latent].tolist()
            assert example.activations == pytest.approx(expected, rel=1e-4, abs=1e-4)
            assert example.activation == example.activations[position - first]


def test_examples_do_not_depend_on_the_batches(embedded: Any, rows: TokenRows) -> None:
    """Of equal activations the earlier row comes first, wherever the batches end."""
    same = TokenRows(
        folder=rows.folder,
        ids=rows.ids[[0, 1, 0, 1, 0]],
        documents=rows.documents[[0, 1, 0, 1, 0]],
        positions=rows.positions[[0, 1, 0, 1, 0]],
        fingerprint="",
        info=rows.info,
    )
    sae = sae_at_site(TopK(8))
    for batch_rows in (1, 2, 5):
        text = text_of(embedded, same, batch_rows=batch_rows)
        busy = int(count_latents(sae, text).active.argmax())
        (examples,) = top_examples(sae, text, [busy], k=5)
        seen = [example.row for example in examples]
        assert [row for row in seen if row % 2 == 0] == [0, 2, 4]
        assert [row for row in seen if row % 2] in ([1, 3], [])


@pytest.mark.parametrize(
    ("latents", "options", "message"),
    [
        ([3, 200], {}, "there is no latent 200; this SAE has 0 to 199"),
        ([-1], {}, "there is no latent -1"),
        ([1], {"k": 0}, "k is 0"),
        ([1], {"before": -1}, "before -1"),
    ],
)
def test_impossible_examples(
    embedded: Any, rows: TokenRows, latents: list[int], options: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        top_examples(sae_at_site(TopK(8)), text_of(embedded, rows), latents, **options)


def test_impossible_text(embedded: Any, rows: TokenRows) -> None:
    with pytest.raises(ValueError, match="have width 96, the SAE takes 8"):
        count_latents(SAE(8, 16, TopK(2)), text_of(embedded, rows))
    with pytest.raises(ValueError, match=f"first_position is {CONTEXT};"):
        count_latents(sae_at_site(TopK(8)), text_of(embedded, rows, first_position=CONTEXT))


def test_latents_are_spread_over_density() -> None:
    """Latent 3 is the densest, 0 is silent, 1 and 4 are equal."""
    active = torch.tensor([0, 5, 50, 900, 5, 1])
    counts = LatentCounts(tokens=1000, active=active, maximum=torch.ones(6))
    assert spread_over_density(counts, 100) == [1, 2, 3, 4, 5]
    assert spread_over_density(counts, 3) == [1, 3, 5]
    assert spread_over_density(counts, 1) == [3]
    silent = LatentCounts(tokens=1, active=torch.zeros(6, dtype=torch.int64), maximum=torch.zeros(6))
    assert spread_over_density(silent, 3) == []
    with pytest.raises(ValueError, match="0 latents were asked for"):
        spread_over_density(counts, 0)


def test_nearest_latents() -> None:
    """Chunks of 64 and decoder rows of many lengths; one row is twice another."""
    sae = sae_at_site(TopK(4))
    with torch.no_grad():
        sae.W_dec[7] = 2 * sae.W_dec[150]
    rows = sae.W_dec.detach().double()
    cosines = (rows @ rows.T) / rows.norm(dim=-1) / rows.norm(dim=-1)[:, None]
    found = nearest_latents(sae, range(200), k=3)
    for latent, nearest in enumerate(found):
        others = [other for other in cosines[latent].argsort(descending=True).tolist() if other != latent]
        assert [other for other, _ in nearest] == others[:3]
        assert [cosine for _, cosine in nearest] == pytest.approx(cosines[latent, others[:3]].tolist(), abs=1e-6)
    assert found[7][0] == (150, pytest.approx(1))
    assert len(nearest_latents(SAE(4, 3, TopK(1)), [0], k=8)[0]) == 2


@pytest.mark.parametrize("family", FAMILIES)
def test_final_norm_is_what_a_small_step_does(family: str) -> None:
    """At a hidden state at right angles to the step, the norm's derivative along it is the direction times the weight
    (centred in a LayerNorm), over the state's size."""
    model = _bridge(tiny_model(family, dtype=torch.float64), None, name=family)
    generator = torch.Generator().manual_seed(0)
    step, state = (torch.randn(TINY_WIDTH, generator=generator, dtype=torch.float64) for _ in range(2))
    step -= step.mean() if model.cfg.normalization_type.startswith("LN") else 0
    state -= state.mean() if model.cfg.normalization_type.startswith("LN") else 0
    state -= (state @ step) / (step @ step) * step
    with torch.no_grad():
        up, down = (model.ln_final((state + sign * 1e-2 * step)[None, None])[0, 0] for sign in (1, -1))
    derivative = (up - down) / 2e-2 * state.square().mean().sqrt()
    found = through_final_norm(model, step[None] + (3 if model.cfg.normalization_type.startswith("LN") else 0))[0]
    torch.testing.assert_close(found.double(), derivative, rtol=1e-3, atol=1e-4)


def test_logit_effects(embedded: Any) -> None:
    sae = sae_at_site(TopK(4))
    plain = embedded.original_model
    norm, unembedding = plain.gpt_neox.final_layer_norm, plain.get_output_embeddings()
    rows = sae.W_dec.detach()
    logits = ((rows - rows.mean(-1, keepdim=True)) * norm.weight.detach()) @ unembedding.weight.detach().T
    latents = [3, 0, *range(100, 180)]
    found = logit_effects(sae, embedded, latents, k=4)
    assert found is not None
    for latent, effects in zip(latents, found, strict=True):
        order = logits[latent].argsort(descending=True).tolist()
        assert [token for token, _ in effects.raised] == order[:4]
        assert [token for token, _ in effects.lowered] == order[:-5:-1]
        assert [value for _, value in effects.raised] == pytest.approx(logits[latent, order[:4]].tolist(), rel=1e-3)


@pytest.mark.parametrize(
    ("site", "target", "any_effects"),
    [
        ("blocks.1.hook_mlp_out", None, True),
        ("blocks.1.mlp.hook_post", None, False),
        ("blocks.1.mlp.hook_post", SITE, True),
        (SITE, "blocks.1.attn.hook_z", False),
        (None, None, False),
    ],
)
def test_only_the_residual_stream_has_logit_effects(
    embedded: Any, site: str | None, target: str | None, any_effects: bool
) -> None:
    sae = SAE(WIDTH, 8, TopK(2), site=site, target_site=target)
    assert (logit_effects(sae, embedded, [0]) is not None) == any_effects
