"""Feature circuits of SAEs that were trained, on the model that they were trained on."""

import pytest
import torch

import circuits
from benchmarks.feature_circuits import train_saes
from circuits import FeatureCircuit, FeatureEvaluator, Task
from circuits.features.comparison import compare_features
from interp import capture
from interp.metrics import fvu
from saes import SAE

SITES = ["blocks.1.hook_resid_post", "blocks.2.hook_attn_out", "blocks.2.hook_mlp_out"]


@pytest.fixture(scope="module")
def trained(embedded, tmp_path_factory) -> list[SAE]:
    return train_saes(embedded, SITES, tmp_path_factory.mktemp("saes"), tokens=60_000, d_sae=256, k=12)


@pytest.fixture(scope="module")
def ioi(embedded) -> Task:
    return circuits.tasks.ioi(embedded.tokenizer, 16, corruption="three_names")


def test_they_are_trained(embedded, ioi, trained) -> None:
    found = capture(embedded, ioi.clean, SITES)
    for sae in trained:
        x = found[sae.site].flatten(0, 1).float()
        assert fvu(x, sae(x).detach()).value < 0.6


def test_circuits_of_trained_features_by_every_kind_of_score(embedded, ioi, trained) -> None:
    """A fifth of the nodes does the task, and what is left does not."""
    found = compare_features(embedded, ioi, trained, sizes=(50, 200, 500))
    table = found.markdown().splitlines()
    assert table[0] == "| scores by | forwards, backwards | seconds | 50 nodes | 200 nodes | 500 nodes |"
    assert table[3].startswith("| AtP | 2, 1 |")
    evaluator = FeatureEvaluator(embedded, ioi, trained)
    generator = torch.Generator().manual_seed(0)
    for name, curve in found.curves.items():
        scores = found.scores[name]
        assert [point.size for point in curve] == [50, 200, 500]
        assert curve[-1].faithfulness > 0.6
        assert abs(curve[-1].completeness) < 0.3
        # As many of the nodes that differ, taken at random, do not do it.
        drawn = FeatureCircuit.strongest(scores, 0)
        for i in torch.randperm(len(scores.nodes), generator=generator)[:500].tolist():
            node = scores.nodes[i]
            if node.feature is None:
                drawn.errors[node.site][node.position] = True
            else:
                drawn.features[node.site][node.position, node.feature] = True
        assert len(scores.nodes) > 4 * drawn.size == 4 * 500
        assert evaluator.evaluate(drawn).faithfulness < 0.3
    assert (found.scores["AtP"].cost.forwards, found.scores["AtP"].cost.backwards) == (2, 1)
    assert found.scores["IG, 10 steps"].cost.backwards == 10 * len(SITES)
    assert len(found.figure().data) == len(found.curves)
    with pytest.raises(ValueError, match=r"sizes must rise, and be at least one; they are \[3, 2\]"):
        compare_features(embedded, ioi, trained, sizes=[3, 2])


def test_estimates_agree_with_exact_patching_of_trained_features(embedded, trained) -> None:
    task = circuits.tasks.ioi(embedded.tokenizer, 4)
    for method in ("ig", "atp"):
        found = circuits.attribute(
            embedded, task, nodes="latents", method=method, saes=[trained[1]], agreement=True
        ).agreement
        assert found.pearson > 0.95
        assert found.pearson_interval[0] > 0.9
        assert found.slope == pytest.approx(1, abs=0.15 if method == "ig" else 0.5)
