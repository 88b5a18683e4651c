"""Explorers without anywidget: their traits are checked and observed, and their pages are those of the widgets."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from circuits.explorer.traits import Plain, PlainTrait, plain_validate
from interp.arguments.extras import MissingExtra

ROOT = Path(__file__).parents[3]


class Shelf(Plain):
    height = PlainTrait(float, 1.0).tag(sync=True)
    books = PlainTrait(list, [], PlainTrait(str, ""))
    boxes = PlainTrait(dict, {}, PlainTrait(list, [], PlainTrait(str, "")))

    @plain_validate("height")
    def _check_height(self, proposal: Any) -> float:
        if proposal["value"] < 0:
            raise ValueError(f"{proposal['trait'].name} is {proposal['value']}")
        return min(proposal["value"], 2.0)


def test_each_has_its_own_values_and_defaults() -> None:
    one, other = Shelf(height=1.5), Shelf()
    one.books = ["a"]
    assert (one.height, one.books) == (1.5, ["a"])
    assert (other.height, other.books, other.boxes) == (1.0, [], {})
    one.boxes["x"] = ["a"]
    given = ["b"]
    one.books = given
    given.append("c")
    assert (one.boxes, one.books) == ({"x": ["a"]}, ["b"])
    assert other.boxes == Shelf().boxes == {}


def test_a_tuple_is_a_list_as_for_a_widget() -> None:
    shelf = Shelf(books=("a", "b"), boxes={"x": ("a",)})
    assert (shelf.books, shelf.boxes) == (["a", "b"], {"x": ["a"]})


def test_values_are_checked_first() -> None:
    shelf = Shelf(height=3)
    assert shelf.height == 2.0
    with pytest.raises(ValueError, match="height is -1"):
        shelf.height = -1
    with pytest.raises(ValueError, match="books is 'a'; it is of the kind list"):
        shelf.books = "a"
    for wrong in ([1], {"x": ["a", 2]}):
        with pytest.raises(ValueError, match=r"an entry is \d; it is of the kind str"):
            shelf.set_trait("books" if isinstance(wrong, list) else "boxes", wrong)
    assert (shelf.height, shelf.books, shelf.boxes) == (2.0, [], {})


def test_changes_are_seen_once() -> None:
    shelf, seen = Shelf(), []
    shelf.observe(seen.append, names=["books"])
    shelf.books = ["a"]
    shelf.books = ["a"]
    shelf.height = 0.5
    assert seen == [{"name": "books", "old": [], "new": ["a"]}]


SHOW = """
import json, pathlib, sys
if sys.argv[1] == "without":
    sys.modules["anywidget"] = None
import circuits, interp, saes
from circuits.explorer.traits import Plain

model = interp.load_model("embedded")
task = circuits.tasks.ioi(model, 2)
circuit = circuits.Circuit.from_edges(circuits.attribute_edges(model, task, method="eap")).prune(size=20)
explorer = circuits.Explorer(circuit, model=model, task=task)
assert isinstance(explorer, Plain) == (sys.argv[1] == "without")
first, second, *_ = explorer.graphs["position"]["nodes"]
explorer.selection = [first["id"]]
explorer.group("both", [first["id"], second["id"]])
explorer.undo()
explorer.pinned = [second["id"], second["id"]]
for state in ({"pinnedIds": ["nowhere"]}, {"pinnedIds": [1]}, {"supernodes": [["x", 2]]}, {"supernodes": [[1, "x"]]}):
    before = explorer.view_state
    try:
        explorer.restore(state)
    except ValueError:
        assert explorer.view_state == before
    else:
        raise AssertionError(state)
graph = circuits.attribution_graph(model, "Once upon a time", saes.embedded_transcoders(), max_nodes=32)
drawn = circuits.GraphExplorer(graph.prune(nodes=0.5))
drawn.node_threshold = 1
kept = [explorer.saved(), drawn.saved(), explorer.past, explorer.future, drawn.view_state]
pathlib.Path(sys.argv[2]).write_text(json.dumps(kept))
explorer.save("page.html")
"""


@pytest.mark.slow
def test_what_is_saved_is_what_the_widget_saves(tmp_path: Path) -> None:
    for way in ("with", "without"):
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", SHOW, way, str(tmp_path / way)]
        ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
        assert ended.returncode == 0, ended.stderr
    kept = (tmp_path / "with").read_text()
    assert kept == (tmp_path / "without").read_text()
    assert json.loads(kept)[0]["state"]["pinned"] != []


def test_a_notebook_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "anywidget", None)
    with pytest.raises(MissingExtra, match=r"an explorer in a notebook .* pip install 'deepfield\[widget"):
        Shelf()._repr_mimebundle_()
