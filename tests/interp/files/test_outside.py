"""The one place where files from outside are read: every error of a parser names the file, in one line."""

import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from interp.files.outside import parse_json, parse_json_text, read_json, reading, record, typed


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyError("k"), "it lacks 'k'"),
        (RecursionError("maximum recursion depth exceeded"), "it is nested too deeply"),
        (struct.error("unpack requires 4 bytes"), "error: unpack requires 4 bytes"),
        (ValueError("two\n  lines"), "two lines"),
        (ValueError(), "ValueError"),
        (MemoryError(), "MemoryError"),
        (FileNotFoundError(2, "No such file or directory", "/deep/inside/a.bin"), "No such file or directory (a.bin)"),
        (OverflowError("x" * 5000), "OverflowError: " + "x" * 385),
    ],
)
def test_whatever_is_raised_names_the_file(error: Exception, said: str) -> None:
    with (
        pytest.raises(ValueError, match=r"^/a/file is no map") as caught,
        reading("/a/file", "is no map", fix="Redraw"),
    ):
        raise error
    assert str(caught.value).startswith(f"/a/file is no map: {said}")
    assert str(caught.value).endswith(". Redraw")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    assert caught.value.__cause__ is error


def test_an_error_that_names_the_file_is_left_as_it_is() -> None:
    mine = ValueError("/a/file: k is 0")
    with pytest.raises(ValueError, match=r"^/a/file: k is 0$") as caught, reading(Path("/a/file")):
        raise mine
    assert caught.value is mine


def test_what_is_not_an_error_passes() -> None:
    with pytest.raises(KeyboardInterrupt), reading("file"):
        raise KeyboardInterrupt
    with reading("file"):
        pass


def test_json(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_bytes(b'\xef\xbb\xbf{"a": [1, "\\ud83d\\ude00"]}')
    assert read_json(file) == {"a": [1, "\U0001f600"]}
    for content, said in (
        (b"", "Expecting value"),
        (b"[1]", "it holds a list, not an object"),
        (b"[" * 100_000, "it is nested too deeply"),
        (b'{"a": ' * 100_000, "it is nested too deeply"),
        (b"\xff", "can't decode byte 0xff"),
        (b'"\xed\xa0\x80"', "can't decode byte 0xed"),
        (b'{"a": "\\ud83d"}', "half of a surrogate pair"),
        (b'{"\\udc00": 1}', "half of a surrogate pair"),
        (b'{"a": ' + b"9" * 5000 + b"}", "Exceeds the limit"),
    ):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.json is damaged: ") as caught:
            read_json(file)
        assert said in str(caught.value)
    with pytest.raises(ValueError, match=r"b\.json is no map: No such file or directory \(b\.json\)\. Draw it"):
        read_json(tmp_path / "b.json", "is no map", fix="Draw it")
    assert parse_json('"\\\\ud83d is how it is written"', "x") == "\\ud83d is how it is written"
    assert parse_json_text('{"\\ud83d": ["\\ude00a", 1, null]}', "x") == {"\ufffd": ["\ufffda", 1, None]}


@dataclass(frozen=True)
class Part:
    count: int
    share: float = 0.5


@dataclass(frozen=True, kw_only=True)
class Whole:
    name: str
    parts: tuple[Part, ...]
    limit: int | None = None
    by_name: dict[str, float] = field(default_factory=dict)
    on: bool = True


GOOD: dict[str, Any] = {"name": "n", "parts": [{"count": 1}, {"count": 2, "share": 1}]}


def test_records() -> None:
    assert record(Whole, GOOD) == Whole(name="n", parts=(Part(1), Part(2, 1.0)))
    rest = {"limit": None, "by_name": {"a": 2}, "on": False}
    assert record(Whole, GOOD | rest) == Whole(name="n", parts=(Part(1), Part(2, 1.0)), by_name={"a": 2.0}, on=False)
    assert record(Whole, {"name": "n"}, parts=()) == Whole(name="n", parts=())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": None}, "it.name is 'None'; it must be a text"),
        ({"parts": {}}, "it.parts is '{}'"),
        ({"parts": "ab"}, "it.parts is 'ab'"),
        ({"parts": [{"count": 1.0}]}, r"it.parts\[0\].count is '1.0'; it must be a whole number"),
        ({"parts": [{"count": True}]}, r"it.parts\[0\].count is 'True'; it must be a whole number"),
        ({"parts": [{"count": 1, "share": float("nan")}]}, r"it.parts\[0\].share is 'nan'; it must be a finite number"),
        ({"parts": [{}]}, r"it.parts\[0\] lacks count"),
        ({"parts": [3]}, r"it.parts\[0\] is a int, not an object"),
        ({"limit": "3"}, "it.limit is '3'"),
        ({"by_name": [1]}, "it.by_name is"),
        ({"by_name": {"a": "1"}}, "it.by_name.a is '1'"),
        ({"on": 1}, "it.on is '1'; it must be true or false"),
        ({"more": 1}, "it has more, which it should not have"),
    ],
)
def test_a_field_of_another_type_is_named(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        record(Whole, GOOD | change)


def test_typed_values() -> None:
    assert typed([[1, 2], []], tuple[tuple[int, ...], ...], "x") == ((1, 2), ())
    with pytest.raises(ValueError, match=r"x\[1\] is 'b'; it must be a finite number"):
        typed([1, "b"], tuple[float, ...], "x")
