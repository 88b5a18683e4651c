"""Spurious correlation removal: whether ablating a few latents frees a probe of what it should not look at.

In the training texts of a biased probe two properties always go together, so that it learns both; on texts in which
they vary independently it is wrong wherever it looks at the second. The N latents with the largest effect on a probe
of that second, spurious property are ablated, and SCR is the share of the lost accuracy that comes back:
(ablated - biased) / (clean - biased), clean being a probe that was trained on unbiased texts (Karvonen et al. 2024,
arXiv 2411.18895, after SHIFT of Marks et al. 2024). Each of the two properties is the spurious one once; SAEBench's
figure is that of the direction in which the biased probe is worse.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from interp import metrics
from interp.metrics import Estimate
from saes.sae import SAE
from saes.suites.combining import checked_counts, effects_on, require_autoencoder, require_one_each, strongest, without
from saes.suites.probes import Probe, fit_dense, share
from saes.suites.texts.examples import Examples
from saes.suites.texts.labelled import LabelledTexts, held_out

NS = (2, 5, 10, 20, 50, 100)
"""How many latents are ablated by default."""
LEAST_LOSS = 0.05
"""Accuracy that a bias must cost, or there is nothing to bring back and the ratio means nothing."""


@dataclass(frozen=True, kw_only=True)
class Removed:
    """With the spurious property's latents ablated."""

    n_latents: int
    """Most latents that are ablated."""
    accuracy: Estimate
    """Held-out accuracy of the biased probe on ablated activations."""
    scr: Estimate
    """Share of the accuracy that the bias cost which comes back; below 0 where more is lost."""


@dataclass(frozen=True, kw_only=True)
class Direction:
    """One property wanted, the other spurious. ± over held-out groups."""

    wanted: tuple[str, str]
    """Labels that the probe is to tell apart."""
    spurious: tuple[str, str]
    """Labels that went together with them in the biased training texts."""
    clean: Estimate
    """Held-out accuracy of a probe that was trained on unbiased texts."""
    biased: Estimate
    """Held-out accuracy of the biased probe, on unbiased texts."""
    by_count: tuple[Removed, ...]
    """Figures by the number of ablated latents; none where the bias cost too little to be measured."""
    latents: tuple[int, ...]
    """Latents that are ablated at the largest number, those of largest effect first."""


@dataclass(frozen=True, kw_only=True)
class Removal:
    """Spurious correlation removal on one set of texts."""

    name: str
    """Name of the labelled texts."""
    directions: tuple[Direction, Direction]
    """The first property wanted, and the second."""
    chosen: int
    """Which of the two is the figure: that in which the biased probe is worse."""

    @property
    def by_count(self) -> tuple[Removed, ...]:
        """Figures of the chosen direction."""
        return self.directions[self.chosen].by_count


def remove_spurious(
    sae: SAE,
    examples: Examples,
    texts: LabelledTexts,
    *,
    ns: Sequence[int] = NS,
    share_held_out: float = 0.3,
    seed: int = 0,
) -> Removal:
    """SCR of a set of texts with two properties of two labels each.

    Raises ValueError for other sets, where a combination of labels is missing, for transcoders and ``layer_norm``, and
    where the bias costs less than :data:`LEAST_LOSS` in both directions.

    Example:
        >>> from saes.suites import LabelledTexts, examples_from_rows, plant, remove_spurious
        >>> planted = plant(  # two roots that always fire, each with one of two children
        ...     roots=2, children={0: 2, 1: 2}, d=8, seed=0, top_rate=1.0, exponent=0.0, child_share=1.0
        ... )
        >>> rows, names = planted.rows(400, seed=0), tuple(map(str, range(400)))
        >>> first, second = (tuple("ab"[int(i)] for i in rows.fires[:, child]) for child in (2, 4))
        >>> texts = LabelledTexts(
        ...     name="two", texts=names, labels=first, second=second, groups=names, position="last"
        ... )
        >>> sae = planted.true_dictionary()
        >>> found = remove_spurious(sae, examples_from_rows(sae, rows.x), texts, ns=(2,))
        >>> round(found.by_count[0].scr.value, 1)
        1.0
    """
    require_autoencoder(sae, "spurious correlation removal")
    require_one_each(examples, texts)
    kinds = [tuple(sorted(set(labels))) for labels in (texts.labels, texts.second)]
    if [len(kind) for kind in kinds] != [2, 2]:
        raise ValueError(
            f"{texts.name}: spurious correlation removal needs two properties of two labels each, label and second; it"
            f" has {len(kinds[0])} and {len(kinds[1])}"
        )
    ns = checked_counts(ns)
    answers = [np.array(labels) == kind[1] for labels, kind in zip((texts.labels, texts.second), kinds, strict=True)]
    groups, test = np.array(texts.groups), held_out(texts.labels, texts.groups, share=share_held_out, seed=seed)
    generator = np.random.default_rng(seed)
    train, its = (_crossed(answers, mask, generator, texts.name) for mask in (~test, test))
    first, second = (
        _direction(
            sae, examples, answers[wanted], answers[1 - wanted], kinds[wanted], kinds[1 - wanted], groups, train, its,
            ns=ns, seed=seed,
        )
        for wanted in (0, 1)
    )  # fmt: skip
    measured = [number for number, one in enumerate((first, second)) if one.by_count]
    if not measured:
        lost = max(one.clean.value - one.biased.value for one in (first, second))
        raise ValueError(
            f"{texts.name}: the bias costs a probe {lost:.3f} of accuracy, less than {LEAST_LOSS}: there is nothing to"
            " bring back. Take properties that the model holds at this site"
        )
    chosen = min(measured, key=lambda number: (first, second)[number].biased.value)
    return Removal(name=texts.name, directions=(first, second), chosen=chosen)


def _crossed(answers: list[np.ndarray], mask: np.ndarray, generator: np.random.Generator, name: str) -> np.ndarray:
    """Numbers of equally many rows of ``mask`` with each combination of answers."""
    cells = [np.flatnonzero(mask & (answers[0] == a) & (answers[1] == b)) for a in (False, True) for b in (False, True)]
    count = min(map(len, cells))
    if count < 4:
        raise ValueError(f"{name}: {count} texts have one of the four combinations of labels on one side; give more")
    return np.sort(np.concatenate([generator.permutation(cell)[:count] for cell in cells]))


def _direction(
    sae: SAE,
    examples: Examples,
    wanted: np.ndarray,
    spurious: np.ndarray,
    wanted_kind: tuple[str, ...],
    spurious_kind: tuple[str, ...],
    groups: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    *,
    ns: tuple[int, ...],
    seed: int,
) -> Direction:
    x = examples.x.double().numpy()
    together = train[wanted[train] == spurious[train]]

    def probe(rows: np.ndarray, y: np.ndarray) -> Probe:
        return fit_dense(x[rows], y[rows], groups[rows], seed=seed)

    biased, clean, looks = probe(together, wanted), probe(train, wanted), probe(train, spurious)
    right = {name: (one.scores(x[test]) > 0) == wanted[test] for name, one in (("biased", biased), ("clean", clean))}
    effects = np.abs(effects_on(sae, looks, examples[train], spurious[train]))
    units = torch.from_numpy(np.unique(groups[test], return_inverse=True)[1].astype(np.int64))
    lost = right["clean"].astype(float) - right["biased"]
    found = []
    for n in ns if lost.mean() >= LEAST_LOSS else ():
        changed = without(sae, examples[test], strongest(effects, n))
        ablated = (biased.scores(changed) > 0) == wanted[test]
        back = torch.from_numpy(ablated.astype(float) - right["biased"])
        scr = metrics.ratio(back, torch.from_numpy(lost), groups=units, blocks=False)
        found.append(Removed(n_latents=n, accuracy=share(ablated, groups[test]), scr=scr))
    return Direction(
        wanted=(wanted_kind[0], wanted_kind[1]),
        spurious=(spurious_kind[0], spurious_kind[1]),
        clean=share(right["clean"], groups[test]),
        biased=share(right["biased"], groups[test]),
        by_count=tuple(found),
        latents=tuple(strongest(effects, ns[-1]).tolist()),
    )
