"""Where a latent should fire and does not, and what its strongest tokens attend to, against brute force."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from interp import capture
from interp.sites.site import Site
from saes import TopK
from saes.features.attention import attention_paid, last_attention_before
from saes.features.examples import Text, top_examples
from saes.features.levels import levels
from saes.features.misses import has_misses
from tests.saes.evaluation.evaluated import SITE, sae_at_site, text_rows
from tests.saes.features.test_examples import dense_activations


@torch.no_grad()
@pytest.mark.parametrize("first_position", [0, 3])
def test_misses_are_silent_tokens_along_the_decoder_row(embedded: Any, tmp_path: Path, first_position: int) -> None:
    rows = text_rows(embedded.tokenizer, tmp_path)
    sae = sae_at_site(TopK(20))
    sae.W_enc[:, 7] *= 0  # so that it never fires, whatever is along its row
    sae.W_dec[:40] = sae.W_enc[:, :40].T  # as training makes them
    sae.b_dec.normal_()
    dense, kept = dense_activations(sae, embedded, rows, first_position)
    x = capture(embedded, rows.tensor_of("ids"), [SITE], attention_mask=rows.tensor_of("documents") >= 0)[SITE]
    chosen = [7, 50, *dense[..., :40].count_nonzero((0, 1)).topk(6).indices.tolist()]
    text = Text(model=embedded, rows=rows, site=Site.parse(SITE), batch_rows=3, first_position=first_position)
    found = levels(sae, text, chosen, dense.amax((0, 1))[chosen].tolist(), k=3).misses
    assert found is not None
    assert found[0].typical is None
    assert not found[0].examples
    shown = 0
    for latent, misses in zip(chosen[1:], found[1:], strict=True):
        cosines = functional.cosine_similarity(x - sae.b_dec, sae.W_dec[latent], dim=-1)
        fires = cosines[(dense[..., latent] > 0) & kept]
        silent = torch.where((dense[..., latent] == 0) & kept, cosines, -2.0)
        if not len(fires):
            assert misses.typical is None
            continue
        assert misses.typical is not None
        assert 2 * int((fires >= misses.typical - 1e-6).sum()) >= len(fires)
        assert 2 * int((fires >= misses.typical + 0.01 + 1e-6).sum()) < len(fires)
        # A cosine on the edge of two bins may be rounded into either.
        assert abs(misses.silent - int((silent >= misses.typical).sum())) <= 1
        best = [
            value for value in silent.amax(1).sort(descending=True).values.tolist() if value >= max(misses.typical, 0)
        ]
        assert misses.cosines == pytest.approx(best[:3], abs=1e-5)
        for example, cosine in zip(misses.examples, misses.cosines, strict=True):
            assert float(silent[example.row, example.position]) == pytest.approx(cosine, abs=1e-5)
            assert example.activation == 0
            shown += 1
    assert shown >= 3


def test_only_what_reconstructs_its_input_has_misses() -> None:
    sae = sae_at_site(TopK(4))
    assert has_misses(sae)
    sae.target_site = "blocks.2.hook_mlp_out"
    assert not has_misses(sae)


def test_attention_is_that_of_the_block_before(embedded: Any, tmp_path: Path) -> None:
    rows = text_rows(embedded.tokenizer, tmp_path)
    text = Text(model=embedded, rows=rows, site=Site.parse(SITE), batch_rows=3)
    examples = top_examples(sae_at_site(TopK(20)), text, [5, 30, 90], k=2, before=4, after=2)
    paid = attention_paid(text, examples)
    assert paid is not None
    for several, shares in zip(examples, paid, strict=True):
        for example, share in zip(several, shares, strict=True):
            ids = rows.tensor_of("ids")[example.row][None, : example.position + 1]  # what comes later is not seen
            pattern = capture(embedded, ids, ["blocks.2.attn.hook_pattern"])["blocks.2.attn.hook_pattern"]
            expected = pattern[0, :, example.position].mean(0)[example.first :].tolist()
            assert share[: len(expected)] == pytest.approx(expected, abs=1e-5)
            assert not any(share[len(expected) :])


@pytest.mark.parametrize(
    ("sites", "block"),
    [
        ("blocks.2.hook_resid_post", 2),
        ("blocks.2.hook_resid_pre", 1),
        ("blocks.2.attn.hook_z", 2),
        ("blocks.2.attn.hook_q", 1),
        ("blocks.0.hook_resid_pre", None),
        ("blocks.3.mlp.hook_post blocks.1.hook_mlp_out", 1),
        ("transformer.wte", None),
    ],
)
def test_last_attention_before(sites: str, block: int | None) -> None:
    assert last_attention_before([Site.parse(each) for each in sites.split()]) == block
