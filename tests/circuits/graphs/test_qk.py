"""Scores of attention as sums over pairs of sources: the sum is the model's score, and each pair is what it is said."""

import pytest
import torch

from circuits.graphs import attribution_graph, score_pairs
from circuits.graphs.qk import BIAS, LEFT_OUT, REST
from interp.sites.softmax import SCORES, show_softmax
from saes import TopK
from tests.circuits.graphs.sets import precise, prompt, random_set
from tests.circuits.graphs.test_building import SERVED
from tests.tiny_models import WIDTH, cases

SEEN = [name for name in SERVED if name not in ("falcon_1b", "cohere_normed", "stablelm_parallel")]


@pytest.mark.parametrize("family", cases(SEEN))
def test_pairs_add_up_to_the_score(family: str) -> None:
    """Against the score before the softmax, seen in the model's own attention."""
    model = precise(family)
    layers = tuple(range(model.config.num_hidden_layers))
    graph = attribution_graph(model, prompt(), random_set("clt", layers=layers, skip=True), targets=[3])
    layer, head, query, key = len(layers) - 1, 3, 5, 2
    attention = graph.reruns.anatomy.blocks[layer].attention
    seen: list[torch.Tensor] = []
    undo = show_softmax(attention)
    handle = attention._modules[SCORES].register_forward_hook(lambda _m, _a, y: seen.append(y.detach()))
    model(prompt()[None])
    handle.remove()
    undo()
    score = seen[0][0, head, query, key].double()
    cap = getattr(model.config, "attn_logit_softcapping", None)
    score = float(score if cap is None else cap * torch.atanh(score / cap))
    found = score_pairs(graph, layer, head, query=query, key=key)
    assert found.score == pytest.approx(score, abs=1e-6)
    assert float(found.pairs.sum()) == pytest.approx(score, abs=1e-4)
    assert found.pairs.abs().max() > 1e-3
    assert {REST, BIAS, LEFT_OUT} < set(found.query_names)


def test_pairs_are_products_written_out() -> None:
    """In GPT-2 by hand: a token's and an error's part of the query times W_q W_k^T times their part of the key."""
    model, made = precise("gpt2"), random_set(activation=TopK(4))
    graph = attribution_graph(model, prompt(), made, targets=[3])
    found = score_pairs(graph, 0, 1, query=5, key=2, most=1000)
    block, t = model.transformer.h[0], model.transformer
    with torch.no_grad():
        x = t.wte(prompt()) + t.wpe.weight[: len(prompt())]
        scale = (x.var(-1, unbiased=False, keepdim=True) + block.ln_1.eps).rsqrt()

        def through(vector: torch.Tensor, position: int) -> torch.Tensor:
            return (vector - vector.mean()) * scale[position] * block.ln_1.weight

        weights = block.attn.c_attn.weight.view(WIDTH, 3, 4, 8)
        query = through(t.wte.weight[prompt()[5]], 5) @ weights[:, 0, 1]
        key = through(t.wte.weight[prompt()[2]], 2) @ weights[:, 1, 1]
        expected = float(query @ key) / 8**0.5
    row, column = (
        names.index(f"token @{p} '{int(prompt()[p])}'") for names, p in ((found.query_names, 5), (found.key_names, 2))
    )
    assert float(found.pairs[row, column]) == pytest.approx(expected, abs=1e-10)
    assert (found.query_names[row], found.key_names[column], pytest.approx(expected)) in found.top(20)


def test_few_listed_sources_leave_the_sum_as_it_is() -> None:
    graph = attribution_graph(precise("llama"), prompt(), random_set(), targets=[3])
    whole, few = (score_pairs(graph, 2, 0, query=6, key=4, most=most) for most in (1000, 3))
    assert few.pairs.shape == (6, 6)
    assert float(few.pairs.sum()) == pytest.approx(float(whole.pairs.sum()), abs=1e-9)
    row = whole.query_names.index(few.query_names[0])
    column = whole.key_names.index(few.key_names[0])
    assert float(few.pairs[0, 0]) == pytest.approx(float(whole.pairs[row, column]), abs=1e-10)


@pytest.mark.parametrize(
    ("family", "where", "message"),
    [
        ("gpt2", {"layer": 3, "head": 0, "query": 5, "key": 2}, "layer is 3"),
        ("gpt2", {"layer": 0, "head": 4, "query": 5, "key": 2}, "head is 4"),
        ("gpt2", {"layer": 0, "head": 0, "query": 2, "key": 5}, "does not see key 5"),
        ("falcon_1b", {"layer": 0, "head": 0, "query": 5, "key": 2}, "cannot be seen"),
        ("cohere_normed", {"layer": 0, "head": 0, "query": 5, "key": 2}, "is not known"),
        ("stablelm_parallel", {"layer": 0, "head": 0, "query": 5, "key": 2}, "is not known"),
        ("mistral", {"layer": 0, "head": 0, "query": 11, "key": 1}, "looks back over a window"),
    ],
)
def test_scores_that_are_not_there_are_refused(family: str, where: dict, message: str) -> None:
    graph = attribution_graph(precise(family), prompt(length=12), random_set(), targets=[3])
    with pytest.raises(ValueError, match=message):
        score_pairs(graph, where.pop("layer"), where.pop("head"), **where)
