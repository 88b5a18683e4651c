"""Texts with labels: where the questions that probes answer come from.

Three sources: sets of our own, made of templates or of the books that ship (:mod:`saes.suites.texts.built_in`), a
JSONL file, and data sets of the Hugging Face hub by name.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

import numpy as np

from interp.files.outside import parse_json_text, reading, reason

Position = Literal["mean", "last"]
"""What of a text's tokens stands for it: their mean, or the last one."""
PUBLIC: Mapping[str, tuple[str, str, str]] = MappingProxyType(
    {
        "ag_news": ("fancyzhx/ag_news", "text", "label"),
        "bias_in_bios": ("LabHC/bias_in_bios", "hard_text", "profession"),
        "amazon_reviews": ("canrager/amazon_reviews_mcauley_1and5", "text", "rating"),
    }
)
"""Name, data set of the hub, its column of text and its column of labels: three of those that SAEBench probes."""
FEWEST_GROUPS = 4
"""Of each label, so that both sides of a split have two."""


@dataclass(frozen=True, kw_only=True)
class LabelledTexts:
    """Texts, what is asked of each, and which of them belong together.

    Raises ValueError where a label has fewer than :data:`FEWEST_GROUPS` groups, or is alone.

    Example:
        >>> from saes.suites import LabelledTexts
        >>> names = tuple("abcdefgh")
        >>> texts = LabelledTexts(name="case", texts=names, labels=("x", "y") * 4, groups=names, position="last")
        >>> texts.classes
        ('x', 'y')
    """

    name: str
    """What the set is called in tables."""
    texts: tuple[str, ...]
    """What the model reads, one after the other."""
    labels: tuple[str, ...]
    """The right answer for each text."""
    groups: tuple[str, ...]
    """Texts of one group stand on one side of a split: sentences about one word, parts of one document."""
    position: Position
    """Which tokens stand for a text."""
    second: tuple[str, ...] = ()
    """Another label of each text, where two properties vary independently; empty without one."""

    def __post_init__(self) -> None:
        counts = {len(self.texts), len(self.labels), len(self.groups), *([len(self.second)] if self.second else [])}
        if len(counts) > 1:
            raise ValueError(f"{self.name}: {len(self.texts)} texts, {len(self.labels)} labels: one for each")
        if self.position not in get_args(Position):
            raise ValueError(f"position {self.position!r} is not one of {', '.join(get_args(Position))}")
        groups = Counter(label for label, _ in set(zip(self.labels, self.groups, strict=True)))
        if len(groups) < 2:
            raise ValueError(f"{self.name}: every text has the same label; a probe needs two or more")
        if few := [label for label, count in groups.items() if count < FEWEST_GROUPS]:
            raise ValueError(
                f"{self.name}: label {few[0]!r} has {groups[few[0]]} groups of texts; give {FEWEST_GROUPS} or more, so"
                " that some can be held out"
            )

    @property
    def classes(self) -> tuple[str, ...]:
        """The labels that there are, sorted."""
        return tuple(sorted(set(self.labels)))

    def shuffled(self, *, seed: int) -> "LabelledTexts":
        """The same texts with labels that mean nothing: texts that share group and label go on sharing one."""
        cells = list(zip(self.groups, self.labels, strict=True))
        names = sorted(set(cells))
        order = np.random.default_rng(seed).permutation(len(names))
        new = {name: names[i][1] for name, i in zip(names, order, strict=True)}
        return replace(self, name=f"{self.name}, shuffled", labels=tuple(new[cell] for cell in cells))


def held_out(labels: Iterable[str], groups: Iterable[str], *, share: float = 0.3, seed: int = 0) -> np.ndarray:
    """Which texts are held out, [n] bool: about ``share`` of the groups of each label, and two or more of them.

    A group is counted for the label of its first text. Raises ValueError for a share outside 0 to 1, and where a label
    is on one side alone, as may be where groups hold several labels.

    Example:
        >>> from saes.suites.texts.labelled import held_out
        >>> int(held_out("aaaabbbb", "12345678", share=0.5).sum())
        4
    """
    if not 0 < share < 1:
        raise ValueError(f"share = {share}: the held-out share must be between 0 and 1")
    labels, groups = list(labels), list(groups)
    first: dict[str, str] = {}
    for label, group in zip(labels, groups, strict=True):
        first.setdefault(group, label)
    generator, out = np.random.default_rng(seed), set[str]()
    for label in sorted(set(first.values())):
        names = sorted(group for group, its in first.items() if its == label)
        out |= {str(name) for name in generator.permutation(names)[: max(2, round(share * len(names)))]}
    mask = np.array([group in out for group in groups])
    for label in sorted(set(labels)):
        sides = {bool(held) for its, held in zip(labels, mask, strict=True) if its == label}
        if len(sides) == 1:
            state = "are all held out" if sides.pop() else "are all trained on"
            raise ValueError(f"texts of label {label!r} {state}: groups hold several labels; give more groups of it")
    return mask


def read_labelled(path: str | Path, *, position: Position = "mean", most: int = 4000) -> LabelledTexts:
    """A JSONL file of objects with ``text`` and ``label``, perhaps ``group`` and ``second``; of more than ``most`` so
    many, drawn at random, which the name says. Without a group, a text is one of its own with all that read the same.

    Raises ValueError naming the line that is wrong.

    Example:
        >>> from pathlib import Path
        >>> from saes.suites import read_labelled
        >>> lines = [f'{{"text": "text {i}", "label": {i % 2}}}' for i in range(8)]
        >>> size = Path("mine.jsonl").write_text("\\n".join(lines))
        >>> read_labelled("mine.jsonl").classes
        ('0', '1')
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no file {path}; labelled texts are JSONL, an object with text and label a line")
    rows: list[_Row] = []
    with reading(path.name, "is not JSONL of objects with text and label"):
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # a text may hold other ends of lines
        for number, line in enumerate(lines, 1):
            if line.strip():
                rows.append(_row(parse_json_text(line, f"{path.name}, line {number}"), f"{path.name}, line {number}"))
                if (rows[-1][3] is None) != (rows[0][3] is None):
                    raise ValueError(f"{path.name}, line {number}: give every text a second label, or none of them")
    return _drawn(path.name, rows, position, most=most)


_Row = tuple[str, str, str | None, str | None]
"""Text, label, group and second label."""


def _row(entry: Any, where: str) -> _Row:
    if not isinstance(entry, dict) or not isinstance(text := entry.get("text"), str) or not text.strip():
        raise ValueError(f"{where}: it is no object with a text that is not empty")
    values = {name: entry.get(name) for name in ("label", "group", "second")}
    for name, value in values.items():
        if not isinstance(value, str | int) and (name == "label" or value is not None):
            raise ValueError(f"{where}: its {name} is {value!r}; give a string or a whole number")
    label, group, second = (None if value is None else str(value) for value in values.values())
    return text, str(label), group, second


def from_hub(name: str, *, position: Position = "mean", most: int = 4000) -> LabelledTexts:
    """A public set of :data:`PUBLIC`, by its name; ``most`` of the first ten times as many texts of its training split,
    drawn at random, since some sets are in the order of their labels.

    Raises ValueError where the hub cannot be reached and the set is not in the cache of ``datasets``.

    Example:
        >>> from saes.suites.texts.labelled import PUBLIC
        >>> sorted(PUBLIC)
        ['ag_news', 'amazon_reviews', 'bias_in_bios']
    """
    from interp.tokens.huggingface import open_hub_dataset

    if name not in PUBLIC:
        raise ValueError(f"{name!r} is no public set known here; there are {', '.join(PUBLIC)}")
    repo, text, label = PUBLIC[name]
    try:
        data, _ = open_hub_dataset(repo, config=None, split="train")
        entries = list(islice(data, 10 * most))
    except Exception as error:  # of the network, in the middle too
        raise ValueError(
            f"the public set {name} cannot be had: {reason(error)}; load it once where the hub can be reached, or give"
            " texts of your own in a JSONL file of objects with text and label"
        ) from error
    named = getattr((data.features or {}).get(label), "names", None)
    rows: list[_Row] = []
    for entry in entries:
        its = _column(entry, label, repo)
        rows.append((str(_column(entry, text, repo)), str(its if named is None else named[its]), None, None))
    return _drawn(name, rows, position, most=most)


def _column(entry: Mapping[str, Any], name: str, repo: str) -> Any:
    if name not in entry:
        raise ValueError(f"{repo} has no column {name!r} now; it has {', '.join(entry)}")
    return entry[name]


def _drawn(name: str, rows: Sequence[_Row], position: Position, *, most: int) -> LabelledTexts:
    """All, or ``most`` at random, in their order, which the name says."""
    if (whole := len(rows)) <= most:
        return _of(name, rows, position)
    drawn = np.sort(np.random.default_rng(0).permutation(whole)[:most])
    return _of(f"{name}, {most:,} of {whole:,}", [rows[i] for i in drawn], position)


def _of(name: str, rows: Sequence[_Row], position: Position) -> LabelledTexts:
    if not rows:
        raise ValueError(f"{name} holds no text")
    return LabelledTexts(
        name=name,
        texts=tuple(text for text, *_ in rows),
        labels=tuple(label for _, label, *_ in rows),
        groups=tuple(f"text {text}" if group is None else f"group {group}" for text, _, group, _ in rows),
        position=position,
        second=tuple(second for *_, second in rows if second is not None),
    )
