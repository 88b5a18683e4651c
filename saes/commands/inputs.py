"""A saved SAE with the model and the text that it is measured on: as in its training, unless told otherwise."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp.files.scratch import scratch_folder
from interp.models.bridge import Model
from interp.models.loading import context_length, load_model
from interp.tokens.for_model import rows_for
from interp.tokens.token_rows import TokenRows
from saes.commands.options import MeasuredText, TextOptions
from saes.conditions import Conditions, conditions_of
from saes.features.examples import Text
from saes.places.dictionary import Dictionary
from saes.places.files import is_over_places, load_any
from saes.sae import SAE
from saes.same_model import said_model_of
from saes.sets.dictionary_set import DictionarySet
from saes.sets.members import members_in

Load = Callable[..., SAE | Dictionary | DictionarySet]
"""From a folder, and a site and target site where they are not what the files say."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a measurement takes."""

    loaded: SAE | Dictionary | DictionarySet
    """The SAE, dictionary or set that is measured."""
    model: Model
    """The model whose activations it reconstructs."""
    model_name: str
    """What the model was asked for by."""
    rows: TokenRows
    """The text, as rows of token ids."""
    first_position: int
    """Earlier positions of a row are not measured."""
    drop_tokens: tuple[int, ...]
    """Ids of tokens that are not measured."""
    settings: dict[str, Any]
    """How the model is run, as plain data."""

    def planned(self, tokens: int) -> str:
        """How much text is read where ``tokens`` are asked for, in words."""
        rows, context = self.rows.ids.shape
        read = min(rows, -(-tokens // context))
        held = int((self.rows.documents[:read] >= 0).sum())  # whole rows are read, and not all are full
        return f"{held:,} tokens in {read:,} rows of {context}"

    @property
    def sae(self) -> SAE:
        """What was loaded, where it is an SAE."""
        assert isinstance(self.loaded, SAE)
        return self.loaded


@contextmanager
def open_inputs(
    folder: str | Path, *, data: Path, tokens: int, options: TextOptions = TextOptions(), load: Load = SAE.load
) -> Iterator[Inputs]:
    """Load the SAE in ``folder`` and its model on one device, and tokenise ``data`` into a temporary folder.

    ``load``: ``load_any`` to take a dictionary over several places too, ``load_all`` also a folder of several. What the
    files say of the training takes the place of options that are left out, and is printed.

    Raises ValueError where neither the options nor the SAE's provenance say which model it is.
    """
    loaded = load(folder, site=options.site, target_site=options.target_site)
    if isinstance(loaded, DictionarySet):
        said = loaded.conditions(frozenset(name for name, value in vars(options).items() if value is not None))
        said_model, source = (None if options.model else loaded.model), _source_of(loaded)
    else:
        said, source = conditions_of(loaded.provenance), loaded.provenance.get("source", {})
        said_model = said_model_of(loaded.provenance)
    name, revision = options.model or said_model, options.revision
    if name is None:
        raise ValueError(f"{folder} does not say which model it belongs to; pass --model")
    if revision is None and name == source.get("model"):
        revision = source.get("revision")
    language_model = load_model(name, revision=revision, dtype=options.dtype or "float32")
    settings = _settings(options, said, language_model)
    _tell(folder, options, said, settings)
    if isinstance(loaded, Dictionary) and not loaded.layout.autoencodes:
        count, layers = len(loaded.layout.reads), language_model.cfg.n_layers
        if count < layers:  # a set whose last files are missing looks like one of fewer layers
            print(f"note: {folder} reads {count} of the {layers} layers of {name}", file=sys.stderr)
    with scratch_folder() as scratch:
        rows, dropped = _rows(language_model, data, scratch / "tokens", tokens, settings)
        device = next(language_model.parameters()).device
        yield Inputs(
            loaded=loaded.to(device),
            model=language_model,
            model_name=name,
            rows=rows,
            first_position=settings["first_position"],
            drop_tokens=dropped,
            settings=settings,
        )


def text_for(dictionary: SAE | Dictionary, model: Model, data: Path, folder: Path, *, tokens: int) -> Text:
    """The text that latents of ``dictionary`` are looked up in, cut as in its training, its rows in ``folder``."""
    settings = _settings(TextOptions(), conditions_of(dictionary.provenance), model)
    rows, dropped = _rows(model, data, folder, tokens, settings)
    first = settings["first_position"]
    return Text(model=model, rows=rows, site=(), max_tokens=tokens, first_position=first, drop_tokens=dropped)


def _rows(
    model: Model, data: Path, folder: Path, tokens: int, settings: dict[str, Any]
) -> tuple[TokenRows, tuple[int, ...]]:
    """And the ids that are not measured."""
    cut = {name: settings[name] for name in ("context", "packing", "bos")}
    rows = rows_for(model, data, folder, tokens=tokens, **cut)
    special = rows.info["special_ids"] if settings["drop_special"] else ()
    return rows, tuple(sorted({*special, *settings["drop_tokens"]}))


def load_all(folder: Path, *, site: str | None, target_site: str | None) -> SAE | Dictionary | DictionarySet:
    """What ``load_any`` loads, or all dictionaries below a folder that is none itself."""
    members = members_in(folder)
    if len(members) < 2 or is_over_places(folder):
        return load_any(members[0] if len(members) == 1 else folder, site=site, target_site=target_site)
    if site is not None or target_site is not None:
        raise ValueError(f"{folder} holds several dictionaries, whose files name their sites: it takes no single site")
    loaded = DictionarySet.load(folder)
    if missing := loaded.missing_layers:
        which = ", ".join(map(str, missing))
        print(f"note: {folder} holds no dictionary of layer {which}", file=sys.stderr)
    return loaded


def _source_of(members: DictionarySet) -> dict[str, Any]:
    """The model and revision of their training, where it is the same of all."""
    sources = [member.provenance.get("source", {}) for member in members]
    first = {key: sources[0].get(key) for key in ("model", "revision")}
    return first if all(first == {key: source.get(key) for key in first} for source in sources) else {}


def _settings(options: TextOptions, said: Conditions, model: Model) -> dict[str, Any]:
    """Options, what the SAE's files say where this model can be run so, and what is usual."""
    context = None if said.context is None else min(said.context, context_length(model))
    has_bos = model.tokenizer is not None and model.tokenizer.bos_token_id is not None
    bos = said.bos if has_bos or said.bos == "never" else None
    measured = options if isinstance(options, MeasuredText) else MeasuredText()
    first_position = said.first_position if measured.first_position is None else measured.first_position
    drop_special = said.drop_special if measured.drop_special is None else measured.drop_special
    return {
        "context": options.context or context,
        "packing": options.packing or said.packing or "packed",
        "bos": options.bos or bos or "model",
        "first_position": first_position or 0,
        "drop_special": bool(drop_special),
        "drop_tokens": list(said.drop_tokens) if measured.drop_special is None else [],
        "dtype": options.dtype or "float32",
    }


def _tell(folder: str | Path, options: TextOptions, said: Conditions, settings: dict[str, Any]) -> None:
    """Print, to stderr, the defaults that come from the SAE's files, and what of them cannot be had."""
    flags = {"context": "--context", "packing": "--packing", "bos": "--bos", "first_position": "--first-position"}
    taken = [
        f"{flag} {settings[name]}"
        for name, flag in flags.items()
        if getattr(options, name, 0) is None and getattr(said, name) not in (None, 0) and settings[name] is not None
    ]
    if isinstance(options, MeasuredText) and options.drop_special is None and said.drop_special:
        taken.append("--drop-special")
    if isinstance(options, MeasuredText) and settings["drop_tokens"]:
        taken.append(f"without the tokens {', '.join(map(str, settings['drop_tokens']))} (--no-drop-special for all)")
    if taken:
        print(f"as in the training of {folder}: {' '.join(taken)}", file=sys.stderr)
    for note in said.notes:
        print(f"note: {note}", file=sys.stderr)
    if said.dtype is not None and said.dtype != settings["dtype"]:
        flag = f"--dtype {said.dtype}"
        print(
            f"note: it was trained on a model in {said.dtype}, measured in {settings['dtype']} ({flag})",
            file=sys.stderr,
        )
