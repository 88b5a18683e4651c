"""Attribution graphs in a real browser, with real clicks, keys and touches: as a saved page, and in JupyterLab."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import pytest

from circuits import GraphExplorer, attribution_graph
from circuits.graphs import graph_page, measure
from tests.circuits.explorer.browsers import PATIENCE, browser_window, jupyter_lab, write_notebook
from tests.circuits.explorer.test_browser import WILD, drawn, node, run_cell
from tests.circuits.graphs.sets import precise, prompt, random_set

pytestmark = pytest.mark.browser
BOXES = """() => [...document.querySelectorAll(".stage .node")].map(one => {
  const {left, right, top, bottom} = one.getBoundingClientRect(); return [left, right, top, bottom]; })"""

INSIDE = """() => { const stage = document.querySelector(".stage").getBoundingClientRect();
  return [...document.querySelectorAll(".stage .node")].every(one => {
    const {left, right, top, bottom} = one.getBoundingClientRect();
    return left >= stage.left && right <= stage.right && top >= stage.top && bottom <= stage.bottom; }); }"""


@pytest.fixture(scope="module")
def graph() -> Any:
    return attribution_graph(precise("gpt2"), prompt(), random_set(), targets=[3, 4])


@pytest.fixture(scope="module")
def window() -> Iterator[Any]:
    with browser_window(color_scheme="light") as page:
        yield page


def opened(window: Any, explorer: GraphExplorer, folder: Path, **options: Any) -> Any:
    window.set_viewport_size({"width": 1300, "height": 900})
    window.goto(explorer.save(folder / "page.html", **options).as_uri())
    window.wait_for_selector(".deepfield-explorer .node")
    return window


def slide(page: Any, name: str, share: float, most: float) -> None:
    """Without letting go of the slider."""
    slider = page.get_by_label(name)
    slider.evaluate(
        "(one, to) => { one.value = to; one.dispatchEvent(new Event('input', {bubbles: true})); }", share / most
    )


def let_go(page: Any, name: str) -> None:
    page.get_by_label(name).evaluate("one => one.dispatchEvent(new Event('change', {bubbles: true}))")


NODES, EDGES = "Share of all influence", "Share of influence between them"


def test_the_sliders_prune_as_python_does(window: Any, graph: Any, tmp_path: Path) -> None:
    explorer = GraphExplorer(graph.prune(nodes=0.8, edges=0.98))
    page = opened(window, explorer, tmp_path)
    most = explorer.about["shares"]
    for nodes, edges in ((0.8, 0.98), (0.5, 0.9), (0.0, 1.0), (0.9, 0.6), (most, 1.0)):
        slide(page, NODES, nodes, most)
        let_go(page, NODES)
        slide(page, EDGES, edges, 1.0)
        let_go(page, EDGES)
        texts = drawn(page, "output")
        pruned = graph.prune(nodes=nodes, edges=edges)
        assert f"{len(pruned.links)} of" in texts[1]
        ends = {end for link in pruned.links for end in link[:2]}
        names = {number: name for name, number in explorer._numbers.items()}
        alone = {i for i in pruned.kept.tolist() if graph.node(i).kind == "token"} - ends
        assert set(drawn(page, ".stage .node")) == {names[i] for i in pruned.kept.tolist() if i not in alone}
        label = node(page, names[len(graph) - 1])
        into = sum(link[1] == len(graph) - 1 for link in pruned.links)
        assert f"{into} edge{'s' * (into != 1)} in, 0 out" in label.get_attribute("aria-label")


@pytest.mark.parametrize("width", [1300, 420])
def test_nothing_lies_on_anything_else(window: Any, graph: Any, tmp_path: Path, width: int) -> None:
    explorer = GraphExplorer(graph.prune(nodes=0.95, edges=0.9))
    latents = [one["id"] for one in explorer.graphs["position"]["nodes"] if one["kind"] == "latent"]
    explorer.groups = {"a rather long name": latents[:3], "b": latents[3:9]}
    page = opened(window, explorer, tmp_path)
    page.set_viewport_size({"width": width, "height": 900})
    page.wait_for_function(INSIDE)  # a busy machine draws anew a moment later
    assert len(drawn(page, ".stage .node")) > 40
    boxes = page.evaluate(BOXES)
    for (l1, r1, t1, b1), (l2, r2, t2, b2) in combinations(boxes, 2):
        assert r1 <= l2 + 0.6 or r2 <= l1 + 0.6 or b1 <= t2 + 0.6 or b2 <= t1 + 0.6
    stage = page.locator(".stage").bounding_box()
    reach = max(right for _, right, _, _ in boxes) - min(left for left, _, _, _ in boxes)
    assert reach > 0.55 * stage["width"]
    lefts = page.evaluate(
        "[...document.querySelectorAll('.columns div > span:not([hidden])')].map(s => parseFloat(s.style.left))"
    )
    assert min(b - a for a, b in pairwise(sorted(lefts))) >= 17
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_tip_panel_and_list_say_the_same_while_a_slider_moves(window: Any, graph: Any, tmp_path: Path) -> None:
    explorer = GraphExplorer(graph.prune())
    page = opened(window, explorer, tmp_path)
    most = explorer.about["shares"]
    chosen = next(one["id"] for one in explorer.graphs["position"]["nodes"] if one["kind"] == "latent")
    node(page, chosen).click()
    captions = lambda: [text for text in drawn(page, ".detail caption") if "edge" in text]  # noqa: E731
    whole = captions()
    slide(page, EDGES, 0.6, 1.0)
    fewer = captions()
    assert fewer != whole
    into, out = (int(re.search(r"(\d+) edge", text)[1]) for text in fewer)
    node(page, chosen).hover()
    assert page.locator(".tip").inner_text().split("\n")[-1] == f"{into} edge{'s' * (into != 1)} in, {out} out"
    assert f"{into} edge{'s' * (into != 1)} in, {out} out" in node(page, chosen).get_attribute("aria-label")
    # Back where it began without a step of the history, and all is as before.
    slide(page, EDGES, 0.98, 1.0)
    let_go(page, EDGES)
    assert captions() == whole
    slide(page, NODES, 0.4, most)
    let_go(page, NODES)
    page.get_by_role("tab", name="List").click()
    rows = drawn(page, ".rows-of-nodes .row")
    assert len(rows) == len(drawn(page, ".stage .node"))


def test_panel_list_and_search(window: Any, graph: Any, tmp_path: Path) -> None:
    own = replace(graph, labels=tuple(f"{label}{WILD}" for label in graph.labels), prompt=WILD)
    found = measure(own.prune(), modes=["live"])
    explorer = GraphExplorer(found.pruned, measurement=found, labels={own.top(1, 3)[0].number: f"clerp {WILD}"})
    page = opened(window, explorer, tmp_path, details=200)
    first = own.top(1, 3)[0]
    name = next(name for name, number in explorer._numbers.items() if number == first.number)
    node(page, name).click()
    page.locator(".detail .waiting").wait_for(state="detached")
    text = drawn(page, ".detail")[0]
    assert f"activation {first.value:.4g} · influence {first.influence:.4g}" in text
    assert f"clerp {WILD}" in text
    assert "Activation on this prompt" in text
    assert "Effect on the next token" in text
    assert "text=saes.features.examples.Text" in text
    out = [link for link in found.pruned.links if link[0] == first.number]
    table = page.locator(".detail .edges").last
    if len(out) > 8:
        page.get_by_role("button", name=f"All {len(out)}", exact=True).click()
        drawn(page, "output")
    cells = table.locator("tr td:nth-child(3)").all_inner_texts()
    shown = [float(cell.replace("\u2212", "-")) for cell in cells]
    assert shown == pytest.approx([link[2] for link in out], rel=6e-3)
    assert table.locator("tr td:nth-child(2)").first.inner_text().startswith("live ")
    head = table.get_by_role("button", name="share")
    head.click()
    drawn(page, "output")
    cells = page.locator(".detail .edges").last.locator("tr td:nth-child(4)").all_inner_texts()
    shares = [float(cell.removeprefix("< ").split()[0]) for cell in cells]
    # Of all that enters a target, not of what is drawn.
    whole = abs(own.adjacency).sum(1)
    expected = sorted((100 * abs(link[2]) / whole[link[1]] for link in out), reverse=True)
    assert shares == pytest.approx(expected, abs=0.51)
    target = page.locator(".detail .edges").last.locator("td button").first
    wanted = target.inner_text()
    target.click()
    assert drawn(page, ".detail h3")[0] == wanted
    page.get_by_label(" only edges that hold").check()
    assert f"{int(found.holds.sum())} of" in drawn(page, "output")[1]
    page.get_by_label(" only edges that hold").uncheck()
    page.keyboard.press("Escape")
    page.locator(".stage").focus()
    page.keyboard.press("/")
    page.keyboard.type("TOKEN @")
    tokens = [i for i in drawn(page, ".stage .node") if i.startswith("E_")]
    assert drawn(page, ".stage .node.found") == tokens
    assert len(drawn(page, ".rows-of-nodes .row")) == len(tokens)
    page.locator(".rows-of-nodes .row").first.click()
    assert drawn(page, ".stage .node.chosen")[0].startswith("E_")
    assert page.locator("img").count() == 0
    assert page.evaluate("window.hacked") is None


def test_pins_supernodes_and_the_state_as_text(window: Any, graph: Any, tmp_path: Path) -> None:
    explorer = GraphExplorer(graph.prune())
    page = opened(window, explorer, tmp_path)
    latents = [i for i in drawn(page, ".stage .node.latent")]
    node(page, latents[0]).click()
    page.get_by_role("button", name="Several").click()
    node(page, latents[1]).click()
    page.keyboard.press("g")
    page.get_by_label("Name of the group").fill("constructor")  # which every object of JavaScript has
    page.get_by_role("button", name="Rename").click()
    assert drawn(page, ".stage .node.group") == ["constructor"]
    page.get_by_label("Name of the group").fill(f"names {WILD}")
    page.get_by_role("button", name="Rename").click()
    page.get_by_role("button", name="Several").click()
    node(page, latents[2]).click()
    page.keyboard.press("p")
    node(page, latents[3]).click(modifiers=["Shift"])
    page.keyboard.press("p")
    slide(page, EDGES, 0.9, 1.0)
    let_go(page, EDGES)
    page.get_by_role("tab", name="View").click()
    box = page.get_by_label("State of the view as JSON")
    drawn(page, "output")
    text = box.input_value()
    state = json.loads(text)
    assert state["supernodes"] == [[f"names {WILD}", *latents[:2]]]
    assert state["pinnedIds"] == latents[2:4]
    assert state["selected"] == latents[2:4]
    assert state["edge_threshold"] == 0.9
    explorer.restore(text)
    assert explorer.view_state == state
    page.get_by_label(" only pinned").check()
    assert sorted(drawn(page, ".stage .node")) == sorted(latents[2:4])
    page.reload()
    page.wait_for_selector(".deepfield-explorer .node")
    page.get_by_role("tab", name="View").click()
    for wrong, message in (
        ('{"pinnedIds": ["nobody"]}', '"nobody" in pinnedIds is no node'),
        ('{"edge_threshold": 1.2}', "edge_threshold is 1.2, and a share of influence is at most 1"),
        ('{"supernodes": "names"}', "supernodes is no list of lists"),
        ("null", "a state is an object"),
    ):
        box.fill(wrong)
        page.get_by_role("button", name="Restore").click()
        assert message in drawn(page, ".view [role=status]")[0]
    box.fill(text)
    page.get_by_role("button", name="Restore").click()
    assert drawn(page, ".stage .node.group") == [f"names {WILD}"]
    box.blur()
    page.get_by_role("button", name="Fit").click()
    drawn(page, "output")
    page.get_by_role("tab", name="Node").click()
    page.get_by_role("tab", name="View").click()
    drawn(page, "output")
    assert json.loads(box.input_value()) == state
    page.locator(".stage").focus()
    page.keyboard.press("Control+z")
    assert drawn(page, ".stage .node.group") == []
    assert page.evaluate("window.hacked") is None


def tap(page: Any, target: Any, done: str) -> None:
    """Taps until it shows: a browser takes a tap that follows another touch at once for half of a double tap."""
    for _ in range(100):
        target.tap()
        page.wait_for_timeout(400)
        if page.evaluate(done):
            return
    raise AssertionError(f"no tap made {done} true")


def test_fingers(window: Any, graph: Any, tmp_path: Path) -> None:
    """Taps select; two fingers zoom; one finger scrolls the page as long as the graph fits."""
    path = graph_page(graph.prune(nodes=0.5)).write(tmp_path / "page.html")
    options = {"has_touch": True, "is_mobile": True, "viewport": {"width": 420, "height": 900}}
    touch_action = "getComputedStyle(document.querySelector('.stage')).touchAction"
    with window.context.browser.new_page(**options) as page:
        page.set_default_timeout(1000 * PATIENCE)
        page.goto(path.as_uri())
        page.wait_for_selector(".deepfield-explorer .node")
        page.locator(".stage").scroll_into_view_if_needed()
        chosen = drawn(page, ".stage .node.latent")[0]
        tap(page, node(page, chosen), "document.querySelector('.stage .node.chosen') !== null")
        assert drawn(page, ".stage .node.chosen") == [chosen]
        assert node(page, chosen).bounding_box()["width"] >= 20
        stage = page.locator(".stage").bounding_box()
        x, y = stage["x"] + stage["width"] / 2, stage["y"] + stage["height"] / 2
        hand = page.context.new_cdp_session(page)
        touches = lambda apart: [{"x": x - apart, "y": y, "id": 0}, {"x": x + apart, "y": y, "id": 1}]  # noqa: E731
        before = node(page, chosen).bounding_box()["width"]
        for kind, points in (
            ("touchStart", touches(30)),
            ("touchMove", touches(60)),
            ("touchMove", touches(90)),
            ("touchEnd", []),
        ):
            hand.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        page.wait_for_function(f"{touch_action} === 'none'")
        drawn(page, "output")
        assert node(page, chosen).bounding_box()["width"] > 1.5 * before
        tap(page, page.get_by_role("button", name="Fit"), f"{touch_action} === 'pan-y'")
        drawn(page, "output")
        assert node(page, chosen).bounding_box()["width"] == pytest.approx(before, abs=1)


CELL = """
from circuits import GraphExplorer, attribution_graph
from tests.circuits.graphs.sets import precise, prompt, random_set
graph = attribution_graph(precise("gpt2"), prompt(), random_set(), targets=[3, 4])
explorer = GraphExplorer(graph)
explorer
"""
ASK = "print('seen', explorer.selection, explorer.measured['rows'], explorer.pinned); explorer.pinned = []"


@pytest.mark.slow
def test_interventions_in_jupyterlab(window: Any, graph: Any, tmp_path: Path) -> None:
    """The three modes on a clicked latent: what the browser shows is what the graph's own intervention gives."""
    write_notebook(tmp_path / "explore.ipynb", CELL, ASK)
    first = graph.top(1, 3)[0]
    explorer = GraphExplorer(graph)
    name = next(name for name, number in explorer._numbers.items() if number == first.number)
    page = window
    page.set_viewport_size({"width": 1400, "height": 1000})
    with jupyter_lab(tmp_path) as address:
        page.goto(address.format("explore.ipynb"))
        cells = page.locator(".jp-CodeCell")
        page.wait_for_selector('.jp-Notebook-ExecutionIndicator[data-status="idle"]')
        run_cell(page, cells.first)
        page.wait_for_selector(".deepfield-explorer .node")
        node(page, name).click()
        page.wait_for_selector("text=Activation on this prompt")
        page.get_by_label("What happens to the selected latents").select_option("scale")
        page.get_by_label("Value", exact=True).fill("-1.5")
        page.get_by_label("Value", exact=True).blur()
        for mode in ("direct", "frozen_attention", "live"):
            page.get_by_label("What is held").select_option(mode)
            page.get_by_role("button", name="Run", exact=True).click()
            page.wait_for_selector(f"text=/scaled by -1.5, {mode}/")
            said, found = explorer.intervene([name], how="scale", value=-1.5, mode=mode)
            cells_shown = page.locator(".targets tr td").all_inner_texts()
            values = [float(cell.replace("\u2212", "-")) for cell in cells_shown]
            expected = [value for i in range(len(graph) - 2, len(graph)) for value in (said[i], found.change[i])]
            assert values == pytest.approx(expected, rel=6e-3, abs=1e-6)
        page.keyboard.press("Escape")
        node(page, name).click()
        page.keyboard.press("p")
        page.wait_for_selector(".stage .node.pinned")
        run_cell(page, cells.nth(1))
        page.wait_for_selector(".stage .node.pinned", state="detached")
        printed = cells.nth(1).locator(".jp-OutputArea-output").inner_text()
        assert printed.startswith(f"seen ['{name}'] [[")
        assert printed.strip().endswith(f"['{name}']")
