"""Scores of edges: ``eap``, ``eap-ig`` and relevance, and the result that all edge methods share.

An edge's score estimates how the metric changes when one reader alone sees one writer's output of the other run:

    score(u -> v) = (u's output in the source run - in the base run) . d metric / d (v's input)

Summed over all readers it is the score of the node ``u``, because every use of ``u`` is through a reader: for each
method, under the rules, and with grouped queries. (Edge scores through TransformerLens's split inputs break this:
those bypass the norm's hooks.) Where a norm follows attention (Gemma), a head's output is taken through that norm's
derivative in the base run.

EAP: Syed et al. 2023, with the gradient of the base run. EAP-IG (inputs): Hanna et al. 2024, with the mean gradient at
m points on the line between the two inputs. As in its published code they lie at k / m of the way from the corrupt
input to the clean one, k = 0 … m - 1: the first is the corrupt run, and the clean one is never reached (left Riemann
sum). They are the same in both directions, whose scores are therefore each other's negatives.

Sign: in direction ``noise`` an edge that the answer needs has a negative score, by which the metric would fall. The
published code differentiates a loss, minus the metric: what it returns is minus ours, on the metric's own scale.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch

from circuits.anatomy.anatomy import Anatomy
from circuits.anatomy.wiring import Wiring
from circuits.attribution.acdc import acdc
from circuits.attribution.edge_gradients import by_gradient
from circuits.attribution.edge_patching import EdgePatcher
from circuits.rules import rules_of_method
from circuits.runs.budget import MEMORY
from circuits.runs.pair import open_session
from circuits.scores.agreement import agreement as agree
from circuits.scores.edges import EdgeScores
from circuits.tasks.task import Task

DEFAULT_RULES, WITH_QUERY_KEY_NORMS = "no_ah", "paper"
METHODS = ("eap", "eap-ig", "relp", "path-patching", "acdc")


def default_rules(anatomy: Anatomy) -> str:
    """The preset for edges of a model's family, by agreement with exact patching (docs/circuits.md).

    ``no_ah``, since heads that choose where to look are lost under AH. But where queries and keys are normalised the
    path through them has no rule: its plain gradient can drown everything else, and AH, which cuts it, is the default.
    """
    return WITH_QUERY_KEY_NORMS if anatomy.family.q_norm is not None else DEFAULT_RULES


@torch.enable_grad()
def attribute_edges(
    model: Any,
    task: Task,
    *,
    method: str = "eap",
    rules: str | Iterable[str] | None = None,
    steps: int = 5,
    threshold: float = 1e-2,
    agreement: bool = False,
    memory: int = MEMORY,
) -> EdgeScores:
    """Score every edge between heads, MLPs, the input and the logits; positions are summed.

    Args:
        model: As for :func:`circuits.attribute`.
        method: ``eap``, ``eap-ig`` (with ``steps`` points from the corrupt input on), ``relp`` (``eap`` under
            ``rules``), ``path-patching`` (exact: one forward an edge, batched) or ``acdc`` (Conmy et al. 2023: one
            forward an edge, in turn; the score is what the edge's removal cost when its turn came, 0 where it was
            removed).
        rules: For ``relp``: a preset (``no_ah``, ``paper``) or names; by default :func:`default_rules`. Under AH edges
            into queries and keys are 0, so a circuit that chooses where to attend cannot be found with it.
        threshold: For ``acdc``: an edge is removed where the divergence rises by less, in nats.
        agreement: Also patch every edge exactly, and say how well the estimate agrees.
        memory: Bytes of activations at once, roughly, beside the model's weights and the scores: as many prompts as
            take so much go through the model together, though always one. A metric that is a function is given the
            logits and the task of those prompts.

    Raises:
        ValueError: unknown method or rules; a budget of nothing; agreement of ``acdc``, whose divergences are no
            changes of the metric; and as :func:`circuits.attribute`.

    Example:
        >>> import circuits, interp
        >>> model = interp.load_model("embedded")
        >>> task = circuits.tasks.ioi(model, 2)
        >>> scores = circuits.attribute_edges(model, task, method="eap")
        >>> scores.writers[0]
        'embed'
    """
    session = open_session(model, task)
    default = default_rules(session.anatomy)
    in_force = rules_of_method(method, rules, methods=METHODS, default=default, steps=steps, what=" for edges")
    if method == "acdc" and not threshold > 0:
        raise ValueError(f"threshold is {threshold}; it must be above 0 nats")
    if method == "acdc" and agreement:
        raise ValueError(
            "acdc measures divergences in nats, which do not compare with effects; ask with another method"
        )
    wiring = Wiring(session.anatomy)
    if method == "path-patching":
        patcher = EdgePatcher(session, wiring, memory=memory)
        measure, effects = patcher.pair.measure, patcher.single_edges()
    elif method == "acdc":
        measure, effects = acdc(session, wiring, threshold=threshold, memory=memory)
    elif method == "eap-ig":
        from_corrupt = replace(session, task=task.replace(direction="denoise"))
        measure, effects = by_gradient(from_corrupt, wiring, None, steps=steps, memory=memory)
        effects = effects if task.direction == "denoise" else effects.neg_()
    else:
        measure, effects = by_gradient(session, wiring, in_force, steps=1, memory=memory)
    scores = EdgeScores(
        values=effects.mean(0),
        per_prompt=effects,
        writers=tuple(end.name for end in wiring.writers),
        readers=tuple(end.name for end in wiring.readers),
        mask=wiring.mask,
        groups={v.name: wiring.owners(v) for v in wiring.readers},
        method=method,
        rules=None if in_force is None else tuple(sorted(in_force)),
        direction=task.direction,
        metric=task.metric_name,
        clean_metric=measure.clean,
        corrupt_metric=measure.corrupt,
        cost=session.runner.cost,
    )
    if not agreement or method == "path-patching":
        return scores
    return replace(scores, agreement=agree(scores, attribute_edges(model, task, method="path-patching", memory=memory)))
