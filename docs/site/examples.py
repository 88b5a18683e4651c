"""Examples in docstrings are shown as code.

One example stands under ``Example:``, which mkdocstrings takes for a note in Markdown; under ``Examples:`` it knows
Python with what it prints.
"""

import re
from typing import Any

import griffe


class ExamplesAsCode(griffe.Extension):
    """Reads ``Example:`` as ``Examples:``."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Before the docstring is taken apart."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
