"""Examples in docstrings of public names run, and print what they say; every public name has one."""

import doctest
import functools
import importlib
import inspect
from pathlib import Path
from typing import Any

import pytest

import interp
from tests.test_house import LAZY

# Examples that ask the hub, which no test does.
ASK_THE_HUB = {"interp.checkpoints.HubSource", "saes.publishing.push"}
# Work of seconds, whatever its size.
SLOW = {
    "interp.sparsity.ppl_sparsity",
    "interp.sparsity.sparsity_over_training",
    "interp.vla.study.Study",
    "saes.demo.run_demo",
}
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


def test_every_public_name_has_an_example() -> None:
    assert sorted(name for name, each in ALL.values() if not examples_of(name, each)) == []


def test_only_examples_that_ask_the_hub_are_skipped() -> None:
    skipped = {name for name, test in TESTS.items() if any(each.options.get(doctest.SKIP) for each in test.examples)}
    assert skipped == ASK_THE_HUB


def test_slow_examples_are_there() -> None:
    assert set(TESTS) >= SLOW


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in sorted(TESTS)]
)
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
