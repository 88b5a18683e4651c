"""Our scores against TransformerLens's own attribution sweep on a bridge, raw and with processed weights.

The rules are written here once more, as hooks on the bridge's hook points, from their definition.
"""

import pytest
import torch
from torch import Tensor
from transformer_lens.tools.analysis.attribution_patching import EdgeAttributionConfig, attribution_patch

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


def swept(bridge, task: Task, hooks=(), *, granularity: str = "node"):
    """TransformerLens's scores of a task of one prompt, times the factor that brings them to the scale of ours."""
    right, wrong = int(task.correct[0, 0]), int(task.wrong[0, 0])

    def difference(logits: Tensor) -> Tensor:
        return logits[0, -1, right] - logits[0, -1, wrong]

    with torch.no_grad():
        whole = float(difference(bridge(task.clean)) - difference(bridge(task.corrupt)))
    with bridge.hooks(fwd_hooks=list(hooks)):
        config = EdgeAttributionConfig(granularity=granularity)
        found = attribution_patch(bridge, task.clean, task.corrupt, difference, config)
    nodes = {node: score / whole for node, score in found.node_scores.items()}
    return nodes, {edge: score / whole for edge, score in found.edge_scores.items()}


@pytest.mark.parametrize("processed", [False, True])
@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama"])
def test_nodes_agree_whether_weights_are_processed_or_not(family: str, processed: bool) -> None:
    """Differences cancel biases, so folding norms and values' biases leaves every score as it is: those of a bridge
    with processed weights, which we refuse, are ours on the raw ones."""
    task = random_task(n=1)
    variants = {"no_ah": False, "paper": True}
    ours = {
        rules: circuits.attribute(model_of(family), task, nodes=["z", "mlp_out"], method="relp", rules=rules)
        for rules in variants
    }
    bridge = bridge_of(model_of(family))
    if processed:
        bridge.enable_compatibility_mode(disable_warnings=True)
    for rules, ah in variants.items():
        theirs, _ = swept(bridge, task, rule_hooks(bridge, ah=ah))
        worst, most = 0.0, 0.0
        for node, score in theirs.items():
            if node.kind == "embed":
                continue
            name, unit = ("z", (node.head,)) if node.kind == "attn_head_out" else ("mlp_out", ())
            expected = float(ours[rules][name].values[(node.layer, node.position, *unit)])
            worst, most = max(worst, abs(score - expected)), max(most, abs(expected))
        assert most > 0.05
        assert worst < 2e-5 * max(1, most)


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
