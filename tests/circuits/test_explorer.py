"""The explorer: its state from Python, and its page in a real browser with real events."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from circuits import Evaluator, Explorer
from circuits.circuit import Circuit
from circuits.edges import attribute_edges
from tests.circuits.pairs import model_of, random_task
from tests.circuits.test_circuit import by_hand

# What a reader does: selects a node, takes it back, moves the slider, and points at an edge.
_READER = """
<script type="module">
const found = {};
const at = (id) => document.querySelector(`[data-id="${id}"]`);
const shown = () => [...document.querySelectorAll(".edge")].filter((e) => e.style.display !== "none").length;
const lit = () => [...document.querySelectorAll(".node.chosen")].map((node) => node.dataset.id);
found.edges = shown();
found.nodes = [...document.querySelectorAll(".node text")].map((text) => text.textContent);
at("m1").dispatchEvent(new MouseEvent("click", { bubbles: true }));
at("a0.h0").dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", bubbles: true }));
found.selected = lit();
document.querySelectorAll("button")[0].click();
found.undone = lit();
document.querySelectorAll("button")[1].click();
found.cleared = lit();
const slider = document.querySelector("input");
slider.value = 0.5;
slider.dispatchEvent(new Event("input"));
found.above = shown();
document.querySelector(".edge.negative").dispatchEvent(new PointerEvent("pointerenter"));
found.detail = document.querySelector(".detail").textContent;
const y = (id) => Number(at(id).querySelector("circle").getAttribute("cy"));
found.upwards = y("embed") > y("a0.h0") && y("a0.h0") > y("m1") && y("m1") > y("logits");
document.body.dataset.found = JSON.stringify(found);
</script>
"""


def browser() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if (path := shutil.which(name)) is not None:
            return path
    pytest.skip("no Chromium on this machine")


def test_a_reader_can_select_undo_and_filter(tmp_path: Path) -> None:
    page = Explorer(by_hand()).save(tmp_path / "page.html")
    page.write_text(page.read_text() + _READER)
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=3000", "--dump-dom"]
    done = subprocess.run([browser(), *options, page.as_uri()], capture_output=True, text=True, timeout=240)
    match = re.search(r'data-found="([^"]*)"', done.stdout)
    assert match, done.stderr[-500:]
    found = json.loads(match[1].replace("&quot;", '"').replace("&gt;", ">"))
    assert found["edges"] == 6
    assert found["nodes"] == list(by_hand().nodes)
    assert found["selected"] == ["a0.h0", "m1"]
    assert found["undone"] == ["m1"]
    assert found["cleared"] == []
    assert found["above"] == 3  # of 3, -2, 1, 5, 4 and 0.1, those of at least 2.5
    assert found["detail"] == "a0.h0 → m1: -2.000"
    assert found["upwards"]


def test_names_cannot_leave_their_place_in_the_page(tmp_path: Path) -> None:
    circuit = by_hand()
    wild = replace(circuit, about={}, nodes=dict(circuit.nodes))
    explorer = Explorer(wild)
    explorer.metric = "</script><b>"
    text = explorer.save(tmp_path / "page.html").read_text()
    assert "</script><b>" not in text
    assert text.count("</script>") == 1
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")  # nothing is fetched


def test_the_selection_is_measured() -> None:
    model, task = model_of("gpt2"), random_task()
    circuit = Circuit.from_edges(attribute_edges(model, task.replace(direction="noise"), method="eap"))
    evaluator = Evaluator(model, task)
    explorer = Explorer(circuit, evaluator=evaluator)
    assert explorer.metric.startswith("faithfulness 1.000")
    explorer.selection = ["m0"]
    expected = evaluator.evaluate(circuit.without_nodes(["m0"])).faithfulness
    assert explorer.metric.startswith(f"faithfulness without m0 {expected:.3f}")
    with pytest.raises(ValueError, match="m9 is not a node"):
        explorer.selection = ["m9"]


def test_taking_nodes_out() -> None:
    less = by_hand().without_nodes(["m1"])
    assert set(less.edges) == {("embed", "a0.h0.v"), ("embed", "a0.h1.q"), ("m0", "logits"), ("embed", "logits")}
    assert "m1" not in less.nodes
