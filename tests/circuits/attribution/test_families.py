"""Patching in every declared family against hooks by hand on the Hugging Face modules; relevance where it has rules."""

from contextlib import ExitStack
from typing import Any

import pytest
import torch
from torch import Tensor

import circuits
from circuits import Task
from circuits.anatomy.nodes import node_hooks
from circuits.rules import relevance
from circuits.runs.pair import open_session
from tests.circuits.attribution.test_atp_star import last_layer_exact
from tests.circuits.pairs import LATENT_ATTENTION, LENGTH, MIXTURES, WIRED, model_of, precise, random_task
from tests.interp.sites.edits_by_hand import hooked, module_of
from tests.interp.sites.family_oracle import FACTS
from tests.tiny_models import CONFIGS, LAYERS, cases

WITHOUT_MLP = ("opt", "opt_post_norm", "xglm", "llama4_text")
"""Whose MLPs put nothing out that could be patched."""
NODES = ("resid_pre", "z", "attn_out", "mlp_out", "resid_post")
WITH_RULES = tuple(case for case in CONFIGS if case not in (*MIXTURES, *LATENT_ATTENTION))


def metric(model: Any, tokens: Tensor, task: Task) -> Tensor:
    last = model(tokens).logits[:, -1].double()
    rows = torch.arange(len(task))
    return last[rows, task.correct[:, 0]] - last[rows, task.wrong[:, 0]]


def passing(model: Any, module: Any, entering: bool, tokens: Tensor, change: Any) -> Tensor:
    """The metric's model call with ``change`` applied to what passes by; a tuple's first entry counts."""
    with hooked(module, entering, change):
        return metric(model, tokens, change.task)


class Change:
    """Records what passes by, or replaces one position of it."""

    def __init__(self, task: Task, there: Tensor | None = None, position: int | None = None) -> None:
        self.task, self.there, self.position = task, there, position
        self.seen = torch.empty(0)

    def __call__(self, value: Tensor) -> Tensor:
        value = value.clone()  # Falcon adds to it in place
        self.seen = value.clone() if not value.requires_grad else value
        if self.there is not None:
            value[:, self.position] = self.there[:, self.position]
        return value.clone()


def by_hand(case: str, model: Any, task: Task, node: str, layer: int) -> tuple[Tensor, Tensor]:
    """Exact effects, ``[position]``, and first-order estimates at base and half way to source, ``[2, position]``; of
    all heads together for z."""
    path, entering = module_of(case, node, layer)
    module = model.get_submodule(path)
    with torch.no_grad():
        source, base = Change(task), Change(task)
        clean = passing(model, module, entering, task.source, source).mean()
        corrupt = passing(model, module, entering, task.base, base).mean()
        exact = torch.stack(
            [
                passing(model, module, entering, task.base, Change(task, source.seen, position)).mean() - corrupt
                for position in range(LENGTH)
            ]
        )
    estimates = []
    for share in (0.0, 0.5):  # of the way from base to source
        leaf = (base.seen + share * (source.seen - base.seen)).requires_grad_()
        with hooked(module, entering, lambda _value, leaf=leaf: leaf.clone()):
            (gradient,) = torch.autograd.grad(metric(model, task.base, task).mean(), leaf)
        estimates.append((gradient.double() * (source.seen - base.seen).double()).sum((0, 2)))
    return exact / (clean - corrupt), torch.stack(estimates) / (clean - corrupt)


def nodes_of(case: str) -> list[str]:
    return [node for node in NODES if node != "mlp_out" or case not in WITHOUT_MLP]


@pytest.mark.parametrize("case", cases(CONFIGS))
def test_patching_and_its_estimate_are_what_hooks_on_the_modules_do(case: str) -> None:
    model, task = model_of(case), random_task()
    layers = model.config.num_hidden_layers
    nodes = nodes_of(case)
    exact = circuits.attribute(model, task, nodes=nodes, method="patching")
    estimate = circuits.attribute(model, task, nodes=nodes, method="atp")
    integrated = circuits.attribute(model, task, nodes=["z", "attn_out"], method="ig", steps=2)
    for node in nodes:
        for layer in {0, layers - 1}:
            wanted, guessed = by_hand(case, model, task, node, layer)
            if node != "z":  # heads are patched one by one, so only their estimates add up
                torch.testing.assert_close(exact[node].values[layer], wanted, rtol=1e-3, atol=2e-4)
            for scores, by_step in ((estimate, guessed[0]), (integrated, guessed.mean(0))):
                if node not in scores:
                    continue
                found = scores[node].values[layer]
                found = found.sum(-1) if node == "z" else found
                torch.testing.assert_close(found, by_step, rtol=1e-3, atol=2e-4)
    assert exact["resid_pre"].values.abs().max() > 0.1


@pytest.mark.parametrize("case", cases(WITH_RULES))
@pytest.mark.parametrize("rules", ["paper", "no_ah"])
def test_relevance_runs_where_every_norm_gate_and_activation_has_its_rule(case: str, rules: str) -> None:
    model, task = model_of(case), random_task()
    with torch.no_grad():
        plain = model(task.clean).logits
        with relevance(model, rules=rules):
            assert torch.equal(model(task.clean).logits, plain)
    with relevance(model, rules=rules) as fired:
        model(task.clean)
        assert fired["identity"] == model.config.num_hidden_layers
    scores = circuits.attribute(model, task, nodes=["resid_pre", "attn_out"], method="relp", rules=rules)
    assert scores["resid_pre"].values.isfinite().all()
    assert scores["attn_out"].values.abs().max() > 0


@pytest.mark.parametrize("case", cases(CONFIGS))
def test_the_qk_fix_of_atp_star_recomputes_attention(case: str) -> None:
    model, task = precise(case), random_task()
    if case in ("olmo2", "olmo3", "olmoe"):
        with pytest.raises(ValueError, match="one norm goes over the queries"):
            circuits.attribute(model, task, nodes="q", method="atp*")
        return
    for name in ("q",) if case in LATENT_ATTENTION else ("q", "k"):
        star = circuits.attribute(model, task, nodes=name, method="atp*").per_prompt[:, -1]
        expected = last_layer_exact(model, task, name).abs()
        torch.testing.assert_close(star, expected, rtol=0, atol=1e-4 * float(expected.max()))


@pytest.mark.parametrize("case", cases(CONFIGS))
def test_graddrop_cuts_what_a_layer_adds(case: str) -> None:
    """Mean absolute effects over runs in which hooks by hand detach what one layer's attention and MLP give."""
    model, task = precise(case), random_task()
    layers = model.config.num_hidden_layers
    star = circuits.attribute(model, task, nodes="resid_pre", method="atp*").per_prompt
    total = torch.zeros_like(star)
    for layer in range(layers):
        with ExitStack() as hooks:
            for kind in ("attn_out", "mlp_out"):
                path, entering = module_of(case, kind, layer)
                hooks.enter_context(hooked(model.get_submodule(path), entering, Tensor.detach))
            total += circuits.attribute(model, task, nodes="resid_pre", method="atp").per_prompt.abs()
    expected = total / (layers - 1)
    torch.testing.assert_close(star, expected, rtol=0, atol=1e-4 * float(expected.max()))


@pytest.mark.parametrize("case", ["granite", "olmo2"])
def test_the_stream_between_attention_and_mlp_is_patched_as_what_it_is(case: str) -> None:
    """At every position at once, source's stream there and its later layers give source's logits."""
    model, task = model_of(case), random_task()
    scores = circuits.attribute(model, task, nodes=["resid_mid", "embed"], method="patching", by_position=False)
    torch.testing.assert_close(scores["resid_mid"].values, torch.ones(LAYERS).double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(scores["embed"].values, torch.ones(1).double(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("case", cases(WITH_RULES))
def test_relevance_is_conserved_under_the_rules(case: str) -> None:
    """With patterns held and no soft cap of logits, the model is linear in the embedding of its tokens and in constants
    (biases, but of what makes the pattern, and embeddings of positions): relevance adds up to the logit."""
    model, task = model_of(case), random_task()
    model.config.final_logit_softcapping = None
    embedding, positions = model.get_input_embeddings(), FACTS[case].get("pos")
    with relevance(model, rules="paper"):
        x = embedding(task.clean).detach().requires_grad_()
        handles = [embedding.register_forward_hook(lambda *_: x)]
        biases = [
            parameter
            for name, parameter in model.named_parameters()
            if name.endswith("bias") and "q_layernorm" not in name and "k_layernorm" not in name
        ]
        if positions:  # some are no parameters
            added: list[Tensor] = []

            def keep(_module: Any, _args: Any, output: Tensor) -> Tensor:
                added.append(output.detach().requires_grad_())
                return added[0]

            handles.append(model.get_submodule(positions).register_forward_hook(keep))
        logit = model(task.clean).logits[0, -1, 5]
        for handle in handles:
            handle.remove()
        constants = [x, *biases, *(added if positions else [])]
        gradients = torch.autograd.grad(logit, constants, allow_unused=True)
    total = sum((a.detach() * g).sum() for a, g in zip(constants, gradients, strict=True) if g is not None)
    torch.testing.assert_close(total, logit.detach(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("case", [*MIXTURES, *LATENT_ATTENTION])
def test_mixtures_of_experts_are_refused_by_rules_and_name_what_needs_none(case: str) -> None:
    with pytest.raises(ValueError, match=r"mixtures of experts.*Exact patching, 'atp'"):
        circuits.attribute(model_of(case), random_task(), nodes="resid_pre", method="relp")


@pytest.mark.parametrize(
    ("case", "node", "why"),
    [
        ("cohere", "resid_mid", "in parallel; use resid_pre"),
        ("opt_post_norm", "resid_mid", "normalises the residual stream behind attention"),
        ("opt", "mlp_out", "no module is the MLP"),
        ("llama4_text", "mlp_out", "put tokens out without a batch"),
        ("mixtral", "mlp_post", "whose neurons are in every expert; use mlp_out"),
        ("deepseek_v3", "v", "makes keys and values of one small vector"),
    ],
)
def test_nodes_that_a_family_lacks(case: str, node: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        node_hooks(open_session(model_of(case), random_task()).anatomy, node)


@pytest.mark.parametrize("case", sorted(set(CONFIGS) - set(WIRED)))
def test_edges_are_refused_where_readers_are_not_known(case: str) -> None:
    with pytest.raises(ValueError, match=r"edges of a .* model are not known"):
        circuits.attribute_edges(model_of(case), random_task(), method="eap")
