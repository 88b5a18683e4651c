"""Scores of edges: ``eap``, ``eap-ig`` and relevance, and the result that all edge methods share.

An edge's score estimates how the metric changes when one reader alone sees one writer's output of the other run:

    score(u -> v) = (u's output in the source run - in the base run) . d metric / d (v's input)

Summed over all readers it is the score of the node ``u``, because every use of ``u`` is through a reader: for each
method, under the rules, and with grouped queries. (Edge scores through TransformerLens's split inputs break this:
those bypass the norm's hooks.) Where a norm follows attention (Gemma), a head's output is taken through that norm's
derivative in the base run.

EAP: Syed et al. 2023. EAP-IG (inputs): Hanna et al. 2024, m points between the two inputs from the base run on, which
it includes; the source run is never reached (left Riemann sum).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from circuits.anatomy.nodes import Spot
from circuits.anatomy.wiring import PARTS, Wiring, output_weights, projection
from circuits.attribution.acdc import acdc
from circuits.attribution.edge_patching import EdgePatcher
from circuits.rules import rules_of_method
from circuits.runs.pair import Contrast, Session, contrast, open_session
from circuits.runs.runner import Passed
from circuits.scores.agreement import agreement as agree
from circuits.scores.edges import EdgeScores
from circuits.tasks.task import Task
from interp.models.bridge import unwrapped
from interp.sites.norms import linear_norm

METHODS = ("eap", "eap-ig", "relp", "path-patching", "acdc")


def attribute_edges(
    model: Any,
    task: Task,
    *,
    method: str = "eap",
    rules: str | Iterable[str] | None = None,
    steps: int = 5,
    threshold: float = 1e-2,
    agreement: bool = False,
) -> EdgeScores:
    """Score every edge between heads, MLPs, the input and the logits; positions are summed.

    Args:
        model: As for :func:`circuits.attribute`.
        method: ``eap``, ``eap-ig`` (with ``steps`` points), ``relp`` (``eap`` under ``rules``), ``path-patching``
            (exact: one forward an edge, batched) or ``acdc`` (Conmy et al. 2023: one forward an edge, in turn; the
            score is what the edge's removal cost when its turn came, 0 where it was removed).
        rules: For ``relp``: ``no_ah`` (the default), ``paper``, or names. Under AH edges into queries and keys are 0,
            so a circuit that chooses where to attend cannot be found with it.
        threshold: For ``acdc``: an edge is removed where the divergence rises by less, in nats.
        agreement: Also patch every edge exactly, and say how well the estimate agrees.

    Raises:
        ValueError: unknown method or rules; agreement of ``acdc``, whose divergences are no changes of the metric; and
            as :func:`circuits.attribute`.
    """
    in_force = rules_of_method(method, rules, methods=METHODS, default="no_ah", steps=steps, what=" for edges")
    if method == "acdc" and not threshold > 0:
        raise ValueError(f"threshold is {threshold}; it must be above 0 nats")
    if method == "acdc" and agreement:
        raise ValueError(
            "acdc measures divergences in nats, which do not compare with effects; ask with another method"
        )
    session = open_session(model, task)
    wiring = Wiring(session.anatomy)
    if method == "path-patching":
        patcher = EdgePatcher(session, wiring)
        found, effects = patcher.found, patcher.single_edges()
    elif method == "acdc":
        found, effects = acdc(session, wiring, threshold=threshold)
    else:
        found, effects = _by_gradient(session, wiring, in_force, steps if method == "eap-ig" else 1)
    scores = EdgeScores(
        values=effects.mean(0).masked_fill(~wiring.mask, 0),
        per_prompt=effects.masked_fill(~wiring.mask, 0),
        writers=tuple(end.name for end in wiring.writers),
        readers=tuple(end.name for end in wiring.readers),
        mask=wiring.mask,
        groups={v.name: wiring.owners(v) for v in wiring.readers},
        method=method,
        rules=None if in_force is None else tuple(sorted(in_force)),
        direction=task.direction,
        metric=task.metric_name,
        clean_metric=found.measure.clean,
        corrupt_metric=found.measure.corrupt,
        cost=session.runner.cost,
    )
    if not agreement or method == "path-patching":
        return scores
    return replace(scores, agreement=agree(scores, attribute_edges(model, task, method="path-patching")))


@dataclass(frozen=True)
class _Inputs:
    """Spots whose values and gradients the edge scores are made of."""

    read: dict[str, list[Spot]]

    @property
    def all(self) -> list[Spot]:
        return [spot for spots in self.read.values() for spot in spots]


def _inputs(wiring: Wiring) -> _Inputs:
    anatomy, spots = wiring.anatomy, wiring.spots
    read = {part: [place.change for place in spots.parts[part]] for part in PARTS}
    read["norm1"] = [Spot(block.norm1, entering=True) for block in anatomy.blocks]
    read["norm2"] = [Spot(block.norm2, entering=True) for block in anatomy.blocks]
    read["final"] = [Spot(anatomy.final_norm, entering=True)]
    read["projected"] = [Spot(block.o, entering=False) for block in anatomy.blocks]
    return _Inputs(read)


def _by_gradient(session: Session, wiring: Wiring, rules: frozenset[str] | None, steps: int) -> tuple[Contrast, Tensor]:
    spots, inputs = wiring.spots, _inputs(wiring)
    first = spots.resid_pre[0]
    found = contrast(session, [first, *spots.z, *spots.mlp_out], gradients=True, rules=rules, also_base=inputs.all)
    total = _scores(session, wiring, found, inputs, found.base, found.base_metric.sum(), rules)
    for step in range(1, steps):
        with session.under(rules):
            passed = session.runner.forward(
                session.task.base,
                read=inputs.all,
                add={first.change: found.difference(first) * (step / steps)},
                gradients=True,
            )
        total += _scores(session, wiring, found, inputs, passed, found.measure(passed.logits).sum(), rules)
    return found, total / steps


def _scores(
    session: Session,
    wiring: Wiring,
    found: Contrast,
    inputs: _Inputs,
    passed: Passed,
    metric: Tensor,
    rules: frozenset[str] | None,
) -> Tensor:
    """``[n, writer, reader]`` with the gradients of one pass."""
    anatomy, spots = wiring.anatomy, wiring.spots
    wanted = [s for name in ("q", "k", "v", "norm2", "final") for s in inputs.read[name]]
    gradients = session.runner.gradients(metric, passed, wanted)
    frozen = rules is not None and "ln" in rules
    at_readers: list[Tensor] = []
    for layer, block in enumerate(anatomy.blocks):
        for part in PARTS:
            gradient = gradients[inputs.read[part][layer]]
            if rules is not None and "ah" in rules and part != "v":
                gradient = torch.zeros_like(gradient)  # the rule cuts behind the place that was read
            weights, _ = projection(block, spots.parts[part][layer])
            back = torch.einsum("npha,had->hnpd", gradient, weights)
            at_readers += _through_norm(block.norm1, passed.value(inputs.read["norm1"][layer]), back, frozen)
        at_readers.append(gradients[inputs.read["norm2"][layer]])
    at_readers.append(gradients[inputs.read["final"][0]])
    slopes = torch.stack(at_readers).detach()
    rows = []
    for writer in wiring.writers:
        if writer.head is None:
            place = spots.resid_pre[0] if writer.layer < 0 else spots.mlp_out[writer.layer]
            rows.append(torch.einsum("npd,vnpd->nv", found.difference(place).double(), slopes.double()))
        elif writer.head == 0:
            rows += _heads(wiring, found, passed, inputs, writer.layer, slopes, frozen)
    return torch.stack(rows, 1).cpu()


def _heads(
    wiring: Wiring, found: Contrast, passed: Passed, inputs: _Inputs, layer: int, slopes: Tensor, frozen: bool
) -> Iterable[Tensor]:
    block = wiring.anatomy.blocks[layer]
    if block.attention_post_norm is not None:
        before = passed.value(inputs.read["projected"][layer])
        slopes = _through_norm(block.attention_post_norm, before, slopes, frozen)
    moved = torch.einsum(
        "npha,had->hnpd", found.difference(wiring.spots.z[layer]), output_weights(wiring.anatomy, block)
    )
    return torch.einsum("hnpd,vnpd->hnv", moved.double(), slopes.double())


def _through_norm(module: nn.Module, x: Tensor, gradients: Tensor, frozen: bool) -> Tensor:
    """Pull ``[v, n, position, d]`` back through a norm at ``x``, whose scale may be a constant (the LN rule)."""
    function: Callable[[Tensor], Tensor] = linear_norm(module) if frozen else unwrapped(module).forward
    with torch.enable_grad():
        many = x.detach().expand_as(gradients).clone().requires_grad_()
        return torch.autograd.grad(function(many), many, gradients)[0]
