"""Planted rows as labelled examples."""

from torch import Tensor

from saes import SAE
from saes.suites import LabelledTexts, Planted, examples_from_rows, plant
from saes.suites.texts.examples import Examples


def labelled(labels: list[str], *, name: str = "planted") -> LabelledTexts:
    """Labels of rows, every row a group of its own."""
    names = tuple(map(str, range(len(labels))))
    return LabelledTexts(name=name, texts=names, labels=tuple(labels), groups=names, position="last")


def yes_no(answers: Tensor) -> LabelledTexts:
    return labelled(["yes" if answer else "no" for answer in answers])


def family(*, children: int = 5, roots: int = 6, d: int = 16) -> Planted:
    """Root 0 has children; one of them fires in 4 of 5 of its rows."""
    return plant(roots=roots, children={0: children}, d=d, seed=0)


def seen(planted: Planted, sae: SAE, *, n: int = 4000, seed: int = 1) -> tuple[Examples, Tensor]:
    """Examples of planted rows, and which features fire in them."""
    rows = planted.rows(n, seed=seed)
    return examples_from_rows(sae, rows.x), rows.fires
