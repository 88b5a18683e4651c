"""Figures of plotly as SVG, drawn in a headless Chromium."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import plotly.graph_objects as go

from interp.files.writing import atomic_path
from interp.pages.html_page import Page


def write_svg(figure: go.Figure, path: Path, *, width: int, height: int) -> None:
    """Write ``figure`` as it looks in a page."""
    from playwright.sync_api import sync_playwright

    with TemporaryDirectory() as folder, sync_playwright() as started:
        page = Page("figure").figures((figure, "")).write(Path(folder) / "figure.html")
        browser = started.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        window = browser.new_page()
        window.set_default_timeout(600_000)  # a busy machine
        window.goto(page.as_uri())
        size = f'{{format: "svg", width: {width}, height: {height}}}'
        picture = window.evaluate(f'Plotly.toImage(document.querySelector(".js-plotly-plot"), {size})')
        svg = window.evaluate("url => fetch(url).then(found => found.text())", picture)
        browser.close()
    with atomic_path(path) as partial:
        partial.write_text(svg, encoding="utf-8")
