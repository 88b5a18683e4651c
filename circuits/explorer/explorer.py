"""Explore a circuit in a notebook, or in one HTML file that works offline.

The graph is drawn in the browser; what is selected, pinned and grouped is shared with Python, in both directions and
with one history. Python answers what the browser asks: the detail of a node, and what the metric becomes when the
selection is ablated or patched, each computed by running the model.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from circuits.attribution.features import FeatureCircuit, FeatureScores
from circuits.circuit import Circuit
from circuits.explorer.details import Details
from circuits.explorer.graph import Graph, Part, graph_of_circuit, graph_of_features, graph_of_scores
from circuits.explorer.interventions import VALUES, Interventions, Measured
from circuits.explorer.positions import unfold
from circuits.explorer.scope import scope_of
from circuits.explorer.shared import GraphView
from circuits.explorer.traits import validate
from circuits.faithfulness import Evaluator
from circuits.features.edges import FeatureNode
from circuits.scores.nodes import Scores
from circuits.tasks.task import Task
from interp.models.bridge import Model
from saes.features.examples import Text
from saes.sae import SAE

SUMMED, BY_POSITION = "summed", "position"
_VIEWS = {
    BY_POSITION: ("Positions", "Every part at every position where it matters"),
    SUMMED: ("Components", "Parts with their positions summed"),
}


class Explorer(GraphView):
    """A graph from the input up, layer by position or by component.

    Args:
        shown: A circuit; a circuit of SAE features, with ``scores`` and ``edges``; or the scores of nodes that
            :func:`circuits.attribute` returned, one family or several.
        model: With ``task``, for details, for ablating and patching, and to unfold a circuit over positions.
        evaluator: For faithfulness without ``model`` and ``task``.
        scores: Of a feature circuit.
        edges: Of a feature circuit, as :func:`circuits.features.edges.feature_edges` returns them.
        saes: The SAEs of a feature circuit, for details and ablation.
        text: Where top examples of latents are looked up, as for :func:`saes.features.top_examples`; by default among
            the task's own prompts.
        tokenizer: For texts of tokens; by default the model's.
        view: ``position`` or ``summed``; by default positions wherever they are known.
        threshold: Least absolute score of the edges drawn at first.
        node_threshold: Least absolute score of the nodes drawn at first.

    Attributes:
        selection: Ids of the selected nodes, such as ``a1.h2`` or ``a1.h2@14``. Like all that follow, it can be set.
        pinned: Ids of nodes that stay in sight whatever the thresholds.
        groups: Supernodes: ids of members by name.
        experiment: ``to``: a key of :data:`circuits.explorer.interventions.VALUES`; ``within``: ``model`` or
            ``circuit``.
        metric: What was measured last, in words.

    Raises:
        ValueError: what is shown and what was passed with it do not fit; and as :func:`circuits.attribute`.

    Example:
        >>> import circuits, interp
        >>> model = interp.load_model("embedded")
        >>> task = circuits.tasks.ioi(model, 2)
        >>> scores = circuits.attribute_edges(model, task, method="eap")
        >>> circuit = circuits.Circuit.from_edges(scores).prune(size=20)
        >>> type(circuits.Explorer(circuit, model=model, task=task)).__name__
        'Explorer'
    """

    def __init__(
        self,
        shown: Any,
        *,
        model: Model = None,
        task: Task | None = None,
        evaluator: Evaluator | None = None,
        scores: FeatureScores | None = None,
        edges: Mapping[tuple[FeatureNode, FeatureNode], float] | None = None,
        saes: Sequence[SAE] = (),
        text: Text | None = None,
        tokenizer: Any = None,
        view: str | None = None,
        threshold: float = 0.0,
        node_threshold: float = 0.0,
    ) -> None:
        if (model is None) != (task is None):
            raise ValueError("model and task belong together: pass both, or neither")
        self.circuit, self._model, self._task = shown, model, task
        graph = _graph(shown, scores, edges, task)
        own = BY_POSITION if graph.by_position else SUMMED
        self._views = tuple(_VIEWS) if isinstance(shown, Circuit) and task is not None else (own,)
        self._parts: dict[str, Part] = {}
        self._graphs: dict[str, Graph] = {}
        self._lab = None if model is None or task is None else Interventions(model, task, saes)
        self._details = None if self._lab is None else Details(self._lab, model, tokenizer=tokenizer, text=text)
        self._scope = scope_of(shown, model=model, task=task, saes=saes, evaluator=evaluator)
        within = {"model": "in the model"} if self._lab else {}
        within |= {"circuit": "in the circuit shown"} if self._scope else {}
        values = VALUES if self._lab else {name: VALUES[name] for name in self._scope.values} if self._scope else {}
        super().__init__(
            threshold=threshold,
            node_threshold=node_threshold,
            experiment={"to": next(iter(values)), "within": next(iter(within))} if within else {},
            about={
                "title": _title(shown, task),
                "subtitle": "" if task is None else f"{len(task)} prompts of {task.length} tokens · {task.metric_name}",
                "scores": _meaning(shown, scores),
                "views": [[name, *_VIEWS[name]] for name in self._views],
                "values": list(values.items()),
                "within": list(within.items()),
                "measures": bool(within),
                "details": self._details is not None,
                "prompts": 0 if task is None else len(task),
                "saved": "",
            },
        )
        self._add(own, graph)
        self.view = self._views[0] if view is None else view
        self._quiet = False
        self.observe(self._measure, names=["selection", "experiment", "threshold", "node_threshold"])
        self._measure(None)

    @property
    def metric(self) -> str:
        """What was measured last, in words."""
        return str(self.measured.get("words", ""))

    def measure(self, nodes: Iterable[str], *, to: str = "resample", within: str = "model") -> Measured:
        """The metric with some nodes set, as the browser shows it for the selection.

        Raises:
            ValueError: an unknown node, value or scope; no model to run.
        """
        parts = [self._part(name) for name in nodes]
        if within == "model" and self._lab is not None:
            return self._lab.measure(parts, to=to)
        if within == "circuit" and self._scope is not None:
            return self._scope.measure(parts, to=to, threshold=self.threshold, node_threshold=self.node_threshold)
        raise ValueError(
            f"nothing can be measured within {within!r}: pass model=… and task=… to the Explorer, and choose 'model' or"
            " (for circuits) 'circuit'"
        )

    def detail(self, node: str, *, prompt: int = 0) -> list[Mapping[str, Any]]:
        """What the browser shows of a node, as plain data.

        Raises:
            ValueError: an unknown node or prompt; no model to ask.
        """
        if self._details is None:
            raise ValueError("details need the model: pass model=… and task=… to the Explorer")
        return self._details.of(self._part(node), prompt=prompt)

    def saved(self, *, details: int = 60) -> dict[str, Any]:
        """What :meth:`save` writes, as plain data; of the nodes with details, the metric without each too."""
        strongest = [name for graph in self._graphs.values() for name in graph.strongest(nodes=details).parts]
        measured: dict[str, Any] = {}
        singles = {}
        if self._lab is not None:
            singles = {name: self.detail(name) for name in strongest}
            measured = {
                name: self._in_words([name], "resample", "model")
                for name in strongest
                if self._part(name).kind != "logits"
            }
        note = "Saved with the page: each node alone, ablated by its value on the corrupt prompts." if measured else ""
        about = self.about | {
            "saved": note or "A saved page cannot run the model.",
            "details": self._details is not None,
            "views": [row for row in self.about["views"] if row[0] in self.graphs],
        }
        nothing = self._in_words([], "resample", "model") if measured else {}
        return {"state": self._state(about), "details": singles, "measured": measured, "nothing": nothing}

    @validate("view")
    def _check_view(self, proposal: Any) -> str:
        name = str(proposal["value"])
        if name not in self._views:
            raise ValueError(
                f"view is {name!r}; this explorer has {', '.join(self._views)} (a circuit by position needs model=… and"
                " task=…)"
            )
        if name not in self.graphs:
            assert self._task is not None
            assert isinstance(self.circuit, Circuit)
            self._add(name, unfold(self._model, self._task, self.circuit))
        return name

    def _require(self, node: str) -> None:
        self._part(node)

    def _about_node(self, node: str, content: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        return self.detail(node, prompt=int(content.get("prompt", 0)))

    def _part(self, name: str) -> Part:
        if name not in self._parts:
            known = list(self._parts)
            raise ValueError(f"{name!r} is not a node of this graph; it has {', '.join(known[:6])} … {known[-1]}")
        return self._parts[name]

    def _add(self, name: str, graph: Graph) -> None:
        shown = graph.strongest()
        self._parts |= shown.parts
        self._graphs[name] = shown
        self.graphs = self.graphs | {name: shown.to_json()}

    def _measure(self, change: Any) -> None:
        if not self.experiment:
            return
        if change is not None and change["name"].endswith("threshold") and self.experiment["within"] == "model":
            return
        self.measured = self._in_words(self.selection, self.experiment["to"], self.experiment["within"])

    def _in_words(self, nodes: Sequence[str], to: str, within: str) -> dict[str, Any]:
        try:
            measured = self.measure(nodes, to=to, within=within)
        except ValueError as error:
            return {"words": str(error), "failed": True}
        named = ", ".join(nodes[:4]) + (f" and {len(nodes) - 4} more" if len(nodes) > 4 else "")
        if within == "circuit":
            name, nothing = "faithfulness", "everything ablated"
            subject = f"the circuit without {named}" if nodes else "the circuit shown"
        else:
            name, nothing = measured.metric, "the corrupt run"
            subject = f"{named} {VALUES[to]}" if nodes else f"the {'corrupt' if to == 'clean' else 'clean'} run"
        return {
            "value": measured.value.value,
            "standard_error": None if measured.n == 1 else measured.standard_error,
            "words": f"{name} {measured.value:.3f} {measured.value.error('.1g')} (raw {measured.raw:.4g},"
            f" n = {measured.n})"
            f" for {subject}; 1 is the clean run, 0 {nothing}.",
        }


def _graph(
    shown: Any,
    scores: FeatureScores | None,
    edges: Mapping[tuple[FeatureNode, FeatureNode], float] | None,
    task: Task | None,
) -> Graph:
    if isinstance(shown, FeatureCircuit):
        if scores is None:
            raise ValueError("a feature circuit is drawn with its scores: pass scores=… as well")
        length = len(next(iter(shown.errors.values())))
        labels = (None if task is None else task.labels) or [str(position) for position in range(length)]
        return graph_of_features(shown, scores, edges, labels)
    if scores is not None or edges is not None:
        raise ValueError("scores and edges are for circuits of features; a Circuit carries its own")
    if isinstance(shown, Circuit):
        return graph_of_circuit(shown)
    if isinstance(shown, Scores):
        return graph_of_scores([shown])
    if isinstance(shown, Mapping):
        return graph_of_scores(shown.values())
    raise ValueError(
        f"an explorer shows a Circuit, a FeatureCircuit or Scores, not {type(shown).__name__}; for the scores of edges,"
        " Circuit.from_edges(scores).prune(size=…)"
    )


def _meaning(shown: Any, scores: FeatureScores | None) -> str:
    """Of a score, for the legend."""
    if isinstance(shown, Circuit):
        direction = shown.about.get("direction")
    elif isinstance(shown, FeatureCircuit):
        direction = None if scores is None else scores.direction
    else:
        direction = (next(iter(shown.values())) if isinstance(shown, Mapping) else shown).direction
    change = {
        "noise": "when its corrupt value is patched into the clean run: negative is what the clean answer needs",
        "denoise": "when its clean value is patched into the corrupt run: positive is what brings the answer back",
    }
    return f"score: change of the metric {change.get(str(direction), 'when it is patched')}; clean run 1, corrupt run 0"


def _title(shown: Any, task: Task | None) -> str:
    if isinstance(shown, Circuit):
        about = shown.about
        name = about.get("task", task.name if task else "")
        parts = [f"Circuit of {name}" if name else "Circuit", about.get("model", ""), about.get("method", "")]
        return " · ".join(str(part) for part in parts if part)
    what = "Features" if isinstance(shown, FeatureCircuit) else "Scores of nodes"
    return what if task is None else f"{what} · {task.name}"
