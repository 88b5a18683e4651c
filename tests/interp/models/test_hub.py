"""Without a network: the hub's cache is used unasked, and what is not in it is refused at once with what is here."""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from interp.models import hub, locate
from interp.models.fingerprint import weights_fingerprint
from interp.models.loading import load_model, source_of
from interp.models.names import SHORT_NAMES
from tests.patience import PATIENCE
from tests.tiny_models import tiny_model

MAIN, EARLY, LOOSE = "a" * 40, "b" * 40, "c" * 40


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache with two named revisions of Pythia-70m and one without a name; the seeds of their weights differ."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repo = tmp_path / "models--EleutherAI--pythia-70m"
    for seed, commit in enumerate((MAIN, EARLY, LOOSE)):
        tiny_model("gpt_neox", seed=seed).save_pretrained(repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(MAIN)
    (repo / "refs" / "step1000").write_text(EARLY)
    return tmp_path


@pytest.mark.parametrize("name", ["pythia-70m", "EleutherAI/pythia-70m"])
@pytest.mark.parametrize(("revision", "seed"), [(None, 0), ("main", 0), ("step1000", 1), (LOOSE, 2)])
def test_a_cached_model_loads_offline(cache: Path, name: str, revision: str | None, seed: int) -> None:
    model = load_model(name, revision=revision)
    assert weights_fingerprint(model) == weights_fingerprint(tiny_model("gpt_neox", seed=seed))
    assert (source_of(model).name, source_of(model).revision) == ("EleutherAI/pythia-70m", revision)


def test_a_missing_revision_lists_those_in_the_cache(cache: Path) -> None:
    message = re.escape("revision 'step7' of EleutherAI/pythia-70m is not in the hub's cache")
    with pytest.raises(ValueError, match=rf"{message}.*EleutherAI/pythia-70m \({LOOSE}, main, step1000\)"):
        load_model("pythia-70m", revision="step7")


def test_only_whole_models_are_listed(cache: Path) -> None:
    whole = [LOOSE, "main", "step1000"]
    for repo, files in {
        "models--some--configless": {"model.safetensors": ""},
        "models--some--weightless": {"config.json": "{}"},
        "models--some--damaged": {"config.json": "{}", "model.safetensors.index.json": "{"},
        "models--some--shardless": {
            "config.json": "{}",
            "model.safetensors.index.json": json.dumps({"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}),
            "1.safetensors": "",
        },
    }.items():
        folder = cache / repo / "snapshots" / MAIN
        folder.mkdir(parents=True)
        for name, content in files.items():
            (folder / name).write_text(content)
    assert hub.cached_models() == {"EleutherAI/pythia-70m": whole}
    assert hub.cached_snapshot("some/shardless", MAIN) is None
    (cache / "models--some--shardless" / "snapshots" / MAIN / "2.safetensors").touch()
    assert hub.cached_models() == {"EleutherAI/pythia-70m": whole, "some/shardless": [MAIN]}
    assert hub.cached_snapshot("some/shardless", MAIN) == cache / "models--some--shardless" / "snapshots" / MAIN
    assert locate.loadable_offline().items() >= hub.cached_models().items()


def test_a_cache_that_knows_gpt2_by_its_old_name(cache: Path) -> None:
    (cache / "models--gpt2" / "refs").mkdir(parents=True)
    (cache / "models--gpt2" / "refs" / "main").write_text(MAIN)
    tiny_model("gpt2").save_pretrained(cache / "models--gpt2" / "snapshots" / MAIN)
    assert source_of(load_model("gpt2")).name == "openai-community/gpt2"


def test_one_format_of_the_weights_is_fetched() -> None:
    small = ["config.json", "tokenizer.json", "merges.txt"]
    both = [*small, "model.safetensors", "pytorch_model.bin", "tf_model.h5", "onnx/model.onnx", "README.md"]
    assert hub.wanted_files(both) == ["model.safetensors", *small]
    shards = [f"pytorch_model-0000{i}-of-00002.bin" for i in (1, 2)]
    assert hub.wanted_files([*small, *shards, "evil.py"]) == [*shards, *small]
    assert hub.wanted_files([*small, "model.Q4.gguf"]) == []


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("pythia-70 m", "pythia-70m"),
        ("gpt2-meduim", "gpt2-medium"),
        ("embeded", "embedded"),
        ("smollm2", "smollm2-135m"),
    ],
)
def test_a_slip_of_the_keyboard(name: str, near: str) -> None:
    with pytest.raises(ValueError, match=rf"Did you mean .*{near}.*\? Loads here without a network: embedded \(step"):
        load_model(name)


def test_a_right_name_is_not_guessed_at() -> None:
    for name in ("pythia-12b", SHORT_NAMES["pythia-12b"]):
        with pytest.raises(ValueError, match="HF_HUB_OFFLINE forbids") as caught:
            load_model(name)
        assert "Did you mean" not in str(caught.value)


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A server that takes connections and never says a word."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def test_no_network_is_told_in_seconds(silent_port: int, tmp_path: Path) -> None:
    """Three machines at once: told to stay offline, with a hub that refuses, and with one that never answers."""
    networks = {
        "HF_HUB_OFFLINE forbids to fetch it": {"HF_HUB_OFFLINE": "1"},
        "the hub cannot be reached (": {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"},
        "the hub cannot be reached (timed out": {
            "HF_HUB_OFFLINE": "0",
            "HF_ENDPOINT": f"http://127.0.0.1:{silent_port}",
        },
    }
    code = (
        "import time; from interp.models.loading import load_model; began = time.monotonic()\n"
        "try: load_model('nobody/nothing')\n"
        "finally: print(time.monotonic() - began)"
    )
    running = {
        message: subprocess.Popen(
            [sys.executable, "-c", code],
            env=os.environ | network | {"HF_HOME": str(tmp_path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for message, network in networks.items()
    }
    for message, process in running.items():
        taken, errors = process.communicate(timeout=PATIENCE)
        last = errors.strip().splitlines()[-1]
        assert last.startswith(f"ValueError: nobody/nothing is not in the hub's cache, and {message}")
        assert "Loads here without a network: embedded (step" in last
        assert "retry" not in errors.lower()
        assert float(taken) < 45
