"""Score every node of a family by one of five methods, behind one signature.

- ``patching``: exact. Patch the node, run, look (one forward a node, batched).
- ``atp``: attribution patching (Nanda 2023): difference of the activations times the gradient in the base run.
- ``atp*``: Kramár et al. 2024 (arXiv 2403.00745). Queries and keys by recomputing attention (the QK fix), all nodes by
  gradients with one layer after the other cut out (GradDrop), so that paths that cancel are seen. Scores are absolute.
- ``relp``: Relevance Patching (Rezaei Jafari et al. 2025, arXiv 2508.21258): ``atp`` with the LRP coefficient of
  ``circuits.rules`` in the gradient's place.
- ``ig``: integrated gradients on the straight line between the node's two values (Marks et al. 2024), layer by layer.

Gradients are taken in the base run: the corrupt one in direction ``denoise``.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, overload

import torch
from torch import Tensor

from circuits.anatomy.nodes import ALIASES, FamilyInfo, NodeHooks, family_info, node_hooks
from circuits.attribution.atp_star import atp_star
from circuits.attribution.edges import attribute_edges
from circuits.attribution.exact import patch_family
from circuits.attribution.features import FeatureScores, attribute_features
from circuits.attribution.integrated import mean_gradient
from circuits.rules import rules_of_method
from circuits.runs.pair import Contrast, Session, contrast, open_session, summed
from circuits.runs.runner import Start
from circuits.scores.agreement import agreement as agree
from circuits.scores.edges import EdgeScores
from circuits.scores.nodes import Scores
from circuits.tasks.roles import sum_by_role
from circuits.tasks.task import Task
from interp.models.bridge import Model
from saes.sae import SAE

Family = Literal[
    "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z", "heads", "mlp_post", "neurons", "q", "k", "v",
    "embed", "embeddings",
]  # fmt: skip
"""What ``nodes`` can be for a family of nodes, aliases included."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """One family of nodes of one call."""

    family: str
    """Name of the family, aliases resolved."""
    info: FamilyInfo
    """What a family of that name is."""
    layers: Sequence[NodeHooks]
    """Where its nodes are, layer by layer."""
    by_position: bool
    """Whether every position is a node of its own."""
    groups: Tensor
    """``[n, position]``: numbers of the positions that make one node together; of the entries of the position axis."""


@overload
def attribute(
    model: Model,
    task: Task,
    *,
    nodes: Literal["latents"],
    method: str = ...,
    rules: str | Iterable[str] | None = ...,
    steps: int = ...,
    agreement: bool = ...,
    by_position: bool = ...,
    saes: Sequence[SAE],
) -> FeatureScores:
    """Features and errors of SAEs."""


@overload
def attribute(
    model: Model,
    task: Task,
    *,
    nodes: Literal["edges"],
    method: str = ...,
    rules: str | Iterable[str] | None = ...,
    steps: int = ...,
    agreement: bool = ...,
    by_position: bool = ...,
    saes: None = ...,
) -> EdgeScores:
    """Edges between heads, MLPs, the input and the logits."""


@overload
def attribute(
    model: Model,
    task: Task,
    *,
    nodes: Family,
    method: str = ...,
    rules: str | Iterable[str] | None = ...,
    steps: int = ...,
    agreement: bool = ...,
    by_position: bool = ...,
    saes: None = ...,
) -> Scores:
    """One family of nodes."""


@overload
def attribute(
    model: Model,
    task: Task,
    *,
    nodes: list[str] | tuple[str, ...],
    method: str = ...,
    rules: str | Iterable[str] | None = ...,
    steps: int = ...,
    agreement: bool = ...,
    by_position: bool = ...,
    saes: None = ...,
) -> dict[str, Scores]:
    """Several families, by name."""


@overload
def attribute(
    model: Model,
    task: Task,
    *,
    nodes: str,
    method: str = ...,
    rules: str | Iterable[str] | None = ...,
    steps: int = ...,
    agreement: bool = ...,
    by_position: bool = ...,
    saes: Sequence[SAE] | None = ...,
) -> Scores | FeatureScores | EdgeScores:
    """Whatever a name that is read at run time stands for."""


@torch.enable_grad()
def attribute(
    model: Model,
    task: Task,
    *,
    nodes: str | list[str] | tuple[str, ...],
    method: str = "relp",
    rules: str | Iterable[str] | None = None,
    by_position: bool = True,
    steps: int = 10,
    agreement: bool = False,
    saes: Sequence[SAE] | None = None,
) -> Scores | dict[str, Scores] | FeatureScores | EdgeScores:
    """Effects of patching nodes on the task's metric, exact or estimated.

    Args:
        model: A bridge from ``load_model`` with raw weights and no hooks, or a plain Hugging Face model, in eval mode.
        nodes: A family (``resid_pre``, ``resid_mid``, ``resid_post``, ``attn_out``, ``mlp_out``, ``z`` or ``heads``,
            ``mlp_post`` or ``neurons``, ``q``, ``k``, ``v``, ``embed``), or several: all of them from the same passes,
            returned as a dictionary by name. ``latents`` (with ``saes``) are the features and errors of sparse
            autoencoders, as :func:`circuits.attribution.features.attribute_features` scores them, and ``edges`` what
            :func:`circuits.attribution.edges.attribute_edges` does; each has methods of its own.
        method: ``patching``, ``atp``, ``atp*``, ``relp`` or ``ig``.
        rules: For ``relp``: a preset (``paper``, the default, or ``no_ah``) or names of rules.
        by_position: False takes positions together: ``patching`` patches a node at all of them at once, gradient
            methods sum. True does so with the positions of one role where the task has roles.
        steps: Points of ``ig``: ``k / steps`` of the way for k = 0 … steps - 1 (left Riemann sum, from the base run).
        agreement: Also patch exactly, and say how well the estimate agrees.
        saes: For ``latents``: SAEs of this model, each with its site.

    Returns:
        :class:`circuits.scores.Scores` with ``values`` ``[layer, position]`` (heads and neurons have a third axis), or
        a dictionary of them. In a dictionary all share one ``cost``.

    Raises:
        ValueError: unknown nodes, method or rules; nodes that the method cannot score; a task that does not fit the
            model, or whose metric is the same on clean and corrupt prompts; gradients under ``torch.inference_mode``
            (other modes do not matter), or of a metric that has none.

    Example:
        >>> import circuits, interp
        >>> model = interp.load_model("embedded")
        >>> task = circuits.tasks.ioi(model, 2)
        >>> scores = circuits.attribute(model, task, nodes="z", method="relp")
        >>> scores.axes
        ('layer', 'position', 'head')
    """
    if (nodes == "latents") != (saes is not None):
        raise ValueError("nodes='latents' and saes=[...] belong together: give both or neither")
    if saes is not None:
        return attribute_features(model, task, saes, method=method, rules=rules, steps=steps, agreement=agreement)
    if nodes == "edges":
        return attribute_edges(model, task, method=method, rules=rules, steps=steps, agreement=agreement)
    in_force = rules_of_method(method, rules, methods=METHODS, default="paper", steps=steps)
    names = [nodes] if isinstance(nodes, str) else list(nodes)
    session = open_session(model, task)
    requests = [_request(session, name, by_position) for name in names]
    for family in requests:
        if in_force and "ah" in in_force and not family.info.under_ah:
            raise ValueError(
                f"{family.family} has no relevance under the AH rule, which makes patterns constants: score it with"
                " rules='no_ah', with method='atp*' (which recomputes attention), or exactly with method='patching'"
            )
    pair, effects = METHODS[method](session, requests, in_force, steps)
    scores = {
        name: _scores(session, pair, family, effect, method, in_force)
        for name, family, effect in zip(names, requests, effects, strict=True)
    }
    if agreement and method != "patching":
        exact = attribute(model, task, nodes=names, method="patching", by_position=by_position)
        scores = {name: own.compared_with(agree(own, exact[name])) for name, own in scores.items()}
    return scores[nodes] if isinstance(nodes, str) else scores


def _request(session: Session, name: str, by_position: bool) -> Request:
    layers = node_hooks(session.anatomy, name)
    task = session.task
    groups = task.role_numbers if by_position else torch.zeros_like(task.base)
    groups = torch.arange(task.length).expand_as(task.base) if groups is None else groups
    return Request(
        family=ALIASES.get(name, name), info=family_info(name), layers=layers, by_position=by_position, groups=groups
    )


def _scores(
    session: Session, pair: Contrast, request: Request, effects: Tensor, method: str, rules: frozenset[str] | None
) -> Scores:
    unit, effects = (request.info.unit,) if request.info.unit else (), effects.cpu()
    return Scores(
        values=effects.mean(0),
        per_prompt=effects,
        axes=("layer", *(("position",) if request.by_position else ()), *unit),
        family=request.family,
        method=method,
        rules=None if rules is None else tuple(sorted(rules)),
        direction=session.task.direction,
        metric=session.task.metric_name,
        clean_metric=pair.measure.clean,
        corrupt_metric=pair.measure.corrupt,
        cost=session.runner.cost,
        labels=session.task.columns,
    )


Effects = tuple[Contrast, list[Tensor]]
"""Both runs, and for each family ``[n, layer, position, (unit)]``."""
Method = Callable[[Session, list[Request], frozenset[str] | None, int], Effects]


def _patching(session: Session, requests: list[Request], _rules: frozenset[str] | None, _steps: int) -> Effects:
    pair = contrast(session, [*session.residual, *(hooks for request in requests for hooks in request.layers)])
    exact = [
        patch_family(
            session,
            pair,
            request.layers,
            groups=request.groups,
            entries=request.info.entries,
            once=request.info.once,
        )
        for request in requests
    ]
    return pair, [
        effects if request.by_position else effects.squeeze(2) for request, effects in zip(requests, exact, strict=True)
    ]


def _gradient(session: Session, requests: list[Request], rules: frozenset[str] | None, _steps: int) -> Effects:
    """AtP, and RelP where there are rules: two forwards and one backward for all nodes."""
    nodes = [hooks for request in requests for hooks in request.layers]
    pair = contrast(session, nodes, gradients=True, rules=rules)
    gradients = session.runner.gradients(pair.base_metric.sum(), pair.base, [hooks.change for hooks in nodes])
    return pair, [
        torch.stack(
            [_effect(request, pair.difference(hooks) * gradients[hooks.change].detach()) for hooks in request.layers], 1
        )
        for request in requests
    ]


def _integrated(session: Session, requests: list[Request], _rules: frozenset[str] | None, steps: int) -> Effects:
    pair = contrast(session, [*session.residual, *(hooks for request in requests for hooks in request.layers)])
    effects = []
    for request in requests:
        layers = []
        for layer, hooks in enumerate(request.layers):
            difference = pair.difference(hooks)
            start = None if request.info.once else Start(layer, pair.base.value(session.residual[layer].value))
            slope = mean_gradient(session, pair, hooks, difference, steps=steps, start=start)
            layers.append(_effect(request, difference * slope))
        effects.append(torch.stack(layers, 1))
    return pair, effects


def _star(session: Session, requests: list[Request], _rules: frozenset[str] | None, _steps: int) -> Effects:
    pair, terms = atp_star(session, [(request.family, request.layers) for request in requests])
    return pair, [
        torch.stack([_absolute(request, drops) for drops in layers], 1)
        for request, layers in zip(requests, terms, strict=True)
    ]


def _absolute(request: Request, drops: Tensor) -> Tensor:
    """From ``[drop, n, position, (unit,) d]``: absolute effects, mean over the layers dropped but the node's own."""
    effects = torch.stack([_effect(request, drop) for drop in drops])
    return effects.abs().sum(0) / max(1, len(drops) - 1)


def _effect(request: Request, product: Tensor) -> Tensor:
    """From ``[n, position, (unit,) d]`` to the effects of nodes."""
    effects = product.double() if request.info.entries else summed(product)
    grouped = sum_by_role(effects, request.groups, int(request.groups.max()) + 1)
    return grouped if request.by_position else grouped.squeeze(1)


METHODS: dict[str, Method] = {
    "patching": _patching,
    "atp": _gradient,
    "atp*": _star,
    "relp": _gradient,
    "ig": _integrated,
}
