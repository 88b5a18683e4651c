"""Units with two planted reasons, or one; contexts of a unit recomputed."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist, squareform
from sklearn.metrics import silhouette_score
from torch import Tensor
from torch.nn import functional

from interp.commands.dynamics.facets import app
from interp.embedded import TEXT_FOLDER
from interp.facets import contexts_of, facets
from interp.facets.clustering import _silhouette
from interp.sites.capturing import capture
from tests.tiny_models import VOCAB, as_bridge, tiny_model

D = 64


def unit_of(reasons: int, seed: int, *, noise: float = 0.3) -> tuple[Tensor, Tensor, Tensor]:
    """The 200 strongest contexts of Σ ReLU(u·x), and the reason of each."""
    generator = torch.Generator().manual_seed(seed)
    u = torch.linalg.qr(torch.randn(D, reasons, generator=generator))[0].T
    which = torch.randint(reasons, (1000,), generator=generator)
    x = u[which] + noise / D**0.5 * torch.randn(1000, D, generator=generator) * 2
    activation = (x @ u.T).relu().sum(1)
    top = activation.topk(200).indices
    return x[top], activation[top], which[top]


@pytest.mark.parametrize("noise", [0.1, 0.3, 0.5])
def test_two_reasons_are_two_facets(noise: float) -> None:
    x, activation, which = unit_of(2, 0, noise=noise)
    found = facets(x, activation)
    assert len(found.facets) == 2
    right = sum(int(which[list(facet.members)].bincount().max()) for facet in found.facets)
    assert right / 200 >= 0.95
    assert found.silhouette > found.null_silhouette
    assert found.stability is not None
    assert found.stability.value > 0.9
    assert sum(facet.share.value for facet in found.facets) == pytest.approx(1)
    for facet in found.facets:
        assert facet.activation.value == pytest.approx(float(activation[list(facet.members)].mean()), rel=1e-5)


@pytest.mark.slow
def test_one_reason_is_one_facet() -> None:
    assert sum(len(facets(*unit_of(1, seed)[:2]).facets) == 1 for seed in range(20)) >= 19


def test_one_reason_is_one_facet_in_a_few_seeds() -> None:
    found = [facets(*unit_of(1, seed)[:2], most=4) for seed in (31, 32)]
    assert [len(each.facets) for each in found] == [1, 1]
    assert found[0].stability is None
    assert found[0].facets[0].share.value == 1


def test_silhouettes_are_scikit_learns() -> None:
    """With a point alone in its cluster, whose own is 0, and with points that are all the same."""
    generator = np.random.default_rng(0)
    points, labels = generator.standard_normal((40, 5)), generator.integers(0, 4, 40)
    labels[7] = 9
    assert _silhouette(squareform(pdist(points)), labels) == pytest.approx(silhouette_score(points, labels), abs=1e-12)
    same, halves = np.zeros((6, 2)), np.array([0, 0, 0, 1, 1, 1])
    assert _silhouette(squareform(pdist(same)), halves) == silhouette_score(same, halves) == 0


def test_the_order_of_rows_changes_nothing() -> None:
    x, activation, _ = unit_of(2, 5)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    first, second = facets(x, activation, most=3), facets(x[order], activation[order], most=3)
    assert [sorted(order[list(f.members)].tolist()) for f in second.facets] == [sorted(f.members) for f in first.facets]
    assert first.silhouette == pytest.approx(second.silhouette)


def test_the_units_own_direction_is_taken_out() -> None:
    """All rows agree along it, strongly; without it the two reasons are seen."""
    x, activation, which = unit_of(2, 1)
    own = functional.normalize(torch.randn(D, generator=torch.Generator().manual_seed(9)), dim=0)
    mixed = x + (20 + 10 * torch.randn(200, 1, generator=torch.Generator().manual_seed(2))) * own
    found = facets(mixed, activation, direction=own, most=4)
    assert len(found.facets) == 2
    assert all(len(which[list(facet.members)].unique()) == 1 or len(facet.members) > 50 for facet in found.facets)


def test_contexts_are_the_strongest_and_some_of_each_decile() -> None:
    model = as_bridge(tiny_model("gpt2"))
    tokens = torch.randint(1, VOCAB, (40, 12), generator=torch.Generator().manual_seed(0))
    sites = ["blocks.1.mlp.hook_post", "blocks.1.hook_resid_pre"]
    cache = capture(model, tokens, sites)
    found = contexts_of(model, tokens, sites[0], 3, strongest=10, spread=20)
    values = cache[sites[0]][..., 3]
    assert torch.allclose(found.activation, values[found.sequence, found.position], atol=1e-5)
    assert torch.allclose(found.vectors, cache[sites[1]][found.sequence, found.position], atol=1e-5)
    assert (found.position > 0).all()
    assert (found.activation > 0).all()
    assert found.sequence.bincount().max() <= 2
    assert len(found.activation) == 30
    per_row = values[:, 1:].topk(2).values.flatten().sort(descending=True).values
    assert torch.allclose(found.activation[:10], per_row[:10], atol=1e-5)
    assert found.activation[-2:].max() < found.activation[10:14].min()


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["embedded", "--data", str(TEXT_FOLDER / "heldout.jsonl"), "--sequences", "40", "--context", "32"]
    options = {"print_error": False, "exit_on_error": False, "result_action": "return_value"}
    app([*line, "--unit", "blocks.2.mlp.hook_post:17", "--html", str(tmp_path / "page.html")], **options)
    shown = capsys.readouterr().out
    assert "Facet 0: share of contexts" in shown
    assert re.search(r"facets of \d+ contexts|One facet: \d+ contexts", shown)
    assert "contexts nearest to the centre" in (tmp_path / "page.html").read_text()
    (tmp_path / "short.txt").write_text("too short")
    with pytest.raises(ValueError, match="fills no whole row"):
        app(["embedded", "--data", str(tmp_path / "short.txt"), "--unit", "blocks.2.mlp.hook_post:17"], **options)
    with pytest.raises(ValueError, match="write site:index"):
        app([*line, "--unit", "blocks.2.mlp.hook_post"], **options)
    with pytest.raises(ValueError, match=r"--unit blocks\.2\.mlp\.hook_post:99999: .*has units 0 to"):
        app([*line, "--unit", "blocks.2.mlp.hook_post:99999"], **options)


def test_nonsense_is_refused() -> None:
    x, activation, _ = unit_of(1, 0)
    with pytest.raises(ValueError, match="20 or more of both"):
        facets(x[:10], activation[:10])
    with pytest.raises(ValueError, match="as many"):
        facets(x, activation[:10])
    with pytest.raises(ValueError, match="a vector of width 64"):
        facets(x, activation, direction=x[0, :3])
    with pytest.raises(ValueError, match="a vector is 0"):
        facets(x * 0, activation)
    model = as_bridge(tiny_model("gpt2"))
    tokens = torch.randint(1, VOCAB, (4, 6))
    with pytest.raises(ValueError, match="units 0 to 31"):
        contexts_of(model, tokens, "blocks.0.hook_mlp_out", 32)
    with pytest.raises(ValueError, match="no units"):
        contexts_of(model, tokens, "blocks.0.attn.hook_pattern", 0)
