"""One recipe from any source of text to rows of tokens for one model: its tokenizer, vocabulary and context."""

from pathlib import Path
from typing import Any

from interp.models.bridge import Model
from interp.models.source import context_length
from interp.tokens.token_rows import TokenRows, write_token_rows

LONGEST_BY_DEFAULT = 512
"""Tokens a row where nobody says, or the model's context where that is shorter."""


def rows_for(
    model: Model, data: Any, out: str | Path, *, tokens: int, context: int | None = None, **options: Any
) -> TokenRows:
    """Rows of ``data`` that ``model`` can take, in the folder ``out``; filled before in the same way, it is opened.

    Args:
        model: From ``load_model``.
        data: Text or token ids, as ``interp cache --data`` takes them.
        out: Folder to fill.
        tokens: How many to write.
        context: Tokens a row; by default the model's context, at most :data:`LONGEST_BY_DEFAULT`.
        options: Of :func:`interp.tokens.write_token_rows`: ``packing``, ``bos``, ``column``, ``split`` and so on.

    Raises:
        ValueError: what that function raises: ids outside the model's vocabulary and rows beyond its context too.

    Example:
        >>> import interp, tempfile
        >>> model = interp.load_model("embedded")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     rows = interp.rows_for(model, interp.embedded.TEXT_FOLDER / "heldout.jsonl", folder, tokens=256)
        >>> rows.ids.shape
        (1, 256)
    """
    longest = context_length(model)
    return write_token_rows(
        data,
        model.tokenizer,
        out,
        tokens=tokens,
        context=min(LONGEST_BY_DEFAULT, longest) if context is None else context,
        vocab_size=model.cfg.d_vocab,
        max_context=longest,
        **options,
    )
