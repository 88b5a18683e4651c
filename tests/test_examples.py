"""Examples in docstrings of public names run, and print what they say; every name of the three faces has one."""

import doctest
import functools
import importlib
import inspect
from pathlib import Path
from typing import Any

import pytest

import interp
from tests.test_house import LAZY, ORDER

# Other rooms' public names without an example. The number goes down, never up.
STILL_WITHOUT = 66
_FINDER = doctest.DocTestFinder(exclude_empty=True)


def objects_of(face: str) -> dict[str, Any]:
    """Functions and classes that a face lists, by their full names."""
    module = importlib.import_module(face)
    found = ((f"{face}.{name}", getattr(module, name)) for name in module.__all__)
    return {name: each for name, each in found if inspect.isclass(each) or inspect.isroutine(each)}


def examples_of(name: str, each: Any) -> list[doctest.DocTest]:
    """Of a name, and of its methods."""
    return [test for test in _FINDER.find(each, name, module=False, globs={}) if test.examples]


ALL = {id(each): (name, each) for face in reversed(LAZY) for name, each in objects_of(face).items()}
TESTS = {test.name: test for name, each in ALL.values() for test in examples_of(name, each)}


def test_every_name_of_a_face_has_an_example() -> None:
    bare = [name for face in ORDER for name, each in objects_of(face).items() if not examples_of(name, each)]
    assert bare == []


def test_the_other_rooms_catch_up() -> None:
    bare = sorted(name for name, each in ALL.values() if not examples_of(name, each))
    assert len(bare) <= STILL_WITHOUT, f"{len(bare)} names without an example: {bare}"
    assert len(bare) == STILL_WITHOUT, f"write {len(bare)} into STILL_WITHOUT, so that it stays so"


@pytest.mark.parametrize("name", sorted(TESTS))
def test_examples_print_what_they_say(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for loader in ("load_model", "load_hf_model"):  # each checkpoint once
        monkeypatch.setattr(interp, loader, _cached(loader))
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS, verbose=False)
    runner.run(TESTS[name], out=said.append, clear_globs=False)
    assert runner.failures == 0, "".join(said)


@functools.cache
def _cached(loader: str) -> Any:
    return functools.cache(getattr(interp, loader))
