"""Gradients of a later site at an earlier one, against central differences in float64."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from interp.models.loading import load_model
from interp.sites.capturing import capture
from interp.sites.site import Site, available_sites
from interp.steering.site_edits import intervene
from tests.tiny_models import FAMILIES, LAYERS, VOCAB, tiny_model

TOKENS = torch.randint(VOCAB, (2, 9), generator=torch.Generator().manual_seed(0))
LATER = f"blocks.{LAYERS - 1}.hook_resid_post"
KINDS = ("resid_pre", "q", "v", "pattern", "z", "attn_out", "resid_mid", "mlp_in", "mlp_post", "mlp_out", "resid_post")
STEP = 1e-5


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    made: dict[str, Any] = {}

    def get(family: str) -> Any:
        if family not in made:
            folder = tmp_path_factory.mktemp(family)
            tiny_model(family).save_pretrained(folder)
            made[family] = load_model(folder, device="cpu", dtype=torch.float64)
        return made[family]

    return get


def number(later: Tensor) -> Tensor:
    """Of what comes later, with every entry in it."""
    weights = torch.randn(later.shape, generator=torch.Generator().manual_seed(1), dtype=later.dtype)
    return (weights * later).sum()


@pytest.fixture
def float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Norms and softmaxes compute in float32, whatever the weights are: differences would be of rounding errors."""

    def wide(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def wrapped(*args: Any, **options: Any) -> Tensor:
            options = {name: torch.float64 if value is torch.float32 else value for name, value in options.items()}
            return function(*(torch.float64 if each is torch.float32 else each for each in args), **options)

        return wrapped

    monkeypatch.setattr(Tensor, "float", Tensor.double)
    monkeypatch.setattr(Tensor, "to", wide(Tensor.to))
    monkeypatch.setattr(functional, "softmax", wide(functional.softmax))


def by_differences(model: Any, site: Site, direction: Tensor) -> float:
    values = []
    for move in (STEP, -STEP):
        with intervene(model, {site: lambda old, move=move: old + move * direction}):
            values.append(number(capture(model, TOKENS, LATER)[LATER]))
    return float(values[0] - values[1]) / (2 * STEP)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("engine", ["hooks", "nnsight"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_later_site_at_every_earlier_one(models: Callable[[str], Any], family: str, engine: str) -> None:
    model = models(family)
    earlier = [site for site in available_sites(model) if site.kind in KINDS and site.layer == 1]
    cache = capture(model, TOKENS, [*earlier, LATER], gradients=True, engine=engine)
    for site in earlier:
        gradient = cache.gradient(number(cache[LATER]), site)
        assert gradient.shape == cache[site].shape
        direction = torch.randn(gradient.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        found, expected = float((gradient * direction).sum()), by_differences(model, site, direction)
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-7), site


def test_some_positions_and_one_head(models: Callable[[str], Any]) -> None:
    model, site = models("llama"), "blocks.1.attn.hook_z"
    whole = capture(model, TOKENS, [site, LATER], gradients=True)
    part = capture(model, TOKENS, [f"{site}[2]", LATER], gradients=True, positions=[-1, 3])
    of = part[LATER][:, 1].sum()
    expected = whole.gradient(whole[LATER][:, 3].sum(), site)[:, [-1, 3], 2]
    assert expected.abs().max() > 0
    torch.testing.assert_close(part.gradient(of, f"{site}[2]"), expected)


def test_modules_of_any_model() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    cache = capture(model, torch.randn(2, 4), ["0", "2"], gradients=True)
    expected = (1 - cache["0"].tanh() ** 2) * model[2].weight.sum(0)
    torch.testing.assert_close(cache.gradient(cache["2"].sum(), "0"), expected)


@pytest.mark.parametrize(
    ("of", "site", "message"),
    [
        (lambda cache: cache[LATER], "blocks.1.hook_resid_post", r"of one number, not of shape \[2, 9, 32\]"),
        (lambda cache: cache["blocks.1.hook_resid_post"].sum(), LATER, "does not depend on blocks.2.hook_resid_post"),
        (lambda cache: cache[LATER].sum(), "blocks.1.ln2.hook_scale", "does not go on from what is read there"),
        (lambda cache: cache[LATER].sum().detach(), "blocks.1.hook_resid_post", "nothing has gradients"),
    ],
)
def test_where_there_is_no_gradient(
    models: Callable[[str], Any], of: Callable[[Any], Tensor], site: str, message: str
) -> None:
    sites = ["blocks.1.ln2.hook_scale", "blocks.1.hook_resid_post", LATER]
    cache = capture(models("llama"), TOKENS, sites, gradients=True)
    with pytest.raises(ValueError, match=message):
        cache.gradient(of(cache), site)
