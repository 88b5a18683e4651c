"""What several evaluations share: means of estimates, and which SAEs they can take."""

import math
from collections.abc import Sequence

import numpy as np

from interp.metrics import Estimate
from saes.sae import SAE
from saes.suites.probes import Probe
from saes.suites.texts.examples import Examples


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


def summed(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> Estimate:
    """The sum of all values of all parts, each with the groups of its values, ± as groups are drawn; they may stand in
    several parts.

    A difference of means over overlapping examples is such a sum, of values over their counts.

    Example:
        >>> import numpy as np
        >>> from saes.suites.combining import summed
        >>> value, error = np.array([1.0, 0.0, 1.0, 0.0]), np.arange(4)
        >>> str(summed([(value / 4, error)]))
        '0.5 ± 0.29'
    """
    names, index = np.unique(np.concatenate([groups for _, groups in parts]), return_inverse=True)
    totals = np.bincount(index.ravel(), weights=np.concatenate([values for values, _ in parts]))
    count = len(names)
    error = math.sqrt(count / (count - 1) * ((totals - totals.mean()) ** 2).sum()) if count > 1 else math.nan
    return Estimate(float(totals.sum()), error, count)


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
