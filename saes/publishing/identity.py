"""Which SAE figures are of: its weights and what it does with them."""

from typing import Any

from interp.models.fingerprint import weights_fingerprint
from saes.sae import SAE


def identity_of(sae: SAE) -> dict[str, Any]:
    """Plain data that is the same of the same SAE at the same sites, whatever folder or format it is from.

    Example:
        >>> from saes import SAE, TopK
        >>> from saes.publishing import identity_of
        >>> identity_of(SAE(8, 16, TopK(2), site="blocks.0.hook_resid_post"))["site"]
        'blocks.0.hook_resid_post'
    """
    return {
        "weights": weights_fingerprint(sae),
        "kind": str(sae.activation),
        "subtract_b_dec": sae.subtract_b_dec,
        "layer_norm": sae.layer_norm,
        "site": sae.site,
        "target_site": sae.target_site,
    }
