"""One report as one HTML file: it opens offline, holds its own plotly.js, and escapes every text it is given."""

from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path

import plotly.graph_objects as go
from markupsafe import Markup
from plotly.io import to_html
from plotly.offline import get_plotlyjs

from interp.pages.templates import render, write_html

COLORS = ("#4269d0", "#e8803a", "#2f9e76", "#c2495d", "#8a5cc9", "#8c8577")
"""Distinct on light and dark backgrounds."""


class Page:
    """Collects headings, texts, key figures, tables and plotly figures, in order, and writes them as one file."""

    def __init__(self, title: str, *, subtitle: str = "") -> None:
        self.title = title
        self._subtitle = subtitle
        self._parts: list[tuple[str, object]] = []
        self._figures = 0

    def heading(self, text: str) -> "Page":
        """Start a section."""
        return self._add("heading", text)

    def text(self, text: str) -> "Page":
        """A paragraph of plain text."""
        return self._add("text", text)

    def cards(self, cards: Sequence[tuple[str, str, str]]) -> "Page":
        """Key figures: label, value, and a note (definition, n)."""
        return self._add("cards", cards)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]], *, interactive: bool = False) -> "Page":
        """A table; units belong in ``columns``. A column is right-aligned where its first row starts with a digit. An
        interactive one sorts by a click on a column, and keeps the rows that hold what the reader types."""
        width = len(columns)
        if any(len(row) != width for row in rows):
            raise ValueError(f"every row of a table needs {width} cells, as many as it has columns")
        texts = [[f"{cell:.4g}" if type(cell) is float else str(cell) for cell in row] for row in rows]
        numeric = [bool(texts) and texts[0][i].lstrip("-+< ")[:1].isdigit() for i in range(width)]
        return self._add("table", {"columns": columns, "rows": texts, "numeric": numeric, "interactive": interactive})

    def figures(self, *figures: tuple[go.Figure, str]) -> "Page":
        """Figures side by side where the screen is wide; each with a caption that says definition and n."""
        return self._add("figures", [(self._chart(figure), caption) for figure, caption in figures])

    def _chart(self, figure: go.Figure) -> Markup:
        styled = go.Figure(figure).update_layout(
            template="plotly_white",
            colorway=COLORS,
            height=figure.layout.height or 340,
            margin={"l": 10, "r": 10, "t": 46, "b": 10},
            paper_bgcolor="rgba(0,0,0,0)",
            plot_bgcolor="rgba(0,0,0,0)",
            font={"family": "system-ui, sans-serif", "size": 13},
            title_font_size=15,
            legend={"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom"},
        )
        styled.update_xaxes(automargin=True).update_yaxes(automargin=True)
        options = {"displayModeBar": False, "responsive": True}
        self._figures += 1
        name = f"figure-{self._figures}"  # plotly's own is random, and the same numbers would be other bytes every time
        return Markup(to_html(styled, include_plotlyjs=False, full_html=False, config=options, div_id=name))

    def gif(self, data: bytes, caption: str) -> "Page":
        """An animated picture, held by the page."""
        source = f"data:image/gif;base64,{b64encode(data).decode()}"
        return self._add("picture", {"source": source, "caption": caption})

    def part(self, html: Markup) -> "Page":
        """What :func:`interp.pages.templates.render` made, in an element of its own."""
        return self._add("part", html)

    def data(self, name: str, value: object) -> "Page":
        """Embed the numbers behind the page as JSON, so that a script can read them from the file."""
        return self._add("data", {"name": name, "value": value})

    def write(self, path: str | Path) -> Path:
        """Write the page, atomically; returns its absolute path."""
        html = render(
            Path(__file__).parent,
            "page.html.jinja",
            title=self.title,
            subtitle=self._subtitle,
            parts=self._parts,
            plotlyjs=Markup(get_plotlyjs()),
        )
        return write_html(path, html)

    def _add(self, kind: str, content: object) -> "Page":
        self._parts.append((kind, content))
        return self
