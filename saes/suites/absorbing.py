"""Feature absorption: where a concept's own latents stay silent, and a latent of something narrower speaks for it.

A word begins with s, yet the latent "begins with s" does not fire, since the latent of that very word also writes the
direction of s (Chanin et al. 2024, arXiv 2409.14507). For each label: a probe of the activation gives the concept's
direction; its *main latents* are found by k-sparse probing; and of each held-out example that has the label, and that
the probe recognises, it is asked how much of the activation along that direction other latents write. The two
figures, and their thresholds, are SAEBench's (Karvonen et al. 2025); where ours differ, ``docs/evaluation.md`` says.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from interp.metrics import Estimate
from saes.sae import SAE
from saes.suites.combining import averaged, require_autoencoder, require_one_each
from saes.suites.probes import by_mean_difference, f1, fit, fit_dense, share
from saes.suites.texts.examples import Examples
from saes.suites.texts.labelled import LabelledTexts, held_out


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """SAEBench's numbers, but for one."""

    f1_jump: float = 0.03
    """A latent is a further main latent while it adds more than this to the F1 of a k-sparse probe."""
    most_main: int = 10
    """Most main latents of a label."""
    probe_f1: float = 0.6
    """A label whose probe has a lower held-out F1 is left out: the model does not hold the concept."""
    balanced_accuracy: float = 0.7
    """And a label whose probe is right in a lower share of yes and of no, on average. This one is ours: the F1 of a
    label that most texts have is high for a probe that knows nothing."""
    proportion: float = 0.4
    """Least share of the activation along the direction that absorbing latents must write."""
    absorber_cosine: float = 0.1
    """Least cosine of an absorbing latent's decoder row with the direction, for the absorption fraction."""
    full_cosine: float = 0.025
    """The same for full absorption by one latent."""
    most_absorbers: int = 3
    """Most latents that count together for the absorption fraction."""


@dataclass(frozen=True, kw_only=True)
class LabelAbsorption:
    """Absorption of one concept."""

    label: str
    """The label that is the concept."""
    probe_f1: float
    """Held-out F1 of the probe of the activation."""
    balanced_accuracy: float
    """Share of right answers where the label is, and where it is not, held out, mean of the two; 0.5 is chance."""
    main: tuple[int, ...]
    """Numbers of the latents that stand for the concept."""
    main_f1: float
    """F1 of the k-sparse probe that reads them, on training texts."""
    recognised: int
    """Number of held-out examples that have the label and that the probe recognises."""
    fraction: Estimate | None
    """Mean absorption fraction over these, ± over their groups; None where the label is left out."""
    full: Estimate | None
    """Share of these that one latent absorbs wholly; None where the label is left out."""
    absorbers: tuple[tuple[int, int], ...]
    """Latents that absorb wholly, with the number of examples, most first."""


@dataclass(frozen=True, kw_only=True)
class Absorption:
    """Absorption over the labels that the model holds."""

    name: str
    """Name of the labelled texts."""
    fraction: Estimate
    """Mean over these labels of their mean absorption fractions; ± and n are of examples, the labels being given."""
    full: Estimate
    """Mean over these labels of the share of wholly absorbed examples, likewise."""
    labels: tuple[LabelAbsorption, ...]
    """Each label, also those that are left out."""


@dataclass(frozen=True, kw_only=True)
class Absorbed:
    """What happens in single examples."""

    fraction: Float[Tensor, " n"]
    """Share of the concept that other latents carry, from 0 to 1."""
    full: Float[Tensor, " n"]
    """1 where one latent carries it alone and no main latent fires, else 0."""
    top: Float[Tensor, " n"]
    """Number of the latent that writes most along the direction."""


def absorption(
    sae: SAE,
    examples: Examples,
    texts: LabelledTexts,
    *,
    thresholds: Thresholds = Thresholds(),
    centred: bool = False,
    share_held_out: float = 0.5,
    seed: int = 0,
) -> Absorption:
    """Absorption of each label of ``texts``.

    ``centred``: the activation along the direction is counted from b_dec, not from zero, where SAEBench counts it from.
    Raises ValueError for transcoders and ``layer_norm``, for means over tokens, for examples that are not those of the
    texts, and where the model holds none of the labels.

    Example:
        >>> from saes.suites import LabelledTexts, absorption, examples_from_rows, plant
        >>> planted = plant(roots=4, children={0: 2}, d=8, seed=0)
        >>> rows, names = planted.rows(400, seed=0), tuple(map(str, range(400)))
        >>> labels = tuple("yes" if fires else "no" for fires in rows.fires[:, 0])
        >>> texts = LabelledTexts(name="feature 0", texts=names, labels=labels, groups=names, position="last")
        >>> sae = planted.true_dictionary()
        >>> found = absorption(sae, examples_from_rows(sae, rows.x), texts)
        >>> found.labels[1].main, found.full.value
        ((0,), 0.0)
    """
    require_autoencoder(sae, "absorption")
    require_one_each(examples, texts)
    if texts.position != "last":
        raise ValueError(f"absorption is of single tokens, and {texts.name} takes means of texts: use position='last'")
    groups, test = np.array(texts.groups), held_out(texts.labels, texts.groups, share=share_held_out, seed=seed)
    found = []
    for label in texts.classes:
        y = np.array(texts.labels) == label
        found.append(_of_label(sae, examples, y, groups, test, label, thresholds, centred=centred, seed=seed))
    fractions = [one.fraction for one in found if one.fraction is not None]
    fulls = [one.full for one in found if one.full is not None]
    if not fractions:
        best = max(found, key=lambda one: one.balanced_accuracy)
        raise ValueError(
            f"{texts.name}: the model holds none of the labels at this site. The best probe, of {best.label!r}, has an"
            f" F1 of {best.probe_f1:.2f} and is right in {best.balanced_accuracy:.0%} of yes and no on average;"
            f" {thresholds.probe_f1} and {thresholds.balanced_accuracy:.0%} are needed. Take another set, another site"
        )
    return Absorption(name=texts.name, fraction=averaged(fractions), full=averaged(fulls), labels=tuple(found))


def _of_label(
    sae: SAE,
    examples: Examples,
    y: np.ndarray,
    groups: np.ndarray,
    test: np.ndarray,
    label: str,
    thresholds: Thresholds,
    *,
    centred: bool,
    seed: int,
) -> LabelAbsorption:
    x, train = examples.x.double().numpy(), ~test
    probe = fit_dense(x[train], y[train], groups[train], seed=seed)
    says = probe.scores(x) > 0
    probe_f1, right = f1(says[test], y[test]), says[test] == y[test]
    balanced = float(right[y[test]].mean() + right[~y[test]].mean()) / 2
    main, main_f1 = main_latents(examples[train], y[train], thresholds)
    rows = np.flatnonzero(test & y & says)
    fraction = full = None
    absorbers: Counter[int] = Counter()
    held = probe_f1 > thresholds.probe_f1 and balanced > thresholds.balanced_accuracy
    if held and len(rows) and main:
        shown = x[rows] - (sae.b_dec.detach().double().cpu().numpy() if centred else 0.0)
        single = absorbed(
            torch.from_numpy(shown),
            examples.latents[rows],
            sae.W_dec.detach().double().cpu(),
            torch.from_numpy(probe.weights),
            main,
            thresholds,
        )
        fraction, full = (share(each.numpy(), groups[rows]) for each in (single.fraction, single.full))
        absorbers.update(single.top[single.full > 0].long().tolist())
    return LabelAbsorption(
        label=label,
        probe_f1=probe_f1,
        balanced_accuracy=balanced,
        main=main,
        main_f1=main_f1,
        recognised=len(rows),
        fraction=fraction,
        full=full,
        absorbers=tuple(absorbers.most_common(10)),
    )


def main_latents(train: Examples, y: np.ndarray, thresholds: Thresholds) -> tuple[tuple[int, ...], float]:
    """Latents that stand for a concept, and the F1 of a probe that reads them: those that are more active with it, most
    first, as long as each adds enough to the F1 (feature splitting)."""
    ranked = by_mean_difference(train.latents, y, rising=True)[: thresholds.most_main]
    values, best, chosen = train.columns(ranked), -1.0, 0
    for k in range(1, len(ranked) + 1):
        score = f1(fit(values[:, :k], y).scores(values[:, :k]) > 0, y)
        if score <= best + thresholds.f1_jump:
            break
        best, chosen = score, k
    return tuple(ranked[:chosen].tolist()), max(best, 0.0)


def absorbed(
    x: Float[Tensor, "n d"],
    latents: object,
    W_dec: Float[Tensor, "d_sae d"],
    direction: Float[Tensor, " d"],
    main: tuple[int, ...],
    thresholds: Thresholds = Thresholds(),
) -> Absorbed:
    """Absorption of single examples: activations, latents (a scipy.sparse matrix [n, d_sae]) and a direction.

    With a = x · p, c_i = f_i W_dec_i · p (p the unit direction), m the sum of c over main latents and o that of the up
    to three largest positive c of other latents whose decoder rows have a cosine of 0.1 or more with p: the fraction is
    0 where m >= a or o < 0.4 a, else 1 where m <= 0, else b / (b + m) with b = min(o, a - m). Absorption is full where
    no main latent fires, a >= 0, and the largest c of all is at least 0.4 a, and of a latent with a cosine of 0.025.
    """
    along = functional.normalize(direction, dim=0)
    a = x @ along
    cosines = functional.normalize(W_dec, dim=-1) @ along
    values = torch.from_numpy(np.asarray(latents.toarray()))  # type: ignore[attr-defined]
    c, is_main = values * (W_dec @ along), torch.zeros(len(W_dec), dtype=torch.bool)
    is_main[list(main)] = True
    m = c[:, is_main].sum(1)
    others = torch.where(~is_main & (cosines >= thresholds.absorber_cosine) & (c > 0), c, 0.0)
    o = others.topk(min(thresholds.most_absorbers, len(W_dec)), dim=1).values.sum(1)
    b = torch.minimum(o, a - m)
    fraction = torch.where(m <= 0, 1.0, b / (b + m))
    fraction = torch.where((m >= a) | (o / a < thresholds.proportion), 0.0, fraction).clamp(0, 1)
    largest, top = c.max(1)
    full = (values[:, is_main] < 1e-8).all(1) & (a >= 0)
    full &= (cosines[top] >= thresholds.full_cosine) & (largest / a >= thresholds.proportion)
    return Absorbed(fraction=fraction, full=full.double(), top=top.double())
