"""Whether an SAE is of the model that it is measured on: what both sides say is compared."""

import warnings
from typing import Any

from interp.model_identity import relation
from interp.models.bridge import Model
from interp.models.source import source_of
from saes.sae import SAE


def said_model(sae: SAE) -> str | None:
    """The model whose activations the SAE says that it was trained on; None where it does not say.

    Ours have a ``source``; of other tools' the configuration is kept, where SAELens says ``model_name`` (in its
    metadata since version 6) and dictionary_learning ``lm_name``.
    """
    return said_model_of(sae.provenance)


def said_model_of(provenance: dict[str, Any]) -> str | None:
    """``said_model`` of whatever has such a provenance."""
    imported = _part(provenance, "imported")
    config = _part(imported, "config")
    metadata = _part(config, "metadata")
    said = (
        _part(provenance, "source").get("model"),
        _part(_part(metadata, "deepfield"), "source").get("model"),
        imported.get("model"),
        metadata.get("model_name"),
        config.get("model_name"),
        config.get("lm_name"),
    )
    return next((name for name in said if isinstance(name, str) and name), None)


def name_of(model: Model) -> str | None:
    """Of a loaded model; None where only its class is known."""
    name = source_of(model).name
    return None if name == type(model).__name__ else name


def check_same_model(sae: SAE, model: str | None, *, name: str = "this SAE", stacklevel: int = 3) -> None:
    """Compare what the SAE says with the ``model`` whose activations it is to see; nothing where one of them is silent.

    Warns where one is the other trained on (base and instruct), or where a folder's name does not tell.

    Raises:
        ValueError: they are different models; both are named.
    """
    check_same_names(said_model(sae), model, name=name, stacklevel=stacklevel + 1)


def check_same_names(said: str | None, model: str | None, *, name: str, stacklevel: int = 3) -> None:
    """``check_same_model`` of something else, ``name``, that says which model it is of."""
    if said is None or model is None:
        return
    how = relation(said, model)
    if how == "different":
        raise ValueError(
            f"{name} is of the model {said}, these activations are of {model}: take that model (--model {said}), or"
            f" what was made from {model}"
        )
    if how != "same":
        reason = (
            "figures of another version of a model are not those of the SAE's own"
            if how == "related"
            else "whether they are the same cannot be told from the names"
        )
        warnings.warn(
            f"{name} is of the model {said}, these activations are of {model}: {reason}", stacklevel=stacklevel
        )


def _part(of: Any, key: str) -> dict[str, Any]:
    """An object inside one, empty where there is none: files from elsewhere hold anything."""
    value = of.get(key) if isinstance(of, dict) else None
    return value if isinstance(value, dict) else {}
