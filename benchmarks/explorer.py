"""Frame times of the explorer in headless Chromium, on random graphs: panning, zooming, moving a threshold, pointing.

    .venv/bin/python benchmarks/explorer.py --nodes 500 --edges 5000

First an attribution graph, whose slider prunes and lays out anew in every frame, then a circuit of heads and MLPs.
Frames are asked for one after the other, and each changes the view first: the time from one to the next, and the
processor time of all of Chromium's processes, which a busy machine does not change. The first row is the same loop with
nothing to draw. A headless browser draws in software, so a graphics card does better.
"""

import argparse
import json
import random
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import psutil
from interleave import machine

from circuits.explorer.graph import Graph, Link, part_of
from circuits.explorer.page import page as page_of
from tests.circuits.explorer.browsers import browser_window

LAYERS, HEADS, POSITIONS = 12, 12, 20
# Frames are asked for one after the other; each changes something first.
_LOOP = """
([kind, frames, which]) => new Promise(done => {
  const stage = document.querySelector(".stage");
  const slider = [...document.querySelectorAll(".slider input")].at(which);
  const frame = stage.getBoundingClientRect();
  const at = {bubbles: true, clientX: frame.left + frame.width / 2, clientY: frame.top + frame.height / 2, button: 0};
  const pointer = (name, x) => stage.dispatchEvent(
    new PointerEvent(name, {...at, clientX: at.clientX + x, pointerId: 1, isPrimary: true}));
  stage.setPointerCapture = () => {};
  const act = {
    nothing: () => {},
    pan: i => pointer("pointermove", 120 * Math.sin(i / 9)),
    zoom: i => stage.dispatchEvent(new WheelEvent("wheel", {...at, ctrlKey: true, deltaY: i % 40 < 20 ? -12 : 12})),
    threshold: i => { slider.value = 0.4 + 0.4 * Math.sin(i / 9); slider.dispatchEvent(new Event("input")); },
    hover: i => { const all = document.querySelectorAll(".stage .node");
      all[(7 * i) % all.length].dispatchEvent(new PointerEvent("pointerenter", at)); },
  }[kind];
  if (kind === "pan") pointer("pointerdown", 0);
  const times = [];
  let last = performance.now();
  const step = now => {
    times.push(now - last);
    last = now;
    if (times.length > frames) {
      if (kind === "pan") pointer("pointerup", 5);
      return done(times.slice(1));
    }
    act(times.length);
    requestAnimationFrame(step);
  };
  requestAnimationFrame(step);
})
"""


def random_attribution_graph(nodes: int, edges: int) -> dict[str, Any]:
    """As :mod:`circuits.explorer.attribution_data` sends it; all of it hangs together, so that all of it is drawn."""
    draw = random.Random(0)
    targets, last = 5, POSITIONS - 1
    places = sorted((draw.randrange(LAYERS), draw.randrange(POSITIONS)) for _ in range(nodes - POSITIONS - targets))
    # Kind, row, position.
    kinds = [("token", 0, position) for position in range(POSITIONS)]
    kinds += [("latent" if draw.random() < 0.9 else "error", layer + 1, position) for layer, position in places]
    kinds += [("target", LAYERS + 1, last)] * targets
    inside = range(POSITIONS, nodes - targets)
    ends = {(kinds[i][2], i) for i in inside} | {(i, nodes - 1 - i % targets) for i in inside}
    ends |= {(position, nodes - 1) for position in range(POSITIONS)}
    while len(ends) < edges:
        source, target = sorted(draw.sample(range(nodes), 2), key=lambda i: kinds[i][1])
        if kinds[source][1] < kinds[target][1] and kinds[source][2] <= kinds[target][2]:
            ends.add((source, target))
    weight = lambda: draw.choice((-1, 1)) * 10 ** draw.uniform(-2, 1)  # noqa: E731
    return {
        "rows": ["tokens", *(f"layer {layer}" for layer in range(LAYERS)), "output"],
        "columns": [f"token {position}" for position in range(POSITIONS)],
        "by_position": True,
        "dots": True,
        "note": "",
        "links": [[source, target, weight()] for source, target in sorted(ends)],
        "nodes": [
            {
                "id": f"n{i}",
                "kind": kind,
                "row": row,
                "column": None if kind == "target" else position,
                "position": position,
                "label": f"n{i}",
                "name": f"node {i}",
                "text": "",
                "facts": ["influence 1"],
                "score": 1 - i / nodes,
                "size": draw.random(),
                "before": i / nodes,
                "weight": 0.2 if kind == "target" else 0.0,
            }
            for i, (kind, row, position) in enumerate(kinds)
        ],
    }


def random_graph(nodes: int, edges: int) -> Graph:
    """Heads and MLPs at positions, linked upwards at random; scores spread over three decades."""
    draw = random.Random(0)
    names = [f"a{layer}.h{head}" for layer in range(LAYERS) for head in range(HEADS)]
    names += [f"m{layer}" for layer in range(LAYERS)]
    places = [(name, position) for name in names for position in range(POSITIONS)]
    score = lambda: draw.choice((-1, 1)) * 10 ** draw.uniform(-3, 0)  # noqa: E731
    parts = [part_of(name, score(), position=position) for name, position in draw.sample(places, nodes)]
    links: dict[tuple[str, str], Link] = {}
    while len(links) < edges:
        lower, upper = sorted(draw.sample(parts, 2), key=lambda part: part.stage)
        if lower.stage < upper.stage:
            links[lower.id, upper.id] = Link(source=lower.id, target=upper.id, score=score())
    columns = [f"token {position}" for position in range(POSITIONS)]
    return Graph(parts={part.id: part for part in parts}, links=list(links.values()), columns=columns, by_position=True)


def saved(graph: dict[str, Any]) -> dict[str, Any]:
    """What a page of the graph holds; of an attribution graph all that there is is drawn at first."""
    shares = {"shares": 1.0} if "links" in graph else {}
    first = 1.0 if shares else 0.0
    about = {"title": "Random graph", "subtitle": "", "scores": "", "views": [], "values": [], "within": [],
             "measures": False, "details": False, "prompts": 0, "saved": "", **shares}  # fmt: skip
    state = {"graphs": {"position": graph}, "view": "position", "selection": [], "pinned": [],
             "groups": {}, "threshold": first, "node_threshold": first, "past": [], "future": [],
             "experiment": {}}  # fmt: skip
    return {"state": state | {"about": about}, "details": {}, "measured": {}, "nothing": {}}


def processor_seconds() -> float:
    """Of the browser and its helpers so far."""
    return sum(
        sum(process.cpu_times()[:2])
        for process in psutil.Process().children(recursive=True)
        if "chrom" in process.name()
    )


def main() -> None:
    """Print a table and write the single times."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--nodes", type=int, default=500)
    options.add_argument("--edges", type=int, default=5000)
    options.add_argument("--frames", type=int, default=60)
    asked = options.parse_args()
    graphs = {
        "attribution graph": random_attribution_graph(asked.nodes, asked.edges),
        "circuit": random_graph(asked.nodes, asked.edges).to_json(),
    }
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, browser_window() as window:
        for name, graph in graphs.items():
            path = Path(folder) / "graph.html"
            path.write_text(page_of("Random graph", saved(graph)), encoding="utf-8")
            window.goto(path.as_uri())
            window.wait_for_selector(".stage .node")
            drawn, said = window.locator(".stage .node").count(), window.locator("output").all_inner_texts()
            found, processor = {}, {}
            which = 1 if "links" in graph else 0  # the slider of edges
            for kind in ("nothing", "pan", "zoom", "threshold", "hover"):
                before = processor_seconds()
                found[kind] = window.evaluate(_LOOP, [kind, asked.frames, which])
                processor[kind] = 1000 * (processor_seconds() - before) / asked.frames
            print(f"{name}: {drawn} nodes drawn, {' and '.join(said)}, {asked.frames} frames\n")
            print("| | median ms | 95 % ms | processor ms a frame |\n|---|---|---|---|")
            for kind, times in found.items():
                high = statistics.quantiles(times, n=20)[-1]
                print(f"| {kind} | {statistics.median(times):.1f} | {high:.1f} | {processor[kind]:.1f} |")
            print()
            results[name] = {"nodes": drawn, "edges": asked.edges, "ms": found, "processor_ms": processor}
    about = machine()
    print(f"{about['cpu']}, {about['cores']} cores, {about['date']}")
    file = Path(__file__).parent / "results" / "explorer.json"
    file.write_text(json.dumps(results | {"machine": about}, indent=1))


if __name__ == "__main__":
    main()
