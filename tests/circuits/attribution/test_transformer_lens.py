"""Our scores against TransformerLens's own attribution sweep on a bridge, raw and with processed weights.

The rules are written here once more, as hooks on the bridge's hook points, from their definition.
"""

import pytest
import torch
from torch import Tensor
from transformer_lens.tools.analysis.attribution_patching import (
    EdgeAttributionConfig,
    attribution_patch,
    cache_activation_and_gradient,
)

import circuits
from circuits import Task
from tests.circuits.pairs import bridge_of, model_of, random_task
from tests.tiny_models import HEADS, LAYERS


def rule_hooks(bridge, *, ah: bool) -> list:
    """LN, Identity and Half, and AH if asked for."""
    gated = "blocks.0.mlp.hook_pre_linear" in bridge.hook_dict
    hooks = []

    def detached(value: Tensor, hook) -> Tensor:
        return value.detach()

    for layer in range(LAYERS):
        kept: dict[str, Tensor] = {}

        def keep(name: str, kept=kept):
            return lambda value, hook: kept.__setitem__(name, value)

        def surrogate(post: Tensor, hook, kept=kept) -> Tensor:
            """``act(x) up`` with ``act(x) / x`` constant and half a gradient for either factor."""
            x, up = kept["x"], kept.get("up", torch.ones(1, dtype=post.dtype))
            passed_back = x * (post / (x * up)).detach() * up / (2 if "up" in kept else 1)
            # Without the last term the post's own backward hooks would never fire.
            return post.detach() + passed_back - passed_back.detach() + 0.0 * post

        mlp = f"blocks.{layer}.mlp"
        hooks += [(f"{mlp}.hook_pre", keep("x")), *([(f"{mlp}.hook_pre_linear", keep("up"))] if gated else [])]
        hooks += [(f"{mlp}.hook_post", surrogate)]
        hooks += [(f"blocks.{layer}.{norm}.hook_scale", detached) for norm in ("ln1", "ln2")]
        hooks += [(f"blocks.{layer}.attn.hook_pattern", detached)] * ah
    return [*hooks, ("ln_final.hook_scale", detached)]


def measured(bridge, task: Task):
    """The logit difference of a task of one prompt, and what it is on clean minus on corrupt tokens."""
    right, wrong = int(task.correct[0, 0]), int(task.wrong[0, 0])

    def difference(logits: Tensor) -> Tensor:
        return logits[0, -1, right] - logits[0, -1, wrong]

    with torch.no_grad():
        return difference, float(difference(bridge(task.clean)) - difference(bridge(task.corrupt)))


def swept(bridge, task: Task, hooks=(), *, granularity: str = "node"):
    """TransformerLens's scores of nodes and of edges, on the scale of ours."""
    difference, whole = measured(bridge, task)
    with bridge.hooks(fwd_hooks=list(hooks)):
        config = EdgeAttributionConfig(granularity=granularity)
        found = attribution_patch(bridge, task.clean, task.corrupt, difference, config)
    nodes = {node: score / whole for node, score in found.node_scores.items()}
    return nodes, {edge: score / whole for edge, score in found.edge_scores.items()}


SITES = {
    "resid_pre": "blocks.{}.hook_resid_pre",
    "z": "blocks.{}.attn.hook_z",
    "attn_out": "blocks.{}.hook_attn_out",
    "mlp_post": "blocks.{}.mlp.hook_post",
    "mlp_out": "blocks.{}.hook_mlp_out",
}


@pytest.mark.parametrize("processed", [False, True])
@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama"])
def test_nodes_agree_whether_weights_are_processed_or_not(family: str, processed: bool) -> None:
    """Differences cancel biases, so folding norms and values' biases leaves every score as it is: those of a bridge
    with processed weights, which we refuse, are ours on the raw ones."""
    task = random_task(n=1)
    bridge = bridge_of(model_of(family))
    if processed:
        bridge.enable_compatibility_mode(disable_warnings=True)
    difference, whole = measured(bridge, task)
    names = [site.format(layer) for site in SITES.values() for layer in range(LAYERS)]
    for rules, ah in {"no_ah": False, "paper": True}.items():
        ours = circuits.attribute(model_of(family), task, nodes=list(SITES), method="relp", rules=rules)
        with bridge.hooks(fwd_hooks=rule_hooks(bridge, ah=ah)):
            clean, corrupt = (
                cache_activation_and_gradient(bridge, tokens, difference, names_filter=names)
                for tokens in (task.clean, task.corrupt)
            )
        for name, site in SITES.items():
            products = [
                (clean.activations[at] - corrupt.activations[at]) * corrupt.gradients[at] / whole
                for at in (site.format(layer) for layer in range(LAYERS))
            ]
            theirs = torch.cat(products).double()
            theirs = theirs if name == "mlp_post" else theirs.sum(-1)
            assert ours[name].values.abs().max() > 0.05
            torch.testing.assert_close(theirs, ours[name].values, rtol=1e-4, atol=2e-5)


NAMES = {"attn_head_out": "a{0.layer}.h{0.head}", "mlp_out": "m{0.layer}", "mlp_in": "m{0.layer}", "embed": "embed"}
NAMES |= {f"{part}_input": f"a{{0.layer}}.h{{0.head}}.{part}" for part in "qkv"} | {"logits": "logits"}


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox"])
def test_edges_agree_where_theirs_are_right(family: str) -> None:
    """Without rules both are EAP. Under rules, TransformerLens's split inputs bypass the norm's hooks: a writer's
    edges no longer sum to its node score. Ours do."""
    task, bridge = random_task(n=1), bridge_of(model_of(family))
    ours = circuits.attribute_edges(bridge, task, method="eap").edges
    _, theirs = swept(bridge, task, granularity="edge")
    summed = dict.fromkeys(ours, 0.0)
    for (writer, reader), score in theirs.items():
        summed[NAMES[writer.kind].format(writer), NAMES[reader.kind].format(reader)] += score
    assert summed == pytest.approx(ours, abs=1e-4)
    assert max(map(abs, ours.values())) > 0.1
    under_rules = circuits.attribute_edges(bridge, task, method="relp", rules="no_ah").node_values()
    nodes, _ = swept(bridge, task, rule_hooks(bridge, ah=False))
    by_edges, _ = swept(bridge, task, rule_hooks(bridge, ah=False), granularity="edge")
    gaps = {"ours": 0.0, "theirs": 0.0}
    for layer in range(LAYERS):
        for head in range(HEADS):
            name = f"a{layer}.h{head}"
            right, off = (
                sum(score for node, score in found.items() if node.kind == "attn_head_out"
                    and (node.layer, node.head) == (layer, head)) for found in (nodes, by_edges)
            )  # fmt: skip
            gaps["ours"] = max(gaps["ours"], abs(under_rules[name] - right))
            gaps["theirs"] = max(gaps["theirs"], abs(off - right))
    assert gaps["ours"] < 1e-4
    assert gaps["theirs"] > 1e-2
