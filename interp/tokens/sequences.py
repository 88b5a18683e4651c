"""Text to the equal rows of tokens that everything here measures, as Sun et al. cut them: contiguous, without BOS."""

from pathlib import Path
from typing import Any

from jaxtyping import Bool, Int
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer

from interp.checkpoints.sources import Source
from interp.files.scratch import scratch_folder
from interp.models.bridge import Model
from interp.models.loading import context_length
from interp.tokens.token_rows import write_token_rows

Rows = tuple[Int[Tensor, "sequences position"], Bool[Tensor, "sequences position"]]


def text_rows(
    model: Model, data: str | Path, *, sequences: int, context: int | None = None, bos: str = "never", skip: int = 0
) -> Rows:
    """The first rows of a text after ``skip`` of them, and a mask without the padding that ends a text too short.

    ``data`` is anything that ``interp cache`` takes. By default a row is as long as the model's context, at most 2,048.
    Raises ValueError where there is no row.
    """
    return _rows(data, model.tokenizer, context_length(model), model.cfg.d_vocab, sequences, context, bos, skip)


def training_rows(
    source: Source, data: str | Path, *, sequences: int, context: int | None = None, bos: str = "never"
) -> Rows:
    """The same for a training run, whose tokenizer is that of all its checkpoints; no weights are read."""
    config = AutoConfig.from_pretrained(source.config_folder(), local_files_only=True, trust_remote_code=False)
    folder = source.tokenizer_folder()
    tokenizer = None
    if any(folder.glob("tokenizer*")):
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    return _rows(data, tokenizer, config.max_position_embeddings, config.vocab_size, sequences, context, bos, 0)


def _rows(
    data: str | Path,
    tokenizer: Any,
    longest: int,
    vocab_size: int,
    sequences: int,
    context: int | None,
    bos: str,
    skip: int,
) -> Rows:
    if sequences < 1:
        raise ValueError(f"sequences is {sequences}; it must be 1 or more")
    if context is not None and context < 2:
        raise ValueError(f"context is {context}; a row has 2 tokens or more, since the first predicts the next")
    context = min(2048, longest) if context is None else context
    with scratch_folder() as scratch:
        rows = write_token_rows(
            str(data),
            tokenizer,
            scratch,
            tokens=(skip + sequences) * context,
            context=context,
            bos=bos,
            vocab_size=vocab_size,
            max_context=longest,
        )
        window = slice(skip, skip + sequences)
        tokens, mask = rows.tensor_of("ids", window), rows.tensor_of("documents", window) >= 0
    if not len(tokens):
        raise ValueError(f"{data} has {len(rows.ids)} rows of {context} tokens; skip={skip} leaves none")
    return tokens, mask
