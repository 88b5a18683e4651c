"""Edges of feature circuits (Marks et al. 2024): how much of a feature's effect comes from which feature upstream.

    edge(u -> d) = (u in the source run - in the base run) . d f_d / d u . d metric / d f_d

d's activation is a function of the activation at its site through its encoder; the error of a site is a node too. What
passes through a site in between belongs to the features there, so gradients stop at every site between u's and d's.
"""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from circuits.attribution.features import FeatureCircuit, FeatureNode, Splice, splices
from circuits.rules import rule_set
from circuits.runs.pair import contrast, open_session
from circuits.runs.runner import hook_at
from circuits.tasks.task import Task
from interp.inference_mode import refuse_inference_mode
from interp.models.bridge import Model
from interp.sites.site import Site
from saes.sae import SAE


@torch.enable_grad()
def feature_edges(
    model: Model,
    task: Task,
    saes: Sequence[SAE],
    circuit: FeatureCircuit,
    *,
    threshold: float = 0.0,
    rules: str | Iterable[str] | None = None,
) -> dict[tuple[FeatureNode, FeatureNode], float]:
    """Edges between the nodes of a circuit whose absolute weight (mean over prompts) is above ``threshold``.

    One forward for every pair of sites, and one backward for every node of the later one.

    Args:
        rules: Take both derivatives under rules of relevance; None for plain gradients.

    Raises:
        ValueError: as :func:`circuits.attribution.features.attribute_features`; a circuit of other SAEs; an SAE of the
            residual stream between attention and MLP.

    Example:
        >>> import circuits, interp, saes
        >>> import torch
        >>> model = interp.load_model("embedded")
        >>> task = circuits.tasks.ioi(model, 2)
        >>> first, second = (saes.SAE(96, 192, saes.TopK(8), site=f"blocks.{i}.hook_resid_post") for i in (1, 2))
        >>> both = [sae.initialise(seed=0, mean=torch.zeros(96)) for sae in (first, second)]
        >>> scores = circuits.attribute_features(model, task, both, method="atp")
        >>> circuit = circuits.FeatureCircuit.strongest(scores, 6)
        >>> type(circuits.feature_edges(model, task, both, circuit)).__name__
        'dict'
    """
    in_force = None if rules is None else rule_set(rules)
    task.require_aligned("edges of features")
    session = open_session(model, task)
    spliced = splices(model, session, saes)
    refuse_inference_mode("the edges of features", *saes)
    if middle := [s.name for s in spliced if Site.parse(s.name).kind == "resid_mid"]:
        raise ValueError(
            f"edges of features at {', '.join(middle)} are not known: no module puts out the residual stream between"
            " attention and MLP, so paths around it cannot be held. Use SAEs of other sites"
        )
    if {s.name for s in spliced} != set(circuit.features):
        raise ValueError(
            f"the circuit is of {', '.join(circuit.features)}, the SAEs of {', '.join(s.name for s in spliced)}"
        )
    pair = contrast(session, [splice.hooks for splice in spliced], gradients=True, rules=in_force)
    slopes = session.runner.gradients(pair.base_metric.sum(), pair.base, [s.hooks.change for s in spliced])
    edges: dict[tuple[FeatureNode, FeatureNode], float] = {}
    for number, below in enumerate(spliced):
        slope = slopes[below.hooks.change].detach()
        nodes = _nodes(circuit, below)
        for first in range(number if nodes else 0):
            above, between = spliced[first], spliced[first + 1 : number]
            with ExitStack() as stack:
                for splice in between:
                    hook = splice.hooks.change
                    stack.callback(hook_at(hook.module, hook.entering, _stop).remove)
                stack.enter_context(session.under(in_force))
                passed = session.runner.forward(task.base, read=[above.hooks.change, below.hooks.value], gradients=True)
            at_above = passed.wholes[above.hooks.change]
            contributions = _contributions(below, passed.value(below.hooks.value), slope, nodes)
            change, error = above.changes(pair)
            kept = _nodes(circuit, above)
            for node, contribution in zip(nodes, contributions, strict=True):
                gradient = None
                if contribution.requires_grad:
                    gradient = torch.autograd.grad(contribution, at_above, retain_graph=True, allow_unused=True)[0]
                    session.runner.cost.backwards += 1
                if gradient is None:
                    continue
                gradient = above.hooks.change.read(gradient)
                features = (change * (gradient @ above.sae.W_dec.detach().T)).double().mean(0)
                errors = (error * gradient).double().sum(-1).mean(0)
                for upstream in kept:
                    own = errors if upstream.feature is None else features[:, upstream.feature]
                    if abs(weight := float(own[upstream.position])) > threshold:
                        edges[upstream, node] = weight
    return edges


def _stop(_module: nn.Module, _entering: bool, value: Tensor) -> Tensor:
    return value.detach()


def _nodes(circuit: FeatureCircuit, splice: Splice) -> list[FeatureNode]:
    features = [FeatureNode(splice.name, p, f) for p, f in circuit.features[splice.name].nonzero().tolist()]
    return features + [
        FeatureNode(splice.name, p, None) for p in circuit.errors[splice.name].nonzero().flatten().tolist()
    ]


def _contributions(splice: Splice, x: Tensor, slope: Tensor, nodes: Sequence[FeatureNode]) -> list[Tensor]:
    """Each node's activation times the metric's slope at it, summed over prompts, which do not see each other."""
    latents = splice.sae.encode(x)
    features, error = latents.to_dense(), x - splice.sae.decode(latents, x)
    at_features = slope @ splice.sae.W_dec.detach().T
    return [
        (error[:, node.position] * slope[:, node.position]).sum()
        if node.feature is None
        else (features[:, node.position, node.feature] * at_features[:, node.position, node.feature]).sum()
        for node in nodes
    ]
