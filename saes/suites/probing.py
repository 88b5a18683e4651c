"""k-sparse probing: how much of a concept a few latents say.

For each label, latents are ranked by the difference of their means on training texts, and a logistic regression reads
the first k of them (Gurnee et al. 2023; SAEBench's ``sparse_probing``, Karvonen et al. 2025). Beside it stand a probe
of the whole activation, one of k dimensions of the activation chosen in the same way, and the majority's share.
Everything is measured on groups of texts that neither the ranking nor a probe has seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from interp.metrics import Estimate
from saes.suites.combining import require_one_each
from saes.suites.probes import by_mean_difference, fit, fit_dense, share
from saes.suites.texts.examples import Examples
from saes.suites.texts.labelled import LabelledTexts, held_out

KS = (1, 2, 5, 10)
"""How many latents probes read by default."""


@dataclass(frozen=True, kw_only=True)
class SparseProbe:
    """Probes that read k inputs."""

    k: int
    """How many inputs there are."""
    accuracy: Estimate
    """Held-out share of right answers from k latents."""
    dimensions: Estimate
    """The same from k dimensions of the activation itself, chosen in the same way."""
    latents: tuple[int, ...]
    """Numbers of the latents, the most telling first; empty where several labels are pooled."""


@dataclass(frozen=True, kw_only=True)
class LabelProbes:
    """One question: is it this label, or another one."""

    label: str
    """The label that counts as yes."""
    train: int
    """Number of training texts, as many of this label as of others where that can be."""
    test: int
    """Number of held-out texts, balanced likewise."""
    majority: Estimate
    """Held-out accuracy of always answering what most training texts have."""
    dense: Estimate
    """Held-out accuracy of a probe of the whole activation."""
    sparse: tuple[SparseProbe, ...]
    """Probes of a few latents, by their number."""


@dataclass(frozen=True, kw_only=True)
class Probing:
    """k-sparse probing of one set of texts; standard errors are over held-out groups."""

    name: str
    """Name of the labelled texts."""
    labels: tuple[LabelProbes, ...]
    """One question each; of two labels there is one question."""
    pooled: LabelProbes
    """All answers to all questions together."""


def probe_sparsely(
    examples: Examples, texts: LabelledTexts, *, ks: Sequence[int] = KS, share_held_out: float = 0.3, seed: int = 0
) -> Probing:
    """Probe ``examples`` of ``texts`` for each of their labels.

    Raises ValueError for a k out of range, or examples that are not those of the texts.

    Example:
        >>> from saes.suites import LabelledTexts, examples_from_rows, plant, probe_sparsely
        >>> planted = plant(roots=4, d=8, seed=0)
        >>> rows, names = planted.rows(200, seed=0), tuple(map(str, range(200)))
        >>> labels = tuple("yes" if fires else "no" for fires in rows.fires[:, 2])
        >>> texts = LabelledTexts(name="feature 2", texts=names, labels=labels, groups=names, position="last")
        >>> found = probe_sparsely(examples_from_rows(planted.true_dictionary(), rows.x), texts, ks=(1,))
        >>> found.pooled.sparse[0].accuracy.value, found.labels[0].sparse[0].latents
        (1.0, (2,))
    """
    d_sae, ks = examples.latents.shape[1], tuple(sorted(set(ks)))
    if not ks or ks[0] < 1 or ks[-1] > d_sae:
        raise ValueError(f"k = {list(ks)}: each must be from 1 to d_sae = {d_sae}")
    require_one_each(examples, texts)
    labels, groups = np.array(texts.labels), np.array(texts.groups)
    test = held_out(texts.labels, texts.groups, share=share_held_out, seed=seed)
    classes = texts.classes if len(texts.classes) > 2 else texts.classes[-1:]
    generator, found, answers = np.random.default_rng(seed), [], []
    for label in classes:
        sides = [balanced(labels == label, mask, generator) for mask in (~test, test)]
        one, right = _of_label(examples, labels == label, groups, *sides, label=label, ks=ks, seed=seed)
        found.append(one)
        answers.append((groups[sides[1]], right))
    where = np.concatenate([side for side, _ in answers])

    def all_of(name: str) -> Estimate:
        return share(np.concatenate([right[name] for _, right in answers]), where)

    pooled = LabelProbes(
        label="all",
        train=sum(one.train for one in found),
        test=len(where),
        majority=all_of("majority"),
        dense=all_of("dense"),
        sparse=tuple(
            SparseProbe(k=k, accuracy=all_of(f"latents {k}"), dimensions=all_of(f"dimensions {k}"), latents=())
            for k in ks
        ),
    )
    return Probing(name=texts.name, labels=tuple(found), pooled=pooled)


def balanced(y: np.ndarray, mask: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Numbers of as many rows of ``mask`` with yes as with no, all of those that are fewer."""
    yes, no = (np.flatnonzero(mask & answer) for answer in (y, ~y))
    count = min(len(yes), len(no))
    return np.sort(np.concatenate([generator.permutation(side)[:count] for side in (yes, no)]))


def _of_label(
    examples: Examples,
    y: np.ndarray,
    groups: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    *,
    label: str,
    ks: tuple[int, ...],
    seed: int,
) -> tuple[LabelProbes, dict[str, np.ndarray]]:
    """Figures of one question, and which held-out answers of each probe are right."""
    x = examples.x.double().numpy()
    right: dict[str, np.ndarray] = {"majority": y[test] == (y[train].mean() >= 0.5)}
    dense = fit_dense(x[train], y[train], groups[train], seed=seed)
    right["dense"] = (dense.scores(x[test]) > 0) == y[test]
    latents = by_mean_difference(examples.latents[train], y[train])
    dimensions = by_mean_difference(x[train], y[train])
    for k in ks:
        values = examples.columns(latents[:k])
        for name, inputs in ((f"latents {k}", values), (f"dimensions {k}", x[:, dimensions[:k]])):
            probe = fit(inputs[train], y[train])
            right[name] = (probe.scores(inputs[test]) > 0) == y[test]
    found = LabelProbes(
        label=label,
        train=len(train),
        test=len(test),
        majority=share(right["majority"], groups[test]),
        dense=share(right["dense"], groups[test]),
        sparse=tuple(
            SparseProbe(
                k=k,
                accuracy=share(right[f"latents {k}"], groups[test]),
                dimensions=share(right[f"dimensions {k}"], groups[test]),
                latents=tuple(latents[:k].tolist()),
            )
            for k in ks
        ),
    )
    return found, right
