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

from circuits.anatomy.nodes import ALIASES, FamilyInfo, Places, family_info, places
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
class Asked:
    """One family of nodes of one call."""

    family: str
    info: FamilyInfo
    spots: Sequence[Places]
    by_position: bool
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
    asked = [_asked(session, name, by_position) for name in names]
    for family in asked:
        if in_force and "ah" in in_force and not family.info.under_ah:
            raise ValueError(
                f"{family.family} has no relevance under the AH rule, which makes patterns constants: score it with"
                " rules='no_ah', with method='atp*' (which recomputes attention), or exactly with method='patching'"
            )
    found, effects = METHODS[method](session, asked, in_force, steps)
    scores = {
        name: _scores(session, found, family, effect, method, in_force)
        for name, family, effect in zip(names, asked, effects, strict=True)
    }
    if agreement and method != "patching":
        exact = attribute(model, task, nodes=names, method="patching", by_position=by_position)
        scores = {name: own.compared_with(agree(own, exact[name])) for name, own in scores.items()}
    return scores[nodes] if isinstance(nodes, str) else scores


def _asked(session: Session, name: str, by_position: bool) -> Asked:
    spots = places(session.anatomy, name)
    task = session.task
    groups = task.role_numbers if by_position else torch.zeros_like(task.base)
    groups = torch.arange(task.length).expand_as(task.base) if groups is None else groups
    return Asked(
        family=ALIASES.get(name, name), info=family_info(name), spots=spots, by_position=by_position, groups=groups
    )


def _scores(
    session: Session, found: Contrast, asked: Asked, effects: Tensor, method: str, rules: frozenset[str] | None
) -> Scores:
    unit, effects = (asked.info.unit,) if asked.info.unit else (), effects.cpu()
    return Scores(
        values=effects.mean(0),
        per_prompt=effects,
        axes=("layer", *(("position",) if asked.by_position else ()), *unit),
        family=asked.family,
        method=method,
        rules=None if rules is None else tuple(sorted(rules)),
        direction=session.task.direction,
        metric=session.task.metric_name,
        clean_metric=found.measure.clean,
        corrupt_metric=found.measure.corrupt,
        cost=session.runner.cost,
        labels=session.task.columns,
    )


Effects = tuple[Contrast, list[Tensor]]
"""Both runs, and for each family ``[n, layer, position, (unit)]``."""
Method = Callable[[Session, list[Asked], frozenset[str] | None, int], Effects]


def _patching(session: Session, asked: list[Asked], _rules: frozenset[str] | None, _steps: int) -> Effects:
    found = contrast(session, [*session.residual, *(place for family in asked for place in family.spots)])
    exact = [
        patch_family(
            session,
            found,
            family.spots,
            groups=family.groups,
            entries=family.info.entries,
            once=family.info.once,
        )
        for family in asked
    ]
    return found, [
        effects if family.by_position else effects.squeeze(2) for family, effects in zip(asked, exact, strict=True)
    ]


def _gradient(session: Session, asked: list[Asked], rules: frozenset[str] | None, _steps: int) -> Effects:
    """AtP, and RelP where there are rules: two forwards and one backward for all nodes."""
    spots = [place for family in asked for place in family.spots]
    found = contrast(session, spots, gradients=True, rules=rules)
    gradients = session.runner.gradients(found.base_metric.sum(), found.base, [place.change for place in spots])
    return found, [
        torch.stack(
            [_effect(family, found.difference(place) * gradients[place.change].detach()) for place in family.spots], 1
        )
        for family in asked
    ]


def _integrated(session: Session, asked: list[Asked], _rules: frozenset[str] | None, steps: int) -> Effects:
    found = contrast(session, [*session.residual, *(place for family in asked for place in family.spots)])
    effects = []
    for family in asked:
        layers = []
        for layer, place in enumerate(family.spots):
            difference = found.difference(place)
            start = None if family.info.once else Start(layer, found.base.value(session.residual[layer].value))
            slope = mean_gradient(session, found, place, difference, steps=steps, start=start)
            layers.append(_effect(family, difference * slope))
        effects.append(torch.stack(layers, 1))
    return found, effects


def _star(session: Session, asked: list[Asked], _rules: frozenset[str] | None, _steps: int) -> Effects:
    found, terms = atp_star(session, [(family.family, family.spots) for family in asked])
    return found, [
        torch.stack([_absolute(family, drops) for drops in layers], 1)
        for family, layers in zip(asked, terms, strict=True)
    ]


def _absolute(family: Asked, drops: Tensor) -> Tensor:
    """From ``[drop, n, position, (unit,) d]``: absolute effects, mean over the layers dropped but the node's own."""
    effects = torch.stack([_effect(family, drop) for drop in drops])
    return effects.abs().sum(0) / max(1, len(drops) - 1)


def _effect(family: Asked, product: Tensor) -> Tensor:
    """From ``[n, position, (unit,) d]`` to the effects of nodes."""
    effects = product.double() if family.info.entries else summed(product)
    grouped = sum_by_role(effects, family.groups, int(family.groups.max()) + 1)
    return grouped if family.by_position else grouped.squeeze(1)


METHODS: dict[str, Method] = {
    "patching": _patching,
    "atp": _gradient,
    "atp*": _star,
    "relp": _gradient,
    "ig": _integrated,
}
