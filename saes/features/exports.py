"""Feature data as other tools keep it: SAEDashboard's batch of features, and the files that Neuronpedia imports.

Layouts are those of sae-dashboard's ``neuronpedia_dashboard`` and ``neuronpedia_export`` (November 2026). What is not
measured here (correlated neurons and features, alignment with neurons) stays empty, as it may there; cosines of decoder
rows are Neuronpedia's ``topkCosSim``. Activations of a passage are those around its strongest token.
"""

import gzip
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from interp.files.writing import atomic_path, write_json
from interp.sites.site import Site
from interp.tokens.batches import rows_wanted
from saes.features.book import FeatureBook
from saes.features.examples import Text
from saes.features.histograms import activation_histogram, logit_histograms
from saes.sae import SAE

BATCH = "batch-0"
_UNMEASURED = (
    "neuron_alignment_indices",
    "neuron_alignment_values",
    "neuron_alignment_l1",
    "correlated_neurons_indices",
    "correlated_neurons_l1",
    "correlated_neurons_pearson",
    "correlated_features_indices",
    "correlated_features_l1",
    "correlated_features_pearson",
    "decoder_weights_dist",
)
_TOP = -1
"""Where SAEDashboard has the bounds of an interval of activations, of passages that are the strongest of all."""


@dataclass(frozen=True, kw_only=True)
class Names:
    """What the files call things."""

    model: str
    """Neuronpedia's id of the model, such as gpt2-small."""
    sae_set: str
    """Of the set, such as res-jb; the source is ``LAYER-SET``."""
    dataset: str
    """Name of the text that latents were looked up in."""
    creator: str = "unknown"
    """Who the SAE set is published by."""


def dashboard_batch(
    sae: SAE, text: Text, book: FeatureBook, names: Names, *, text_of: Callable[[int], str]
) -> dict[str, Any]:
    """SAEDashboard's batch of the latents of a book, which was looked up in ``text``. ``text_of`` gives a token's
    text.

    Example:
        >>> import interp, saes, torch
        >>> from saes.features import Text, dashboard_batch, look_up
        >>> from saes.features.exports import Names
        >>> model = interp.load_model("embedded")
        >>> rows = interp.rows_for(model, interp.embedded.TEXT_FOLDER / "heldout.jsonl", "rows", tokens=500)
        >>> sae = saes.SAE(96, 192, saes.TopK(8), site="blocks.2.hook_resid_post")
        >>> sae = sae.initialise(seed=0, mean=torch.zeros(96))
        >>> text = Text(model=model, rows=rows, site=interp.Site.parse(sae.site))
        >>> names = Names(model="embedded", sae_set="res", dataset="heldout")
        >>> batch = dashboard_batch(sae, text, look_up(sae, text, latents=[4, 7]), names, text_of=str)
        >>> batch["layer"], [feature["feature_index"] for feature in batch["features"]]
        (2, [4, 7])
    """
    largest = book.counts.maximum[list(book.latents)].tolist()
    of_activations = [activation_histogram(*each) for each in zip(book.levels.histograms, largest, strict=True)]
    of_logits = logit_histograms(sae, text.model, book.latents)
    prompts = rows_wanted(text.rows, max_tokens=text.max_tokens, first_position=text.first_position)
    context = int(text.rows.ids.shape[1])
    features = []
    for number, latent in enumerate(book.latents):
        effects = None if book.effects is None else book.effects[number]
        raised, lowered = ((), ()) if effects is None else (effects.raised, effects.lowered)
        features.append(
            {
                "feature_index": latent,
                **{name: [] for name in _UNMEASURED},
                "neg_str": [text_of(token) for token, _ in lowered],
                "neg_values": [round(value, 3) for _, value in lowered],
                "pos_str": [text_of(token) for token, _ in raised],
                "pos_values": [round(value, 3) for _, value in raised],
                "frac_nonzero": int(book.counts.active[latent]) / book.counts.tokens,
                "freq_hist_data_bar_values": of_activations[number].rounded_centres(),
                "freq_hist_data_bar_heights": list(of_activations[number].heights),
                "logits_hist_data_bar_values": of_logits[number].rounded_centres(),
                "logits_hist_data_bar_heights": list(of_logits[number].heights),
                "n_prompts_total": prompts,
                "n_tokens_in_prompt": context,
                "dataset": names.dataset,
                "activations": [
                    {
                        "bin_min": _TOP,
                        "bin_max": round(example.activation, 3),
                        "bin_contains": _TOP,
                        "qualifying_token_index": example.position - example.first,
                        "tokens": [text_of(token) for token in example.ids],
                        "values": [round(value, 3) for value in example.activations],
                    }
                    for example in book.examples[number]
                ],
            }
        )
    named = {"model_id": names.model, "layer": Site.parse(book.site).layer or 0, "sae_set": names.sae_set}
    return named | {"sae_id_suffix": None, "features": features}


def neuronpedia(book: FeatureBook, batch: Mapping[str, Any], names: Names) -> dict[str, list[dict[str, Any]]]:
    """The lines of every file of an import, by the file's path below the source's folder, from the batch of the same
    latents."""
    source, now = f"{batch['layer']}-{names.sae_set}", datetime.now(tz=UTC).isoformat()
    shared = {"creatorId": names.creator, "createdAt": now}
    features, activations = [], []
    for number, feature in enumerate(batch["features"]):
        of_feature = {"modelId": names.model, "layer": source, "index": feature["feature_index"], **shared}
        others = {key: value for key, value in feature.items() if key not in _OF_BATCHES}
        maximum = max((max(passage["values"]) for passage in feature["activations"]), default=0.0)
        features.append(
            of_feature
            | {"maxActApprox": maximum, "hasVector": False, "vector": [], "vectorLabel": None, "hookName": None}
            | {"topkCosSimIndices": [other for other, _ in book.nearest[number]]}
            | {"topkCosSimValues": [round(cosine, 3) for _, cosine in book.nearest[number]]}
            | others
        )
        for passage_number, passage in enumerate(feature["activations"]):
            values = passage["values"]
            activations.append(
                of_feature
                | {"id": f"{source}-{feature['feature_index']}-{passage_number}", "tokens": passage["tokens"]}
                | {"values": values, "maxValue": max(values), "minValue": min(values)}
                | {"maxValueTokenIndex": values.index(max(values)), "lossValues": [], "logitContributions": None}
                | {"dfaValues": [], "dfaTargetIndex": None, "dfaMaxValue": None, "dataIndex": None, "dataSource": None}
                | {"binMin": passage["bin_min"], "binMax": passage["bin_max"], "binContains": passage["bin_contains"]}
                | {"qualifyingTokenIndex": passage["qualifying_token_index"]}
            )
    first = batch["features"][0]
    public = {"visibility": "PUBLIC", **shared}
    return {
        "release.jsonl": [
            public | {"name": names.sae_set, "description": names.sae_set, "creatorName": names.creator, "urls": []}
        ],
        "model.jsonl": [
            public
            | {"id": names.model, "displayName": names.model, "displayNameShort": names.model, "updatedAt": now}
            | {"instruct": names.model.endswith("-it"), "owner": "", "layers": 0, "neuronsPerLayer": 0}
        ],
        "sourceset.jsonl": [
            public
            | {"modelId": names.model, "name": names.sae_set, "releaseName": names.sae_set, "description": ""}
            | {"creatorName": names.creator, "hasDashboards": True, "type": "", "urls": []}
        ],
        "source.jsonl": [
            public
            | {"id": source, "modelId": names.model, "setName": names.sae_set, "hasDashboards": True}
            | {"dataset": names.dataset, "num_prompts": first["n_prompts_total"]}
            | {"num_tokens_in_prompt": first["n_tokens_in_prompt"], "hfRepoId": None, "hfFolderId": None}
        ],
        f"features/{BATCH}.jsonl": features,
        f"activations/{BATCH}.jsonl": activations,
    }


_OF_BATCHES = ("feature_index", "activations", "n_prompts_total", "n_tokens_in_prompt", "dataset")


def write_exports(book: FeatureBook, batch: Mapping[str, Any], names: Names, folder: str | Path) -> tuple[Path, Path]:
    """Write ``saedashboard/batch-0.json`` and ``neuronpedia/MODEL/SOURCE/...``; returns file and last folder.

    Example:
        >>> import interp, saes, torch
        >>> from saes.features import Text, dashboard_batch, look_up, write_exports
        >>> from saes.features.exports import Names
        >>> model = interp.load_model("embedded")
        >>> rows = interp.rows_for(model, interp.embedded.TEXT_FOLDER / "heldout.jsonl", "rows", tokens=500)
        >>> sae = saes.SAE(96, 192, saes.TopK(8), site="blocks.2.hook_resid_post")
        >>> sae = sae.initialise(seed=0, mean=torch.zeros(96))
        >>> text = Text(model=model, rows=rows, site=interp.Site.parse(sae.site))
        >>> names, book = Names(model="embedded", sae_set="res", dataset="heldout"), look_up(sae, text, latents=[4, 7])
        >>> batch = dashboard_batch(sae, text, book, names, text_of=str)
        >>> for path in write_exports(book, batch, names, "exports"):
        ...     print(path.as_posix())
        exports/saedashboard/batch-0.json
        exports/neuronpedia/embedded/2-res
    """
    out = Path(folder)
    dashboard = out / "saedashboard" / f"{BATCH}.json"
    write_json(dashboard, dict(batch))
    files = neuronpedia(book, batch, names)
    source = out / "neuronpedia" / names.model.replace("/", "_") / files["source.jsonl"][0]["id"]
    for name, lines in files.items():
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()
        packed = "/" in name  # the many
        path = source / (f"{name}.gz" if packed else name)
        with atomic_path(path) as partial:
            partial.write_bytes(gzip.compress(text, mtime=0) if packed else text)
    return dashboard, source
