"""What several evaluations share: means of estimates, ablation, and what they can take."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from interp.metrics import Estimate
from saes.sae import SAE
from saes.suites.probes import Probe
from saes.suites.texts.examples import Examples
from saes.suites.texts.labelled import LabelledTexts


def averaged(estimates: Sequence[Estimate]) -> Estimate:
    """Mean of estimates of independent examples: n is that of all examples, and the error says how far the mean would
    vary with other examples of the same questions, not with other questions.

    Example:
        >>> from interp import Estimate
        >>> from saes.suites.combining import averaged
        >>> str(averaged([Estimate(1.0, 0.3, 10), Estimate(0.0, 0.4, 20)]))
        '0.5 ± 0.25'
    """
    count = len(estimates)
    error = math.sqrt(sum(one.standard_error**2 for one in estimates)) / count
    return Estimate(sum(one.value for one in estimates) / count, error, sum(one.n for one in estimates))


@dataclass(frozen=True, kw_only=True)
class Part:
    """One mean of several that are added up."""

    weight: float
    """What its mean is multiplied by."""
    values: np.ndarray
    """[n] whose mean is taken."""
    groups: np.ndarray
    """[n] what each is of; groups may stand in several parts."""


def combined(parts: Sequence[Part]) -> Estimate:
    """The weighted sum of the parts' means, ± as groups are drawn, to first order in the means; n is how many groups.

    Example:
        >>> import numpy as np
        >>> from saes.suites.combining import Part, combined
        >>> str(combined([Part(weight=1.0, values=np.array([1.0, 0.0, 1.0, 0.0]), groups=np.arange(4))]))
        '0.5 ± 0.29'
    """
    names, index = np.unique(np.concatenate([part.groups for part in parts]), return_inverse=True)
    moves = np.concatenate([part.weight * (part.values - part.values.mean()) / len(part.values) for part in parts])
    totals, count = np.bincount(index.ravel(), weights=moves), len(names)
    error = math.sqrt(count / (count - 1) * (totals**2).sum()) if count > 1 else math.nan
    return Estimate(float(sum(part.weight * part.values.mean() for part in parts)), error, count)


def effects_on(sae: SAE, probe: Probe, examples: Examples, y: np.ndarray) -> np.ndarray:
    """What each latent adds to a probe's score where the answer is yes, beyond where it is no, [d_sae].

    The difference of its means times its decoder row along the probe's weights: attribution is exact, since what a
    latent writes reaches the probe linearly.
    """
    difference = examples[y].mean() - examples[~y].mean()
    return difference * (sae.W_dec.detach().double().cpu().numpy() @ probe.weights)


def strongest(effects: np.ndarray, count: int) -> np.ndarray:
    """Numbers of the ``count`` latents with the largest effects, of those above 0."""
    order = np.argsort(-effects, kind="stable")[:count]
    return order[effects[order] > 0]


def without(sae: SAE, examples: Examples, latents: np.ndarray) -> np.ndarray:
    """Activations of the examples without what these latents write, [n, d]; the SAE's error stays in."""
    rows = sae.W_dec.detach().double().cpu().numpy()[latents]
    return examples.x.double().numpy() - examples.columns(latents) @ rows


def require_autoencoder(sae: SAE, what: str) -> None:
    """Raises ValueError unless latents write, in the activation's own unit, what is subtracted from the activation."""
    if sae.target_site is not None or sae.d_in != sae.d_out or sae.skip:
        raise ValueError(f"{what} looks at what latents write where they read, and this is a transcoder: take an SAE")
    if sae.layer_norm:
        raise ValueError(f"{what} needs latents in the activation's unit; this SAE normalises each activation first")


def require_one_each(examples: Examples, texts: LabelledTexts) -> None:
    """Raises ValueError unless there is an example for each text."""
    if len(examples) != len(texts.texts):
        raise ValueError(f"{len(examples)} examples, {len(texts.texts)} texts: one for each")


def checked_counts(ns: Sequence[int]) -> tuple[int, ...]:
    """Numbers of latents, each once, the smallest first. Raises ValueError for none, or one below 1."""
    counts = tuple(sorted(set(ns)))
    if not counts or counts[0] < 1:
        raise ValueError(f"ns = {list(counts)}: each must be 1 or more")
    return counts
