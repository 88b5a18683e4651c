"""What a model is and where it came from: recorded when it is loaded, asked for by everything that measures it."""

from dataclasses import dataclass
from typing import Any

import torch

from interp.models.bridge import Model, is_bridge


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """Where a model's weights come from and in what form they are held.

    Example:
        >>> import interp
        >>> model = interp.load_model("embedded")
        >>> interp.models.source_of(model).name
        'embedded'
    """

    name: str
    """Full hub id, ``embedded``, ``smollm2-135m``, or the absolute path of a folder or GGUF file."""
    revision: str | None
    """Training checkpoint or commit; None for the published weights."""
    dtype: str
    """Type of the weights in memory, such as ``float32``."""
    processed: bool
    """LayerNorms were folded or weights centred: activations are no longer those of the published model."""


def record_source(model: torch.nn.Module, *, name: str, revision: str | None) -> None:
    """Note on ``model`` what :func:`source_of` will say."""
    vars(model)["deepfield_source"] = (name, revision)


def source_of(model: torch.nn.Module) -> ModelSource:
    """The source of any model; of one loaded by other means only the name that TransformerLens knows, or its class.

    Example:
        >>> import interp
        >>> model = interp.load_model("embedded")
        >>> interp.models.source_of(model).name
        'embedded'
    """
    bridge: Model = model
    unrecorded = bridge.cfg.model_name if is_bridge(model) else type(model).__name__
    name, revision = vars(model).get("deepfield_source", (unrecorded, None))
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    return ModelSource(name=name, revision=revision, dtype=dtype, processed=is_processed(model))


def require_raw_weights(model: torch.nn.Module, *, purpose: str) -> None:
    """Refuse a model whose weights were processed.

    Raises:
        ValueError: naming ``purpose`` (a verb phrase, such as ``"cache activations"``) and the fix.

    Example:
        >>> import interp
        >>> model = interp.load_model("embedded")
        >>> interp.models.require_raw_weights(model, purpose="read norms")  # raises where they were processed
    """
    if is_processed(model):
        raise ValueError(
            f"cannot {purpose} on a model with processed weights: folding LayerNorms and centring weights change the"
            " activations. Load it again with process_weights=False (the default) and without"
            " enable_compatibility_mode()"
        )


def context_length(model: Model) -> int:
    """The longest row of tokens the model was built for.

    Example:
        >>> import interp
        >>> interp.context_length(interp.load_model("embedded"))
        256
    """
    return int(model.cfg.n_ctx)


def puts_bos(tokenizer: Any) -> bool:
    """Whether a tokenizer begins a text with its BOS token: the rule for every path from text to ids."""
    return tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]


def is_processed(model: torch.nn.Module) -> bool:
    """Whether LayerNorms were folded or weights centred, by ``process_weights=True`` or by hand."""
    return bool(vars(model).get("_weights_processed", False))
