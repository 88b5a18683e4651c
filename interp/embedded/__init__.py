"""The tiny trained transformer and the text that ship with the package, so that everything runs without a hub.

``MODEL_CARD.md`` beside this file says how it was trained and what it can do.
"""

import os
from pathlib import Path

FOLDER = Path(__file__).parent
WHERE = "DEEPFIELD_EMBEDDED"
MODEL_FOLDER = Path(os.environ.get(WHERE) or FOLDER / "model")
"""Tokenizer files, and one folder ``step{N}`` a revision: all in a clone of the repository, the last one in a wheel."""
ELSEWHERE = (
    "an installed deepfield has the last checkpoint alone; for the others clone its repository and set"
    f" {WHERE}=CLONE/interp/embedded/model, or install it with pip install --editable CLONE"
)
TEXT_FOLDER = FOLDER / "text"
"""``train.jsonl`` and ``heldout.jsonl``: one document a line, column ``text``."""


def steps() -> list[int]:
    """Training steps of the revisions that ship, ascending."""
    return sorted(int(folder.name.removeprefix("step")) for folder in MODEL_FOLDER.glob("step*"))
