"""What the embedded model ships and what it learned, measured here from its weights."""

import itertools
import json
import logging
import shutil
import tomllib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedTokenizerFast

from interp import embedded, load_model
from interp.checkpoints import open_source
from interp.embedded import FOLDER, MODEL_FOLDER, TEXT_FOLDER, steps
from interp.embedded.evaluate import (
    CURVES,
    Skills,
    baselines,
    heldout_losses,
    induction_scores,
    ioi_accuracy,
    load,
    table,
)
from interp.embedded.synthetic import NAMES, OBJECTS, PLACES, TEMPLATES, ioi_prompts, repeated_tokens
from interp.embedded.text import BYTES, documents_of, sample
from interp.embedded.train import CHECKPOINT_STEPS, CONTEXT, VOCAB, model_config, tokenize_books
from interp.models.fingerprint import weights_fingerprint

MB = 1_000_000


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast.from_pretrained(MODEL_FOLDER)


def stream(split: str, tokenizer: PreTrainedTokenizerFast, *, book: str | None = None) -> np.ndarray:
    lines = (TEXT_FOLDER / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return tokenize_books([row["text"] for row in rows if book in (None, row["book"])], tokenizer)


@pytest.fixture(scope="module")
def heldout(tokenizer: PreTrainedTokenizerFast) -> np.ndarray:
    return stream("heldout", tokenizer, book="emma")


@pytest.fixture(scope="module")
def curves() -> dict:
    return json.loads(CURVES.read_text(encoding="utf-8"))


def test_revisions_are_those_of_the_recipe():
    assert tuple(steps()) == CHECKPOINT_STEPS
    assert len(CHECKPOINT_STEPS) >= 16
    assert CHECKPOINT_STEPS[0] == 0
    # Log-spaced: no gap between neighbours beyond a factor of four.
    assert all(b <= 4 * a for a, b in itertools.pairwise(CHECKPOINT_STEPS[1:]))


def test_sizes():
    sizes = {file: file.stat().st_size for file in MODEL_FOLDER.rglob("*") if file.is_file()}
    assert sizes[MODEL_FOLDER / f"step{steps()[-1]}" / "model.safetensors"] <= 8 * MB
    assert sum(sizes.values()) <= 40 * MB
    assert sum(file.stat().st_size for file in TEXT_FOLDER.iterdir()) <= 1.5 * MB


def test_every_revision_loads_and_no_two_are_the_same():
    fingerprints = {}
    for step in steps():
        model = load_model("embedded", revision=f"step{step}")
        assert torch.isfinite(model(torch.tensor([[0, 5, 9]]))).all()
        fingerprints[step] = weights_fingerprint(model)
    assert len(set(fingerprints.values())) == len(CHECKPOINT_STEPS)


def test_the_architecture_is_pythias(embedded: TransformerBridge):
    config = embedded.original_model.config
    assert config.model_type == "gpt_neox"
    assert config.use_parallel_residual
    assert config.rope_parameters["partial_rotary_factor"] == 0.25
    assert not config.tie_word_embeddings
    for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size"):
        assert getattr(config, name) == getattr(model_config(), name)


def test_step_0_knows_nothing(heldout: np.ndarray, tokenizer: PreTrainedTokenizerFast):
    model = load(0)
    # Logits of random weights are small but not zero, which costs a little on top of the uniform distribution.
    assert heldout_losses(model, heldout[: 20 * CONTEXT]).mean() == pytest.approx(np.log(VOCAB), abs=0.6)
    assert induction_scores(model).max() < 0.1
    assert ioi_accuracy(model, tokenizer, n=300)[1] < 0.1


def test_text_was_learned(heldout: np.ndarray, tokenizer: PreTrainedTokenizerFast):
    # The shipped sample would make a weak bigram, so the bigram also sees the held-out text's half that is not scored.
    half = len(heldout) // 2
    train = np.concatenate([stream("train", tokenizer), heldout[:half]])
    reference = baselines(train, heldout[half:])
    losses = heldout_losses(load(steps()[-1]), heldout[half:])
    standard_error = losses.std(ddof=1) / np.sqrt(len(losses))
    assert reference.bigram < reference.unigram - 1
    assert losses.mean() + 4 * standard_error < reference.bigram - 0.25


def test_a_row_may_begin_with_the_separator(heldout: np.ndarray):
    model, rows = load(steps()[-1]), heldout[: 40 * (CONTEXT - 1)].reshape(40, CONTEXT - 1)
    behind = np.concatenate([np.zeros((40, 1), dtype=rows.dtype), rows], axis=1)
    # As near as the words that a first position without context costs.
    assert (
        heldout_losses(model, behind.reshape(-1)).mean() < heldout_losses(model, heldout[: 40 * CONTEXT]).mean() + 0.2
    )


def test_induction_was_learned():
    assert induction_scores(load(steps()[-1]), rows=16).max() >= 0.5


def test_ioi_was_learned(tokenizer: PreTrainedTokenizerFast):
    """The rule carries over to new sentences and, nearly as well, to new names in them."""
    model = load(steps()[-1])
    assert ioi_accuracy(model, tokenizer, n=400, names="train")[0] >= 0.95
    above, top = ioi_accuracy(model, tokenizer, n=400)
    assert above >= 0.9
    assert top <= above


def test_ioi_accuracy_is_that_of_one_prompt_at_a_time(tokenizer: PreTrainedTokenizerFast):
    model, n = load(steps()[-3]), 40
    above = top = 0
    for prompt in ioi_prompts(np.random.default_rng(0), n, split="heldout"):
        ids = torch.tensor([[0, *tokenizer(prompt.prompt, add_special_tokens=False)["input_ids"]]])
        answer, wrong = (
            tokenizer(f" {name}", add_special_tokens=False)["input_ids"][0]
            for name in (prompt.indirect_object, prompt.subject)
        )
        logits = model(input_ids=ids).logits[0, -1]
        above += bool(logits[answer] > logits[wrong])
        top += bool(logits.argmax() == answer)
    assert ioi_accuracy(model, tokenizer, n=n) == pytest.approx((above / n, top / n))


def test_curves_are_those_of_the_weights(curves: dict, tokenizer: PreTrainedTokenizerFast):
    by_step = {row["step"]: row for row in curves["checkpoints"]}
    assert list(by_step) == steps()
    row, model = by_step[steps()[-2]], load(steps()[-2])
    assert induction_scores(model).max() == pytest.approx(row["induction"], abs=1e-3)
    above, top = ioi_accuracy(model, tokenizer)
    assert above == pytest.approx(row["ioi_accuracy"], abs=0.005)
    assert top == pytest.approx(row["ioi_top1"], abs=0.005)


def test_the_shipped_curves_reach_what_was_asked(curves: dict):
    last = curves["checkpoints"][-1]
    assert last["heldout_loss"] < curves["baselines"]["bigram"] - 0.2 < curves["baselines"]["unigram"] - 1
    assert last["induction"] >= 0.5
    assert last["ioi_accuracy"] >= 0.9
    assert curves["ioi_accuracy_training_names"] >= 0.95


def test_the_card_shows_the_curves(curves: dict):
    rows = [Skills(**row | {"induction_head": tuple(row["induction_head"])}) for row in curves["checkpoints"]]
    card = (FOLDER / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "\n".join(table(rows)) in card
    for name in ("unigram", "bigram"):
        assert f"{curves['baselines'][name]:.3f}" in card


def test_baselines_by_hand():
    train = np.array([1, 2, 1, 2, 1, 3], dtype=np.uint16)
    found = baselines(train, np.array([1, 2, 2], dtype=np.uint16))
    unigram = {1: 4 / (VOCAB + 6), 2: 3 / (VOCAB + 6)}
    assert found.unigram == pytest.approx(-np.log(unigram[2]))
    bigram = {(1, 2): 2 / 3, (2, 2): 0.0}
    losses = [
        -np.mean([np.log(w * bigram[pair] + (1 - w) * unigram[2]) for pair in bigram]) for w in np.arange(0.05, 1, 0.05)
    ]
    assert found.bigram == pytest.approx(min(losses))


def test_the_splits_of_names_and_templates_are_disjoint():
    assert not set(NAMES["train"]) & set(NAMES["heldout"])
    assert not set(TEMPLATES["train"]) & set(TEMPLATES["heldout"])
    for values in (*NAMES.values(), TEMPLATES["heldout"], PLACES, OBJECTS):
        assert len(set(values)) == len(values)
    assert not set(NAMES["train"] + NAMES["heldout"]) & {word for t in TEMPLATES["train"] for word in t.split()}


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_ioi_prompts(split: str):
    prompts = ioi_prompts(np.random.default_rng(1), 400, split=split)
    orders = Counter()
    for prompt in prompts:
        assert prompt.indirect_object != prompt.subject
        assert {prompt.indirect_object, prompt.subject} <= set(NAMES[split])
        words = prompt.prompt.replace(",", " ").replace(".", " ").split()
        assert words.count(prompt.subject) == 2
        assert words.count(prompt.indirect_object) == 1
        assert words[0] not in NAMES[split], "a name without a space in front is another token"
        assert not prompt.prompt.endswith(" ")
        assert prompt.sentence == f"{prompt.prompt} {prompt.indirect_object}."
        orders[words.index(prompt.subject) < words.index(prompt.indirect_object)] += 1
    assert abs(orders[True] - 200) < 60  # six standard deviations
    assert prompts == ioi_prompts(np.random.default_rng(1), 400, split=split)


def test_ioi_prompts_take_other_names():
    prompts = ioi_prompts(np.random.default_rng(0), 20, split="train", names=("Ann", "Bob"))
    assert {prompt.subject for prompt in prompts} == {"Ann", "Bob"}


def test_repeated_tokens():
    ids = repeated_tokens(np.random.default_rng(0), rows=5, half=7, vocab=50, bos=3, first_id=10)
    assert ids.shape == (5, 15)
    assert (ids[:, 0] == 3).all()
    assert (ids[:, 1:8] == ids[:, 8:]).all()
    assert ids[:, 1:].min() >= 10
    assert ids.max() < 50


def test_documents_keep_all_text():
    book = "\n\n".join(f"{'word ' * (7 * i % 90)}{i}." for i in range(200))
    documents = documents_of(book, characters=500)
    assert "\n\n".join(documents) == book
    assert all(len(document) >= 500 for document in documents[:-1])
    assert documents_of("short") == ["short"]
    assert documents_of("") == []


def test_sample_is_spread_evenly_and_keeps_its_size(tmp_path: Path):
    books = []
    for name in ("a", "b"):
        books.append(tmp_path / f"{name}.txt")
        books[-1].write_text("\n\n".join(f"{name} {i} {'x' * 900}" for i in range(400)), encoding="utf-8")
    rows = sample(books, size=120_000)
    counts = Counter(row["book"] for row in rows)
    assert counts["a"] == counts["b"] > 1
    assert sum(len(row["text"].encode()) for row in rows) <= 120_000 * 1.3
    numbers = [int(row["text"].split()[1]) for row in rows if row["book"] == "a"]
    gaps = np.diff(numbers)
    assert numbers[0] == 0
    assert numbers[-1] > 300
    assert gaps.min() == gaps.max()


def test_the_shipped_text_is_what_the_sampler_cuts():
    for split, expected in {"train": 16, "heldout": 2}.items():
        lines = (TEXT_FOLDER / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        assert all(row.keys() == {"text", "book"} and row["text"].strip() for row in rows)
        assert len({row["book"] for row in rows}) == expected
        assert sum(len(row["text"]) for row in rows) < 1.3 * BYTES[split]


def test_where_a_wheel_has_one_checkpoint_the_others_are_said_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The wheel's patterns, as a folder."""
    patterns = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8"))
    shipped = patterns["tool"]["setuptools"]["package-data"]["interp.embedded"]
    for file in (file for pattern in shipped for file in embedded.FOLDER.glob(pattern)):
        place = tmp_path / file.relative_to(embedded.FOLDER)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, place)
    assert sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file()) < 6_000_000
    monkeypatch.setattr(embedded, "MODEL_FOLDER", tmp_path / "model")
    assert embedded.steps() == [5792]
    assert load_model("embedded").cfg.n_layers == 4
    with pytest.raises(ValueError, match=r"no revision 'step512'.*set DEEPFIELD_EMBEDDED=CLONE/interp/embedded/model"):
        load_model("embedded", revision="step512")
    with caplog.at_level(logging.WARNING):
        assert list(open_source("embedded").checkpoints) == [5792]
    assert "one checkpoint of the embedded model here" in caplog.text
