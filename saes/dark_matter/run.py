"""From folders to a report: what ``interp darkmatter`` does."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from interp.files.folder_lock import alone_in
from interp.files.writing import write_json
from interp.store.activation_store import ActivationStore
from interp.store.folder import TOKENS
from interp.tokens.token_rows import TokenRows, open_token_rows
from saes.dark_matter.page import build_page
from saes.dark_matter.settings import Settings
from saes.dark_matter.study import Study, study
from saes.sae import SAE
from saes.same_model import check_same_names, name_of

logger = logging.getLogger(__name__)


def run_study(
    saes: Sequence[Path],
    store: Path,
    out: Path,
    *,
    settings: Settings,
    components: Sequence[Path] = (),
    model: str | None = None,
    revision: str | None = None,
) -> Study:
    """Load, measure, and write ``darkmatter.json`` and ``darkmatter.html`` below ``out``.

    Raises:
        ValueError: something of the input is of no use, or another run is writing to ``out``; the message says what.
    """
    with alone_in(out):
        return _run_study(saes, store, out, settings=settings, components=components, model=model, revision=revision)


def _run_study(
    saes: Sequence[Path],
    store: Path,
    out: Path,
    *,
    settings: Settings,
    components: Sequence[Path],
    model: str | None,
    revision: str | None,
) -> Study:
    opened = ActivationStore(store)
    rows = open_token_rows(store / TOKENS) if (store / TOKENS).is_dir() else None
    result = study(
        load_all(saes),
        opened,
        out,
        settings=settings,
        components=load_all(components),
        model=_model(opened, rows, model, revision) if settings.downstream else None,
        rows=rows,
        progress=True,
    )
    write_json(out / "darkmatter.json", result.to_json())
    build_page(result).write(out / "darkmatter.html")
    return result


def load_all(folders: Sequence[Path]) -> dict[str, SAE]:
    """SAEs by the shortest ends of their paths that tell them apart.

    Raises:
        ValueError: a folder that is given twice, or that holds no SAE.
    """
    paths = [folder.resolve() for folder in folders]
    if len(set(paths)) < len(paths):
        raise ValueError(f"every SAE is given once; got {', '.join(map(str, folders))}")
    depth = 1
    while len({path.parts[-depth:] for path in paths}) < len(paths):
        depth += 1
    return {"/".join(path.parts[-depth:]): SAE.load(path) for path in paths}


def _model(store: ActivationStore, rows: TokenRows | None, name: str | None, revision: str | None) -> Any:
    """The store's model, or None, said in words, where the loss cannot be measured."""
    from interp.models.fingerprint import weights_fingerprint
    from interp.models.loading import load_model

    if rows is None:
        logger.warning("%s has no %s folder: the loss is not measured", store.path, TOKENS)
        return None
    if rows.fingerprint != store.provenance.get("data"):
        raise ValueError(f"{rows.folder} is not the text that {store.path} was cached from")
    name = name or store.provenance["model"]
    model = load_model(name, revision=revision or store.provenance.get("revision"))
    expected = store.provenance.get("weights")
    if store.provenance.get("model_dtype") != "float32":  # other bytes than those that were loaded now
        check_same_names(store.provenance["model"], name_of(model), name=str(store.path))
    elif weights_fingerprint(model) != expected:
        raise ValueError(
            f"the weights of {name} are {weights_fingerprint(model)}, those that {store.path} was cached from are"
            f" {expected}: cache again, or pass --no-downstream"
        )
    return model
