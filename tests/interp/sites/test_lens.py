"""The lens at the last block is the model itself, and at earlier ones what its own norm and head make of them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import log_softmax

import interp
from tests.tiny_models import FAMILIES, LAYERS, VOCAB, tiny_model

TOKENS = torch.randint(1, VOCAB, (2, 7), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_layer_by_hand(family: str, tmp_path: Path) -> None:
    plain = tiny_model(family)
    plain.save_pretrained(tmp_path)
    model = interp.load_model(tmp_path, device="cpu")
    lens = interp.logit_lens(model, TOKENS)
    base = plain.base_model
    norm = {"gpt2": "ln_f", "gpt_neox": "final_layer_norm"}.get(family, "norm")
    with torch.no_grad():
        states = plain(TOKENS, output_hidden_states=True)
        torch.testing.assert_close(lens.logits[-1], states.logits, rtol=0, atol=1e-3)
        torch.testing.assert_close(lens.final, states.logits, rtol=0, atol=1e-4)
        for layer in range(LAYERS - 1):
            logits = plain.get_output_embeddings()(getattr(base, norm)(states.hidden_states[layer + 1]))
            if (cap := getattr(plain.config, "final_logit_softcapping", None)) is not None:
                logits = cap * torch.tanh(logits / cap)
            torch.testing.assert_close(lens.logits[layer], logits, rtol=0, atol=1e-3)
    assert lens.kl()[-1].abs().max() < 1e-4
    p, q = log_softmax(lens.final, -1), log_softmax(lens.logits[0], -1)
    torch.testing.assert_close(lens.kl()[0], (p.exp() * (p - q)).sum(-1), rtol=1e-3, atol=1e-5)


def test_tops_ranks_and_positions(embedded: Any) -> None:
    text = "She was not at home"
    whole = interp.logit_lens(embedded, text)
    part = interp.logit_lens(embedded, text, sites="blocks.2.hook_resid_post", positions=[-1])
    assert [str(site) for site in part.sites] == ["blocks.2.hook_resid_post"]
    torch.testing.assert_close(part.logits[0, :, 0], whole.logits[2, :, -1], rtol=0, atol=1e-4)
    best = whole.top(3)
    assert torch.equal(whole.rank(best[1, ..., 0])[1], torch.zeros(1, best.shape[2], dtype=torch.long))
    assert torch.equal(whole.rank(best[1, ..., 2])[1], torch.full((1, best.shape[2]), 2))


def test_a_family_with_other_logits_is_refused(tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path)
    model = interp.load_model(tmp_path, device="cpu")
    model.original_model.register_forward_hook(lambda _m, _a, out: setattr(out, "logits", out.logits * 2))
    with pytest.raises(ValueError, match="so the lens would be wrong here"):
        interp.logit_lens(model, TOKENS)


def test_bad_sites(embedded: Any) -> None:
    with pytest.raises(ValueError, match="the lens reads the residual stream"):
        interp.logit_lens(embedded, TOKENS, sites="blocks.1.hook_mlp_out")
    with pytest.raises(ValueError, match="needs a model from load_model"):
        interp.logit_lens(tiny_model("gpt2"), TOKENS)
