import gzip
import json
import pickle
import time
from itertools import chain
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from interp.tokens.documents import arrow_documents
from interp.tokens.sources import open_source

TEXTS = ["Call me Ishmael.\n\nSome years ago", "naïve café ☕", "", "z" * 5000]
IDS = [[5, 6, 7], [], [65535, 0]]


def read(source: Any, **options: Any) -> list[str | list[int]]:
    found = open_source(source, **options).read()
    return [document.tolist() if isinstance(document, np.ndarray) else "".join(document) for document in found]


def json_text(values: list[Any], column: str = "text") -> str:
    return "".join(json.dumps({"other": 1, column: value}) + "\n" for value in values)


def write_txt(folder: Path) -> Path:
    (folder / "deep").mkdir(parents=True)
    for index, text in enumerate(TEXTS):
        (folder / ("deep" if index > 1 else "") / f"{index}.txt").write_text(text, encoding="utf-8")
    (folder / ".hidden.txt").write_text("not this", encoding="utf-8")
    (folder / "README.md").write_text("nor this", encoding="utf-8")
    return folder


def write_jsonl(path: Path) -> Path:
    path.write_text(json_text(TEXTS), encoding="utf-8")
    return path


def write_gz(path: Path) -> Path:
    path.write_bytes(gzip.compress(json_text(TEXTS).encode()))
    return path


def write_zst_in_two_frames(path: Path) -> Path:
    halves = json_text(TEXTS[:2]), json_text(TEXTS[2:])
    path.write_bytes(b"".join(zstandard.compress(half.encode()) for half in halves))
    return path


def write_parquet(path: Path) -> Path:
    pyarrow.parquet.write_table(pyarrow.table({"text": TEXTS, "other": [1] * 4}), path)
    return path


def write_saved(folder: Path) -> Path:
    datasets.Dataset.from_dict({"text": TEXTS}).save_to_disk(folder)
    return folder


def write_splits(folder: Path) -> Path:
    parts = {"test": ["no"], "train": TEXTS}
    datasets.DatasetDict({k: datasets.Dataset.from_dict({"text": v}) for k, v in parts.items()}).save_to_disk(folder)
    return folder


WRITERS = {
    "folder": write_txt,
    "lines.jsonl": write_jsonl,
    "lines.json": write_jsonl,
    "lines.jsonl.gz": write_gz,
    "lines.jsonl.zst": write_zst_in_two_frames,
    "table.parquet": write_parquet,
    "saved": write_saved,
    "splits": write_splits,
}


@pytest.mark.parametrize("name", WRITERS)
def test_text_of_every_kind(tmp_path: Path, name: str) -> None:
    path = WRITERS[name](tmp_path / name)
    assert read(path) == TEXTS
    assert read(str(path)) == read(path), "a source can be read twice, and named by a string"
    assert open_source(path).name == name, "no path of this machine"


def test_datasets_of_python() -> None:
    table = datasets.Dataset.from_dict({"text": TEXTS, "other": [1] * 4})
    assert read(table) == TEXTS
    assert read(table.select([3, 0])) == [TEXTS[3], TEXTS[0]]
    assert read(table.with_format("torch")) == TEXTS
    assert read(table.to_iterable_dataset()) == TEXTS
    stream = datasets.IterableDataset.from_generator(lambda: ({"text": text} for text in TEXTS))
    assert stream.column_names is None
    assert read(stream) == TEXTS


def test_named_split_and_column(tmp_path: Path) -> None:
    assert read(write_splits(tmp_path / "d"), split="test") == ["no"]
    path = tmp_path / "d.jsonl"
    path.write_text(json_text(["a", "b"], column="content"), encoding="utf-8")
    assert read(path, column="content") == ["a", "b"]


def test_a_text_file_is_one_document_as_read_text_gives_it(tmp_path: Path) -> None:
    # Longer than a block, with multi-byte characters and \r\n across every possible border.
    text = "\ufeff" + "één\r\nzwei\rtrois\n☕" * 120_000
    path = tmp_path / "book.txt"
    path.write_bytes(text.encode())
    assert path.stat().st_size > 2 << 20
    assert read(path) == [path.read_text(encoding="utf-8-sig")]


def test_token_ids_of_every_kind(tmp_path: Path) -> None:
    table = pyarrow.table({"ids": pyarrow.array(IDS, pyarrow.list_(pyarrow.int32())), "text": ["a", "b", "c"]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_text(json_text(IDS, column="ids"), encoding="utf-8")
    for source in (tmp_path / "a.parquet", tmp_path / "a.jsonl", datasets.Dataset.from_dict({"ids": IDS})):
        assert read(source, column="ids") == IDS
    flat = np.arange(60_000, 60_012)
    np.save(tmp_path / "a.npy", flat)
    np.save(tmp_path / "rows.npy", flat.reshape(3, 4).astype(np.uint16))
    flat.astype("<u2").tofile(tmp_path / "a.bin")
    (flat + 70_000).astype("<u4").tofile(tmp_path / "wide.bin")
    for source in (tmp_path / "a.npy", tmp_path / "rows.npy", tmp_path / "a.bin", flat, flat.reshape(2, 6)):
        assert [*chain(*read(source))] == flat.tolist()
    assert [*chain(*read(tmp_path / "wide.bin", id_dtype="uint32"))] == (flat + 70_000).tolist()


def test_long_streams_of_ids_come_in_parts_and_whole(tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(0, 50_000, size=(2500, 1000), dtype=np.uint16)
    np.save(tmp_path / "a.npy", ids)
    parts = list(open_source(tmp_path / "a.npy").read())
    assert len(parts) > 2
    assert np.array_equal(np.concatenate(parts), ids.ravel())


def test_identity_follows_the_content(tmp_path: Path) -> None:
    def identity(source: Any) -> str:
        return open_source(source).identity

    folder, lines = write_txt(tmp_path / "folder"), write_jsonl(tmp_path / "lines.jsonl")
    before = identity(folder), identity(lines)
    assert before == (identity(folder), identity(lines))
    assert identity(write_txt(tmp_path / "copy" / "folder")) == before[0], "wherever it lies"
    (folder / "0.txt").write_text("Call me Ahab.")
    lines.write_text(json_text(TEXTS[::-1]), encoding="utf-8")
    assert len({*before, identity(folder), identity(lines)}) == 4
    tables = (TEXTS, TEXTS[:3], TEXTS[::-1])
    assert len({identity(datasets.Dataset.from_dict({"text": table})) for table in tables}) == 3
    assert identity(datasets.Dataset.from_dict({"text": TEXTS})) == identity(
        datasets.Dataset.from_dict({"text": TEXTS, "other": [0] * 4})
    )
    assert identity(np.arange(5)) != identity(np.arange(1, 6))


def write_pickled(path: Path) -> Path:
    np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    return path


def message(source: Any, **options: Any) -> str:
    with pytest.raises(ValueError, match=r".") as caught:
        read(source, **options)
    return str(caught.value)


def test_nothing_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("./gone", "gone.jsonl", "a/b/c", Path("gone")):
        assert "no file or folder at" in (text := message(name))
        assert ".parquet" in text
        assert "looked from" in text
    began = time.monotonic()
    for name in ("deepfield/no-such-data", "no-such-data"):
        text = message(name)
        assert f"no file or folder {name!r}" in text
        assert "HF_HUB_OFFLINE forbids to ask the hub" in text
    assert time.monotonic() - began < 60  # each request to the hub would be tried again and again
    assert "'not a name!' is neither a file, a folder nor the name of a data set" in message("not a name!")


def test_wrong_kind(tmp_path: Path) -> None:
    assert "cannot read documents from a dict" in message({"text": "a"})
    assert "nothing to read in" in (text := message(tmp_path))
    assert "the folder holds no files" in text
    for name in ("a.pdf", "GPL-3", "c.docx", "d.docx"):
        (tmp_path / name).write_text("x")
    assert "no kind is known by .pdf; call it a.txt if it is plain text" in message(tmp_path / "a.pdf")
    assert "by a name without ending; call it GPL-3.txt" in message(tmp_path / "GPL-3")
    assert "of its 4 files (GPL-3, a.pdf, c.docx, …) none is of a known kind" in message(tmp_path)
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "b.jsonl").write_text("{}")
    assert "a mixture of .jsonl and .txt to read in" in message(tmp_path)
    assert "split='test' applies to named Hugging Face datasets only" in message(tmp_path / "a.txt", split="test")
    assert "config='x' applies to" in message(tmp_path / "a.txt", config="x")


def test_marked_text_is_read_where_there_is_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# notes")
    (tmp_path / "more.rst").write_text("more")
    assert read(tmp_path) == ["# notes", "more"]
    assert read(tmp_path / "README.md") == ["# notes"]
    (tmp_path / "data.txt").write_text("data")
    assert read(tmp_path) == ["data"]


def test_wrong_split(tmp_path: Path) -> None:
    assert "has no split 'dev'; it has test, train" in message(write_splits(tmp_path / "d"), split="dev")
    assert "without splits; leave split='dev' out" in message(write_saved(tmp_path / "s"), split="dev")


@pytest.mark.parametrize("name", [name for name in WRITERS if name != "folder"])
def test_missing_column_lists_the_columns(tmp_path: Path, name: str) -> None:
    text = message(WRITERS[name](tmp_path / name), column="content")
    assert "no column 'content'; it has" in text
    assert "text" in text


def test_column_of_a_wrong_type(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    for value, said in ((1.5, "float"), ([1, "a"], "a list with other entries"), ([True], "a list"), ({}, "dict")):
        path.write_text(json_text(["ok", value]), encoding="utf-8")
        assert f"column 'text' in line 2 of a.jsonl holds {said}" in message(path)
    assert "column 'other' in table.parquet holds int64" in message(
        write_parquet(tmp_path / "table.parquet"), column="other"
    )
    floats = datasets.Dataset.from_dict({"text": [[0.5]]})
    assert "column 'text' in dataset holds list" in message(floats)
    assert "a list with empty entries" in message(datasets.Dataset.from_dict({"text": [[1, None]]}))


def test_damaged_files(tmp_path: Path) -> None:
    latin = tmp_path / "latin.txt"
    for before in (0, 7, (1 << 20) - 1, 3_000_001):
        latin.write_bytes(b"a" * before + "é".encode("latin-1") + b" end")
        assert f"is not UTF-8: byte {before} is 0xe9" in message(latin)
        latin.write_bytes(b"a" * before + "é".encode()[:1])
        assert f"is not UTF-8: byte {before} is 0xc3" in message(latin)
    lines = tmp_path / "a.jsonl"
    for bad, said in (
        ('{"text": "b"', "line 2 of a.jsonl is not JSON"),
        ('["b"]', "line 2 of a.jsonl holds a list"),
        ('{"a": 1}', "line 2 of a.jsonl has no column 'text'; it has a"),
    ):
        lines.write_text(f'{{"text": "a"}}\n{bad}\n', encoding="utf-8")
        assert said in message(lines)
    lines.write_bytes(b'{"text": "\xe9"}')
    assert "line 1 of a.jsonl is not JSON" in message(lines)
    packed = write_gz(tmp_path / "a.jsonl.gz")
    packed.write_bytes(packed.read_bytes()[:-9])
    assert "a.jsonl.gz is damaged or not whole" in message(packed)
    (tmp_path / "a.parquet").write_bytes(b"PAR1 not")
    assert "a.parquet is not a parquet file" in message(tmp_path / "a.parquet")


@pytest.mark.parametrize("kind", ["gz", "zst", "parquet", "saved", "npy"])
def test_a_file_cut_anywhere_is_no_shorter_data_set(tmp_path: Path, kind: str) -> None:
    """Zstandard's decoder takes a file's end for the end of the data: of 3,000 documents 70 % left 2,048, silently."""
    numbers = np.random.default_rng(0).integers(0, 1 << 62, size=3000)
    lines = json_text([f"{number:020d} " * 24 for number in numbers.tolist()]).encode()
    path = tmp_path / f"lines.jsonl.{kind}"
    if kind == "gz":
        path.write_bytes(gzip.compress(lines))
    elif kind == "zst":
        path.write_bytes(zstandard.compress(lines))
    elif kind == "parquet":
        path = tmp_path / "table.parquet"
        pyarrow.parquet.write_table(pyarrow.table({"text": ["x" * 500] * 3000}), path, row_group_size=100)
    elif kind == "npy":
        path = tmp_path / "ids.npy"
        np.save(path, np.arange(3000))
    else:
        write_saved(tmp_path / "saved")
        (path,) = (tmp_path / "saved").glob("*.arrow")
    source = path.parent if kind == "saved" else path
    whole, content = read(source), path.read_bytes()
    for share in (0, 0.1, 0.5, 0.7, 0.99, 1 - 1 / len(content)):
        path.write_bytes(content[: int(share * len(content))])
        text = message(source)
        assert source.name in text
        assert share != 0.7 or kind != "zst" or f"it is cut off at byte {path.stat().st_size}, inside the frame" in text
    path.write_bytes(content)
    assert read(source) == whole


def test_a_file_cut_where_a_part_of_it_ends_is_no_shorter_data_set(tmp_path: Path) -> None:
    """Between two record batches of Arrow nothing but the end marker is missing; an array's header says its length."""
    datasets.Dataset.from_dict({"text": ["x" * 50] * 3000}).save_to_disk(tmp_path / "saved")
    (path,) = (tmp_path / "saved").glob("*.arrow")
    content = path.read_bytes()
    with pyarrow.memory_map(str(path)) as file:
        stream = pyarrow.ipc.open_stream(file)
        stream.read_next_batch()
        border = file.tell()
    path.write_bytes(content[:border])
    assert len(datasets.load_from_disk(str(path.parent))) < 3000, "which is what others read"
    assert "has no end marker, so it was cut off" in message(path.parent)
    np.save(tmp_path / "ids.npy", np.arange(10_000))
    np.save(tmp_path / "short.npy", np.arange(10))
    header = (tmp_path / "short.npy").read_bytes()[:128]
    (tmp_path / "ids.npy").write_bytes(header + (tmp_path / "ids.npy").read_bytes()[128:])
    assert "its header says 208 bytes, the file has 80,128" in message(tmp_path / "ids.npy")


def test_whole_zstandard_files_of_every_make(tmp_path: Path) -> None:
    """Frames with and without sizes and checksums, run-length and raw blocks, skippable frames, and several."""
    text, noise = json_text(["a" * 400_000]).encode(), json_text([str(np.random.default_rng(0).bytes(90_000))]).encode()
    skippable = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"notes"
    frames = [
        zstandard.ZstdCompressor(level=level, write_checksum=checksum, write_content_size=sized).compress(content)
        for content in (text, noise)
        for level, checksum, sized in ((1, False, False), (19, True, True), (3, True, False))
    ]
    path = tmp_path / "a.jsonl.zst"
    for held in ([frame] for frame in frames):
        path.write_bytes(b"".join(held))
        assert len(read(path)) == 1
    path.write_bytes(skippable + b"".join(frames) + skippable)
    assert len(read(path)) == 6
    whole = path.read_bytes()
    for end in (3, 10, len(skippable) + 1, len(skippable) + len(frames[0]) + 2, len(whole) - 1):
        path.write_bytes(whole[:end])
        assert f"it is cut off at byte {end}, inside the frame that begins at byte" in message(path)
    path.write_bytes(whole + b"garbage that is no frame")
    assert f"no frame begins at byte {len(whole)}" in message(path)
    path.write_bytes(frames[0][:-40] + b"\xff" * 40)
    assert "a.jsonl.zst is damaged or not whole" in message(path)


def test_half_a_surrogate_pair_is_replaced(tmp_path: Path) -> None:
    """As decoders do: a text that was cut inside an emoji is no reason to stop, and no tokenizer takes it as it is."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "cut \\ud83d and whole \\ud83d\\ude00"}\n{"text": ["\\udc00"]}\n')
    found = open_source(path).read()
    assert next(found) == "cut \ufffd and whole \U0001f600"
    with pytest.raises(ValueError, match=r"in line 2 of a\.jsonl holds a list"):
        next(found)


def test_json_that_is_nested_too_deeply_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n' + "[" * 100_000 + "\n")
    assert "line 2 of a.jsonl is not JSON: it is nested too deeply" in message(path)


def test_damaged_ids(tmp_path: Path) -> None:
    assert "is not an array of token ids" in message(write_pickled(tmp_path / "pickled.npy"))
    (tmp_path / "raw.npy").write_bytes(pickle.dumps([1]))
    assert "is not an array of token ids" in message(tmp_path / "raw.npy")
    np.save(tmp_path / "cut.npy", np.arange(9))
    for end in (0, 7, 40, 127, 150):
        (tmp_path / "header.npy").write_bytes((tmp_path / "cut.npy").read_bytes()[:end])
        assert "header.npy is not an array of token ids" in message(tmp_path / "header.npy")
    (tmp_path / "odd.bin").write_bytes(b"123")
    assert "odd.bin has 3 bytes, no whole number of uint16 ids" in message(tmp_path / "odd.bin")
    assert "id_dtype 'float32' is not one of" in message(tmp_path / "odd.bin", id_dtype="float32")
    assert "the array holds float64; token ids are integers" in message(np.zeros(3))
    assert "the array has shape (1, 1, 1)" in message(np.zeros((1, 1, 1), int))


def test_offsets_outside_a_column_are_no_way_out_of_its_memory() -> None:
    """As a flipped bit in a saved data set leaves them; Arrow itself reads there, and may end the process."""
    offsets = pyarrow.py_buffer(np.array([0, 1 << 30, 6], dtype=np.int32))
    column = pyarrow.Array.from_buffers(pyarrow.string(), 2, [None, offsets, pyarrow.py_buffer(b"abcdef")])
    with pytest.raises(ValueError, match=r"saved is damaged: .*offset"):
        list(arrow_documents(column, "text", "saved"))
