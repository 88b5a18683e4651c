"""Live activations: the same tokens as a store's, in a shuffle of a stated size that can be entered anywhere."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from interp import Site
from interp.store.caching import cache_activations
from interp.store.live import LiveActivations
from interp.store.masks import Masks
from interp.tokens.token_rows import TokenRows
from saes import TrainConfig, train
from tests.interp.store.stores import random_rows, tiny_bridge

SITES = ("blocks.0.hook_resid_post", "blocks.1.hook_mlp_out")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[TransformerBridge, TokenRows, Path]:
    folder = tmp_path_factory.mktemp("live")
    return tiny_bridge(folder / "model"), random_rows(folder / "rows", rows=11), folder


def matched(live: Tensor, stored: Tensor) -> Tensor:
    """For each live row the stored row that it is (exactly one within 1e-4)."""
    near = torch.cdist(live.double(), stored.double()) < 1e-4
    assert (near.sum(1) == 1).all()
    return near.long().argmax(1)


@pytest.mark.parametrize("buffer_tokens", [1, 50, 100, 10_000])
def test_an_epoch_is_the_stores(made: tuple[TransformerBridge, TokenRows, Path], buffer_tokens: int) -> None:
    model, rows, folder = made
    masks = Masks(drop_special=True, drop_first=1)
    store = cache_activations(model, rows, SITES, folder / "store", masks=masks)
    live = LiveActivations(model, rows, SITES, buffer_tokens=buffer_tokens, masks=masks, batch_rows=2)
    assert (len(live), live.sites, live.width(SITES[0])) == (len(store), store.sites, 32)
    for name in ("model", "weights", "data", "sites", "drop_first"):
        assert live.provenance[name] == store.provenance[name]
    batches = list(live.batches_of(SITES, 64, seed=3))
    assert [len(batch[live.sites[0]]) for batch in batches[:-1]] == [64] * (len(store) // 64)
    places = [matched(torch.cat([batch[Site.parse(site)] for batch in batches]), store.read(site)) for site in SITES]
    assert torch.equal(places[0].sort().values, torch.arange(len(store)))
    assert torch.equal(*places), "both sites are of the same tokens"


def test_shuffle_reaches_as_far_as_the_buffer(made: tuple[TransformerBridge, TokenRows, Path]) -> None:
    """A block of the buffer holds whole rows (but for its borders); within it, tokens are out of order."""
    model, rows, folder = made
    store = cache_activations(model, rows, SITES, folder / "all")
    live = LiveActivations(model, rows, SITES[0], buffer_tokens=96)
    order = matched(torch.cat(list(live.batches(SITES[0], 10, seed=0))), store.read(SITES[0]))
    for block in order.split(96):
        assert len((block // 32).unique()) <= 4
        assert (block.diff() != 1).float().mean() > 0.8
    rows_met = torch.cat([(block // 32).unique() for block in order.split(96)])
    assert not torch.equal(rows_met, rows_met.sort().values), "rows come in an order of the seed"


@pytest.mark.parametrize("buffer_tokens", [50, 96])
def test_batches_can_be_entered_anywhere(made: tuple[TransformerBridge, TokenRows, Path], buffer_tokens: int) -> None:
    live = LiveActivations(made[0], made[1], SITES, buffer_tokens=buffer_tokens, batch_rows=2)
    whole = list(live.batches(SITES[1], 20, seed=5))
    for start in (0, 1, 9, len(whole) - 1):
        rest = list(live.batches(SITES[1], 20, seed=5, start=start))
        assert len(rest) == len(whole) - start
        assert all(torch.equal(a, b) for a, b in zip(rest, whole[start:], strict=True))
    assert not torch.equal(torch.cat(list(live.batches(SITES[1], 20, seed=6))), torch.cat(whole))


def test_an_sae_trains_on_them(made: tuple[TransformerBridge, TokenRows, Path], tmp_path: Path) -> None:
    live = LiveActivations(made[0], made[1], SITES, buffer_tokens=100)
    config = TrainConfig(site=SITES[0], out=tmp_path, k=4, d_sae=64, tokens=2000, batch_size=64)
    assert train(config, live).provenance["source"]["buffer_tokens"] == 100


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"buffer_tokens": 0}, "buffer_tokens is 0; it must be 1 or more"),
        ({"buffer_tokens": 8, "batch_rows": -1}, "batch_rows is -1"),
        ({"buffer_tokens": 8, "masks": Masks(drop_norm_above=2.0)}, "live activations have no norm mask"),
        ({"buffer_tokens": 8, "masks": Masks(drop_first=40)}, "drop_first 40 is not from 0 to 31"),
    ],
)
def test_impossible_options(
    made: tuple[TransformerBridge, TokenRows, Path], options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        LiveActivations(made[0], made[1], SITES, **options)  # type: ignore[arg-type]


def test_another_site_is_refused(made: tuple[TransformerBridge, TokenRows, Path]) -> None:
    live = LiveActivations(made[0], made[1], SITES, buffer_tokens=8)
    with pytest.raises(ValueError, match=r"blocks.2.hook_resid_post is not one of these sites: blocks.0"):
        live.batches("blocks.2.hook_resid_post", 4)
