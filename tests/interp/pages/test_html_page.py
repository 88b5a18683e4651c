"""The page is one file, needs no network, and shows text as text."""

import itertools
import json
import re
from pathlib import Path

import jinja2
import plotly.graph_objects as go
import pytest
from markupsafe import Markup

from interp.pages.html_page import Page
from interp.pages.templates import render
from tests.circuits.explorer.browsers import browser_window

EVIL = "</script><script>alert('x')</script><img src=x onerror=alert(1)>"


def test_page_is_self_contained_and_escaped(tmp_path: Path) -> None:
    page = Page(EVIL, subtitle=EVIL).heading(EVIL).text(EVIL).cards([(EVIL, EVIL, EVIL)]).table([EVIL], [[EVIL]])
    page.figures((go.Figure(go.Bar(x=[EVIL], y=[1]), {"title": EVIL}), EVIL)).data("numbers", {"evil": EVIL})
    html = page.write(tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<script>alert" not in html
    assert "<img src=x" not in html
    own = html.replace(max(re.findall(r"<script>.*?</script>", html, flags=re.S), key=len), "")
    assert len(html) - len(own) > 1_000_000, "plotly.js is inside, once"
    assert len(own) < 50_000
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", own)
    stored = re.search(r'<script type="application/json" id="numbers">(.*?)</script>', html)
    assert stored
    assert json.loads(stored[1]) == {"evil": EVIL}
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_the_same_numbers_are_the_same_bytes(tmp_path: Path) -> None:
    def page(path: Path) -> bytes:
        figures = [(go.Figure(go.Scatter(x=[1, 2], y=[height, 1])), "a caption") for height in (3, 4)]
        return Page("t").figures(*figures).figures(*figures).write(path).read_bytes()

    first = page(tmp_path / "a.html")
    assert first == page(tmp_path / "b.html")
    places = re.findall(r'<div id="([^"]*)" class="plotly-graph-div"', first.decode())
    assert places == ["figure-1", "figure-2", "figure-3", "figure-4"], "each figure has a place of its own"


def test_numbers_are_right_aligned(tmp_path: Path) -> None:
    page = Page("t").table(["name", "loss (nats)"], [["clean", 3.14159265], ["zero", 12]])
    html = page.write(tmp_path / "page.html").read_text(encoding="utf-8")
    assert '<td>clean</td><td class="number">3.142</td>' in html


SEEN = """() => [...document.querySelectorAll("td, th, .xtitle, .ytitle, .gtitle, .card b")].every(one => {
  const {left, right, top, width} = one.getBoundingClientRect();
  const frame = one.closest("figure, .card, body").getBoundingClientRect();
  return !width || left >= frame.left && right <= Math.min(frame.right, innerWidth) && top >= frame.top; })"""


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_cut_on_a_phone(scheme: str, tmp_path: Path) -> None:
    """A table of many columns, long cells, a long value on a card, long titles of axes, errors of bars."""
    long = "what the activations are set to, where 0 is unsteered, in units of something"
    figure = go.Figure(go.Bar(x=[1, 2], y=[1, 2], error_y={"array": [0.5, 0.5]}))
    figure.update_xaxes(title=long).update_yaxes(title=long)
    steep = go.Figure(go.Scatter(x=[1, 2], y=[6, 20])).update_yaxes(type="log", dtick=1)
    page = Page("t").cards([("effect", "+1.10 mm a step and more", "n")] * 3)
    page.figures((figure, "a caption"), (steep, "less than a decade"))
    page.table([f"column {i}" for i in range(9)], [["first", *[f"{i} ± 0.001" for i in range(7)], long]] * 2)
    page.table(["figure", "definition"], [["R² of the error vector", long]])
    with browser_window(color_scheme=scheme) as window:
        window.set_viewport_size({"width": 420, "height": 900})
        window.goto(page.write(tmp_path / "page.html").as_uri())
        window.wait_for_function("document.querySelectorAll('.xtitle tspan').length > 1")
        window.wait_for_function(SEEN, timeout=60_000)
        assert window.evaluate("document.documentElement.scrollWidth") == 420
        assert window.locator("#figure-2 .ytick").count() >= 2
        ink = window.evaluate("getComputedStyle(document.querySelector('.yerror')).stroke")
        assert (min(map(int, re.findall(r"\d+", ink)[:3])) > 127) == (scheme == "dark")
        window.set_viewport_size({"width": 1300, "height": 900})
        assert window.locator("tr >> text=column 8").first.is_visible()


@pytest.mark.browser
def test_many_tokens_below_a_map_stand_apart_on_a_phone(tmp_path: Path) -> None:
    tokens = [f"token {i}" for i in range(60)]
    figure = go.Figure(go.Heatmap(z=[[0.0] * 60] * 4), {"title": "a title that is much longer than the map is wide"})
    figure.update_xaxes(tickvals=list(range(60)), ticktext=tokens, tickangle=-60)
    surface = go.Figure(go.Surface(z=[[0.0, 1.0], [1.0, 2.0]]))
    page = Page("t").figures((figure, "a map")).figures((surface, "a space"))
    with browser_window() as window:
        window.set_viewport_size({"width": 420, "height": 900})
        window.goto(page.write(tmp_path / "page.html").as_uri())
        window.wait_for_function("document.querySelectorAll('.gtitle tspan').length > 1")
        window.wait_for_function(SEEN, timeout=60_000)
        boxes = window.evaluate(
            "[...document.querySelectorAll('#figure-1 .xtick text')].map(one => one.getBoundingClientRect())"
            ".map(({left, right}) => [left, right])"
        )
        assert 10 < len(boxes) < 60
        assert all(before[1] <= after[0] + 2 for before, after in itertools.pairwise(boxes))
        distance = "document.getElementById('{}')._fullLayout.scene.camera.eye.x"
        assert window.evaluate(distance.format("figure-2")) > 1.25, "farther than plotly's own, so that names fit"


@pytest.mark.browser
def test_a_long_table_begins_short_and_sorts_by_size(tmp_path: Path) -> None:
    rows = [[f"step {i}", f"{i:,}"] for i in range(990, 1030)]
    page = Page("t").table(["name", "step"], rows, interactive=True)
    with browser_window() as window:
        window.goto(page.write(tmp_path / "page.html").as_uri())
        seen = window.locator("tr:visible td.number")
        assert seen.count() == 20
        window.get_by_text("step", exact=True).click()
        assert seen.first.text_content() == "1,029"
        window.get_by_placeholder("Only rows").fill("step 99")
        assert seen.count() == 10
        assert not window.get_by_text("Show all").is_visible()
        window.get_by_placeholder("Only rows").fill("")
        window.get_by_text("Show all 40 rows").click()
        assert seen.count() == 40
        assert seen.last.text_content() == "990"


def test_a_ragged_table_is_refused() -> None:
    with pytest.raises(ValueError, match="needs 2 cells"):
        Page("t").table(["a", "b"], [["only one"]])


def test_a_part_is_markup_that_a_template_made(tmp_path: Path) -> None:
    html = Page("t").part(Markup("<i>safe</i>")).write(tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<div><i>safe</i></div>" in html


def test_what_a_template_lacks_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.html.jinja").write_text("{{ word }} {{ numbers | tojson }}")
    assert render(tmp_path, "a.html.jinja", word="<b>", numbers=["</script>"]) == '&lt;b&gt; ["\\u003c/script\\u003e"]'
    with pytest.raises(jinja2.UndefinedError, match="word"):
        render(tmp_path, "a.html.jinja", numbers=[])
    with pytest.raises(ValueError, match="not JSON compliant"):
        render(tmp_path, "a.html.jinja", word="", numbers=[float("nan")])
