"""What is shown to a judge of one latent: passages to explain it from, and items with a known answer to score on.

**Detection**: passages in which the latent is active, one from each of as many equal parts of them, in order of
strength; and as many in which it is silent, half of these with a token on which it is active elsewhere (near misses).
**Fuzzing**: passages in which it is active, half of them with the marks moved to tokens on which it is silent; the
marks keep their number and their distances. The two scores are those of Paulo et al. 2024 (arXiv 2410.13928) in kind,
not in every choice: see ``docs/explanations.md``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from saes.explanations.passages import Activity
from saes.explanations.prompts import marked, shown
from saes.features.examples import Example, merged

LEVELS = 5
"""Parts of a latent's passages, by strength, of which recall is told apart."""
_CANDIDATES = 3


@dataclass(frozen=True, kw_only=True)
class Item:
    """One thing that a judge is asked about."""

    text: str
    """What the judge is shown."""
    truth: bool
    """Whether the first of the two words is the right answer."""
    kind: str
    """What sort of item it is, such as ``level 1`` or ``near miss``."""


def explained_from(activity: Activity, latent: int, *, top: int, spread: int, seed: int) -> list[Example]:
    """The strongest passages that differ, and others from equal parts of the rest, drawn at random; strongest first."""
    order = activity.strongest_first(latent, activity.grid.explaining)
    candidates = [activity.example(latent, int(window)) for window in order[: _CANDIDATES * top]]
    kept = list(merged(candidates, k=top)[0])
    drawn = _one_of_each_part(order[_CANDIDATES * top :], spread, _generator(seed, latent, 0))
    return kept + [activity.example(latent, window) for window in drawn]


def detection_items(
    activity: Activity, latent: int, text_of: Callable[[int], str], *, count: int, seed: int
) -> list[Item]:
    """``count`` items, half of them active, in random order."""
    grid, generator, half = activity.grid, _generator(seed, latent, 1), count // 2
    order = activity.strongest_first(latent, grid.scoring)
    active = _one_of_each_part(order, half, generator)
    kinds = {window: f"level {1 + part * LEVELS // half}" for part, window in enumerate(active)}
    silent = activity.silent(latent, grid.scoring)
    peaks = [activity.example(latent, int(window)) for window in order]
    words = np.unique([example.ids[example.position - example.first] for example in peaks])
    near = silent[np.isin(grid.ids[silent], words).any(1)]
    near = generator.permutation(near)[: half // 2]
    others = generator.permutation(np.setdiff1d(silent, near))[: half - len(near)]
    kinds |= dict.fromkeys(near.tolist(), "near miss") | dict.fromkeys(others.tolist(), "random")
    items = [
        Item(text=shown(grid.ids[window].tolist(), text_of), truth=kind.startswith("level"), kind=kind)
        for window, kind in kinds.items()
    ]
    return _shuffled(items, generator)


def fuzzing_items(
    activity: Activity, latent: int, text_of: Callable[[int], str], *, count: int, seed: int
) -> list[Item]:
    """At most ``count`` items, half of them marked rightly, each of a passage of its own, in random order."""
    grid, generator = activity.grid, _generator(seed, latent, 2)
    order = activity.strongest_first(latent, grid.scoring)
    windows = _one_of_each_part(order, min(count, len(order)), generator)
    right: list[Item] = []
    wrong: list[Item] = []
    for window in generator.permutation(windows).tolist():
        example = activity.example(latent, window)
        marks = marked(example.activations)
        moved = _moved(marks, example.activations, generator)
        if len(wrong) < min(len(right) + 1, count // 2) and moved is not None:
            wrong.append(Item(text=shown(example.ids, text_of, moved), truth=False, kind="marks moved"))
        elif len(right) < count // 2:
            right.append(Item(text=shown(example.ids, text_of, marks), truth=True, kind="marks right"))
    each = min(len(right), len(wrong))
    return _shuffled(right[:each] + wrong[:each], generator)


def _moved(marks: Sequence[bool], activations: Sequence[float], generator: np.random.Generator) -> list[bool] | None:
    """The marks, all moved by as much, to tokens on which the latent is silent; None where there are no such."""
    pattern, active = np.array(marks), np.array(activations) > 0
    for step in generator.permutation(np.arange(1, len(pattern))).tolist():
        moved = np.roll(pattern, step)
        if not (moved & active).any():
            return [bool(mark) for mark in moved]
    return None


def _one_of_each_part(windows: np.ndarray, parts: int, generator: np.random.Generator) -> list[int]:
    """One of each of ``parts`` equal parts, drawn at random; all, where there are no more."""
    if len(windows) <= parts:
        return [int(window) for window in windows]
    return [int(generator.choice(part)) for part in np.array_split(windows, parts)] if parts else []


def _shuffled(items: list[Item], generator: np.random.Generator) -> list[Item]:
    return [items[index] for index in generator.permutation(len(items))]


def _generator(seed: int, latent: int, what: int) -> np.random.Generator:
    """For one latent and purpose, whichever other latents there are."""
    return np.random.default_rng([seed, latent, what])
