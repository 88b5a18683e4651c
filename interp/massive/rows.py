"""Text to the equal rows of tokens that everything here measures, as Sun et al. cut them: contiguous, without BOS."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from jaxtyping import Bool, Int
from torch import Tensor

from interp.models import context_length
from interp.tokens import write_token_rows


def text_rows(
    model: Any, data: str | Path, *, sequences: int, context: int | None = None, bos: str = "never", skip: int = 0
) -> tuple[Int[Tensor, "sequences position"], Bool[Tensor, "sequences position"]]:
    """The first rows of a text after ``skip`` of them, and a mask without the padding that ends a text too short.

    ``data`` is anything that ``interp cache`` takes. By default a row is as long as the model's context, at most 2,048.
    Raises ValueError where there is no row.
    """
    longest = context_length(model)
    context = min(2048, longest) if context is None else context
    with TemporaryDirectory() as scratch:
        rows = write_token_rows(
            str(data),
            model.tokenizer,
            scratch,
            tokens=(skip + sequences) * context,
            context=context,
            bos=bos,
            vocab_size=model.cfg.d_vocab,
            max_context=longest,
        )
        window = slice(skip, skip + sequences)
        tokens, mask = rows.tensor_of("ids", window), rows.tensor_of("documents", window) >= 0
    if not len(tokens):
        raise ValueError(f"{data} has {len(rows.ids)} rows of {context} tokens; skip={skip} leaves none")
    return tokens, mask
