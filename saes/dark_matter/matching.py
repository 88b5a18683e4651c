"""Whether an SAE and a store are of the same activations."""

from collections.abc import Mapping
from typing import Any

from interp.sites.site import Site
from interp.store.activation_store import ActivationStore
from saes.own_sites import is_transcoder, own_sites
from saes.sae import SAE
from saes.same_model import check_same_model


def check_same_activations(sae: SAE, store: ActivationStore, *, name: str, site: str | None = None) -> Site:
    """The site of the store whose activations the SAE reconstructs.

    Args:
        sae: As it was loaded.
        store: With activations of one or more sites.
        name: Of the SAE, for the message.
        site: In place of the one that the SAE says.

    Raises:
        ValueError: it was trained on another model or site, is of another width, or is a transcoder.
    """
    if is_transcoder(sae):
        raise ValueError(f"{name} is a transcoder from {sae.site} to {sae.target_site}: its error is not one of x")
    if sae.site is None and site is None:
        raise ValueError(f"{name} does not say which site it belongs to; pass site=..., one of {_sites(store)}")
    place = own_sites(sae, site, name=name)[0]
    if place not in store.sites:
        raise ValueError(f"{name} is of site {place}, {store.path} holds {_sites(store)}: cache that site too")
    if sae.d_in != store.width(place):
        raise ValueError(
            f"{name} takes activations of width {sae.d_in}, those in {store.path} at {place} have {store.width(place)}"
        )
    source = sae.provenance.get("source", {})
    if source.get("weights") is not None and source["weights"] != store.provenance.get("weights"):
        raise ValueError(
            f"{name} was trained on {_model(source)}, {store.path} was cached from {_model(store.provenance)}: their"
            " activations differ"
        )
    if source.get("weights") is None:
        check_same_model(sae, store.provenance.get("model"), name=name)
    return place


def trained_on_same_text(sae: SAE, store: ActivationStore) -> bool:
    """Whether the store's text is what the SAE was trained on: then its error is smaller here than elsewhere."""
    data = sae.provenance.get("source", {}).get("data")
    return data is not None and data == store.provenance.get("data")


def _model(source: Mapping[str, Any]) -> str:
    revision = source.get("revision")
    return f"{source.get('model')}{f' at {revision}' if revision else ''} (weights {source.get('weights')})"


def _sites(store: ActivationStore) -> str:
    return ", ".join(map(str, store.sites))
