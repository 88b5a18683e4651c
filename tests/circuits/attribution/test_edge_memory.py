"""Prompts go through the model in batches that a budget of memory takes: with the same scores, and no tensor that grows
with the number of edges or of prompts but the scores themselves."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedModel

from circuits.attribution.edges import attribute_edges
from circuits.circuit import Circuit
from circuits.faithfulness import Evaluator
from circuits.runs.budget import at_once, slices
from circuits.tasks.metrics import logit_difference
from circuits.tasks.task import Task
from tests.circuits.pairs import model_of, random_task

OPTIONS: dict[str, dict[str, Any]] = {
    "eap": {"method": "eap"},
    "eap-ig": {"method": "eap-ig", "steps": 3},
    "relp": {"method": "relp", "rules": "no_ah"},
    "path-patching": {"method": "path-patching"},
    "acdc": {"method": "acdc", "threshold": 1e-3},
}


class Largest(TorchDispatchMode):
    """The largest tensor that any operation returned, in bytes."""

    bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for tensor in found if isinstance(found, tuple | list) else [found]:
            if isinstance(tensor, Tensor):
                self.bytes = max(self.bytes, tensor.untyped_storage().nbytes())
        return found


def assert_same(model: PreTrainedModel, task: Task, options: dict[str, Any], **rounding: float) -> None:
    together, alone = (attribute_edges(model, task, **options, **budget) for budget in ({}, {"memory": 1}))
    assert alone.clean_metric == pytest.approx(together.clean_metric, rel=1e-5)
    torch.testing.assert_close(alone.per_prompt, together.per_prompt, **rounding)
    if options["method"] != "acdc":  # which runs each prompt's reference again at every try; nothing else runs more
        assert alone.cost.to_json() == pytest.approx(together.cost.to_json())


def squared(logits: Tensor, task: Task) -> Tensor:
    """A metric that is a function: it gets the task of the prompts at hand."""
    return logit_difference(logits, task, logits).square()


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize("name", ["eap", "eap-ig", "relp"])
@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_estimates_do_not_depend_on_the_batches(family: str, name: str, direction: str) -> None:
    task = random_task(n=3, direction=direction, metric=squared)
    # RMSNorm computes in float32 whatever the model.
    rounding = {"rtol": 1e-9, "atol": 1e-12} if family == "gpt2" else {"rtol": 1e-4, "atol": 1e-5}
    assert_same(model_of(family, dtype=torch.float64), task, OPTIONS[name], **rounding)


@pytest.mark.parametrize("name", ["path-patching", "acdc"])
def test_exact_effects_do_not_depend_on_the_batches(name: str) -> None:
    model, task = model_of("gpt2", dtype=torch.float64), random_task(direction="noise")
    model.transformer.h, model.config.n_layer = model.transformer.h[:2], 2
    assert_same(model, task, OPTIONS[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("ablation", ["resample", "mean", "zero"])
def test_faithfulness_does_not_depend_on_the_batches(ablation: str) -> None:
    model, task = model_of("llama"), random_task(n=3)
    whole = Circuit.from_edges(attribute_edges(model, task, method="eap"))
    small = whole.prune(size=12)
    together, alone = (Evaluator(model, task, ablation=ablation, **options) for options in ({}, {"memory": 1}))
    for name in ("faithfulness", "completeness", "standard_error"):
        expected = getattr(together.evaluate(small), name)
        assert getattr(alone.evaluate(small), name) == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert alone.minimality(small) == pytest.approx(together.minimality(small), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("name", ["eap", "eap-ig", "relp"])
def test_nothing_grows_with_the_prompts_but_the_scores(name: str) -> None:
    """The slopes of all readers were 40 x 24 x 7 x 32 numbers here, the scores are 24 x 16 x 40."""
    model, task = model_of("gpt2"), random_task(n=24)
    with Largest() as largest:
        scores = attribute_edges(model, task, **OPTIONS[name], memory=1)
    assert largest.bytes == 8 * scores.per_prompt.numel()


def test_sets_of_cut_edges_are_made_as_they_are_run() -> None:
    """All at once they were 262 x 16 x 40 here."""
    model, task = model_of("gpt2"), random_task(n=1)
    with Largest() as largest:
        scores = attribute_edges(model, task, method="path-patching", memory=2**19)
    assert len(scores.edges) == 262
    assert largest.bytes < len(scores.edges) * scores.mask.numel() / 2


def test_batches() -> None:
    assert at_once(10, bytes_each=3, memory=12) == 4  # 4, 4, 2
    assert at_once(10, bytes_each=3, memory=27) == 5  # as many batches as 9 would take, filled evenly
    assert at_once(10, bytes_each=100, memory=12) == 1
    assert at_once(3, bytes_each=1, memory=12) == 3
    assert slices(5, 2) == [slice(0, 2), slice(2, 4), slice(4, 5)]
    with pytest.raises(ValueError, match=r"memory is 0 bytes; it must be above 0"):
        attribute_edges(model_of("gpt2"), random_task(), memory=0)
