"""Frame times of the explorer in headless Chromium, on a random graph: panning, zooming and moving a threshold.

    .venv/bin/python benchmarks/explorer.py --nodes 500 --edges 2000

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

from circuits.explorer.graph import Graph, Link, part_of
from circuits.explorer.page import page as page_of
from tests.circuits.explorer.browsers import browser_window

LAYERS, HEADS, POSITIONS = 12, 12, 20
# Frames are asked for one after the other; each changes something first.
_LOOP = """
([kind, frames]) => new Promise(done => {
  const stage = document.querySelector(".stage");
  const slider = document.querySelector(".slider input");
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


def saved(graph: Graph) -> dict[str, Any]:
    """What a page of the graph holds."""
    about = {"title": "Random graph", "subtitle": "", "scores": "", "views": [], "values": [], "within": [],
             "measures": False, "details": False, "prompts": 0, "saved": ""}  # fmt: skip
    state = {"graphs": {"position": graph.to_json()}, "view": "position", "selection": [], "pinned": [],
             "groups": {}, "threshold": 0, "node_threshold": 0, "past": [], "future": [], "experiment": {}}  # fmt: skip
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
    options.add_argument("--edges", type=int, default=2000)
    options.add_argument("--frames", type=int, default=120)
    asked = options.parse_args()
    with tempfile.TemporaryDirectory() as folder, browser_window() as window:
        path = Path(folder) / "graph.html"
        path.write_text(page_of("Random graph", saved(random_graph(asked.nodes, asked.edges))), encoding="utf-8")
        window.goto(path.as_uri())
        window.wait_for_selector(".stage .node")
        drawn = window.locator(".stage .node").count()
        found, processor = {}, {}
        for kind in ("nothing", "pan", "zoom", "threshold", "hover"):
            before = processor_seconds()
            found[kind] = window.evaluate(_LOOP, [kind, asked.frames])
            processor[kind] = 1000 * (processor_seconds() - before) / asked.frames
    print(f"{drawn} nodes, {asked.edges} edges, {asked.frames} frames\n")
    print("| | median ms | 95 % ms | processor ms a frame |\n|---|---|---|---|")
    for kind, times in found.items():
        high = statistics.quantiles(times, n=20)[-1]
        print(f"| {kind} | {statistics.median(times):.1f} | {high:.1f} | {processor[kind]:.1f} |")
    results = Path(__file__).parent / "results" / "explorer.json"
    table = {"nodes": drawn, "edges": asked.edges, "ms": found, "processor_ms": processor}
    results.write_text(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
