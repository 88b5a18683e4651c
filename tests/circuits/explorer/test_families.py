"""What the explorer says of heads, MLPs and neurons in every declared family, against the oracle of sites."""

import re
from typing import Any

import pytest
import torch
from torch import Tensor

from circuits.explorer.details import Details
from circuits.explorer.graph import Part, part_of
from circuits.explorer.interventions import Interventions
from tests.circuits.attribution.test_families import WITHOUT_MLP
from tests.circuits.pairs import MIXTURES, random_task
from tests.interp.sites.family_oracle import FACTS, recompute
from tests.tiny_models import CONFIGS, cases, tiny_model

POSITION, HEAD, NEURON = 4, 2, 3
UNKNOWN = {"falcon_1b": "shows no patterns", "opt_post_norm": "no norm before its unembedding"}


def direct(case: str, model: Any, sites: dict[str, Tensor], written: Tensor) -> Tensor:
    """What a vector in the residual stream adds to the logits through the final norm, centred."""
    facts, config = FACTS[case], model.config
    norm, head = model.get_submodule(facts["final"]), model.get_output_embeddings()
    centred = written - written.mean() if "LayerNorm" in type(norm).__name__ else written
    gain = 1.0 if getattr(norm, "weight", None) is None else norm.weight + (1 if facts.get("one") else 0)
    logits = (centred / sites["ln_final.hook_scale"][0, POSITION] * gain) @ head.weight.T
    logits = logits * getattr(config, "logit_scale", 1.0) / getattr(config, "logits_scaling", 1.0)
    return logits - logits.mean()


def vectors(case: str, model: Any, sites: dict[str, Tensor], layer: int) -> dict[str, Tensor]:
    """What a head, an MLP and a neuron write to the residual stream, by the name of the part."""
    facts, at = FACTS[case], f"blocks.{layer}."
    times = facts.get("times", 1.0)
    found = {f"m{layer}": sites[at + "hook_mlp_out"][0, POSITION]}
    results, out = sites[at + "attn.hook_result"][0, POSITION], sites[at + "hook_attn_out"][0, POSITION]
    if facts.get("p1"):  # an RMSNorm multiplies each entry by the same number, whichever head it is of
        found[f"a{layer}.h{HEAD}"] = results[HEAD] * out / results.sum(0)
    else:
        found[f"a{layer}.h{HEAD}"] = results[HEAD] * times
    if f"{at}mlp.hook_post" in sites and facts["mlp"]:
        down = model.get_submodule(f"{facts['at']}.{layer}.{facts['mlp']}.{facts['down']}")
        weight = down.weight if type(down).__name__ == "Conv1D" else down.weight.T
        neurons = sites[at + "mlp.hook_post"][0, POSITION]
        written = neurons[NEURON] * weight[NEURON]
        if facts.get("p2"):
            written = written * found[f"m{layer}"] / (neurons @ weight)
        found["neuron"] = written * times
    return found


def shown(sections: Any) -> dict[int, float]:
    """Token -> logit, of the tokens that a detail of the clean prompt names."""
    section = next(section for section in sections if section["kind"] == "logits")
    return {int(re.sub(r"\D", "", name)): value for name, value in (*section["raised"], *section["lowered"])}


@pytest.mark.parametrize("case", cases(case for case in CONFIGS if case not in UNKNOWN))
@torch.no_grad()
def test_details_are_what_the_modules_do(case: str) -> None:
    model, task = tiny_model(case), random_task(n=1)
    details = Details(Interventions(model, task), model)
    sites = recompute(case, model, task.clean)
    last = model.config.num_hidden_layers - 1
    for name, written in vectors(case, model, sites, 1).items():
        part = part_of(name, 0.0, position=POSITION) if name != "neuron" else neuron(1)
        if (name == "m1" and case in WITHOUT_MLP) or (name == "neuron" and case in MIXTURES):
            with pytest.raises(ValueError, match=r"no module is the MLP|mixtures of experts|without a batch"):
                details.of(part)
            continue
        wanted = direct(case, model, sites, written)
        found = shown(details.of(part))
        assert len(found) == 16
        for token, logit in found.items():
            assert logit == pytest.approx(float(wanted[token]), rel=6e-3, abs=1e-4), (name, token)
        assert max(found.values()) == pytest.approx(float(wanted.max()), rel=6e-3)
    pattern = details.of(part_of(f"a1.h{HEAD}", 0.0, position=POSITION))[0]["values"]
    torch.testing.assert_close(
        torch.tensor(pattern), sites["blocks.1.attn.hook_pattern"][0, HEAD], rtol=6e-3, atol=6e-3
    )
    probabilities = model(task.clean).logits[0, POSITION].softmax(-1)
    for part in (part_of("logits", 0.0, position=POSITION), stream(last)):
        top = details.of(part)[0]["top"][POSITION]
        assert [value for _, value in top] == pytest.approx(probabilities.topk(3).values.tolist(), rel=6e-3)


def neuron(layer: int) -> Part:
    name = f"mlp_post.{layer}[{NEURON}]@{POSITION}"
    return Part(
        id=name, kind="neuron", family="mlp_post", layer=layer, score=0.0, position=POSITION, index=NEURON
    )  # fmt: skip


def stream(layer: int) -> Part:
    name = f"resid_post.{layer}@{POSITION}"
    return Part(id=name, kind="residual", family="resid_post", layer=layer, score=0.0, position=POSITION)


@pytest.mark.parametrize(("case", "why"), UNKNOWN.items())
def test_families_without_final_norm_or_patterns_are_refused(case: str, why: str) -> None:
    model, task = tiny_model(case), random_task(n=1)
    with pytest.raises(ValueError, match=why):
        Details(Interventions(model, task), model)
