"""Which SAE figures are of: its weights and what it does with them."""

from typing import Any

from interp.models.fingerprint import weights_fingerprint
from saes.sae import SAE


def identity_of(sae: SAE) -> dict[str, Any]:
    """Plain data that is the same of the same SAE at the same sites, whatever folder or format it is from."""
    return {
        "weights": weights_fingerprint(sae),
        "kind": str(sae.activation),
        "subtract_b_dec": sae.subtract_b_dec,
        "layer_norm": sae.layer_norm,
        "site": sae.site,
        "target_site": sae.target_site,
    }
