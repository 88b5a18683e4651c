"""Where an SAE reads, and where what it reconstructs is: from the SAE, or from whoever measures it."""

from typing import Any

from interp.sites.site import Site, expand_sites, find_module
from saes.sae import SAE

_NORMS_BEHIND = ("post_feedforward_layernorm", "post_mlp_layernorm", "post_self_attn_layernorm")


def own_sites(
    sae: SAE, site: str | Site | None = None, *, model: Any = None, name: str = "this SAE"
) -> tuple[Site, Site]:
    """The site that the SAE reads, ``site`` if given, and the one that it reconstructs: the same, or its target site.

    With a ``model`` both are looked for in it, and module paths of other tools compared with what it has.

    Raises:
        ValueError: one of them is not known, with what the SAE's files do say, or is no site of the model.
    """
    named = sae.site if site is None else site
    imported = sae.provenance.get("imported", {})
    hint = f" ({imported['place']})" if isinstance(imported.get("place"), str) else ""
    if named is None:
        raise ValueError(
            f"{name} does not say which site it belongs to{hint}; pass site=... (--site), such as"
            " blocks.3.hook_resid_post"
        )
    if sae.target_site is None and is_transcoder(sae):
        raise ValueError(
            f"{name} is a transcoder and does not say which site it reconstructs{hint}; pass target_site=..."
            " (--target-site), such as blocks.3.hook_mlp_out"
        )
    read = Site.parse(named)
    written = read if sae.target_site is None else Site.parse(sae.target_site)
    if model is not None:
        expand_sites(model, (read, written))
    if model is not None and isinstance(module := imported.get("module"), str):
        for place, option in {written: "--site" if written == read else "--target-site", read: "--site"}.items():
            _check_module(model, place, module, option, name)
    return read, written


def is_transcoder(sae: SAE) -> bool:
    """Whether its output stands for another activation than its input, as far as its files or its shape tell."""
    return sae.target_site is not None or sae.d_out != sae.d_in or bool(_imported(sae).get("transcoder"))


def _imported(sae: SAE) -> dict[str, Any]:
    found = sae.provenance.get("imported")
    return found if isinstance(found, dict) else {}


def _check_module(model: Any, site: Site, module: str, option: str, name: str) -> None:
    """A module's output was read as what is added to the residual stream, which it is not where a norm follows it."""
    if site.kind not in ("mlp_out", "attn_out"):
        return
    block = f"model.layers.{site.layer}"
    if any(find_module(model, Site("path", path=f"{block}.{norm}")) is not None for norm in _NORMS_BEHIND):
        raise ValueError(
            f"{name} is of the output of {module}, which in this model a norm separates from {site}: pass {option}"
            f" {block}.{module.rpartition('.')[2]}"
        )
