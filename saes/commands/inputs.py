"""A saved SAE with the model and the text that it is measured on: as in its training, unless told otherwise."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp.files.scratch import scratch_folder
from interp.models.loading import load_model
from interp.tokens.for_model import rows_for
from interp.tokens.token_rows import TokenRows
from saes.commands.options import TextOptions
from saes.sae import SAE
from saes.same_model import said_model


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a measurement takes."""

    sae: SAE
    model: Any
    model_name: str
    rows: TokenRows


@contextmanager
def open_inputs(folder: Path, *, data: Path, tokens: int, options: TextOptions = TextOptions()) -> Iterator[Inputs]:
    """Load the SAE in ``folder`` and its model on one device, and tokenise ``data`` into a temporary folder.

    Raises ValueError where neither the options nor the SAE's provenance say which model it is.
    """
    sae = SAE.load(folder, site=options.site, target_site=options.target_site)
    source = sae.provenance.get("source", {})
    name, revision = options.model or said_model(sae), options.revision
    if name is None:
        raise ValueError(f"{folder} does not say which model it belongs to; pass --model")
    if revision is None and name == source.get("model"):
        revision = source.get("revision")
    language_model = load_model(name, revision=revision)
    with scratch_folder() as scratch:
        rows = rows_for(
            language_model,
            data,
            scratch / "tokens",
            tokens=tokens,
            context=options.context or source.get("context"),
            packing=options.packing or source.get("packing") or "packed",
            bos=options.bos or source.get("bos") or "model",
        )
        device = next(language_model.parameters()).device
        yield Inputs(sae=sae.to(device), model=language_model, model_name=name, rows=rows)
