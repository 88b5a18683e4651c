"""Targeted probe perturbation: whether a few latents carry one class and no other.

A probe of the activation is fitted for each class. The N latents with the largest effect on one class's probe are
ablated, and their target's probe should fail where the others' should not (Karvonen et al. 2024, arXiv 2411.18895;
SAEBench's ``tpp``). TPP is the fall of the target's accuracy less the mean fall of the others'. Accuracies are of as
many texts with the class as without it, so that 0.5 is the most that a probe can lose: all that it had above chance.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from interp.metrics import Estimate
from saes.sae import SAE
from saes.suites.combining import (
    Part,
    checked_counts,
    combined,
    effects_on,
    require_autoencoder,
    require_one_each,
    strongest,
    without,
)
from saes.suites.probes import Probe, fit_dense
from saes.suites.probing import balanced
from saes.suites.texts.examples import Examples
from saes.suites.texts.labelled import LabelledTexts, held_out

NS = (2, 5, 10, 20, 50, 100)
"""How many latents are ablated by default."""


@dataclass(frozen=True, kw_only=True)
class Perturbed:
    """With the latents of one class ablated, mean over classes; ± over held-out groups."""

    n_latents: int
    """Most latents that are ablated for each class."""
    tpp: Estimate
    """Intended minus unintended fall."""
    intended: Estimate
    """Fall of the accuracy of the class whose latents are ablated."""
    unintended: Estimate
    """Fall of the accuracies of the other classes, their mean."""


@dataclass(frozen=True, kw_only=True)
class Targeted:
    """Targeted probe perturbation of one set of texts."""

    name: str
    """Name of the labelled texts."""
    classes: tuple[str, ...]
    """The labels, in the order of the next field."""
    accuracies: tuple[float, ...]
    """Held-out accuracy of each label's probe on whole activations."""
    by_count: tuple[Perturbed, ...]
    """Figures by the number of ablated latents."""
    latents: tuple[tuple[int, ...], ...]
    """Of each label, the latents that are ablated at the largest number, those of largest effect first."""


def perturb_targets(
    sae: SAE,
    examples: Examples,
    texts: LabelledTexts,
    *,
    ns: Sequence[int] = NS,
    share_held_out: float = 0.3,
    seed: int = 0,
) -> Targeted:
    """TPP of a set of texts with three labels or more.

    Raises ValueError for fewer labels, for transcoders and ``layer_norm``, and for examples that are not those of the
    texts.

    Example:
        >>> from saes.suites import LabelledTexts, examples_from_rows, perturb_targets, plant
        >>> planted = plant(roots=3, d=8, seed=0, top_rate=0.3, exponent=0.0)
        >>> rows = planted.rows(2_000, seed=0)
        >>> one = rows.fires.sum(1) == 1  # rows of a single feature, which is their label
        >>> labels = tuple(str(int(i)) for i in rows.fires[one].float().argmax(1))
        >>> names, sae = tuple(map(str, range(len(labels)))), planted.true_dictionary()
        >>> texts = LabelledTexts(name="which", texts=names, labels=labels, groups=names, position="last")
        >>> found = perturb_targets(sae, examples_from_rows(sae, rows.x[one]), texts, ns=(1,))
        >>> round(found.by_count[0].tpp.value, 3)
        0.5
    """
    require_autoencoder(sae, "targeted probe perturbation")
    require_one_each(examples, texts)
    if len(classes := texts.classes) < 3:
        raise ValueError(
            f"{texts.name} has {len(classes)} labels: of two each is the other's opposite; give three or more"
        )
    ns = checked_counts(ns)
    labels, groups = np.array(texts.labels), np.array(texts.groups)
    test = held_out(texts.labels, texts.groups, share=share_held_out, seed=seed)
    generator, x = np.random.default_rng(seed), examples.x.double().numpy()
    probes: list[Probe] = []
    sides, clean, effects = [], [], []
    for label in classes:
        y = labels == label
        train, its = (balanced(y, mask, generator) for mask in (~test, test))
        probe = fit_dense(x[train], y[train], groups[train], seed=seed)
        probes.append(probe)
        sides.append(its)
        clean.append((probe.scores(x[its]) > 0) == y[its])
        effects.append(_of_yes(effects_on(sae, probe, examples[train], y[train]), examples[train], y[train]))
    by_count = []
    for n in ns:
        intended: list[Part] = []
        unintended: list[Part] = []
        for target in range(len(classes)):
            changed = without(sae, examples, strongest(effects[target], n))
            for other, (probe, its) in enumerate(zip(probes, sides, strict=True)):
                right = (probe.scores(changed[its]) > 0) == (labels[its] == classes[other])
                fall = clean[other].astype(float) - right
                if other == target:
                    intended.append(Part(weight=1 / len(classes), values=fall, groups=groups[its]))
                else:
                    weight = 1 / len(classes) / (len(classes) - 1)
                    unintended.append(Part(weight=weight, values=fall, groups=groups[its]))
        minus = [replace(part, weight=-part.weight) for part in unintended]
        by_count.append(
            Perturbed(
                n_latents=n,
                tpp=combined([*intended, *minus]),
                intended=combined(intended),
                unintended=combined(unintended),
            )
        )
    return Targeted(
        name=texts.name,
        classes=classes,
        accuracies=tuple(float(right.mean()) for right in clean),
        by_count=tuple(by_count),
        latents=tuple(tuple(strongest(one, ns[-1]).tolist()) for one in effects),
    )


def _of_yes(effects: np.ndarray, examples: Examples, y: np.ndarray) -> np.ndarray:
    """Effects of latents that are more active where the answer is yes; 0 of others."""
    return np.where(examples[y].mean() > examples[~y].mean(), effects, 0.0)
