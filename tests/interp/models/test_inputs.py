"""Padded batches, texts and what tokenizers return give the activations that each prompt has alone."""

import copy
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoTokenizer, BatchEncoding

from interp import capture, load_model
from interp.embedded import MODEL_FOLDER
from interp.models.families import table as families
from interp.models.families.table import family_of
from interp.models.inputs import checked_inputs
from interp.models.source import puts_bos
from interp.sites.site import available_sites
from interp.tokens.token_rows import write_token_rows
from tests.tiny_models import CONFIGS, FAMILIES, IN_A_BRIDGE, VOCAB, cases, tiny_model

LENGTHS = (9, 4, 6)
PROMPTS = [torch.randint(1, VOCAB, (n,), generator=torch.Generator().manual_seed(n)) for n in LENGTHS]
TEXTS = ["The lady had been married", "Emma", "He was not at home, and she"]


def padded(side: str) -> tuple[Tensor, Tensor]:
    """The prompts in one batch, with zeros on one side, and where they are."""
    ids, mask = torch.zeros(len(LENGTHS), max(LENGTHS), dtype=torch.long), torch.zeros(len(LENGTHS), max(LENGTHS))
    for row, prompt in enumerate(PROMPTS):
        place = slice(max(LENGTHS) - len(prompt), None) if side == "left" else slice(0, len(prompt))
        ids[row, place], mask[row, place] = prompt, 1
    return ids, mask


def of_row(tensor: Tensor, kind: str, mask: Tensor) -> Tensor:
    """What stands at the real tokens of one row; of matrices over pairs, those pairs."""
    real = mask.bool()
    return tensor[:, real][:, :, real] if kind in ("scores", "pattern") else tensor[real]


def test_padding_on_the_left_is_refused_where_attention_counts_columns() -> None:
    model, (ids, mask) = tiny_model("llama4_text"), padded("left")
    with pytest.raises(ValueError, match=r"'llama4_text' models counts columns of the batch.*pad on the right"):
        capture(model, ids, "blocks.0.hook_resid_post", attention_mask=mask)
    with torch.no_grad():  # and so it is, whatever positions are given
        alone = model(PROMPTS[1][None]).logits[0]
        given = {"attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
        together = model(ids, **given).logits[1][mask[1].bool()]
        assert (alone - together).abs().max() > 5e-4  # rows that padding leaves alone differ by 2e-5 at most
    check_rows(model, "right", "hooks")


@pytest.mark.parametrize("case", cases(case for case in CONFIGS if case != "llama4_text"))
def test_every_row_of_a_batch_that_is_padded_on_the_left_is_as_it_is_alone(bridges: Any, case: str) -> None:
    """Through the plain modules, and where hooks make a bridge run."""
    model = bridges(case) if case in IN_A_BRIDGE else tiny_model(case)
    check_rows(model, "left", "hooks", also_by_bridge=case in IN_A_BRIDGE)


@pytest.mark.parametrize(("side", "engine"), [("left", "nnsight"), ("right", "hooks"), ("right", "nnsight")])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_row_of_a_padded_batch_is_as_it_is_alone(bridges: Any, family: str, side: str, engine: str) -> None:
    check_rows(bridges(family), side, engine)


def check_rows(model: Any, side: str, engine: str, *, also_by_bridge: bool = False) -> None:
    ids, mask = padded(side)
    sites = [site for site in available_sites(model) if site.kind != "path"]
    alone = [capture(model, prompt[None], sites, engine=engine) for prompt in PROMPTS]
    batches = [capture(model, ids, sites, attention_mask=mask, engine=engine)]
    if also_by_bridge and (shown := [s for s in sites if s.kind in family_of(model.original_model.config).bridge]):
        with model.hooks(fwd_hooks=[("blocks.0.hook_out", lambda value, hook: value)]):
            batches.append(capture(model, ids, shown, attention_mask=mask))
    for together in batches:
        for site, row in itertools.product(together, range(len(PROMPTS))):
            found, wanted = of_row(together[site][row], site.kind, mask[row]), alone[row][site][0]
            if site.kind == "scores":  # what masks a pair is the lowest number, or nearly so
                hidden = wanted < -1e30
                assert (found < -1e30).equal(hidden), site
                found, wanted = found.masked_fill(hidden, 0), wanted.masked_fill(hidden, 0)
            scale = wanted.abs().max().item()
            torch.testing.assert_close(found, wanted, rtol=0, atol=2e-5 * max(scale, 1.0), msg=f"{site} {row}")


def test_without_the_mask_left_padding_would_be_wrong(tmp_path: Path) -> None:
    """What the refusal below is for."""
    tiny_model("llama").save_pretrained(tmp_path)
    model = load_model(tmp_path, device="cpu")
    site = "blocks.2.hook_resid_post"
    ids, mask = padded("left")
    silent = capture(model, ids, site, attention_mask=torch.ones_like(mask))[site][1][mask[1].bool()]
    alone = capture(model, PROMPTS[1][None], site)[site][0]
    assert (silent - alone).norm() / alone.norm() > 0.1


def test_texts_ids_and_encodings_are_the_same(embedded: Any) -> None:
    site = "blocks.2.hook_resid_post"
    from_texts = capture(embedded, TEXTS, site)[site]
    encoded: BatchEncoding = embedded.tokenizer(TEXTS, padding=True, return_tensors="pt", padding_side="left")
    from_encoding = capture(embedded, encoded, site)[site]
    for row, text in enumerate(TEXTS):
        alone = capture(embedded, text, site)[site][0]
        torch.testing.assert_close(from_texts[row, : len(alone)], alone, rtol=0, atol=1e-4)
        torch.testing.assert_close(from_encoding[row, -len(alone) :], alone, rtol=0, atol=1e-4)


def test_every_path_from_text_agrees_on_bos(embedded: Any, tmp_path: Path) -> None:
    """The embedded model's tokenizer puts one, though a bridge of its architecture would leave it out of ids."""
    published = AutoTokenizer.from_pretrained(MODEL_FOLDER)
    ids = published(TEXTS[0])["input_ids"]
    assert embedded.tokenizer(TEXTS[0])["input_ids"] == ids
    assert embedded.to_tokens(TEXTS[0])[0].tolist() == ids
    assert checked_inputs(embedded, TEXTS[0])[0][0].tolist() == ids
    (tmp_path / "text.txt").write_text(TEXTS[0])
    rows = write_token_rows(tmp_path / "text.txt", embedded.tokenizer, tmp_path / "rows", tokens=8, context=len(ids))
    assert rows.ids[0].tolist() == ids


def test_a_tokenizer_that_puts_none_goes_on_putting_none(tmp_path: Path) -> None:
    published = AutoTokenizer.from_pretrained(MODEL_FOLDER, add_bos_token=False)
    assert not puts_bos(published)
    model = copy.deepcopy(tiny_model("llama"))  # with its configuration, which others share
    model.resize_token_embeddings(len(published))
    model.save_pretrained(tmp_path)
    published.save_pretrained(tmp_path)
    bridge = load_model(tmp_path, device="cpu")
    ids = published(TEXTS[0])["input_ids"]
    assert bridge.tokenizer(TEXTS[0])["input_ids"] == bridge.to_tokens(TEXTS[0])[0].tolist() == ids


@pytest.mark.parametrize(
    ("tokens", "mask", "message"),
    [
        ([[0, 0, 0, 5], [1, 2, 3, 4]], None, "row 0 of the batch has padding .* pass attention_mask"),
        ([[1, 2, 3, 4], [5, 0, 0, 0]], None, "row 1 of the batch has padding"),
        ([[1, 2], [3, 4]], [[1, 1]], r"attention_mask has shape \[1, 2\], the tokens \[2, 2\]"),
        ([[1, 2], [3, 4]], [[1, 2], [0, 1]], "1 where a token is real and 0"),
        ([[1, 2], [3, 4]], [[1, 1], [0, 0]], "row 1 of the batch is all padding"),
        ([[1, 2, 3]], [[1, 0, 1]], "row 0 of attention_mask has a hole"),
        (["Emma"], [[1]], "attention_mask is for token ids"),
        ({"ids": [[1]]}, None, "this one has ids"),
    ],
)
def test_bad_batches(embedded: Any, tokens: Any, mask: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        capture(embedded, tokens, "blocks.0.hook_resid_post", attention_mask=mask)


def test_a_text_without_tokens(embedded: Any) -> None:
    """With a BOS it has one."""
    assert checked_inputs(embedded, ["Emma", ""])[0].shape[0] == 2
    embedded.tokenizer.add_bos_token = False
    try:
        with pytest.raises(ValueError, match="'' has no tokens; leave it out"):
            checked_inputs(embedded, ["Emma", ""])
    finally:
        embedded.tokenizer.add_bos_token = True


def test_a_row_may_begin_with_one_separator(embedded: Any) -> None:
    assert checked_inputs(embedded, [[0, 5, 0, 6], [7, 0, 8, 0]])[1] == {"use_cache": False}


def test_text_needs_a_tokenizer() -> None:
    with pytest.raises(ValueError, match="'Emma' is text, and this model has no tokenizer"):
        checked_inputs(tiny_model("gpt2"), "Emma")


def test_padding_on_the_left_is_refused_where_nothing_compared_it(
    monkeypatch: pytest.MonkeyPatch, bridges: Any
) -> None:
    monkeypatch.delitem(families.FAMILIES, "llama")
    (left, left_mask), (right, right_mask) = padded("left"), padded("right")
    with pytest.raises(ValueError, match=r"padding on the left was compared in .*, not in 'llama': pad on the right"):
        checked_inputs(bridges("llama"), left, left_mask)
    assert checked_inputs(bridges("llama"), right, right_mask)[1] == {"use_cache": False}
