"""What several evaluations share: means of estimates, and which SAEs they can take."""

import math
from collections.abc import Sequence

from interp.metrics import Estimate
from saes.sae import SAE


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


def require_autoencoder(sae: SAE, what: str) -> None:
    """Raises ValueError unless latents write, in the activation's own unit, what is subtracted from the activation."""
    if sae.target_site is not None or sae.d_in != sae.d_out or sae.skip:
        raise ValueError(f"{what} looks at what latents write where they read, and this is a transcoder: take an SAE")
    if sae.layer_norm:
        raise ValueError(f"{what} needs latents in the activation's unit; this SAE normalises each activation first")
