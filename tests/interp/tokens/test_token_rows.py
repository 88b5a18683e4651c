import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from interp.embedded import MODEL_FOLDER, TEXT_FOLDER
from interp.tokens.token_rows import TokenRows, open_token_rows, token_mask, verify_token_rows, write_token_rows
from interp.tokens.tokenising import encode

HELDOUT = TEXT_FOLDER / "heldout.jsonl"
TEXTS = [json.loads(line)["text"] for line in HELDOUT.read_text(encoding="utf-8").splitlines()]
FILES = ("documents.npy", "ids.npy", "tokens.json")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """The embedded model's own, but that it puts no BOS before a text; its separator and BOS are id 0."""
    tokenizer = AutoTokenizer.from_pretrained(MODEL_FOLDER)
    tokenizer.add_bos_token = True
    tokenizer.add_bos_token = False  # a change is what it acts upon
    return tokenizer


@pytest.fixture(scope="module")
def letters() -> Any:
    """Llama's habits in small: BOS 1 before a text, EOS 2, and a to z are 3 to 28, a word each."""
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2} | {chr(ord("a") + i): 3 + i for i in range(26)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def table(values: list[Any], column: str = "text") -> datasets.Dataset:
    return datasets.Dataset.from_dict({column: values})


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


def rows_of(rows: TokenRows) -> tuple[list[list[int]], list[list[int]]]:
    return rows.ids.tolist(), rows.documents.tolist()


def by_document(rows: TokenRows) -> list[list[int]]:
    ids, numbers = rows.ids.ravel(), rows.documents.ravel()
    ids, numbers = ids[numbers >= 0], numbers[numbers >= 0]
    assert np.all(np.isin(np.diff(numbers), (0, 1))), "numbers rise by one, and a document is in one piece"
    return [part.tolist() for part in np.split(ids, np.flatnonzero(np.diff(numbers)) + 1)]


@pytest.mark.parametrize("context", [2, 7, 128])
def test_packed_rows_hold_every_document_once(tokenizer: Any, tmp_path: Path, context: int) -> None:
    rows = write_token_rows(HELDOUT, tokenizer, tmp_path, tokens=10**9, context=context)
    by_hand = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
    first, *others = by_document(rows)
    assert [first, *others] == [by_hand[0], *([0, *ids] for ids in by_hand[1:])]
    assert rows.info["documents"] == len(TEXTS)
    assert rows.info["tokens"] == sum(map(len, by_hand)) + len(TEXTS) - 1 < rows.info["tokens_asked"]
    padding = rows.documents.ravel() < 0
    assert not padding[:-context].any()
    assert padding.sum() == rows.ids.size - rows.info["tokens"]
    assert (np.diff(padding.astype(int)) >= 0).all(), "padding is on the right"
    assert rows.positions.tolist() == [list(range(context))] * len(rows.ids)
    assert {rows.ids.dtype, rows.documents.dtype, rows.positions.dtype} == {np.dtype(np.int32)}


@pytest.mark.smollm2
def test_smollm2_rows_decode_to_the_documents(smollm2: Any, tmp_path: Path) -> None:
    rows = write_token_rows(HELDOUT, smollm2.tokenizer, tmp_path, tokens=10**9, context=512)
    separator = smollm2.tokenizer.convert_tokens_to_ids("<|endoftext|>")
    assert separator == rows.info["separator_id"] != smollm2.tokenizer.eos_token_id, "EOS ends a turn of its chat"
    first, *others = by_document(rows)
    assert {ids[0] for ids in others} == {separator}
    documents = [first, *(ids[1:] for ids in others)]
    assert documents == [smollm2.tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
    assert [smollm2.tokenizer.decode(ids) for ids in documents] == TEXTS


def test_tokens_are_rounded_up_to_whole_rows(tokenizer: Any, tmp_path: Path) -> None:
    everything = write_token_rows(HELDOUT, tokenizer, tmp_path / "all", tokens=10**9, context=64)
    for tokens, count in ((1, 1), (64, 1), (65, 2), (20_001, 313)):
        rows = write_token_rows(HELDOUT, tokenizer, tmp_path / str(tokens), tokens=tokens, context=64)
        assert rows.ids.shape == (count, 64)
        assert rows.info["tokens"] == count * 64
        assert np.array_equal(rows.ids, everything.ids[:count])
        assert np.array_equal(rows.documents, everything.documents[:count])
        assert rows.info["documents"] == rows.documents.max() + 1


LETTERS = ["a b c", "", "d", "e f"]
POLICIES: dict[tuple[str, str, Any], tuple[list[list[int]], list[list[int]]]] = {
    # By hand, context 4. a is 3; BOS 1, EOS 2, which also fills the padding.
    ("packed", "never", "model"): ([[3, 4, 5, 2], [6, 2, 7, 8]], [[0, 0, 0, 1], [1, 2, 2, 2]]),
    ("packed", "never", None): ([[3, 4, 5, 6], [7, 8, 0, 0]], [[0, 0, 0, 1], [2, 2, -1, -1]]),
    ("packed", "never", 9): ([[3, 4, 5, 9], [6, 9, 7, 8]], [[0, 0, 0, 1], [1, 2, 2, 2]]),
    ("packed", "row", "model"): (
        [[1, 3, 4, 5], [1, 2, 6, 2], [1, 7, 8, 2]],
        [[0, 0, 0, 0], [1, 1, 1, 2], [2, 2, 2, -1]],
    ),
    ("packed", "document", "model"): (
        [[1, 3, 4, 5], [2, 1, 6, 2], [1, 7, 8, 2]],
        [[0, 0, 0, 0], [1, 1, 1, 2], [2, 2, 2, -1]],
    ),
    # Where separator and BOS are one token it stands once.
    ("packed", "row", 1): ([[1, 3, 4, 5], [1, 6, 1, 7], [1, 8, 1, 1]], [[0, 0, 0, 0], [1, 1, 2, 2], [2, 2, -1, -1]]),
    ("packed", "document", 1): (
        [[1, 3, 4, 5], [1, 6, 1, 7], [8, 1, 1, 1]],
        [[0, 0, 0, 0], [1, 1, 2, 2], [2, -1, -1, -1]],
    ),
    ("document", "never", "model"): (
        [[3, 4, 5, 2], [6, 2, 2, 2], [7, 8, 2, 2]],
        [[0, 0, 0, -1], [1, -1, -1, -1], [2, 2, -1, -1]],
    ),
    ("document", "document", "model"): (
        [[1, 3, 4, 5], [1, 6, 2, 2], [1, 7, 8, 2]],
        [[0, 0, 0, 0], [1, 1, -1, -1], [2, 2, 2, -1]],
    ),
}
POLICIES["packed", "model", "model"] = POLICIES["packed", "row", "model"]
POLICIES["document", "model", "model"] = POLICIES["document", "row", "model"] = POLICIES[
    "document", "document", "model"
]


@pytest.mark.parametrize(("packing", "bos", "separator"), POLICIES)
def test_packing_bos_and_separator(letters: Any, tmp_path: Path, packing: str, bos: str, separator: Any) -> None:
    options = {"tokens": 99, "context": 4, "packing": packing, "bos": bos, "separator": separator}
    rows = write_token_rows(table(LETTERS), letters, tmp_path, **options)
    assert rows_of(rows) == POLICIES[packing, bos, separator]
    assert rows.info["empty_documents"] == 1
    assert (rows.info["bos_asked"], rows.info["bos"]) == (bos, "row" if bos == "model" else bos)


def test_model_policy_follows_the_tokenizer(tokenizer: Any, tmp_path: Path) -> None:
    rows = write_token_rows(HELDOUT, tokenizer, tmp_path / "a", tokens=500, context=50)
    assert rows.info["bos"] == "never"
    rows = write_token_rows(HELDOUT, tokenizer, tmp_path / "b", tokens=500, context=50, bos="row")
    assert (rows.ids[:, 0] == 0).all()


def test_a_document_a_row_is_cut_and_counted(letters: Any, tmp_path: Path) -> None:
    texts = ["a " * 10, "b", "c " * 4, "d " * 3]
    rows = write_token_rows(table(texts), letters, tmp_path, tokens=10, context=4, packing="document")
    assert rows_of(rows)[0] == [[1, 3, 3, 3], [1, 4, 2, 2], [1, 5, 5, 5]], "stops when 10 tokens, not cells, are full"
    assert (rows.info["tokens"], rows.info["documents"]) == (10, 3)
    assert (rows.info["truncated_documents"], rows.info["dropped_tokens"]) == (2, 7 + 1)


def test_ids_are_taken_as_they_are(letters: Any, tmp_path: Path) -> None:
    # nanoGPT puts the separator behind a document, others before it; flat streams stay as they are in both.
    for name, flat, numbers in (
        ("behind", [3, 4, 2, 5, 2, 6, 7, 2], [0, 0, 1, 1, 2, 2, 2, 2]),
        ("before", [2, 3, 4, 2, 5, 2, 6, 7], [0, 0, 0, 1, 1, 2, 2, 2]),
        ("none", [3, 4, 5, 6, 7, 8, 9, 9], [0] * 8),
    ):
        for array in (np.array(flat, np.uint16), np.array(flat).reshape(2, 4)):
            rows = write_token_rows(array, letters, tmp_path / f"{name}{array.ndim}", tokens=99, context=4)
            assert rows.ids.ravel().tolist() == flat
            assert rows.documents.ravel().tolist() == numbers
    rows = write_token_rows(np.array([3, 4, 2, 5]), None, tmp_path / "without", tokens=99, context=4, separator=2)
    assert rows_of(rows) == ([[3, 4, 2, 5]], [[0, 0, 1, 1]])
    entries = table([[1, 3, 4], [5, 2], [6]], "ids")
    rows = write_token_rows(entries, letters, tmp_path / "entries", tokens=99, context=7, column="ids")
    assert rows_of(rows) == ([[1, 3, 4, 2, 5, 2, 6]], [[0, 0, 0, 1, 1, 1, 2]]), "no separator beside one"


def test_a_long_flat_stream_survives_whole(tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(0, 1000, size=2_500_000, dtype=np.uint16)
    ids.tofile(tmp_path / "ids.bin")
    rows = write_token_rows(tmp_path / "ids.bin", None, tmp_path / "rows", tokens=10**9, context=100, separator=0)
    assert np.array_equal(rows.ids.ravel(), ids)
    assert np.array_equal(rows.documents.ravel(), np.cumsum(ids == 0) - (ids[0] == 0))


def trained(backend: Tokenizer) -> Any:
    trainer = trainers.BpeTrainer(vocab_size=800, special_tokens=["</s>"], show_progress=False)
    backend.train_from_iterator(TEXTS[:30], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")


def sentencepiece_like() -> Any:
    backend = Tokenizer(models.BPE(unk_token="</s>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.decoder = decoders.Metaspace()
    return trained(backend)


def normalizing() -> Any:
    backend = Tokenizer(models.BPE())
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return trained(backend)


@pytest.mark.parametrize("make", [None, sentencepiece_like, normalizing])
def test_a_long_document_has_the_ids_of_the_whole(tokenizer: Any, make: Any) -> None:
    tokenizer = tokenizer if make is None else make()
    accents = "Ça ﬁnit … n'est-ce pas? ½ e\u0301te\u0301 ☕️🏴 漢字かな\r\n\r\n\t  "
    text = " ".join(part + accents * (index % 3) for index, part in enumerate(TEXTS[:90]))
    text += "\n" * 5000 + "-" * 5000 + " end " + "word" * 2000
    assert len(text) > 4 * 65_536
    whole = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    in_pieces = (text[begin : begin + 50_001] for begin in range(0, len(text), 50_001))
    for document in (text, in_pieces):
        pieces = list(encode(["before", document, "after"], tokenizer))
        begins = [begin for begin, _ in pieces]
        assert begins[:2] == [True, True]
        assert begins[-1]
        assert sum(begins) == 3
        assert len(pieces) > 5
        assert np.concatenate([ids for _, ids in pieces[1:-1]]).tolist() == whole


def test_an_endless_word_is_tokenised_as_one(tokenizer: Any) -> None:
    for text in ("a" * 200_000, "ab" * 70_000 + " words " * 20_000 + "☕" * 70_000):
        began = time.process_time()
        ids = np.concatenate([ids for _, ids in encode([text], tokenizer)])
        assert ids.tolist() == tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        assert time.process_time() - began < 20


def test_long_text_gives_no_warning(tokenizer: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "book.txt").write_text("\n\n".join(TEXTS), encoding="utf-8")
    write_token_rows(tmp_path / "book.txt", tokenizer, tmp_path / "rows", tokens=10**9, context=64)
    assert capfd.readouterr() == ("", "")


def test_reading_stops_when_the_tokens_are_reached(tokenizer: Any, tmp_path: Path) -> None:
    read = []

    def documents() -> Any:
        for index in range(10**6):
            read.append(index)
            yield {"text": TEXTS[index % len(TEXTS)]}

    stream = datasets.IterableDataset.from_generator(documents)
    write_token_rows(stream, tokenizer, tmp_path / "stream", tokens=1000, context=64)
    assert len(read) < 2000
    # A byte that cannot be read, far behind what is needed, is never reached.
    (tmp_path / "book.txt").write_bytes("\n".join(TEXTS).encode() * 30 + b"\xff")
    rows = write_token_rows(tmp_path / "book.txt", tokenizer, tmp_path / "rows", tokens=1000, context=64)
    assert rows.info["tokens"] == 1024


def test_the_same_input_gives_the_same_bytes(tokenizer: Any, tmp_path: Path) -> None:
    shutil.copy(HELDOUT, tmp_path / HELDOUT.name)
    one = write_token_rows(HELDOUT, tokenizer, tmp_path / "one", tokens=9000, context=64)
    two = write_token_rows(tmp_path / HELDOUT.name, tokenizer, tmp_path / "two", tokens=9000, context=64)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert one.fingerprint == two.fingerprint
    other = write_token_rows(HELDOUT, tokenizer, tmp_path / "other", tokens=9000, context=64, separator=None)
    assert other.fingerprint != one.fingerprint
    # The fingerprint is of ids and documents: where they came from does not matter.
    flat = write_token_rows(one.ids.ravel(), tokenizer, tmp_path / "flat", tokens=9000, context=64)
    assert flat.fingerprint == one.fingerprint


def test_finished_rows_are_opened_again(tokenizer: Any, tmp_path: Path) -> None:
    rows = write_token_rows(HELDOUT, tokenizer, tmp_path, tokens=9000, context=64)
    before = {name: (tmp_path / name).stat().st_mtime_ns for name in FILES}
    again = write_token_rows(HELDOUT, tokenizer, tmp_path, tokens=9000, context=64)
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in FILES} == before
    assert again.fingerprint == rows.fingerprint == verify_token_rows(tmp_path).fingerprint
    assert again.info == rows.info
    with pytest.raises(ValueError, match="holds another run") as caught:
        write_token_rows(TEXT_FOLDER / "train.jsonl", tokenizer, tmp_path, tokens=9000, context=32)
    assert "context: there 64, asked 32" in str(caught.value)
    assert "data: there 'heldout.jsonl', asked 'train.jsonl'" in str(caught.value)
    assert "packing" not in str(caught.value)


@pytest.mark.parametrize(("name", "old", "new"), [("ids.npy", None, None), ("tokens.json", b'"bos": "', b'"bas": "')])
def test_rows_that_were_altered_are_not_continued_from(
    name: str, old: bytes | None, new: bytes | None, tokenizer: Any, tmp_path: Path
) -> None:
    """The same size and shape, another token: a cache would be of another text."""
    write_token_rows(HELDOUT, tokenizer, tmp_path, tokens=9000, context=64)
    content = bytearray((tmp_path / name).read_bytes())
    if old is None or new is None:
        content[-40] ^= 1
    else:
        content = content.replace(old, new, 1)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} was altered: its checksum differs. Delete .* and write it again"):
        write_token_rows(HELDOUT, tokenizer, tmp_path, tokens=9000, context=64)


def test_killed_and_run_again(tokenizer: Any, tmp_path: Path) -> None:
    out = tmp_path / "rows"
    (tmp_path / "book.txt").write_text("\n\n".join(TEXTS) * 6, encoding="utf-8")
    program = (
        "import sys; from transformers import AutoTokenizer; from interp.tokens.token_rows import write_token_rows;"
        f"tokenizer = AutoTokenizer.from_pretrained({str(MODEL_FOLDER)!r});"
        f"write_token_rows({str(tmp_path / 'book.txt')!r}, tokenizer, {str(out)!r}, tokens=10**9, context=64)"
    )
    process = subprocess.Popen([sys.executable, "-c", program], cwd=Path(__file__).parents[3])
    while not any(file.stat().st_size > 200_000 for file in out.glob(".ids.npy.*.partial")):
        assert process.poll() is None, "it finished before it could be killed"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "tokens.json").exists()
    with pytest.raises(ValueError, match="no finished token rows"):
        open_token_rows(out)
    write_token_rows(tmp_path / "book.txt", tokenizer, out, tokens=10**9, context=64)
    write_token_rows(tmp_path / "book.txt", tokenizer, tmp_path / "straight", tokens=10**9, context=64)
    assert contents(out) == contents(tmp_path / "straight")
    assert not list(out.glob("*.partial"))


def test_masks(letters: Any, tmp_path: Path) -> None:
    rows = write_token_rows(table(LETTERS), letters, tmp_path, tokens=99, context=4)
    # [[1, 3, 4, 5], [1, 2, 6, 2], [1, 7, 8, padding]]
    assert token_mask(rows).tolist() == [[True] * 4, [True] * 4, [True, True, True, False]]
    assert token_mask(rows, drop_first=2).astype(int).tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 1, 0]]
    assert np.array_equal(token_mask(rows, np.array([2, 0])), token_mask(rows)[[2, 0]])
    special = token_mask(rows, slice(1, 3), drop_special=True)
    assert special.astype(int).tolist() == [[0, 0, 1, 0], [0, 1, 1, 0]]
    with pytest.raises(ValueError, match="drop_first 4 is not from 0 to 3"):
        token_mask(rows, drop_first=4)


BAD = {
    "tokens=0: at least one": {"tokens": 0},
    "tokens=-5: at least one": {"tokens": -5},
    "context=1: a row has at least 2 tokens": {"context": 1},
    "context=300: a row has at least 2 tokens and at most 256, what the model": {"context": 300, "max_context": 256},
    "packing='pack' is not one of packed, document": {"packing": "pack"},
    "bos='always' is not one of model, row, document, never": {"bos": "always"},
    "separator='eos' is neither 'model' nor a token id nor None": {"separator": "eos"},
    "separator=-1 is neither": {"separator": -1},
    "the separator 4000 is outside the vocabulary 0 to 3999": {"separator": 4000},
    "has no column 'content'; it has text": {"column": "content"},
    "is text, and there is no tokenizer .*: give token ids": {"tokenizer": None},
    "bos='row', but there is no tokenizer": {"tokenizer": None, "bos": "row", "source": np.arange(9)},
    "no file or folder at 'gone.txt'": {"source": "gone.txt"},
    "holds no text: 3 documents, all of them empty": {"source": table(["", None, ""])},
    "array has token id 4000, outside the vocabulary 0 to 3999": {"source": np.full(9, 4000)},
    "array has token id 50, outside the vocabulary 0 to 49": {"source": np.full(9, 50), "vocab_size": 50},
    "array has token id -3, outside the vocabulary": {"source": np.array([5, -3, 9999])},
    "holds no text: 0 documents": {"source": np.empty(0, int)},
}


@pytest.mark.parametrize("said", BAD)
def test_bad_input(tokenizer: Any, tmp_path: Path, said: str) -> None:
    options = {"source": HELDOUT, "tokenizer": tokenizer, "tokens": 100, "context": 10} | BAD[said]
    with pytest.raises(ValueError, match=said):
        write_token_rows(folder=tmp_path / "rows", **options)
    assert {file.name for file in tmp_path.glob("rows/*")} <= {".lock"}, "nothing is left half-written"


def test_one_column_of_text_and_ids(tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": [1, 2]}\n')
    with pytest.raises(ValueError, match=r"a\.jsonl mixes text and token ids"):
        write_token_rows(tmp_path / "a.jsonl", tokenizer, tmp_path / "rows", tokens=9, context=3)


def test_a_tokenizer_without_special_tokens(tmp_path: Path) -> None:
    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
    options = {"tokens": 9, "context": 3}
    with pytest.raises(ValueError, match=r"no end-of-text token .* separator=ID or None"):
        write_token_rows(table(["a"]), bare, tmp_path, **options)
    with pytest.raises(ValueError, match="bos='row', but the tokenizer has no BOS token; use bos='never'"):
        write_token_rows(table(["a"]), bare, tmp_path, bos="row", **options)
    assert write_token_rows(table(["a"]), bare, tmp_path, separator=None, **options).info["tokens"] == 1


def test_folder_that_cannot_be_written(tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    folders = [tmp_path / "file", tmp_path / "file" / "rows"]
    folders += [Path("/sys/deepfield"), Path("/proc/deepfield")] if sys.platform == "linux" else []
    if os.name == "posix" and os.geteuid() != 0:  # root may write anywhere
        (tmp_path / "locked").mkdir(mode=0o500)
        folders.append(tmp_path / "locked")
    for folder in folders:
        with pytest.raises(ValueError, match=rf"cannot write to .{re.escape(str(folder))}.: .*choose another folder"):
            write_token_rows(HELDOUT, tokenizer, folder, tokens=100, context=10)


def test_damaged_rows(tokenizer: Any, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    rows = write_token_rows(HELDOUT, tokenizer, whole, tokens=1000, context=50)

    def said(change: Any, check: Any = open_token_rows) -> str:
        folder = tmp_path / "damaged"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole, folder)
        change(folder)
        with pytest.raises(ValueError, match=r".") as caught:
            check(folder)
        return str(caught.value)

    def rewrite(name: str, data: bytes) -> Any:
        return lambda folder: (folder / name).write_bytes(data)

    data = (whole / "ids.npy").read_bytes()
    manifest = (whole / "tokens.json").read_text()
    assert "ids.npy cannot be read" in said(rewrite("ids.npy", data[:-1]))
    assert "ids.npy has" in said(rewrite("ids.npy", data + b"0"))
    assert "says int32 (20, 50)" in said(lambda folder: np.save(folder / "ids.npy", rows.ids[1:]))
    assert "of int64 (20, 50)" in said(lambda folder: np.save(folder / "documents.npy", rows.ids.astype(int)))
    assert "ids.npy cannot be read" in said(lambda folder: np.save(folder / "ids.npy", np.array([{}])))
    assert "documents.npy cannot be read" in said(lambda folder: (folder / "documents.npy").unlink())
    assert "no finished token rows" in said(lambda folder: (folder / "tokens.json").unlink())
    assert "tokens.json is damaged" in said(rewrite("tokens.json", manifest[:-9].encode()))
    assert "tokens.json is damaged: rows" in said(
        rewrite("tokens.json", manifest.replace('"rows": 20', '"rows": "20"').encode())
    )
    assert "tokens.json is damaged: it holds a list" in said(rewrite("tokens.json", b"[]"))
    flipped = data[:-1] + bytes([data[-1] ^ 1])
    assert "ids.npy was altered" in said(rewrite("ids.npy", flipped), verify_token_rows)
    other = manifest.replace(rows.fingerprint, "sha256:0").encode()
    assert "tokens.json was altered" in said(rewrite("tokens.json", other), verify_token_rows)


@pytest.mark.skipif(sys.platform == "win32", reason="a mapped file cannot be truncated there")
@pytest.mark.parametrize("column", ["ids", "documents"])
def test_rows_that_are_truncated_while_they_are_read_are_told_in_words(tmp_path: Path, column: str) -> None:
    """Reading the lost part of a mapped file ends the process by SIGBUS."""
    ids = np.arange(1, 6401) % 60
    rows = write_token_rows(ids, None, tmp_path / "rows", tokens=6400, context=32, separator=0, vocab_size=64)
    assert rows.tensor_of("ids", slice(150, 160)).flatten().tolist() == ids[4800:5120].tolist()
    os.truncate(tmp_path / "rows" / f"{column}.npy", 1000)
    with pytest.raises(ValueError, match=rf"{column}\.npy was truncated while it was read: 1000 bytes instead of \d+"):
        rows.tensor_of(column, slice(150, 160))
