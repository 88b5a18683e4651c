"""Whatever mode the caller's notebook is in: the same scores, or a refusal that names what is in the way."""

import copy
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch

import circuits
from circuits import Circuit, FeatureCircuit
from circuits.explorer.positions import unfold
from circuits.features.edges import feature_edges
from saes import SAE, TopK
from tests.circuits.pairs import bridge_of, model_of, random_task

SITES = ("blocks.0.hook_mlp_out", "blocks.1.hook_resid_post")
FAMILIES_OF_NODES = ["resid_pre", "z", "q", "mlp_post"]
METHODS: dict[str, dict[str, Any]] = {
    "atp": {"nodes": FAMILIES_OF_NODES, "method": "atp"},
    "relp": {"nodes": FAMILIES_OF_NODES, "method": "relp", "rules": "no_ah"},
    "ig": {"nodes": FAMILIES_OF_NODES, "method": "ig", "steps": 2},
    "atp*": {"nodes": FAMILIES_OF_NODES, "method": "atp*"},
    "eap": {"nodes": "edges", "method": "eap"},
    "eap-ig": {"nodes": "edges", "method": "eap-ig", "steps": 2},
    "relp for edges": {"nodes": "edges", "method": "relp", "rules": "paper"},
    "atp for latents": {"nodes": "latents", "method": "atp"},
    "ig for latents": {"nodes": "latents", "method": "ig", "steps": 2},
}
EXACT: dict[str, dict[str, Any]] = {
    "patching": {"nodes": FAMILIES_OF_NODES[:3], "method": "patching"},
    "path-patching": {"nodes": "edges", "method": "path-patching"},
    "acdc": {"nodes": "edges", "method": "acdc"},
    "patching of latents": {"nodes": "latents", "method": "patching"},
}


def made_saes() -> list[SAE]:
    return [SAE(32, 64, TopK(4), site=site).initialise(seed=0, mean=torch.zeros(32)) for site in SITES]


def values(model: Any, options: dict[str, Any]) -> list[torch.Tensor]:
    saes = made_saes() if options["nodes"] == "latents" else None
    found = circuits.attribute(model, random_task(), saes=saes, **options)
    return [scores.per_prompt for scores in (found.values() if isinstance(found, dict) else [found])]


@pytest.mark.parametrize("mode", [torch.no_grad, lambda: torch.set_grad_enabled(False)], ids=["no_grad", "set"])
@pytest.mark.parametrize("name", [*METHODS, *EXACT])
def test_gradients_are_taken_whatever_is_switched_off(name: str, mode: Any) -> None:
    model, options = model_of("llama"), (METHODS | EXACT)[name]
    expected = values(model, options)
    with mode():
        found = values(model, options)
        assert not torch.is_grad_enabled()
    for own, other in zip(found, expected, strict=True):
        assert torch.equal(own, other)
        assert own.any()
        assert not own.requires_grad


def test_also_of_edges_between_features_and_by_position() -> None:
    model, task, saes = bridge_of(model_of("gpt2")), random_task(direction="noise"), made_saes()
    scores = circuits.attribute(model, task, nodes="latents", method="atp", saes=saes)
    circuit = Circuit.from_edges(circuits.attribute_edges(model, task, method="eap"))

    def both() -> tuple[Any, Any]:
        return feature_edges(model, task, saes, FeatureCircuit.strongest(scores, 20)), unfold(model, task, circuit)

    expected = both()
    with torch.no_grad():
        edges, graph = both()
    assert edges == expected[0]
    assert edges
    assert graph.links == expected[1].links


@pytest.mark.parametrize("name", METHODS)
def test_inference_mode_is_refused_by_name(name: str) -> None:
    model, options = model_of("llama"), METHODS[name]
    inference: AbstractContextManager[Any] = torch.inference_mode()
    with inference, pytest.raises(ValueError, match=r"attribution by gradients .* torch\.inference_mode\(\) rules out"):
        values(model, options)
    with torch.inference_mode():
        made_there = copy.deepcopy(model)
    with pytest.raises(ValueError, match=r"embed_tokens\.weight of LlamaForCausalLM was made under torch\.inference"):
        values(made_there, options)


@pytest.mark.parametrize("name", EXACT)
def test_exact_methods_need_no_gradients(name: str) -> None:
    model = model_of("llama")
    expected = values(model, EXACT[name])
    with torch.inference_mode():
        found = values(model, EXACT[name])
    for own, other in zip(found, expected, strict=True):
        assert torch.equal(own, other)


def test_a_metric_without_a_gradient_is_refused() -> None:
    def right(logits: torch.Tensor, task: circuits.Task) -> torch.Tensor:
        return (logits[:, task.correct[0, 0]] > logits[:, task.wrong[0, 0]]).float() + logits.detach()[:, 0]

    model, task = model_of("gpt2"), random_task(metric=right)
    assert circuits.attribute(model, task, nodes="mlp_out", method="patching").values.any()
    for options in (METHODS["atp"], METHODS["ig"], METHODS["atp*"], METHODS["eap"], METHODS["eap-ig"]):
        with pytest.raises(ValueError, match="the task's metric has no gradient"):
            circuits.attribute(model, task, **options)
