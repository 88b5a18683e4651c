"""What every explorer has: selection, pins, groups and thresholds, shared with the browser in both directions.

They have one history, are plain data as the state of the view, and are saved in a page that opens offline.
"""

import json
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from markupsafe import Markup

from circuits.explorer import page as explorer_page
from circuits.explorer import traits
from interp.pages.templates import write_html

KEPT = ("view", "selection", "pinned", "groups", "threshold", "node_threshold")
"""What a step of the history takes back."""
_STEPS = 100


class GraphView(traits.Shared):
    """A graph from the input up, drawn in the browser.

    Attributes:
        selection: Ids of the selected nodes. Like all that follow, it can be set.
        pinned: Ids of nodes that stay in sight whatever the thresholds.
        groups: Supernodes: ids of members by name.
        threshold: Which edges are drawn: a least score, or a share.
        node_threshold: Which nodes are drawn.
    """

    _esm = explorer_page.module()
    _css = explorer_page.style()
    about = traits.Dict().tag(sync=True)
    graphs = traits.Dict().tag(sync=True)
    view = traits.Unicode().tag(sync=True)
    selection = traits.List(traits.Unicode()).tag(sync=True)
    pinned = traits.List(traits.Unicode()).tag(sync=True)
    groups = traits.Dict(value_trait=traits.List(traits.Unicode())).tag(sync=True)
    threshold = traits.Float(0.0).tag(sync=True)
    node_threshold = traits.Float(0.0).tag(sync=True)
    experiment = traits.Dict().tag(sync=True)
    measured = traits.Dict().tag(sync=True)
    past = traits.List(traits.Dict()).tag(sync=True)
    future = traits.List(traits.Dict()).tag(sync=True)

    def __init__(self, **values: Any) -> None:
        self._quiet = True
        super().__init__(**values)
        self.observe(self._remember, names=KEPT)
        self.on_msg(self._answer)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.about['title']!r})"

    @abstractmethod
    def _require(self, node: str) -> None:
        """Raises ValueError where the graph has no such node."""

    @abstractmethod
    def _about_node(self, node: str, content: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        """Sections that the browser shows of a node; ValueError where there are none."""

    @abstractmethod
    def saved(self, *, details: int = 60) -> dict[str, Any]:
        """What :meth:`save` writes, as plain data."""

    def undo(self) -> None:
        """Take the last step back, whether it was made here or in the browser."""
        self._step("past", "future")

    def redo(self) -> None:
        """Make the last step that was taken back again."""
        self._step("future", "past")

    def group(self, name: str, nodes: Iterable[str]) -> None:
        """Draw nodes as one supernode."""
        self.groups = self.groups | {name: list(nodes)}

    @property
    def view_state(self) -> dict[str, Any]:
        """Pins, supernodes, selection and thresholds, as the browser's leaf "View" has them: the ``qParams`` of a graph
        file and what these do not hold."""
        return {
            "pinnedIds": self.pinned,
            "supernodes": [[name, *members] for name, members in self.groups.items()],
            "linkType": "both",
            "clickedId": self.selection[-1] if self.selection else "",
            "sg_pos": "",
            "view": self.view,
            "selected": self.selection,
            "node_threshold": self.node_threshold,
            "edge_threshold": self.threshold,
        }

    def restore(self, state: str | Mapping[str, Any]) -> None:
        """Show a view again, given as :attr:`view_state` or its JSON; the ``qParams`` of a graph file do too.

        Raises:
            ValueError: text that is no such JSON, or nodes that are not there; nothing has changed then.
        """
        if isinstance(state, str):
            try:
                state = json.loads(state)
            except json.JSONDecodeError as error:
                raise ValueError(
                    f"the state is no JSON ({error}): copy all of what the explorer shows as its view"
                ) from error
        if not isinstance(state, Mapping):
            raise ValueError(f"the state is a {type(state).__name__}; it is an object with pinnedIds, supernodes, …")
        for name in ("pinnedIds", "supernodes", "selected"):
            if not isinstance(state.get(name, []), list | tuple):
                raise ValueError(f"{name} is {state[name]!r}; it is a list")
        if not all(isinstance(group, list | tuple) and group for group in state.get("supernodes", [])):
            raise ValueError("a supernode has no name: each is a list of its name and the ids of its members")
        names = [name for name, *_ in state.get("supernodes", [])]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"two supernodes are called {twice[0]!r}: each needs a name of its own")
        clicked = state.get("clickedId")
        new = {
            "pinned": list(state.get("pinnedIds", [])),
            "groups": {name: members for name, *members in state.get("supernodes", [])},
            "selection": list(state.get("selected", [clicked] if clicked else [])),
            "node_threshold": float(state.get("node_threshold", self.node_threshold)),
            "threshold": float(state.get("edge_threshold", self.threshold)),
        }
        before = self._snapshot()
        with self._silence():
            try:
                for name, value in new.items():
                    self.set_trait(name, value)
            except traits.WRONG as error:
                for name, value in before.items():
                    self.set_trait(name, value)
                raise ValueError(str(error)) from error
            self.past = [*self.past, before][-_STEPS:]
            self.future = []

    def save(self, path: str | Path, *, details: int = 60) -> Path:
        """Write what is shown as one HTML file that opens offline, with selection, groups and thresholds as they are.

        Args:
            details: Of how many nodes (the strongest of every view) to save what the panel shows: the page cannot run
                the model.
        """
        write_html(path, explorer_page.page(self.about["title"], self.saved(details=details)))
        return Path(path)

    def fragment(self, *, details: int = 60) -> Markup:
        """What :meth:`save` writes, as markup for a part of another page."""
        return explorer_page.fragment(self.saved(details=details))

    def set_state(self, sync_data: dict[str, Any]) -> None:
        """What arrives from the browser brings its own history along."""
        with self._silence():
            super().set_state(sync_data)

    def _state(self, about: Mapping[str, Any]) -> dict[str, Any]:
        """What the browser is told at first, in a page that cannot ask."""
        names = ("graphs", *KEPT, "past", "future")
        return {name: getattr(self, name) for name in names} | {
            "about": dict(about), "experiment": self.experiment, "measured": {}
        }  # fmt: skip

    @traits.validate("selection", "pinned")
    def _check_nodes(self, proposal: Any) -> list[str]:
        for name in proposal["value"]:
            self._require(name)
        return list(dict.fromkeys(proposal["value"]))

    @traits.validate("groups")
    def _check_groups(self, proposal: Any) -> dict[str, list[str]]:
        groups: dict[str, list[str]] = proposal["value"]
        seen: dict[str, str] = {}
        for name, members in groups.items():
            if not name or self._is_node(name) or not members:
                raise ValueError(f"group {name!r} needs a name that no node has, and one member or more")
            for member in members:
                self._require(member)
                if member in seen:
                    raise ValueError(f"{member} is in the groups {seen[member]!r} and {name!r}; a node can be in one")
                seen[member] = name
        return groups

    def _is_node(self, name: str) -> bool:
        try:
            self._require(name)
        except ValueError:
            return False
        return True

    @contextmanager
    def _silence(self) -> Iterator[None]:
        """Changes are not steps of the history: they are taken back, or bring their own."""
        before, self._quiet = self._quiet, True
        try:
            yield
        finally:
            self._quiet = before

    def _snapshot(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in KEPT}

    def _remember(self, change: Any) -> None:
        if not self._quiet:
            self.past = [*self.past, self._snapshot() | {change["name"]: change["old"]}][-_STEPS:]
            self.future = []

    def _step(self, take: str, give: str) -> None:
        if not (steps := getattr(self, take)):
            return
        with self._silence():
            self.set_trait(give, [*getattr(self, give), self._snapshot()][-_STEPS:])
            self.set_trait(take, steps[:-1])
            for name, value in steps[-1].items():
                self.set_trait(name, value)

    def _answer(self, _widget: Any, content: dict[str, Any], _buffers: Any) -> None:
        if content.get("kind") != "detail":
            return
        node, prompt = str(content.get("node")), int(content.get("prompt", 0))
        try:
            answer: dict[str, Any] = {"sections": self._about_node(node, content)}
        except ValueError as error:
            answer = {"error": str(error)}
        self.send({"kind": "detail", "node": node, "prompt": prompt, **answer})
