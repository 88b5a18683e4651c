"""How documents become rows: what stands between them, where a BOS goes."""

from dataclasses import dataclass
from typing import Any

from interp.models.source import puts_bos

PACKINGS = ("packed", "document")
BOS = ("model", "row", "document", "never")
"""Where a BOS token is put: ``row``, first in every row; ``document``, before every document; ``never``; ``model``,
first in every row if the published tokenizer puts one before a text, and never into data that are token ids already."""

# What separates documents in pre-training, also where a chat model's EOS is the end of a turn.
_SEPARATORS = ("<|endoftext|>", "<|end_of_text|>")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How rows are made, with nothing left to choose."""

    context: int
    """How many tokens a row has."""
    packing: str
    """How documents fill rows, by name."""
    bos: str
    """``row``, ``document`` or ``never``."""
    bos_id: int | None
    """Id that begins rows or documents; None for none."""
    separator_id: int | None
    """Id that stands between documents; None for none."""

    @property
    def padding_id(self) -> int:
        """It stands on the right and is masked, so that any id of the vocabulary would do."""
        return self.separator_id or 0


def choose_layout(
    tokenizer: Any,
    *,
    context: int,
    max_context: int | None,
    packing: str,
    bos: str,
    separator: int | str | None,
    text: bool,
) -> Layout:
    """Check the options of :func:`interp.tokens.write_token_rows`, and resolve ``model`` in them.

    Raises:
        ValueError: an option that does not exist, that is out of range, or that this tokenizer cannot serve.
    """
    if context < 2 or (max_context is not None and context > max_context):
        most = "" if max_context is None else f" and at most {max_context}, what the model was built for"
        raise ValueError(f"context={context}: a row has at least 2 tokens{most}")
    if packing not in PACKINGS:
        raise ValueError(f"packing={packing!r} is not one of {', '.join(PACKINGS)}")
    if bos not in BOS:
        raise ValueError(f"bos={bos!r} is not one of {', '.join(BOS)}")
    bos_id = tokenizer.bos_token_id if tokenizer else None
    if bos in ("row", "document") and bos_id is None:
        missing = "the tokenizer has no BOS token" if tokenizer else "there is no tokenizer to name a BOS token"
        raise ValueError(f"bos={bos!r}, but {missing}; use bos='never'")
    if bos == "model":
        bos = "row" if text and tokenizer and puts_bos(tokenizer) else "never"
    if separator == "model":
        separator = _end_of_text(tokenizer) if tokenizer else None
    if isinstance(separator, str) or (separator is not None and separator < 0):
        raise ValueError(f"separator={separator!r} is neither 'model' nor a token id nor None")
    return Layout(context=context, packing=packing, bos=bos, bos_id=bos_id, separator_id=separator)


def _end_of_text(tokenizer: Any) -> int:
    vocabulary = tokenizer.get_vocab()
    named = (vocabulary.get(name) for name in _SEPARATORS)
    for token in (*named, tokenizer.eos_token_id, tokenizer.bos_token_id):
        if token is not None:
            return int(token)
    raise ValueError("the tokenizer has no end-of-text token to put between documents; give separator=ID or None")
