"""What is typed at a prompt answers in a line or a few, not with every number of a tensor."""

import dataclasses
import inspect
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import circuits
import interp
import saes
from interp.terminal.short_repr import short_repr

ARRAYS = ("Tensor", "ndarray", "csr_array", "Columns")


def public(module: ModuleType, seen: set[Any]) -> Iterator[type]:
    """Classes that the faces of a package show."""
    for value in (getattr(module, name) for name in getattr(module, "__all__", ())):
        if not isinstance(value, type | ModuleType) or value in seen:
            continue
        seen.add(value)
        if isinstance(value, type):
            yield value
        elif value.__name__.split(".")[0] in ("interp", "saes", "circuits"):
            yield from public(value, seen)


def of_array(kind: str) -> bool:
    return "Callable" not in kind and any(word in kind for word in ARRAYS)


@pytest.mark.parametrize("package", [interp, saes, circuits], ids=lambda package: package.__name__)
def test_results_with_arrays_are_shown_by_shapes(package: ModuleType) -> None:
    found = [each for each in public(package, set()) if dataclasses.is_dataclass(each)]
    assert len(found) > 10
    long = [
        each.__qualname__
        for each in found
        if any(field.repr and of_array(str(field.type)) for field in dataclasses.fields(each))
        and inspect.unwrap(each.__repr__).__code__.co_filename == "<string>"  # as dataclasses make it
    ]
    assert long == [], "give them __repr__ = short_repr"


def test_arrays_are_shapes_and_many_things_a_number() -> None:
    @dataclasses.dataclass(frozen=True)
    class Result:
        values: Any
        parts: Any
        name: str

        __repr__ = short_repr

    assert repr(Result(torch.zeros(2, 3), {"a": np.ones(4), "b": 1}, "x")) == (
        "Result(values=[2, 3], parts={'a': [4], 'b': 1}, name='x')"
    )
    assert repr(Result(range(1200), ("a", "b"), "y" * 200)).startswith(
        "Result(values=<1,200>, parts=('a', 'b'), name='yy"
    )
    assert len(repr(Result(set(range(9)), None, "y" * 200))) < 140
