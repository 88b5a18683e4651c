"""Rows for a model are cut to its context and checked against its vocabulary, whoever asks for them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import interp
from interp.embedded import TEXT_FOLDER
from interp.tokens.token_rows import write_token_rows

TEXT = TEXT_FOLDER / "heldout.jsonl"


def test_it_is_write_token_rows_with_the_model_filled_in(embedded: Any, tmp_path: Path) -> None:
    ours = interp.rows_for(embedded, TEXT, tmp_path / "a", tokens=300, bos="row")
    context = int(embedded.cfg.n_ctx)
    theirs = write_token_rows(
        TEXT, embedded.tokenizer, tmp_path / "b", tokens=300, context=min(512, context), bos="row"
    )
    assert np.array_equal(ours.ids, theirs.ids)
    assert ours.ids.shape[1] == min(512, context)


def test_what_the_model_cannot_take_is_refused(embedded: Any, tmp_path: Path) -> None:
    longest = int(embedded.cfg.n_ctx)
    with pytest.raises(ValueError, match=f"at most {longest}, what the model was built for"):
        interp.rows_for(embedded, TEXT, tmp_path / "a", tokens=300, context=longest + 1)
    np.save(tmp_path / "ids.npy", np.full(64, embedded.cfg.d_vocab, dtype=np.uint16))
    with pytest.raises(ValueError, match="vocabulary"):
        interp.rows_for(embedded, tmp_path / "ids.npy", tmp_path / "b", tokens=64)
