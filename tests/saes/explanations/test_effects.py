"""Clamps against an intervention written out, and pairs of lists on latents whose effect is planted."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import interp
from interp.sites.site import Site
from saes import SAE, ReLU, TopK
from saes.explanations import Settings, prepare
from saes.explanations.effects import Clamping, Effect, effect_items
from saes.explanations.scores import ABOVE, NOT_ABOVE
from saes.explanations.study import Study
from saes.features.examples import Text
from tests.saes.explanations.planted import WORDS, Judging, coin, named
from tests.saes.variants import random_sae

LAST = "blocks.3.hook_resid_post"


def _clamping(model: Any, sae: SAE, where: torch.Tensor, *, target: str | None = None) -> Clamping:
    ids = model.to_tokens("Emma was not at all sorry to see him go.")
    read, written = Site.parse(sae.site or ""), Site.parse(target or sae.site or "")
    return Clamping(sae, model, read, [written], ids, where.expand(ids.shape[0], -1)[:, : ids.shape[1]])


@torch.no_grad()
@pytest.mark.parametrize("kind", ["plain", "layer_norm", "transcoder"])
def test_a_clamp_is_what_it_says(embedded: Any, kind: str) -> None:
    """The decoder row times what is missing from the latent is added where it writes, at the given positions alone."""
    read, written = "blocks.2.hook_resid_post", "blocks.2.hook_resid_post"
    if kind == "transcoder":
        read, written = "blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out"
    sae = random_sae(TopK(8), d_in=96, d_sae=64, dtype=torch.float32)
    if kind == "layer_norm":
        normed = SAE(96, 64, TopK(8), layer_norm=True)
        normed.load_state_dict(sae.state_dict())
        sae = normed
    sae.site = read
    ids = embedded.to_tokens("Emma was not at all sorry to see him go.")
    x = interp.capture(embedded, ids, read)[read]
    latent = int(sae.encode(x).indices[0, 4, 0])
    f = sae.encode(x).to_dense()[..., latent]
    assert (f != 0).any()
    assert (f == 0).any()
    scale = x.std(-1) if kind == "layer_norm" else torch.ones(x.shape[:2])
    where = torch.arange(ids.shape[1]) >= 2
    delta = (3.0 - f) * where * scale
    with interp.intervene(embedded, {written: lambda y: y + delta[..., None] * sae.W_dec[latent]}):
        expected = embedded(ids)
    found = _clamping(embedded, sae, where[None], target=written).logits(latent, 3.0)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-3 if kind == "layer_norm" else 2e-4)
    assert (found - embedded(ids)).abs().max() > 0.1
    torch.testing.assert_close(found[:, :2], embedded(ids)[:, :2], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_an_effect_adds_up_to_the_divergence(embedded: Any) -> None:
    sae = random_sae(TopK(8), d_in=96, d_sae=64, dtype=torch.float32)
    sae.site = "blocks.2.hook_resid_post"
    where = torch.arange(99)[None] >= 1
    clamping = _clamping(embedded, sae, where)
    effect = clamping.effect(5, 4.0)
    ids = embedded.to_tokens("Emma was not at all sorry to see him go.")
    after, before = (logits[0, 1:].double().log_softmax(-1) for logits in (clamping.logits(5, 4.0), embedded(ids)))
    assert effect.kl == pytest.approx(float((after.exp() * (after - before)).sum(-1).mean()), rel=1e-4)
    shares = (after.exp() * (after - before)).mean(0)
    assert effect.raised == tuple(shares.topk(24).indices.tolist())
    assert clamping.effect(5, 4.0) == effect


def test_pairs_show_what_is_not_in_both() -> None:
    own = [Effect(kl=1.0, raised=tuple(range(9))) for _ in range(4)]
    rivals = [[Effect(kl=1.0, raised=(3, 1, 2, *range(20, 30)))] * 4, [Effect(kl=1.0, raised=tuple(range(9)))] * 4]
    items = effect_items(own, rivals, str, latent=3, seed=0)
    assert len(items) == 2  # the second rival's lists are the same
    assert {item.truth for item in items} == {True, False}
    mine, other = '"0", "4", "5", "6", "7", "8"', '"3", "20", "21", "22", "23", "24"'
    for item in items:
        first, second = (mine, other) if item.truth else (other, mine)
        assert item.text == f"A: {first}  |  B: {second}"


@torch.no_grad()
def _planted_effects(model: Any, text: Text) -> tuple[SAE, Text]:
    """After the last block: each latent is active on one token in a hundred, and writes what raises one word alone."""
    text = replace(text, site=Site.parse(LAST), max_tokens=5_000)
    generator = torch.Generator().manual_seed(0)
    ids = [model.tokenizer.encode(word, add_special_tokens=False)[0] for word in WORDS]
    sae = SAE(96, len(ids), ReLU(), subtract_b_dec=False, site=LAST)
    x = interp.capture(model, text.rows.tensor_of("ids")[:10], LAST)[LAST].flatten(0, 1)
    sae.W_enc.copy_(torch.randn(96, len(ids), generator=generator))
    pre = x @ sae.W_enc
    sae.b_enc.copy_(-pre.quantile(0.99, dim=0))
    rows = model.W_U.detach()[:, ids].T
    strength = 3 * float(x.norm(dim=-1).median()) / (pre.amax(0) + sae.b_enc)
    sae.W_dec.copy_(rows / rows.norm(dim=-1, keepdim=True) * strength[:, None])
    return sae, text


@pytest.fixture(scope="module")
def study(embedded: Any, text: Text) -> Study:
    sae, text = _planted_effects(embedded, text)
    settings = Settings(scores=("effects",), pairs=4, rows=1, items=4)
    return prepare(sae, text, max_latents=6, settings=settings)


def test_who_knows_the_effects_is_always_right(study: Study, tmp_path: Path) -> None:
    def knows(explanation: str, item: str) -> bool:
        word = explanation.split("[")[1].split("]")[0]
        first, second = item.split("  |  ")
        return (f'"{word}"' in first) or (f'"{word}"' not in second and first < second)

    found = study.run(Judging(named(study), knows), tmp_path / "run")
    summary = found.summary["effects"]
    assert found.no_pairs == {}
    assert summary.latents == 6
    assert (summary.accuracy, summary.verdict) == (1.0, ABOVE)
    assert summary.null is not None
    assert abs(summary.null.value - 0.5) < 0.25
    assert all(one.kl is not None and one.kl > 0.1 for one in found.latents)
    assert summary.items == 2 * sum(len(items) for items in study.items.values())


def test_a_coin_does_not_know_the_effects(study: Study, tmp_path: Path) -> None:
    found = study.run(Judging(named(study), coin(1)), tmp_path / "run")
    summary = found.summary["effects"]
    assert summary.accuracy is not None
    assert abs(summary.accuracy.value - 0.5) < 3 * 0.5 / (summary.items / 2) ** 0.5
    assert summary.verdict == NOT_ABOVE


def test_latents_that_do_nothing_are_named_and_not_scored(embedded: Any, text: Text, tmp_path: Path) -> None:
    sae, text = _planted_effects(embedded, text)
    with torch.no_grad():
        sae.W_dec[0] *= 1e-6
    settings = Settings(scores=("effects",), pairs=2, rows=1, items=4)
    study = prepare(sae, text, latents=[0, 7], settings=settings)
    assert [latent for latent, _ in study.items] == [7]
    found = study.run(Judging(named(study), coin(1)), tmp_path / "run")
    assert found.no_pairs == {"0": study.no_pairs[0]}
    assert "its clamp does too little" in study.no_pairs[0]
    assert found.summary["effects"].latents == 1
