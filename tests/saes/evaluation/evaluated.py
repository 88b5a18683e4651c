"""Text and SAEs of the embedded model's width, for the tests of evaluation and features."""

from pathlib import Path
from typing import Any

import pytest
import torch

from interp.cli import main
from interp.tokens.token_rows import TokenRows, write_token_rows
from saes import SAE
from saes.activations import Activation
from tests.saes.variants import random_sae

SITE = "blocks.2.hook_resid_post"
WIDTH, CONTEXT = 96, 24
DOCUMENTS = (
    "Emma Woodhouse, handsome, clever, and rich, had lived nearly twenty-one years in the world.",
    "It was a dark night, and the rain fell on the old house by the sea.",
    "Call me Ishmael.",
    "The Time Traveller (for so it will be convenient to speak of him) was expounding a recondite matter to us.",
)


def text_rows(tokenizer: Any, folder: Path, **options: Any) -> TokenRows:
    """One document a row, so that most rows end in padding."""
    lines = folder / "text.jsonl"
    lines.parent.mkdir(parents=True, exist_ok=True)
    lines.write_text("".join(f'{{"text": "{text}"}}\n' for text in DOCUMENTS))
    options = {"tokens": 10_000, "context": CONTEXT, "packing": "document", "bos": "never"} | options
    return write_token_rows(lines, tokenizer, folder / "rows", **options)


def sae_at_site(variant: Activation, *, d_sae: int = 200) -> SAE:
    """Random weights, in the scale of the embedded model's activations."""
    sae = random_sae(variant, d_in=WIDTH, d_sae=d_sae, dtype=torch.float32)
    sae.site = SITE
    return sae


def run(*arguments: str) -> int:
    """Exit status of a command line."""
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)
