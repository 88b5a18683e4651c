"""The explorer's JavaScript as one module, and a circuit as one HTML file that works offline."""

import json
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).parent / "widget"
_SCRIPTS = ("dom", "state", "layout", "edges", "stage", "detail", "panel", "controls", "explorer")


def module() -> str:
    """What anywidget loads: the parts one after the other, since it takes a single file."""
    return "\n".join([*(_text(f"{name}.js") for name in _SCRIPTS), "export default explorer;\n"])


def style() -> str:
    """The style sheet of every explorer."""
    return _text("explorer.css")


def page(title: str, saved: Mapping[str, Any]) -> str:
    """A page that shows ``saved``: the ``state``, and the ``details`` and what was ``measured`` of nodes, by id."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_text('page.css')}</style></head>\n<body>{fragment(saved)}</body></html>\n"
    )


def fragment(saved: Mapping[str, Any]) -> str:
    """The same as a part of a page, at the end of whatever element it stands in."""
    # "<" cannot end the script element early, nor start anything else.
    data = json.dumps(saved, allow_nan=False).replace("<", "\\u003c")
    scripts = "\n".join(_text(f"{name}.js") for name in (*_SCRIPTS, "page"))
    return (
        f'<style>{style()}</style><script type="application/json" class="explorer-saved">{data}</script>'
        f'<script>(() => {{\n"use strict";\n{scripts}\n'
        "const block = document.currentScript.previousElementSibling;\n"
        "explorer.render({ model: savedModel(JSON.parse(block.textContent)), el: block.parentElement });\n"
        "})();</script>"
    )


def _text(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")
