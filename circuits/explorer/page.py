"""The explorer's JavaScript as one module, and a circuit as one HTML file that works offline."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from interp.pages.templates import render

_FOLDER = Path(__file__).parent / "widget"
_SCRIPTS = ("dom", "pruning", "state", "layout", "edges", "stage", "detail", "panel", "controls", "explorer")


def module() -> str:
    """What anywidget loads: the parts one after the other, since it takes a single file."""
    return _scripts(*_SCRIPTS) + "\nexport default explorer;\n"


def style() -> str:
    """The style sheet of every explorer."""
    return (_FOLDER / "explorer.css").read_text(encoding="utf-8")


def page(title: str, saved: Mapping[str, Any]) -> Markup:
    """A page that shows ``saved``: the ``state``, and the ``details`` and what was ``measured`` of nodes, by id."""
    return _render("page.html.jinja", saved, title=title)


def fragment(saved: Mapping[str, Any]) -> Markup:
    """The same as a part of a page, at the end of whatever element it stands in."""
    return _render("fragment.html.jinja", saved)


def _render(template: str, saved: Mapping[str, Any], **values: str) -> Markup:
    return render(_FOLDER, template, saved=saved, scripts=Markup(_scripts(*_SCRIPTS, "page")), **values)


def _scripts(*names: str) -> str:
    return "\n".join((_FOLDER / f"{name}.js").read_text(encoding="utf-8") for name in names)
