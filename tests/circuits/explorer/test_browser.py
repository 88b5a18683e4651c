"""The explorer in a real browser, with real clicks and keys: as a saved page, and in JupyterLab."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from circuits import Circuit, Explorer, attribute_edges
from tests.circuits.explorer.browsers import browser_window, jupyter_lab, write_notebook
from tests.circuits.pairs import model_of, random_task
from tests.circuits.test_circuit import by_hand

WILD = "<img src=x onerror=\"window.hacked='yes'\"></script><b>"


pytestmark = pytest.mark.browser


class WildTokenizer:
    """Every token's text is markup."""

    def convert_ids_to_tokens(self, token: int) -> str:
        return f"{token}{WILD}"

    def decode(self, ids: list[int]) -> str:
        return f"{ids[0]}{WILD}"


@pytest.fixture(scope="module")
def window() -> Iterator[Any]:
    with browser_window(color_scheme="light") as page:
        yield page


def opened(window: Any, explorer: Explorer, folder: Path, **options: Any) -> Any:
    window.goto(explorer.save(folder / "page.html", **options).as_uri())
    window.wait_for_selector(".deepfield-explorer .node")
    return window


def drawn(window: Any, selector: str) -> list[str]:
    """Texts of what the selector finds, once the changes so far are drawn."""
    return window.evaluate(
        """selector => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() =>
            done([...document.querySelectorAll(selector)].map(found => found.dataset.id ?? found.innerText)))))""",
        selector,
    )


def lit(window: Any) -> list[str]:
    return drawn(window, ".stage .node.chosen")


def node(window: Any, name: str) -> Any:
    return window.locator(f'.stage [data-id="{name}"]')


def test_select_undo_filter_and_point(window: Any, tmp_path: Path) -> None:
    page = opened(window, Explorer(by_hand()), tmp_path)
    assert drawn(page, ".stage .node") == list(by_hand().nodes)
    height = {name: node(page, name).bounding_box()["y"] for name in by_hand().nodes}
    assert height["embed"] > height["a0.h0"] > height["m0"] > height["m1"] > height["logits"]
    node(page, "m1").click()
    node(page, "a0.h0").click(modifiers=["Shift"])
    assert sorted(lit(page)) == ["a0.h0", "m1"]
    page.get_by_text("Undo").click()
    assert lit(page) == ["m1"]
    page.get_by_text("Redo").click()
    assert len(lit(page)) == 2
    page.get_by_role("button", name="Clear").click()
    assert lit(page) == []
    node(page, "m1").hover()
    assert page.locator(".tip").inner_text().split("\n") == ["m1", "score 1", "1 edge in, 1 out"]
    # In the middle of the only edge between the two, whose sign is negative.
    ends = [node(page, name).bounding_box() for name in ("a0.h0", "m1")]
    x, y = (sum(box[axis] + box[size] / 2 for box in ends) / 2 for axis, size in (("x", "width"), ("y", "height")))
    page.mouse.move(x, y)
    assert page.locator(".tip").inner_text().split("\n") == ["a0.h0 → m1", "score \u22122"]
    slider = page.get_by_label("Least absolute score of an edge")
    assert "6 of 6 edges" in drawn(page, "output")[0]
    box = slider.bounding_box()
    page.mouse.click(box["x"] + 0.85 * box["width"], box["y"] + box["height"] / 2)
    assert "3 of 6 edges" in drawn(page, "output")[0]  # 5, 4 and 3
    assert drawn(page, ".stage .node.faint") == ["m1"]
    page.get_by_text("Undo").click()
    assert "6 of 6 edges" in drawn(page, "output")[0]


def test_groups_and_pins_by_keyboard(window: Any, tmp_path: Path) -> None:
    page = opened(window, Explorer(by_hand()), tmp_path)
    node(page, "a0.h0").focus()
    page.keyboard.press("Space")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")
    assert sorted(lit(page)) == ["a0.h0", "a0.h1"]
    page.keyboard.press("g")
    assert drawn(page, ".stage .node.group") == ["group 1"]
    assert node(page, "a0.h0").count() == 0
    name = page.get_by_label("Name of the group")
    for wrong, said in (("m1", "A node is called m1."), (" ", "A group needs a name.")):
        name.fill(wrong)
        page.get_by_role("button", name="Rename").click()
        page.get_by_role("alert").get_by_text(said, exact=True).wait_for()
        assert drawn(page, ".stage .node.group") == ["group 1"]
        assert name.input_value() == wrong.strip()
    name.fill(f"both {WILD}")
    page.get_by_role("button", name="Rename").click()
    assert drawn(page, ".stage .node.group") == [f"both {WILD}"]
    assert page.get_by_role("alert").count() == 0
    group = page.locator(".stage .node.group")
    assert group.inner_text() == f"both {WILD}"
    assert "score 2" in group.get_attribute("aria-label")  # of two nodes with 1 each
    group.click()
    page.keyboard.press("p")
    page.get_by_label(" only pinned").check()
    assert len(drawn(page, ".stage .node")) == 1
    page.get_by_label(" only pinned").uncheck()
    page.get_by_role("button", name="Ungroup").click()
    assert drawn(page, ".stage .node.pinned") == ["a0.h0", "a0.h1"]
    for _ in range(6):
        page.keyboard.press("Control+z")
    assert lit(page) == []
    assert drawn(page, ".stage .node.pinned") == []
    page.keyboard.press("Control+Shift+z")
    assert lit(page) == ["a0.h0"]
    assert page.evaluate("window.hacked") is None


def test_texts_of_prompts_are_text(window: Any, tmp_path: Path) -> None:
    model, task = model_of("gpt2"), random_task(labels=[f"{WILD}{i}" for i in range(7)], name=WILD)
    circuit = Circuit.from_edges(attribute_edges(model, task.replace(direction="noise")), model=WILD).prune(size=30)
    explorer = Explorer(circuit, model=model, task=task, tokenizer=WildTokenizer())
    page = opened(window, explorer, tmp_path, details=12)
    assert page.title().endswith("eap")
    assert WILD in page.title()
    assert f"{WILD}6" in page.locator(".columns").inner_text()
    seen = set()
    for name in ("m0", "a1", "logits"):
        page.locator(f'.stage [data-id^="{name}"]').last.click()
        page.wait_for_selector(".detail table.tokens, .detail table.lens, .detail table.pattern, .detail p.soft")
        seen |= {kind for kind in ("tokens", "lens", "pattern") if page.locator(f".detail table.{kind}").count()}
    assert seen
    assert WILD[:9] in drawn(page, ".detail")[0]
    assert page.locator("img").count() == page.locator(".deepfield-explorer b b").count() == 0
    assert page.evaluate("window.hacked") is None
    # Node by node what ablation does, as it was measured before.
    top = max(explorer._graphs["position"].parts.values(), key=lambda part: abs(part.score)).id
    node(page, top).click()
    expected = explorer.measure([top])
    assert f"{expected.value:.3f}" in drawn(page, ".measured")[0]
    page.locator(".stage .node").last.click(modifiers=["Shift"])
    assert "need the notebook" in drawn(page, ".measured")[0]


def test_themes_follow_the_surroundings(window: Any, tmp_path: Path) -> None:
    page = opened(window, Explorer(replace(by_hand(), about={})), tmp_path)
    page.wait_for_selector(".deepfield-explorer[data-theme=light]")
    page.emulate_media(color_scheme="dark")
    page.wait_for_selector(".deepfield-explorer[data-theme=dark]")
    page.emulate_media(color_scheme="light")


CELL = """
from circuits import Circuit, Explorer, attribute_edges
from tests.circuits.pairs import model_of, random_task
model, task = model_of("gpt2"), random_task(labels=["<img src=x onerror=window.hacked=1>"] * 7)
circuit = Circuit.from_edges(attribute_edges(model, task.replace(direction="noise"))).prune(size=30)
explorer = Explorer(circuit, model=model, task=task, view="summed")
explorer
"""
ASK = "print('seen', explorer.selection, explorer.groups, explorer.metric); explorer.selection = ['m2']"


def run_cell(page: Any, cell: Any) -> None:
    """Shift and Enter in a cell, until JupyterLab has heard it: while it starts, keys can get lost."""
    for _ in range(10):
        cell.locator(".cm-content").click()
        page.keyboard.press("Shift+Enter")
        for _ in range(20):
            if cell.locator(".jp-InputPrompt").first.inner_text().strip() not in ("[ ]:", "[]:", ""):
                return
            page.wait_for_timeout(250)
    raise AssertionError("JupyterLab does not run the cell")


@pytest.mark.slow
def test_in_jupyterlab(window: Any, tmp_path: Path) -> None:
    """Clicks reach Python and are answered by the model; what Python sets is drawn."""
    write_notebook(tmp_path / "explore.ipynb", CELL, ASK)
    page = window
    with jupyter_lab(tmp_path) as address:
        page.goto(address.format("explore.ipynb"))
        cells = page.locator(".jp-CodeCell")
        page.wait_for_selector('.jp-Notebook-ExecutionIndicator[data-status="idle"]')
        run_cell(page, cells.first)
        page.wait_for_selector(".deepfield-explorer .node")
        node(page, "m1").click()
        page.wait_for_selector(".deepfield-explorer .detail table.tokens")
        page.get_by_label("What the selection is set to").select_option("zero")
        page.wait_for_selector("text=/for m1 ablated to zero/")
        node(page, "m0").click(modifiers=["Shift"])
        page.wait_for_selector("text=/for m1, m0 ablated to zero/")
        page.keyboard.press("g")
        page.wait_for_selector(".stage .node.group")
        page.get_by_text("Positions").click()
        page.wait_for_selector(".stage [data-id*='@']")
        assert "<img src=x" in page.locator(".columns").inner_text()
        for _ in range(2):
            page.get_by_text("Undo").click()
        page.wait_for_selector(".stage .node[data-id='m0'].chosen")
        run_cell(page, cells.nth(1))
        page.wait_for_selector(".stage .node[data-id='m2'].chosen")
        said = cells.nth(1).locator(".jp-OutputArea-output").inner_text()
        assert said.startswith("seen ['m1', 'm0'] {} logit_difference")
        assert "for m1, m0 ablated to zero" in said
        assert lit(page) == ["m2"]
        assert page.evaluate("window.hacked") is None
