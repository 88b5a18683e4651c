"""Features of SAEs as nodes: sums that must hold, exact patches, and a circuit planted by hand."""

import pytest
import torch

import circuits
from circuits.anatomy.nodes import node_hooks
from circuits.attribution.features import FeatureCircuit, attribute_features, splices
from circuits.features.edges import feature_edges
from circuits.features.faithfulness import FeatureEvaluator
from circuits.rules import relevance
from circuits.runs.pair import contrast, open_session
from saes import SAE, ReLU, TopK
from tests.circuits.pairs import DIFFERS_AT, LENGTH, model_of, random_task

SITES = {
    "blocks.0.hook_mlp_out": "mlp_out",
    "blocks.1.hook_attn_out": "attn_out",
    "blocks.1.hook_resid_post": "resid_post",
}


def sae_at(site: str, *, activation=None, dtype=torch.float64, seed: int = 0) -> SAE:
    """Untrained: its error is large, and that is the point."""
    sae = SAE(32, 96, activation or TopK(8), site=site, dtype=dtype)
    return sae.initialise(seed=seed, mean=torch.zeros(32, dtype=dtype))


@pytest.mark.parametrize(("method", "options"), [("atp", {}), ("relp", {"rules": "paper"}), ("ig", {"steps": 3})])
@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "gemma2", "granite", "olmo2", "cohere"])
def test_features_and_error_sum_to_the_site(family: str, method: str, options: dict) -> None:
    model, task = model_of(family, dtype=torch.float64), random_task()
    scores = attribute_features(model, task, [sae_at(site) for site in SITES], method=method, **options)
    for site, name in SITES.items():
        node = circuits.attribute(model, task, nodes=name, method=method, **options).values[int(site[7])]
        torch.testing.assert_close(scores.sites[site], node, rtol=1e-5, atol=1e-8)
        torch.testing.assert_close(scores.features[site].sum(-1) + scores.errors[site], node, rtol=1e-5, atol=1e-7)
        assert scores.features[site].shape == (LENGTH, 96)
        assert torch.count_nonzero(scores.features[site][:DIFFERS_AT]) == 0


def test_a_spliced_sae_changes_no_logits_and_passes_gradients_straight_through() -> None:
    """The splice written out: features and error as leaves, and their gradients against what scores are made of."""
    model, task = model_of("llama"), random_task()
    sae = sae_at("blocks.1.hook_resid_post", dtype=torch.float32)
    session = open_session(model, task)
    hooks, upstream = (node_hooks(session.anatomy, name)[1 - i] for i, name in enumerate(("resid_post", "resid_pre")))
    plain = model(task.base).logits
    leaves = []

    def splice(_module, _args, x):
        latents = sae.encode(x.detach())
        features = latents.to_dense().detach().requires_grad_()
        error = (x - sae.decode(latents, x)).detach().requires_grad_()
        leaves.extend((features, error))
        rebuilt = features @ sae.W_dec + sae.b_dec + error
        # The values of x and the gradient of both: straight through.
        return x.detach() + (rebuilt - rebuilt.detach()) + (x - x.detach())

    with relevance(model, rules="paper"):
        passed = session.runner.forward(task.base, read=[hooks.change, upstream.change], gradients=True)
        expected = session.runner.gradients(passed.logits[:, 5].sum(), passed, [hooks.change, upstream.change])
        handle = session.anatomy.blocks[1].whole.register_forward_hook(splice)
        passed = session.runner.forward(task.base, read=[upstream.change], gradients=True)
        found = torch.autograd.grad(passed.logits[:, 5].sum(), [*leaves, passed.wholes[upstream.change]])
        assert torch.equal(model(task.base).logits, plain)
        handle.remove()
    torch.testing.assert_close(found[0], expected[hooks.change] @ sae.W_dec.T, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found[1], expected[hooks.change], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found[2], expected[upstream.change], rtol=1e-4, atol=1e-6)


def test_exact_patching_of_features() -> None:
    """In the last residual stream with a linear readout, estimates are exact; elsewhere IG comes nearer than AtP."""
    model, task = model_of("gpt2", dtype=torch.float64), random_task(n=1)
    sae = sae_at("blocks.2.hook_resid_post")
    model.transformer.ln_f.forward = lambda x: x
    exact = attribute_features(model, task, [sae], method="patching")
    for method in ("atp", "ig"):
        found = attribute_features(model, task, [sae], method=method)
        torch.testing.assert_close(found.features[sae.site], exact.features[sae.site], rtol=0, atol=1e-9)
        torch.testing.assert_close(found.errors[sae.site], exact.errors[sae.site], rtol=0, atol=1e-9)
    assert exact.top(1)[0][3] == pytest.approx(
        max((float(v) for v in (*exact.features[sae.site].flatten(), *exact.errors[sae.site])), key=abs)
    )


@pytest.mark.parametrize("mean", [True, False])
def test_ends_of_faithfulness(mean: bool) -> None:
    model, task = model_of("llama"), random_task(n=3)
    saes = [sae_at(site, dtype=torch.float32, activation=ReLU()) for site in SITES]
    evaluator = FeatureEvaluator(model, task, saes, mean=mean)
    scores = attribute_features(model, task, saes, method="atp")
    everything = FeatureCircuit.above(scores, 0.0)
    full, none = evaluator.evaluate(everything), evaluator.evaluate(everything.complement())
    assert (full.faithfulness, full.completeness) == pytest.approx((1, 0), abs=1e-4)
    assert (none.faithfulness, none.completeness) == pytest.approx((0, 1), abs=1e-4)
    assert full.size == 3 * LENGTH * 97
    curve = evaluator.curve(scores, sizes=(0, 20, full.size))
    assert [point.size for point in curve] == [0, 20, full.size]
    assert (curve[0].faithfulness, curve[-1].faithfulness) == pytest.approx((0, 1), abs=1e-4)
    strongest = FeatureCircuit.strongest(scores, 20)
    by_threshold = FeatureCircuit.above(scores, abs(scores.top(20)[-1][3]))
    for site in scores.features:
        assert torch.equal(strongest.features[site], by_threshold.features[site])
        assert torch.equal(strongest.errors[site], by_threshold.errors[site])
    with pytest.raises(ValueError, match="size is -1; it must be 0 or more"):
        FeatureCircuit.strongest(scores, -1)
    if not mean:  # the last residual stream is the corrupt run's from the site on
        rows = torch.arange(3)
        last = model(task.corrupt).logits[:, -1]
        expected = (last[rows, task.correct[:, 0]] - last[rows, task.wrong[:, 0]]).mean()
        assert evaluator.nothing_metric == pytest.approx(float(expected), abs=1e-3)


def test_mistakes_are_named(embedded) -> None:
    model, task = model_of("gpt2"), random_task()
    good = sae_at("blocks.1.hook_mlp_out", dtype=torch.float32)
    other = SAE(16, 20, TopK(2), site="blocks.1.hook_mlp_out")
    named = SAE(96, 100, TopK(2), site="blocks.1.hook_mlp_out", provenance={"source": {"model": "gpt2"}})
    unplaced = SAE(32, 20, TopK(2))
    with pytest.raises(ValueError, match="of another model: it was trained on an unnamed one with 16 dimensions"):
        attribute_features(model, task, [other])
    with pytest.raises(ValueError, match="SAE 0 is of the model gpt2, these activations are of embedded"):
        attribute_features(embedded, task, [named])
    with pytest.raises(ValueError, match="SAE 0 does not say its site"):
        attribute_features(model, task, [unplaced])
    with pytest.raises(ValueError, match=r"two SAEs are of blocks\.1\.hook_mlp_out"):
        attribute_features(model, task, [good, good])
    with pytest.raises(ValueError, match="this model has 3 layers"):
        attribute_features(model, task, [sae_at("blocks.7.hook_mlp_out", dtype=torch.float32)])
    with pytest.raises(ValueError, match="features are traced at"):
        attribute_features(model, task, [sae_at("blocks.1.attn.hook_z", dtype=torch.float32)])
    normalising = SAE(32, 20, TopK(2), site="blocks.1.hook_mlp_out", layer_norm=True)
    with pytest.raises(ValueError, match="its features have no fixed direction"):
        attribute_features(model, task, [normalising])
    with pytest.raises(ValueError, match="saes is empty"):
        attribute_features(model, task, [])


@pytest.mark.parametrize("family", ["gpt2", "granite"])
def test_edges_are_derivatives_of_one_feature_by_another(family: str) -> None:
    """Central differences: each upstream feature's decoder direction is added, and the downstream feature watched; what
    stands between is held where it was."""
    model, task = model_of(family, dtype=torch.float64), random_task(n=1)
    saes = [sae_at(site, activation=ReLU()) for site in ("blocks.0.hook_resid_post", "blocks.1.hook_mlp_out",
                                                          "blocks.1.hook_resid_post")]  # fmt: skip
    scores = attribute_features(model, task, saes, method="atp")
    circuit = FeatureCircuit.above(scores, sorted(abs(node[3]) for node in scores.top(40))[0])
    edges = feature_edges(model, task, saes, circuit)
    session = open_session(model, task)
    spliced = splices(model, session, saes)
    by_name = {s.name: s for s in spliced}
    found = contrast(session, [s.hooks for s in spliced], gradients=True)
    slopes = session.runner.gradients(found.base_metric.sum(), found.base, [s.hooks.change for s in spliced])
    written = session.anatomy.blocks[1].mlp
    held = found.base.wholes[by_name["blocks.1.hook_mlp_out"].hooks.value].detach()
    step, tolerance = (1e-4, 1e-3) if family == "gpt2" else (1e-2, 2e-2)  # Granite's norms compute in float32
    checked = 0
    # Every seventh: pairs of all kinds, in the time of a test.
    for (up, down), weight in list(edges.items())[::7]:
        above, below = by_name[up.site], by_name[down.site]
        change, error = above.changes(found)
        delta = torch.zeros_like(error)
        delta[:, up.position] = (
            error[:, up.position]
            if up.feature is None
            else change[:, up.position, up.feature, None] * above.sae.W_dec[up.feature]
        )
        values = []
        for sign in (1, -1):
            add = {above.hooks.change: sign * step * delta}
            skips = up.site == "blocks.0.hook_resid_post" and down.site == "blocks.1.hook_resid_post"
            handle = written.register_forward_hook(lambda *_: held) if skips else None
            passed = session.runner.forward(task.base, read=[below.hooks.value], add=add)
            if handle is not None:
                handle.remove()
            features, rest = below.parts(passed.value(below.hooks.value))
            slope = slopes[below.hooks.change]
            values.append(
                (rest * slope)[0, down.position].sum()
                if down.feature is None
                else (features * (slope @ below.sae.W_dec.T))[0, down.position, down.feature]
            )
        assert weight == pytest.approx(float(values[0] - values[1]) / (2 * step), rel=tolerance, abs=tolerance / 400)
        checked += 1
    assert checked > 5
    assert any(up.site.startswith("blocks.0") and down.site.endswith("resid_post") for up, down in edges)
    strong = feature_edges(model, task, saes, circuit, threshold=0.01)
    assert strong == {edge: weight for edge, weight in edges.items() if abs(weight) > 0.01}
    with pytest.raises(ValueError, match="the circuit is of"):
        feature_edges(model, task, saes[:2], circuit)
    with pytest.raises(ValueError, match=r"edges of features at blocks\.1\.hook_resid_mid are not known"):
        feature_edges(model, task, [sae_at("blocks.1.hook_resid_mid")], circuit)
