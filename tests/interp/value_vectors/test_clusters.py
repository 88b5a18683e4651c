"""Clusters on disk, and the random sets that they are compared with."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from interp.models.feed_forward import stack_of, value_vectors
from interp.value_vectors.action_tokens import ActionTokens
from interp.value_vectors.clusters import load_cluster, matched_random_sets
from interp.value_vectors.projection import find
from tests import tiny_vla_models as vla

READ: dict[str, Any] = {"tokenizer": vla.tokenizer(), "actions": ActionTokens(vocab_size=vla.VOCAB, edges=vla.ACTIONS)}


@pytest.fixture(scope="module")
def model() -> Any:
    return vla.openvla()


def test_a_saved_cluster_is_for_its_own_model(model: Any, tmp_path: Path) -> None:
    cluster = find(model, ["up", "higher"], antonyms=["down"], top=6, **READ)
    path = cluster.save(tmp_path / "up.json")
    assert load_cluster(path, model) == cluster
    assert load_cluster(path, vla.openvla()) == cluster, "the same weights, built again"
    kept = json.loads(path.read_text())
    assert kept["members"][0]["tokens"][0].keys() == {"id", "text", "logit"}

    trained = vla.openvla()
    with torch.no_grad():
        trained.language_model.lm_head.weight[0, 0] += 1e-3
    for other in (trained, vla.paligemma()):
        with pytest.raises(ValueError, match=r"neurons of OpenVLA with weights sha256:\w+….*is another neuron there"):
            load_cluster(path, other)

    first = kept["members"][0]
    for change in (
        {"format": "other"},
        {"members": 3},
        {"surprise": 1},
        {"words": "up"},
        {"words": [0.5]},
        {"method": None},
        {"members": [first | {"layer": "0"}]},
        {"members": [first | {"index": 1.5}]},
        {"members": [first | {"score": "high"}]},
        {"members": [first | {"tokens": [{"id": "1", "text": "up", "logit": 0.5}]}]},
    ):
        path.write_text(json.dumps(kept | change))
        with pytest.raises(ValueError, match=r"up\.json is not a cluster of neurons \(deepfield\.neuron-cluster\.1\)"):
            load_cluster(path, model)
    path.write_text(json.dumps(kept | {"members": [kept["members"][0] | {"index": 48}]}))
    with pytest.raises(ValueError, match=r"neuron \(\d, 48\) is outside its layer"):
        load_cluster(path, model)


def test_antonyms_are_subtracted(model: Any) -> None:
    for method in ("neighbours", "logit"):
        alone = find(model, ["up"], method=method, top=144, **READ)
        score = {(m.layer, m.index): m.score for m in alone.members}
        other = {(m.layer, m.index): m.score for m in find(model, ["down"], method=method, top=144, **READ).members}
        for member in find(model, ["up"], antonyms=["down"], method=method, top=144, **READ).members:
            neuron = (member.layer, member.index)
            assert member.score == pytest.approx(score[neuron] - other[neuron], abs=1e-4)


def test_random_sets_match_layer_and_norm_and_leave_candidates_out(model: Any) -> None:
    neurons = [(0, 3), (0, 4), (1, 7), (2, 20), (2, 21)]
    candidates = [(0, i) for i in range(10)] + [(2, i) for i in range(10)]
    sets = matched_random_sets(model, neurons, exclude=candidates, sets=40, pool=8)
    assert len({tuple(each) for each in sets}) == 40
    assert sets == matched_random_sets(model, neurons, exclude=candidates, sets=40, pool=8)
    assert sets != matched_random_sets(model, neurons, exclude=candidates, sets=40, pool=8, seed=1)

    norms = [value_vectors(stack_of(model), layer).norm(dim=1) for layer in range(3)]
    barred = {*neurons, *candidates}
    for each in sets:
        assert len(set(each)) == 5
        assert [layer for layer, _ in each] == [0, 0, 1, 2, 2]
        assert not barred & set(each)
    for layer, index in neurons:
        free = [i for i in range(48) if (layer, i) not in barred]
        near = sorted(free, key=lambda i: abs(float((norms[layer][i] / norms[layer][index]).log())))[:8]
        drawn = {i for each in sets for of, i in each if of == layer}
        assert drawn & set(near)
        if layer == 1:
            assert drawn == set(near), "one neuron of the layer: all of its pool, and nothing else"


def test_sets_that_cannot_be(model: Any) -> None:
    for options, message in (
        ({"exclude": [(0, i) for i in range(47)]}, r"layer 0 has 0 neurons beside those excluded, too few to match 1"),
        ({"pool": 5}, r"only 5 different sets were found, not 40; widen pool=5"),
        ({"sets": 0}, r"sets=0 and pool=50 must be 1 or more"),
    ):
        with pytest.raises(ValueError, match=message):
            matched_random_sets(model, [(0, 47)], **options)
    with pytest.raises(ValueError, match="there must be neurons to match"):
        matched_random_sets(model, [])
