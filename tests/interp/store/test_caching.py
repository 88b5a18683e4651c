"""Caching: masks, refusals, a full disk, and folders that continue or are protected."""

import errno
import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

from interp import ActivationStore, load_model
from interp.files.seals import write_sealed_json
from interp.files.writing import write_json
from interp.store.caching import cache_activations, plan, prepare
from interp.store.masks import Masks
from interp.tokens.token_rows import write_token_rows
from tests.interp.store.stores import contents, random_rows, tiny_bridge

SITE = "blocks.1.hook_resid_post"
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TransformerBridge:
    return tiny_bridge(tmp_path_factory.mktemp("model"))


def test_batches_and_shards_do_not_change_what_is_stored(model: TransformerBridge, tmp_path: Path) -> None:
    rows = random_rows(tmp_path / "rows", rows=9)
    stores = [
        cache_activations(model, rows, SITE, tmp_path / name, batch_rows=batch, shard_bytes=size)
        for name, batch, size in (("a", 1, 10_000), ("b", 4, 10**9), ("c", 9, 30_000))
    ]
    for store in stores[1:]:
        torch.testing.assert_close(store.read(SITE), stores[0].read(SITE), rtol=1e-5, atol=1e-5)
        assert torch.equal(store.tokens().tokens, stores[0].tokens().tokens)


def test_masks_leave_out_what_they_say(model: TransformerBridge, tmp_path: Path) -> None:
    rows = random_rows(tmp_path / "rows", rows=8)
    everything = cache_activations(model, rows, SITE, tmp_path / "all")
    columns, values = everything.tokens(), everything.read(SITE)
    keep = (columns.tokens != 0) & (columns.positions >= 3)
    assert 0 < int((~keep).sum()) < len(keep) // 2
    masked = cache_activations(model, rows, SITE, tmp_path / "masked", masks=Masks(drop_special=True, drop_first=3))
    assert torch.equal(masked.read(SITE), values[keep])
    assert torch.equal(masked.tokens().positions, columns.positions[keep])

    norms = values.norm(dim=-1)
    limit = 1.2
    quiet = norms <= limit * norms.median()
    assert 0 < int((~quiet).sum()) < len(quiet)
    by_norm = cache_activations(model, rows, SITE, tmp_path / "norm", masks=Masks(drop_norm_above=limit))
    assert torch.equal(by_norm.read(SITE), values[quiet])
    assert by_norm.provenance["drop_norm_above"] == limit


def test_padding_is_never_stored(tmp_path: Path) -> None:
    model = load_model("embedded")
    lines = [json.dumps({"text": text}) for text in ("A short one.", "And another, which is longer than the first.")]
    (tmp_path / "text.jsonl").write_text("\n".join(lines))
    rows = write_token_rows(
        tmp_path / "text.jsonl", model.tokenizer, tmp_path / "rows", tokens=1000, context=64, packing="document"
    )
    store = cache_activations(model, rows, SITE, tmp_path / "store")
    assert len(store) == rows.info["tokens"] < rows.ids.size
    assert store.tokens().documents.unique().tolist() == [0, 1]


def test_finished_store_is_opened_without_a_forward(
    model: TransformerBridge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = random_rows(tmp_path / "rows", rows=4)
    cache_activations(model, rows, SITE, tmp_path / "store")
    before = contents(tmp_path / "store")
    monkeypatch.setattr("interp.store.caching.stream", None)
    cache_activations(model, rows, SITE, tmp_path / "store")
    assert contents(tmp_path / "store") == before


def test_another_config_in_the_folder_is_refused_with_the_difference(model: TransformerBridge, tmp_path: Path) -> None:
    rows = random_rows(tmp_path / "rows", rows=4)
    cache_activations(model, rows, SITE, tmp_path / "store")
    before = contents(tmp_path / "store")
    with pytest.raises(
        ValueError, match=r"holds another run \(dtype: there 'float32', asked 'float16'; rows_per_shard"
    ):
        cache_activations(model, rows, SITE, tmp_path / "store", dtype="float16")
    with pytest.raises(ValueError, match=r"weights: there 'sha256:\w+', asked 'sha256:\w+'"):
        cache_activations(tiny_bridge(tmp_path / "other", seed=1), rows, SITE, tmp_path / "store")
    with pytest.raises(ValueError, match=r"data: there 'sha256:\w+', asked"):
        cache_activations(model, random_rows(tmp_path / "rows2", rows=4, seed=1), SITE, tmp_path / "store")
    assert contents(tmp_path / "store") == before


def test_a_folder_with_other_files_is_refused(model: TransformerBridge, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    rows = random_rows(tmp_path / "rows", rows=2)
    with pytest.raises(ValueError, match=r"holds files that are not of an activation store \(rows, thesis.tex\)"):
        cache_activations(model, rows, SITE, tmp_path)


def test_a_damaged_shard_is_computed_again(
    model: TransformerBridge, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = random_rows(tmp_path / "rows", rows=6)
    cache_activations(model, rows, SITE, tmp_path / "store", batch_rows=1, shard_bytes=10_000)
    before = contents(tmp_path / "store")
    (tmp_path / "store" / "manifest.json").unlink()
    shard = tmp_path / "store" / "shards" / "000001.safetensors"
    shard.write_bytes(b"x" * shard.stat().st_size)
    cache_activations(model, rows, SITE, tmp_path / "store", batch_rows=1, shard_bytes=10_000)
    assert contents(tmp_path / "store") == before
    assert "000001.safetensors was altered: its checksum differs; computing it again" in caplog.text


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_non_finite_activation_is_located(tmp_path: Path, value: float) -> None:
    model = tiny_bridge(tmp_path / "model")
    rows = random_rows(tmp_path / "rows", rows=3)
    token = int(rows.ids[1, 7])
    with torch.no_grad():
        model.original_model.get_input_embeddings().weight[token] = value
    flat = rows.ids.flatten().tolist()
    row, position = divmod(flat.index(token), rows.ids.shape[1])
    with pytest.raises(
        ValueError,
        match=rf"blocks.0.hook_resid_pre \(layer 0\) has an activation that is not finite \(\w+\) at row {row},"
        rf" position {position}, token id {token}",
    ):
        cache_activations(model, rows, "blocks.0.hook_resid_pre", tmp_path / "store")
    assert not list((tmp_path / "store").glob("shards/*"))


def test_float16_that_would_overflow_is_refused(tmp_path: Path) -> None:
    model = tiny_bridge(tmp_path / "model")
    rows = random_rows(tmp_path / "rows", rows=2)
    with torch.no_grad():
        model.original_model.get_input_embeddings().weight[int(rows.ids[0, 3]), 5] = 1e6
    with pytest.raises(
        ValueError, match=r"hook_resid_pre has an activation of 1e\+06, and float16 holds at most 65504"
    ):
        cache_activations(model, rows, "blocks.0.hook_resid_pre", tmp_path / "store", dtype="float16")
    assert len(cache_activations(model, rows, "blocks.0.hook_resid_pre", tmp_path / "b", dtype="bfloat16")) == 64


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float8"}, "dtype 'float8' is not one that activations are stored in: float32, bfloat16"),
        ({"batch_rows": 0}, "batch_rows is 0; it must be 1 or more"),
        ({"shard_bytes": -1}, "shard_bytes is -1; it must be 1 or more"),
        ({"masks": Masks(drop_first=32)}, "drop_first 32 is not from 0 to 31"),
        ({"masks": Masks(drop_norm_above=0.5)}, "drop_norm_above is 0.5; it is how many times the median"),
    ],
)
def test_impossible_options(model: TransformerBridge, tmp_path: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cache_activations(model, random_rows(tmp_path / "rows", rows=2), SITE, tmp_path / "store", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "store").exists()


def test_what_has_no_vector_a_token_is_refused(model: TransformerBridge, tmp_path: Path) -> None:
    rows = random_rows(tmp_path / "rows", rows=2)
    with pytest.raises(ValueError, match=r"attn.hook_pattern is a matrix over pairs of tokens"):
        cache_activations(model, rows, "blocks.0.attn.hook_pattern", tmp_path / "store")


def test_processed_weights_and_foreign_rows_are_refused(model: TransformerBridge, tmp_path: Path) -> None:
    rows = random_rows(tmp_path / "rows", rows=2)
    tiny_bridge(tmp_path / "model")
    processed = load_model(tmp_path / "model", process_weights=True)
    with pytest.raises(ValueError, match="cannot cache activations on a model with processed weights"):
        cache_activations(processed, rows, SITE, tmp_path / "store")
    long = random_rows(tmp_path / "long", rows=2, context=64)
    with pytest.raises(ValueError, match="rows have 64 tokens, and the model was built for at most 32"):
        cache_activations(model, long, SITE, tmp_path / "store")


def test_plan_says_what_it_takes(model: TransformerBridge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = random_rows(tmp_path / "rows", rows=20)
    job = prepare(model, rows, "blocks.*.hook_resid_post", tmp_path / "store", batch_rows=2, shard_bytes=60_000)
    told = plan(job)
    assert (told.tokens, told.sites, told.shards_done) == (640, 3, 0)
    cache_activations(model, rows, "blocks.*.hook_resid_post", tmp_path / "store", batch_rows=2, shard_bytes=60_000)
    written = sum(path.stat().st_size for path in (tmp_path / "store" / "shards").iterdir())
    assert told.disk_bytes == pytest.approx(written, rel=0.05)
    assert told.seconds is not None
    assert told.memory_bytes is not None
    assert told.memory_bytes > 10**8
    monkeypatch.setattr("interp.store.caching.free_bytes", lambda path: 1_000_000)
    with pytest.raises(ValueError, match=r"has 976.6 KiB free, and .* are still to be written"):
        cache_activations(model, rows, "blocks.*.hook_resid_post", tmp_path / "small")
    assert not (tmp_path / "small" / "cache.json").exists()


def test_other_versions_open_a_finished_store_but_do_not_mend_it(model: TransformerBridge, tmp_path: Path) -> None:
    """Half a store of one torch and half of another would be neither's."""
    rows = random_rows(tmp_path / "rows", rows=4)
    cache_activations(model, rows, SITE, tmp_path / "store")
    for name, write in (("cache.json", write_json), ("manifest.json", write_sealed_json)):
        path = tmp_path / "store" / name
        write(path, json.loads(path.read_text().replace(torch.__version__, "2.0.1")))
    before = contents(tmp_path / "store")
    cache_activations(model, rows, SITE, tmp_path / "store")
    assert contents(tmp_path / "store") == before
    (tmp_path / "store" / "shards" / "000000.safetensors").unlink()
    with pytest.raises(ValueError, match=r"holds another run \(versions.torch: there '2.0.1'"):
        cache_activations(model, rows, SITE, tmp_path / "store")


KILLED_EVERYWHERE = """
import os, signal, sys
from pathlib import Path
import torch
from interp import load_model
from interp.store.caching import cache_activations
from interp.tokens.token_rows import open_token_rows
torch.set_num_threads(1)
folder = Path(sys.argv[1])
model, rows = load_model(folder / "model"), open_token_rows(folder / "rows")
def cache(out):
    cache_activations(model, rows, "blocks.1.hook_resid_post", out, batch_rows=1, shard_bytes=9_000)
def run(out, moment):
    # Dies by SIGKILL just before the given flush or rename; True if it lived to the end.
    left = moment
    def dying(function):
        def call(*arguments, **options):
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)
        return call
    child = os.fork()
    if child == 0:
        os.fsync, Path.replace = dying(os.fsync), dying(Path.replace)
        cache(out)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
moment = 0
while not run(folder / f"killed{moment}", moment):
    cache(folder / f"killed{moment}")
    moment += 1
print(moment)
"""


def test_killed_before_every_flush_and_rename(tmp_path: Path) -> None:
    """Shards, their notes, cache.json and manifest.json: each is flushed, renamed, and its folder flushed; the two new
    folders are flushed into theirs."""
    tiny_bridge(tmp_path / "model")
    random_rows(tmp_path / "rows", rows=4)
    run = [sys.executable, "-c", KILLED_EVERYWHERE, str(tmp_path)]
    output = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    shards = len(list((tmp_path / "killed0" / "shards").glob("*.safetensors")))
    moments = int(output.split()[-1])
    assert shards == 2
    assert moments == 3 * (2 + 2 * shards) + 2
    straight = contents(tmp_path / f"killed{moments}")
    assert all(contents(tmp_path / f"killed{moment}") == straight for moment in range(moments))


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from interp import load_model
from interp.store.caching import cache_activations
from interp.tokens.token_rows import open_token_rows
folder = Path(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write past the limit fails, as on a full disk
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY))
try:
    cache_activations(load_model(folder / "model"), open_token_rows(folder / "rows"), "blocks.1.hook_resid_post",
                      folder / "store", batch_rows=1, shard_bytes=int(sys.argv[2]))
except OSError as error:
    print(error.errno, error)
"""


def test_full_disk_keeps_complete_shards(tmp_path: Path) -> None:
    """A file of 20 rows passes the limit; the last shard, of 4, would not: none half-written stays."""
    model = tiny_bridge(tmp_path / "model")
    rows = random_rows(tmp_path / "rows", rows=24)
    size = 20 * 32 * (32 * 4 + 12)
    output = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path), str(size)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert output.startswith(f"{errno.EFBIG} ")
    assert "0 of 2 shards are complete and stay; make room, and the same command continues" in output
    assert not list((tmp_path / "store" / "shards").iterdir())
    store = cache_activations(model, rows, SITE, tmp_path / "store", batch_rows=1, shard_bytes=size)
    assert len(ActivationStore(store.path)) == 24 * 32
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
