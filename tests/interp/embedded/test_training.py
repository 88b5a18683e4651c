"""Training of the embedded model: batches, schedule, and a killed run that ends where an uninterrupted one does."""

import itertools
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerFast

from interp.embedded import MODEL_FOLDER
from interp.embedded.synthetic import NAMES
from interp.embedded.train import (
    CHECKPOINT_STEPS,
    CONTEXT,
    IGNORED,
    ROWS,
    SEPARATOR,
    VOCAB,
    WARMUP_STEPS,
    Batches,
    learning_rate_factor,
    losses_of,
    new_model,
    tokenize_books,
    train,
    train_tokenizer,
)
from tests.patience import PATIENCE

BOOK = "\n\n".join(f"Chapter {i}. It was the year {i}, and a cold wind blew from the north." for i in range(400))
LAST = 6
RUN = f"""
import sys
from pathlib import Path
from interp.embedded.train import train
train([Path(sys.argv[1]).read_text(encoding="utf-8")], Path(sys.argv[2]), checkpoint_steps=(0, 2, {LAST}), save_every=1)
"""


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast.from_pretrained(MODEL_FOLDER)


@pytest.fixture(scope="module")
def batches(tokenizer: PreTrainedTokenizerFast) -> Batches:
    return Batches(tokenize_books([BOOK], tokenizer), tokenizer)


def rows_of(kind: str, values: torch.Tensor) -> torch.Tensor:
    return dict(zip(ROWS, values.split(list(ROWS.values())), strict=True))[kind]


def test_a_killed_run_continues_to_the_same_bits(tmp_path: Path, tokenizer: PreTrainedTokenizerFast):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for out in (whole, killed):
        tokenizer.save_pretrained(out / "model")  # training a tokenizer is not what is tested here
    book, state = tmp_path / "book.txt", killed / "state.safetensors"
    book.write_text(BOOK, encoding="utf-8")
    train([BOOK], whole, checkpoint_steps=(0, 2, LAST), save_every=1)

    process = subprocess.Popen([sys.executable, "-c", RUN, str(book), str(killed)])
    deadline = time.monotonic() + PATIENCE
    while not state.exists():
        assert process.poll() is None, "training ended without saving its state"
        assert time.monotonic() < deadline, "no state was saved"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with safe_open(state, framework="pt") as opened:
        assert 0 < int(opened.metadata()["step"]) < LAST, "killed too late for the test to mean anything"

    train([BOOK], killed, checkpoint_steps=(0, 2, LAST), save_every=1)
    for file in ("state.safetensors", "model/step0/model.safetensors", f"model/step{LAST}/model.safetensors"):
        expected, found = load_file(whole / file), load_file(killed / file)
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[name], found[name]) for name in expected), file


def test_training_moves_every_parameter(batches: Batches):
    model = new_model()
    losses = losses_of(model, *batches(0))
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    for loss in losses.values():
        assert loss.item() == pytest.approx(np.log(VOCAB), abs=0.6)


def test_losses_equal_those_of_the_full_logits(batches: Batches):
    model = new_model().eval()
    ids, labels = batches(3)
    with torch.no_grad():
        logits = model(input_ids=ids).logits[:, :-1]
        losses = losses_of(model, ids, labels)
    for kind, loss in losses.items():
        log_p = rows_of(kind, logits).log_softmax(-1)
        targets = rows_of(kind, labels[:, 1:])
        mask = targets != IGNORED
        expected = -log_p[mask].gather(1, targets[mask][:, None]).mean()
        torch.testing.assert_close(loss, expected)


def test_a_batch_is_a_function_of_seed_and_step(batches: Batches, tokenizer: PreTrainedTokenizerFast):
    again = Batches(tokenize_books([BOOK], tokenizer), tokenizer)
    ids, labels = batches(7)
    again(3)  # what was drawn before must not matter
    ids_again, labels_again = again(7)
    assert torch.equal(ids, ids_again)
    assert torch.equal(labels, labels_again)
    assert not torch.equal(ids, batches(8)[0])
    assert ids.shape == labels.shape == (sum(ROWS.values()), CONTEXT)
    assert ids.min() >= 0
    assert ids.max() < VOCAB


def test_every_label_is_its_token_and_can_be_predicted(batches: Batches):
    for step in range(10):
        ids, labels = batches(step)
        assert torch.equal(rows_of("text", ids), rows_of("text", labels))
        for kind in ("repeated", "ioi"):
            for row, targets in zip(rows_of(kind, ids), rows_of(kind, labels), strict=True):
                labelled = (targets != IGNORED).nonzero().flatten()
                assert len(labelled) >= 5
                for i in labelled.tolist():
                    assert row[i] == targets[i]
                    start = 0 if kind == "repeated" else (row[:i] == 0).nonzero().max().item()
                    assert row[i] in row[start:i], "the answer stands nowhere before"


def test_the_repeated_rows_repeat(batches: Batches):
    for step in range(10):
        ids, labels = (rows_of("repeated", values) for values in batches(step))
        for row, targets in zip(ids, labels, strict=True):
            period = int((targets != IGNORED).nonzero()[0]) - 2  # behind the separator, and the first repeated token
            assert 4 <= period <= CONTEXT // 2
            assert torch.equal(row[1 + period :], row[1:-period])


def test_no_sentence_of_training_holds_a_heldout_name(batches: Batches, tokenizer: PreTrainedTokenizerFast):
    heldout = torch.tensor(tokenizer.convert_tokens_to_ids([f"Ġ{name}" for name in NAMES["heldout"]]))
    rows = torch.cat([rows_of("ioi", batches(step)[0]) for step in range(100)])
    assert not torch.isin(rows, heldout).any()


def test_the_learning_rate_has_no_jump():
    last = CHECKPOINT_STEPS[-1]
    factors = [learning_rate_factor(step, last) for step in range(last + 1)]
    assert factors[0] == pytest.approx(1 / WARMUP_STEPS)
    assert factors[WARMUP_STEPS] == pytest.approx(1) == pytest.approx(max(factors))
    assert factors[-1] == pytest.approx(0.05)
    assert max(abs(b - a) for a, b in itertools.pairwise(factors)) <= 1 / WARMUP_STEPS + 1e-9
    assert all(b < a for a, b in itertools.pairwise(factors[WARMUP_STEPS:]))


def test_the_tokenizer_keeps_names_whole_and_text_unchanged():
    text = (MODEL_FOLDER.parent / "text" / "train.jsonl").read_text(encoding="utf-8")[:200_000]
    tokenizer = train_tokenizer([text])
    names = [f" {name}" for split in NAMES.values() for name in split]
    assert all(len(ids) == 1 for ids in tokenizer(names)["input_ids"])
    assert len(tokenizer) == VOCAB
    assert tokenizer.convert_tokens_to_ids(SEPARATOR) == 0
    sample = "Où est-il? “Here”, said Ångström — 北京.\n\n  Two  spaces."
    assert tokenizer.decode(tokenizer(sample)["input_ids"]) == sample


def test_every_document_starts_with_a_separator(tokenizer: PreTrainedTokenizerFast):
    stream = tokenize_books([BOOK, BOOK], tokenizer)
    assert stream.dtype == np.uint16
    assert stream[0] == 0
    assert (stream == 0).sum() > 2
    assert tokenizer.decode(stream[stream != 0].tolist()).startswith("Chapter 0. It was the year 0")
