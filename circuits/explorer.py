"""Explore a circuit in a notebook, or in one HTML file that works offline.

The same JavaScript draws both. Selected nodes can be read from Python, and where an evaluator is given the faithfulness
of the circuit without them is measured whenever the selection changes.
"""

import json
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from circuits.circuit import Circuit, layer_of
from circuits.faithfulness import Evaluator
from interp.files import atomic_path

_FOLDER = Path(__file__).parent / "widget"


class Explorer(anywidget.AnyWidget):
    """A circuit drawn from the input up: edges by score above a slider, nodes that can be selected, undo.

    Args:
        circuit: What to draw; a few hundred nodes stay fluid.
        evaluator: Measures the circuit without the selected nodes.
        threshold: Least absolute score of the edges shown at first.
    """

    _esm = _FOLDER / "explorer.js"
    _css = _FOLDER / "explorer.css"
    graph = traitlets.Dict().tag(sync=True)
    selection = traitlets.List(traitlets.Unicode()).tag(sync=True)
    """Names of the selected nodes."""
    threshold = traitlets.Float(0.0).tag(sync=True)
    metric = traitlets.Unicode("").tag(sync=True)
    """What the evaluator says of the circuit without the selection, in words."""

    def __init__(self, circuit: Circuit, *, evaluator: Evaluator | None = None, threshold: float = 0.0) -> None:
        super().__init__(graph=_graph(circuit), threshold=threshold)
        self.circuit, self._evaluator = circuit, evaluator
        self.observe(self._selected, names="selection")
        self._selected(None)

    def _selected(self, _change: Any) -> None:
        if unknown := set(self.selection) - set(self.circuit.nodes):
            raise ValueError(f"{', '.join(sorted(unknown))} is not a node of this circuit")
        if self._evaluator is not None:
            found = self._evaluator.evaluate(self.circuit.without_nodes(self.selection))
            without = f" without {', '.join(self.selection)}" if self.selection else ""
            self.metric = f"faithfulness{without} {found.faithfulness:.3f} ± {found.standard_error:.1g}"

    def save(self, path: str | Path) -> Path:
        """Write what is shown as one HTML file, with the threshold and the selection as they are."""
        state = {"graph": self.graph, "selection": self.selection, "threshold": self.threshold, "metric": self.metric}
        script, style = ((_FOLDER / name).read_text(encoding="utf-8") for name in ("explorer.js", "explorer.css"))
        # "<" cannot end the script element early, nor start anything else.
        data = json.dumps(state, allow_nan=False).replace("<", "\\u003c")
        page = _PAGE.replace("@style@", style).replace("@script@", script.replace("export default", "const explorer ="))
        with atomic_path(Path(path)) as partial:
            partial.write_text(page.replace("@state@", data), encoding="utf-8")
        return Path(path)


def _graph(circuit: Circuit) -> dict[str, Any]:
    nodes = [
        {"id": name, "score": float(score), "stage": layer_of(name) + (0.5 if name.startswith("m") else 0.0)}
        for name, score in circuit.nodes.items()
    ]
    edges = [
        {"source": u, "target": v, "reader": edge["reader"], "score": edge["score"]}
        for u, v, edge in circuit.to_networkx().edges(data=True)
        if v in circuit.nodes
    ]
    return {"nodes": nodes, "edges": edges}


# A stand-in for the notebook's model: the same calls, with nobody at the other end.
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Circuit</title><style>@style@</style></head>
<body><div id="explorer"></div><script type="module">
@script@
const state = @state@;
const listeners = {};
const model = {
  get: (name) => state[name],
  set: (name, value) => { state[name] = value; (listeners[`change:${name}`] ?? []).forEach((call) => call()); },
  on: (name, call) => (listeners[name] ??= []).push(call),
  save_changes: () => {},
};
explorer.render({ model, el: document.getElementById("explorer") });
</script></body></html>
"""
