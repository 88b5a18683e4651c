"""Which tokens are held out: whole documents, or any. Nothing slow is imported: the command line reads it."""

from typing import Literal

SplitBy = Literal["document", "token"]
"""``document``, so that neighbours in a text do not leak; ``token``, as in the paper's code (utils.py, run_lstsq)."""
