"""circuit-tracer's configurations that name files of others': ``transcoders: [hf://owner/name/path, ..]``."""

import re
from pathlib import Path
from typing import Any

from saes.convert.circuit_tracer import CONFIG, model_of, sites_of_layer, text_of
from saes.convert.record import imported
from saes.hub import located
from saes.places.dictionary import Dictionary
from saes.places.filled import filled
from saes.places.gemma_scope import read_gemma_scope
from saes.places.layout import Layout
from saes.sae import SAE

_URI = re.compile(r"hf://(?P<id>[^?]+)(\?revision=(?P<revision>[^&]+))?")
_IN_A_FOLDER = ("params.npz", "params.safetensors")
"""Files that are read with the names of their folders."""


def read_elsewhere(kind: str, config: dict[str, Any], folder: Path) -> Dictionary:
    """The set or CLT whose files these are, from the hub's cache or the hub.

    Raises:
        ValueError: names that are none, files that cannot be had, or dictionaries that are not one set.
    """
    uris = config["transcoders"]
    if not isinstance(uris, list) or not uris:
        raise ValueError(f"transcoders of {CONFIG} is {uris!r}; it must be a list of names hf://owner/name/path")
    files = [_file(uri) for uri in uris]
    if kind == "clt":
        (parent, *others) = dict.fromkeys(file.parent for file in files)
        if others:
            raise ValueError(f"transcoders of {CONFIG} are in {1 + len(others)} folders; a CLT's are in one")
        clt = read_gemma_scope(parent)
        if len(clt.parts) != len(set(uris)):
            raise ValueError(f"{CONFIG} names {len(set(uris))} files, and there are {len(clt.parts)}")
        return clt
    model = model_of(config, folder)
    saes = [SAE.load(file.parent if file.name in _IN_A_FOLDER else file) for file in files]
    sites = []
    for layer, sae in enumerate(saes):
        if sae.activation != saes[0].activation or sae.subtract_b_dec or sae.layer_norm:
            raise ValueError(f"the transcoder of layer {layer} computes something else than that of layer 0")
        said = [name for name in ("feature_input_hook", "feature_output_hook") if name in config]
        sites.append(sites_of_layer(layer, config, model) if said else (sae.site, sae.target_site))
    reads, writes = zip(*sites, strict=True)
    if None in reads or None in writes:
        raise ValueError(f"where its transcoders belong is in neither {CONFIG} nor their own files")
    return filled(
        Layout(kind, reads, writes),
        [dict(sae.named_parameters()) | {"W_dec": [sae.W_dec]} for sae in saes],
        activation=saes[0].activation,
        provenance=imported("circuit_tracer", config=config, model=model, text=text_of(model)),
        where=folder,
    )


def _file(uri: Any) -> Path:
    found = _URI.fullmatch(uri) if isinstance(uri, str) else None
    if found is None:
        raise ValueError(f"transcoders of {CONFIG} names {uri!r}; names are hf://owner/name/path?revision=main")
    return located(found["id"], found["revision"])
