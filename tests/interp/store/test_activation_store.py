"""What was cached is what comes back, in every dtype, in order and shuffled; damage is named."""

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from interp import ActivationStore, Site, capture
from interp.store.activation_store import verify
from interp.store.caching import cache_activations
from tests.interp.store.stores import random_rows, tiny_bridge

SITES = ("blocks.0.hook_resid_post", "blocks.1.attn.hook_z", "blocks.2.hook_mlp_out")
ROWS = 13


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor], Tensor]:
    """A store of several shards in float32, what it should hold, and the token ids."""
    folder = tmp_path_factory.mktemp("store")
    model = tiny_bridge(folder / "model")
    rows = random_rows(folder / "rows", rows=ROWS)
    ids = rows.tensor_of("ids")
    # One pass of the same batches, so that the comparison can be exact.
    parts = [capture(model, chunk, SITES) for chunk in ids.split(2)]
    expected = {site: torch.cat([part[site] for part in parts]).flatten(0, 1).flatten(1) for site in SITES}
    cache_activations(model, rows, SITES, folder / "float32", batch_rows=2, shard_bytes=40_000)
    for dtype in ("float16", "bfloat16", "int8"):
        cache_activations(model, rows, SITES, folder / dtype, dtype=dtype, batch_rows=2, shard_bytes=20_000)
    return folder, expected, ids


def test_float32_is_exact_and_in_order(made: tuple[Path, dict[str, Tensor], Tensor]) -> None:
    folder, expected, ids = made
    store = ActivationStore(folder / "float32")
    assert len(list((folder / "float32" / "shards").glob("*.safetensors"))) > 2
    assert len(store) == ids.numel()
    assert store.sites == tuple(map(Site.parse, SITES))
    for site, values in expected.items():
        assert torch.equal(store.read(site), values)
        assert store.width(site) == values.shape[1]
        assert torch.equal(store.read(site, slice(100, 333)), values[100:333])
        assert torch.equal(torch.cat(store.shards(site)), values)
    columns = store.tokens()
    assert torch.equal(columns.tokens.long(), ids.flatten())
    assert torch.equal(columns.positions.long(), torch.arange(32).repeat(ROWS))
    assert int(columns.documents.max()) > 3


@pytest.mark.parametrize(("dtype", "relative"), [("float16", 2**-11), ("bfloat16", 2**-8)])
def test_half_precision_rounds_to_nearest(
    made: tuple[Path, dict[str, Tensor], Tensor], dtype: str, relative: float
) -> None:
    folder, expected, _ = made
    store = ActivationStore(folder / dtype)
    for site, values in expected.items():
        assert torch.equal(store.read(site), values.to(getattr(torch, dtype)).float())
        assert ((store.read(site) - values).abs() <= relative * values.abs() + 1e-7).all()


def test_int8_errs_by_half_a_step_of_its_row(made: tuple[Path, dict[str, Tensor], Tensor]) -> None:
    folder, expected, _ = made
    store = ActivationStore(folder / "int8")
    for site, values in expected.items():
        step = values.abs().amax(1, keepdim=True) / 127
        assert ((store.read(site) - values).abs() <= 0.5001 * step).all()


def test_float_shards_are_mapped_not_copied(made: tuple[Path, dict[str, Tensor], Tensor]) -> None:
    store = ActivationStore(made[0] / "float32")
    first, again = store.shards(SITES[0])[0], store.read(SITES[0], slice(0, 5))
    assert first.data_ptr() == again.data_ptr()
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("only Linux lists what is mapped into memory in /proc")
    ranges = [line.split()[0].split("-") for line in maps.read_text().splitlines() if "000000.safetensors" in line]
    assert any(int(begin, 16) <= first.data_ptr() < int(end, 16) for begin, end in ranges)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("batch_size", [1, 50, 416, 1000])
def test_an_epoch_gives_every_token_once(
    made: tuple[Path, dict[str, Tensor], Tensor], dtype: str, batch_size: int
) -> None:
    store = ActivationStore(made[0] / dtype)
    everything = store.read(SITES[1])
    batches = list(store.batches(SITES[1], batch_size, seed=7))
    assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    indices = np.concatenate(list(store.indices(batch_size, seed=7)))
    assert np.array_equal(np.sort(indices), np.arange(len(store)))
    assert torch.equal(torch.cat(batches), everything[torch.from_numpy(indices)])
    assert all(batch.dtype == torch.float32 for batch in batches)


def test_batches_can_be_entered_anywhere(made: tuple[Path, dict[str, Tensor], Tensor]) -> None:
    store = ActivationStore(made[0] / "float32")
    whole = list(store.batches(SITES[0], 30, seed=2))
    for start in (0, 1, 7, len(whole) - 1, len(whole)):
        rest = list(store.batches(SITES[0], 30, seed=2, start=start))
        assert len(rest) == len(whole) - start
        assert all(torch.equal(a, b) for a, b in zip(rest, whole[start:], strict=True))
    other = torch.cat(list(store.batches(SITES[0], 30, seed=3)))
    assert not torch.equal(other, torch.cat(whole))
    assert torch.equal(torch.cat(list(store.batches(SITES[0], 30, seed=None))), store.read(SITES[0]))


def test_sites_of_one_batch_are_of_the_same_tokens(made: tuple[Path, dict[str, Tensor], Tensor]) -> None:
    store = ActivationStore(made[0] / "float32")
    alone = {site: list(store.batches(site, 64, seed=1)) for site in SITES}
    for number, together in enumerate(store.batches_of(SITES, 64, seed=1)):
        for site in SITES:
            assert torch.equal(together[Site.parse(site)], alone[site][number])


def test_a_kept_batch_is_not_overwritten(made: tuple[Path, dict[str, Tensor], Tensor]) -> None:
    store = ActivationStore(made[0] / "float32")
    stream = store.batches(SITES[0], 16, seed=0)
    first = next(stream)
    copy = first.clone()
    for _ in stream:
        pass
    assert torch.equal(first, copy)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("blocks.9.hook_resid_post", 4), "blocks.9.hook_resid_post is not in .*, which has blocks.0.hook_resid_post"),
        ((SITES[0], 0), "batch_size is 0; it must be 1 or more"),
        ((SITES[0], 4, -1), "seed is -1; it must be 0 or more"),
        ((SITES[0], 4, 0, -2), "start is -2; it must be 0 or more"),
    ],
)
def test_impossible_batches(
    made: tuple[Path, dict[str, Tensor], Tensor], arguments: tuple[object, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        next(ActivationStore(made[0] / "float32").batches(*arguments))  # type: ignore[arg-type]


# Damage


@pytest.fixture
def store(tmp_path: Path) -> Path:
    model = tiny_bridge(tmp_path / "model")
    rows = random_rows(tmp_path / "rows", rows=6)
    cache_activations(model, rows, SITES[0], tmp_path / "store", batch_rows=1, shard_bytes=10_000)
    assert verify(tmp_path / "store") == []
    return tmp_path / "store"


def test_a_truncated_shard_is_named(store: Path) -> None:
    shard = store / "shards" / "000001.safetensors"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"000001\.safetensors is truncated: \d+ bytes instead of \d+"):
        ActivationStore(store)
    assert any("000001.safetensors is truncated" in fault for fault in verify(store))


def test_one_flipped_bit_is_named(store: Path) -> None:
    shard = store / "shards" / "000002.safetensors"
    content = bytearray(shard.read_bytes())
    content[-5] ^= 1
    shard.write_bytes(content)
    ActivationStore(store)
    faults = verify(store)
    assert len(faults) == 1
    assert "000002.safetensors was altered" in faults[0]


def test_missing_and_foreign_shards_are_named(store: Path) -> None:
    shards = store / "shards"
    (shards / "000000.safetensors").rename(shards / "000099.safetensors")
    faults = "; ".join(verify(store))
    assert "000000.safetensors is missing" in faults
    assert "000099.safetensors does not belong" in faults


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 99}, "not of format 1"),
        ({"tokens": 7}, "damaged: tokens"),
        ({"sites": {"../evil": 32}}, "damaged: sites and dtype"),
        ({"dtype": "object"}, "damaged: sites and dtype"),
        ({"shards": [{"count": "many"}]}, "damaged: shards"),
    ],
)
def test_a_manifest_is_not_trusted(store: Path, change: dict[str, object], message: str) -> None:
    path = store / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        ActivationStore(store)


def test_a_flipped_bit_in_the_manifest_is_named(store: Path) -> None:
    """In the name of the model, say, which every later result would repeat."""
    path = store / "manifest.json"
    content = path.read_text()
    path.write_text(content.replace('"documents"', '"documemts"', 1).replace('"revision": null', '"revision": 1', 1))
    assert path.read_text() != content
    with pytest.raises(ValueError, match=r"manifest.json was altered: its checksum differs"):
        ActivationStore(store)


def test_no_store_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no activation store"):
        ActivationStore(tmp_path)
    with pytest.raises(ValueError, match="holds no activation store"):
        verify(tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="a mapped file cannot be truncated there")
def test_a_shard_that_is_truncated_while_it_is_read_is_told_in_words(
    made: tuple[Path, dict[str, Tensor], Tensor], tmp_path: Path
) -> None:
    """Reading the lost part of a mapped file ends the process by SIGBUS."""
    shutil.copytree(made[0] / "float32", tmp_path / "store")
    store = ActivationStore(tmp_path / "store")
    expected, batches = store.read(SITES[0]), store.batches(SITES[0], 4, seed=None)
    next(batches)
    cut = tmp_path / "store" / "shards" / "000000.safetensors"
    whole = cut.read_bytes()
    os.truncate(cut, len(whole) // 2)
    for read in (
        lambda: next(batches),
        lambda: next(store.batches(SITES[0], 100, seed=1)),
        lambda: store.read(SITES[1], slice(0, 3)),
        lambda: store.tokens(slice(0, 3)),
        lambda: store.shards(SITES[2]),
    ):
        with pytest.raises(
            ValueError, match=rf"000000\.safetensors was truncated while it was read: {len(whole) // 2} b"
        ):
            read()
    os.truncate(cut, len(whole))
    with cut.open("rb+") as file:
        file.write(whole)
    assert torch.equal(store.read(SITES[0]), expected)
    cut.unlink()
    assert torch.equal(store.read(SITES[0]), expected), "what is mapped stays"


class WholeStore(torch.utils.data.IterableDataset):  # type: ignore[type-arg]
    def __init__(self, path: Path) -> None:
        self.path = path

    def __iter__(self) -> Iterator[Tensor]:
        return ActivationStore(self.path).batches(SITES[0], 100, seed=0)


def test_two_workers_of_a_data_loader_yield_every_batch_twice(made: tuple[Path, dict[str, Tensor], Tensor]) -> None:
    """As the documentation warns."""
    path = made[0] / "float32"
    once = list(ActivationStore(path).batches(SITES[0], 100, seed=0))
    alone = list(torch.utils.data.DataLoader(WholeStore(path), batch_size=None, num_workers=0))
    twice = list(torch.utils.data.DataLoader(WholeStore(path), batch_size=None, num_workers=2))
    assert (len(alone), len(twice)) == (len(once), 2 * len(once))
    for batch in once:
        assert sum(torch.equal(batch, other) for other in twice) == 2
