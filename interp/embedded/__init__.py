"""The tiny trained transformer and the text that ship with the package, so that everything runs without a hub.

``MODEL_CARD.md`` beside this file says how it was trained and what it can do.
"""

from pathlib import Path

FOLDER = Path(__file__).parent
MODEL_FOLDER = FOLDER / "model"
"""Tokenizer files, and one folder ``step{N}`` a revision."""
TEXT_FOLDER = FOLDER / "text"
"""``train.jsonl`` and ``heldout.jsonl``: one document a line, column ``text``."""


def steps() -> list[int]:
    """Training steps of the revisions that ship, ascending."""
    return sorted(int(folder.name.removeprefix("step")) for folder in MODEL_FOLDER.glob("step*"))
