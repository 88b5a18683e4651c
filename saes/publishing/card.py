"""The model card of a published SAE: what it is, its figures with errors, and how to load it."""

import json
from collections.abc import Mapping
from typing import Any

from saes.own_sites import is_transcoder
from saes.sae import SAE
from saes.same_model import said_model

FIGURES = {
    "fvu": "Fraction of variance unexplained (FVU)",
    "l0": "Active latents a token (L0)",
    "dead_fraction": "Latents that no token of the text activates, share",
    "ce_recovered_zero": "CE recovered, zero ablation as 0",
    "ce_recovered_mean": "CE recovered, mean ablation as 0",
    "ce_difference": "CE added, nats a token",
    "kl": "KL from the model, nats a token",
}
"""Field of a report -> what the card calls it."""


def card(sae: SAE, evaluation: Mapping[str, Any], *, license: str, repo: str, inside: str, form: str) -> str:
    """Markdown behind the YAML block that the hub reads.

    Args:
        sae: What is published.
        evaluation: A report as JSON (``Report.to_json``), perhaps with ``text`` and ``data``.
        license: Of the card's field.
        repo: ``owner/name``.
        inside: The SAE's folder in it.
        form: ``saelens`` or ``deepfield``.
    """
    kind = "transcoder" if is_transcoder(sae) else "sparse autoencoder"
    model = said_model(sae)
    where = f"`{sae.site}`" + (f" to `{sae.target_site}`" if sae.target_site else "")
    fields: dict[str, Any] = {
        "license": license,
        "tags": ["sparse-autoencoder", "mechanistic-interpretability", *(["saelens"] if form == "saelens" else [])],
    }
    if form == "saelens":
        fields["library_name"] = "saelens"
    if model is not None and model.count("/") == 1:
        fields["base_model"] = model
    head = "\n".join(f"{name}: {json.dumps(value)}" for name, value in fields.items())  # JSON is YAML
    parts = [
        f"---\n{head}\n---",
        f"# {kind.capitalize()} at {sae.site}" + (f" of {model}" if model else ""),
        f"A {sae.activation.name} {kind} ({_words(sae)}) of {where}"
        + (f" of the model {_code(model)}." if model else "; its files do not say of which model."),
        _data(sae),
        "## Figures",
        _figures(evaluation),
        "## Load it",
        _loading(sae, repo, inside, form),
        f"## License\n\n{license}",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _words(sae: SAE) -> str:
    widths = f"{sae.d_in} inputs, {sae.d_sae:,} latents" + (f", {sae.d_out} outputs" if sae.d_out != sae.d_in else "")
    k = getattr(sae.activation, "k", None)
    options = [f"k = {k}" if k is not None else "", "with a skip connection" if sae.skip else ""]
    return ", ".join([widths, *(option for option in options if option), str(sae.W_enc.dtype).removeprefix("torch.")])


def _data(sae: SAE) -> str:
    """What it was trained on, as far as its files say; paths of the machine stay out."""
    source, train = sae.provenance.get("source") or {}, sae.provenance.get("train") or {}
    known = {
        "revision of the model": source.get("revision"),
        "fingerprint of the model's weights": source.get("model_weights") or source.get("weights"),
        "fingerprint of the text": source.get("tokens_fingerprint") or source.get("data"),
        "tokens of the text": source.get("tokens"),
        "context": source.get("context"),
        "packing": source.get("packing"),
        "BOS": source.get("bos"),
        "tokens of training": train.get("tokens"),
        "learning rate": train.get("lr"),
        "seed": train.get("seed"),
    }
    rows = [f"- {name}: {_code(value)}" for name, value in known.items() if isinstance(value, str | int | float)]
    imported = (sae.provenance.get("imported") or {}).get("format")
    if imported:
        rows.append(f"- read from files of {imported}")
    return "## Data\n\n" + ("\n".join(rows) or "Its files do not say what it was trained on.")


def _code(value: Any) -> str:
    return f"`{str(value).replace('`', '')}`"


def _figures(evaluation: Mapping[str, Any]) -> str:
    rows = ["| figure | value | standard error | n |", "| --- | ---: | ---: | ---: |"]
    for name, label in FIGURES.items():
        found = evaluation.get(name)
        if isinstance(found, Mapping):
            error = found.get("standard_error")
            shown = "n = 1" if error is None else f"{error:.2g}"
            value = "-" if found.get("value") is None else f"{found['value']:.4g}"
            rows.append(f"| {label} | {value} | {shown} | {found.get('n')} |")
    text = evaluation.get("text") or {}
    run = ", ".join(f"{name} {value}" for name, value in text.items() if value not in (None, [], False))
    measured_on = (
        f"Measured on {evaluation.get('tokens'):,} tokens of {evaluation.get('documents'):,} documents"
        + (f" of {_code(evaluation['data'])}" if evaluation.get("data") else "")
        + (f" ({run})" if run else "")
        + ", with the reconstruction in place of the activation for CE and KL."
    )
    units = (
        " n is the number of independent units behind the standard error: documents, blocks of neighbouring tokens"
        " where these are few, latents for the dead share. All figures are in `evaluation.json`."
    )
    return measured_on + units + "\n\n" + "\n".join(rows)


def _loading(sae: SAE, repo: str, inside: str, form: str) -> str:
    blocks = [
        _python(
            "deepfield",
            "from saes import SAE",
            f'sae = SAE.load("{repo}/{inside}")',
        ),
    ]
    if form == "saelens":
        blocks.append(
            _python(
                "SAELens",
                "from sae_lens import SAE",
                f'sae = SAE.from_pretrained(release="{repo}", sae_id="{inside}")',
            )
        )
    blocks.append(_python("PyTorch alone", *_torch_lines(sae, repo, inside)))
    return "\n\n".join(blocks)


def _torch_lines(sae: SAE, repo: str, inside: str) -> list[str]:
    """The arithmetic of the files, in full, for the variants whose latents need no more than a line or two."""
    lines = [
        "from huggingface_hub import hf_hub_download",
        "from safetensors.torch import load_file",
        "",
        f'w = load_file(hf_hub_download("{repo}", "{inside}/sae_weights.safetensors"))',
    ]
    centred = 'x - w["b_dec"]' if sae.subtract_b_dec else "x"
    selected = {
        "relu": ["f = pre.relu()"],
        "jumprelu": ['f = pre.relu() * (pre > w["threshold"])'],
        "batchtopk": ['f = pre.relu() * (pre > w["threshold"])'],
        "matryoshka": ['f = pre.relu() * (pre > w["threshold"])'],
        "topk": [
            f"top = pre.relu().topk({getattr(sae.activation, 'k', 0)}, dim=-1)",
            "f = pre.new_zeros(pre.shape).scatter(-1, top.indices, top.values)",
        ],
    }
    select = selected.get(sae.activation.name)
    if select is None or sae.layer_norm:
        return [*lines, "# its arithmetic is in saes/sae.py and saes/activations.py of deepfield"]
    skip = ' + x @ w["W_skip"].T' if sae.skip else ""
    return [
        *lines,
        f'pre = ({centred}) @ w["W_enc"] + w["b_enc"]',
        *select,
        f'x_hat = f @ w["W_dec"] + w["b_dec"]{skip}',
    ]


def _python(title: str, *lines: str) -> str:
    return f"{title}:\n\n```python\n" + "\n".join(lines) + "\n```"
