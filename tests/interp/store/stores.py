"""Small models, rows and stores for the tests of caching."""

from pathlib import Path
from typing import Any

import numpy as np
from transformer_lens.model_bridge import TransformerBridge

from interp import load_model
from interp.tokens.token_rows import TokenRows, write_token_rows
from tests.tiny_models import CONTEXT, VOCAB, tiny_model


def tiny_bridge(folder: Path, family: str = "gpt2", *, seed: int = 0, **options: Any) -> TransformerBridge:
    """A tiny model as users load one: from a folder."""
    tiny_model(family, seed=seed).save_pretrained(folder)
    return load_model(folder, **options)


def random_rows(
    folder: Path, *, rows: int, context: int = CONTEXT, seed: int = 0, separator: int | None = 0
) -> TokenRows:
    """Rows of random ids; where ``separator`` occurs a new document begins."""
    ids = np.random.default_rng(seed).integers(0, VOCAB, size=rows * context)
    return write_token_rows(
        ids, None, folder, tokens=rows * context, context=context, separator=separator, vocab_size=VOCAB
    )


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below ``folder`` that is not a lock."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }
