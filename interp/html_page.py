"""One report as one HTML file: it opens offline, holds its own plotly.js, and escapes every text it is given."""

import json
from base64 import b64encode
from collections.abc import Sequence
from html import escape
from pathlib import Path

import plotly.graph_objects as go
from plotly.io import to_html
from plotly.offline import get_plotlyjs

from interp.files.writing import atomic_path

COLORS = ("#4269d0", "#e8803a", "#2f9e76", "#c2495d", "#8a5cc9", "#8c8577")
"""Distinct on light and dark backgrounds."""

_STYLE = """
:root { --page: #f6f7f9; --panel: #fff; --ink: #1c2430; --soft: #5b6675; --line: #e1e5ea; --accent: #4269d0;
  color-scheme: light dark; }
@media (prefers-color-scheme: dark) { :root { --page: #11151b; --panel: #191f28; --ink: #e6e9ee; --soft: #9aa5b4;
  --line: #2b333f; --accent: #8aa6f0; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .3rem; letter-spacing: -.02em; }
h2 { font-size: 1.3rem; margin: 2.8rem 0 .6rem; letter-spacing: -.01em; }
p { max-width: 46rem; margin: .5rem 0; }
.soft, figcaption, .card small { color: var(--soft); }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(165px, 1fr)); gap: .8rem; margin: 1.2rem 0; }
.card, figure, .scroll { background: var(--panel); border: 1px solid var(--line); border-radius: 12px; }
.card { padding: .9rem 1rem; }
.card span { display: block; font-size: .85rem; color: var(--soft); }
.card b { display: block; font-size: 1.15rem; font-weight: 650; line-height: 1.5; font-variant-numeric: tabular-nums;
  white-space: nowrap; }
.card small { display: block; font-size: .8rem; line-height: 1.35; }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; width: 100%; font-size: .93rem; }
th, td { padding: .5rem .9rem; text-align: left; border-bottom: 1px solid var(--line); white-space: nowrap; }
tr:last-child td { border-bottom: 0; }
th { color: var(--soft); font-weight: 600; font-size: .85rem; }
table.interactive th { cursor: pointer; }
input[type=search] { font: inherit; padding: .35rem .7rem; border: 1px solid var(--line); border-radius: 8px;
  background: var(--panel); color: inherit; margin-top: .6rem; width: min(100%, 20rem); }
.number { text-align: right; font-variant-numeric: tabular-nums; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 460px), 1fr)); gap: 1rem; }
figure { margin: 1rem 0 0; padding: .8rem .9rem 1rem; min-width: 0; }
figure img { display: block; max-width: 100%; border-radius: 6px; }
figcaption { font-size: .88rem; line-height: 1.45; padding: .2rem .3rem 0; }
footer { margin-top: 3rem; font-size: .85rem; color: var(--soft); }
"""
# Figures are drawn on a transparent ground; only their ink follows the reader's colour scheme.
_SCRIPT = """
const dark = matchMedia('(prefers-color-scheme: dark)');
const ink = () => document.querySelectorAll('.js-plotly-plot').forEach(plot => {
  const change = {'font.color': dark.matches ? '#c6cdd8' : '#3a4452'};
  const line = dark.matches ? '#2b333f' : '#e1e5ea';
  Object.keys(plot._fullLayout).filter(key => /^[xy]axis/.test(key)).forEach(axis => {
    change[axis + '.gridcolor'] = line; change[axis + '.zerolinecolor'] = line; change[axis + '.linecolor'] = line;
  });
  Plotly.relayout(plot, change);
});
ink(); dark.addEventListener('change', ink);
// A table that sorts by a click on its column, and keeps the rows that hold what is typed.
document.querySelectorAll('table.interactive').forEach(table => {
  const [head, ...rows] = table.rows;
  const filter = Object.assign(document.createElement('input'), {placeholder: 'Only rows with …', type: 'search'});
  filter.setAttribute('aria-label', 'Only rows with this text');
  table.parentElement.before(filter);
  filter.oninput = () => rows.forEach(row => {
    row.hidden = !row.textContent.toLowerCase().includes(filter.value.toLowerCase());
  });
  [...head.cells].forEach((cell, column) => {
    const text = row => row.cells[column].textContent;
    const number = cell.classList.contains('number');
    let sign = number ? 1 : -1;  // the first click puts the largest number, or A, on top
    cell.onclick = () => {
      sign = -sign;
      rows.sort((a, b) => sign * (number ? text(a) - text(b) : text(a).localeCompare(text(b))));
      rows.forEach(row => table.tBodies[0].append(row));
    };
  });
});
// The first figure of a row was drawn before its neighbour stood beside it.
document.querySelectorAll('.js-plotly-plot').forEach(plot => Plotly.Plots.resize(plot));
"""


class Page:
    """Collects headings, texts, key figures, tables and plotly figures, in order, and writes them as one file."""

    def __init__(self, title: str, *, subtitle: str = "") -> None:
        self.title = title
        self._parts = [f"<h1>{escape(title)}</h1>", f'<p class="soft">{escape(subtitle)}</p>' if subtitle else ""]
        self._figures = 0

    def heading(self, text: str) -> "Page":
        """Start a section."""
        return self._add(f"<h2>{escape(text)}</h2>")

    def text(self, text: str) -> "Page":
        """A paragraph of plain text."""
        return self._add(f"<p>{escape(text)}</p>")

    def cards(self, cards: Sequence[tuple[str, str, str]]) -> "Page":
        """Key figures: label, value, and a note (definition, n)."""
        inner = "".join(
            f'<div class="card"><span>{escape(label)}</span><b>{escape(value)}</b><small>{escape(note)}</small></div>'
            for label, value, note in cards
        )
        return self._add(f'<div class="cards">{inner}</div>')

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]], *, interactive: bool = False) -> "Page":
        """A table; units belong in ``columns``. A column is right-aligned where its first row starts with a digit. An
        interactive one sorts by a click on a column, and keeps the rows that hold what the reader types."""
        width = len(columns)
        if any(len(row) != width for row in rows):
            raise ValueError(f"every row of a table needs {width} cells, as many as it has columns")
        texts = [[f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
        numeric = [bool(texts) and texts[0][i].lstrip("-+< ")[:1].isdigit() for i in range(width)]

        def line(tag: str, cells: Sequence[str]) -> str:
            return "<tr>" + "".join(
                f"<{tag}{' class=number' if number else ''}>{escape(cell)}</{tag}>"
                for cell, number in zip(cells, numeric, strict=True)
            )

        body = "".join(line("td", row) for row in texts)
        kind = ' class="interactive"' if interactive else ""
        return self._add(f'<div class="scroll"><table{kind}>{line("th", columns)}{body}</table></div>')

    def figures(self, *figures: tuple[go.Figure, str]) -> "Page":
        """Figures side by side where the screen is wide; each with a caption that says definition and n."""
        return self._add(f'<div class="grid">{"".join(map(self._figure, figures))}</div>')

    def _figure(self, figure_and_caption: tuple[go.Figure, str]) -> str:
        figure, caption = figure_and_caption
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
        chart = to_html(styled, include_plotlyjs=False, full_html=False, config=options, div_id=name)
        return f"<figure>{chart}<figcaption>{escape(caption)}</figcaption></figure>"

    def gif(self, data: bytes, caption: str) -> "Page":
        """An animated picture, held by the page."""
        source = f"data:image/gif;base64,{b64encode(data).decode()}"
        return self._add(
            f'<figure><img src="{source}" alt="{escape(caption)}"><figcaption>{escape(caption)}</figcaption></figure>'
        )

    def part(self, html: str) -> "Page":
        """Markup that its maker has made safe, in an element of its own."""
        return self._add(f"<div>{html}</div>")

    def data(self, name: str, value: object) -> "Page":
        """Embed the numbers behind the page as JSON, so that a script can read them from the file."""
        text = json.dumps(value, allow_nan=False).replace("<", "\\u003c")
        return self._add(f'<script type="application/json" id="{escape(name)}">{text}</script>')

    def write(self, path: str | Path) -> Path:
        """Write the page, atomically; returns its absolute path."""
        target = Path(path).resolve()
        body = "\n".join(self._parts)
        html = (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{escape(self.title)}</title><style>{_STYLE}</style><script>{get_plotlyjs()}</script></head>\n"
            f"<body><main>{body}</main><script>{_SCRIPT}</script></body></html>\n"
        )
        with atomic_path(target) as partial:
            partial.write_text(html, encoding="utf-8")
        return target

    def _add(self, html: str) -> "Page":
        self._parts.append(html)
        return self
