"""``interp cache`` as users run it: killed and continued, shared among processes, checked, and given nonsense."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from interp import ActivationStore
from tests.interp.store.stores import contents, random_rows, tiny_bridge
from tests.patience import PATIENCE
from tests.tiny_models import tiny_model
from tests.two_processes import run_two

ROOT = Path(__file__).parents[3]
TEXT = ROOT / "interp" / "embedded" / "text" / "heldout.jsonl"
# One thread, so that sums are ordered the same in every process.
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def command(out: Path, *more: str, tokens: str = "40k") -> list[str]:
    options = ["--context", "128", "--batch-rows", "4", "--shard-size", "1M", "--sites", "blocks.*.hook_resid_post"]
    return ["cache", "embedded", "--data", str(TEXT), "--tokens", tokens, "--out", str(out), *options, *more]


def interp(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "interp", *arguments],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=check,
    )


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A store written without interruption, and what was printed."""
    folder = tmp_path_factory.mktemp("straight") / "store"
    return folder, interp(*command(folder)).stdout


def test_plan_is_printed_before_the_run(straight: tuple[Path, str]) -> None:
    folder, output = straight
    assert "40,064 tokens at 4 sites as float32, in" in output
    for line in ("disk    ", "memory  ", "time    about "):
        assert line in output
    store = ActivationStore(folder)
    assert len(store) == 40_064
    assert len(list((folder / "shards").glob("*.safetensors"))) > 10


@pytest.mark.slow
def test_killed_again_and_again_gives_the_same_bytes(straight: tuple[Path, str], tmp_path: Path) -> None:
    """SIGKILL while tokenising or starting, then after some shards each time, until it is done."""
    folder, rng = tmp_path / "store", random.Random(0)
    shards = len(list((straight[0] / "shards").glob("*.safetensors")))
    for wanted in (0, 2, 5, shards // 2):
        process = subprocess.Popen(
            [sys.executable, "-m", "interp", *command(folder)],
            cwd=ROOT,
            env=ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + PATIENCE
        while len(list(folder.glob("shards/*.json"))) < wanted or not folder.exists():
            assert time.monotonic() < deadline
            assert process.poll() is None, "it finished before it was killed"
            time.sleep(0.002)
        time.sleep(rng.random() * 0.02)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        with pytest.raises(ValueError, match=r"is unfinished: the same interp cache command continues it|holds no"):
            ActivationStore(folder)
    output = interp(*command(folder)).stdout
    assert "of them already there" in output
    assert contents(folder) == contents(straight[0])
    assert "is whole: 40,064 tokens at 4 sites" in interp("cache", "verify", str(folder)).stdout


def test_two_processes_write_the_same_bytes(straight: tuple[Path, str], tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0", "--standalone"]
    subprocess.run(
        [*torchrun, "-m", "interp", *command(tmp_path / "store")],
        cwd=ROOT,
        env=ENVIRONMENT,
        check=True,
        timeout=PATIENCE,
    )
    assert contents(tmp_path / "store") == contents(straight[0])


def test_an_error_on_one_process_ends_the_others(tmp_path: Path) -> None:
    """Without torchrun, which would end them itself: the message reaches the process that waits."""
    model = tiny_model("gpt2")
    ids = np.full((4, 32), 1)
    ids[1, 5] = 9  # in the second shard, which is the second process's
    with torch.no_grad():
        model.get_input_embeddings().weight[9] = torch.nan
    model.save_pretrained(tmp_path / "model")
    np.save(tmp_path / "ids.npy", ids.ravel())
    arguments = ["--sites=blocks.0.hook_resid_post", f"--data={tmp_path / 'ids.npy'}", "--tokens=128", "--context=32"]
    arguments += [f"--out={tmp_path / 'store'}", "--shard-size=1k", "--batch-rows=1"]
    cache = [sys.executable, "-m", "interp", "cache", str(tmp_path / "model"), *arguments]
    statuses, errors = run_two(cache, cwd=ROOT, environment=ENVIRONMENT)
    assert statuses == [2, 2]
    assert "process 1 of 2 failed: blocks.0.hook_resid_post (layer 0) has an activation that is not finite" in errors[0]
    assert "error: blocks.0.hook_resid_post (layer 0)" in errors[1]


def test_verify_names_damage_and_exits_with_1(straight: tuple[Path, str], tmp_path: Path) -> None:
    folder = tmp_path / "store"
    for name, content in contents(straight[0]).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    shard = folder / "shards" / "000003.safetensors"
    content = bytearray(shard.read_bytes())
    content[2000] ^= 255
    shard.write_bytes(content)
    done = interp("cache", "verify", str(folder), check=False)
    assert done.returncode == 1
    assert "000003.safetensors was altered: its checksum differs" in done.stderr


def test_dry_run_writes_nothing(tmp_path: Path) -> None:
    assert "2,048 tokens at 4 sites" in interp(*command(tmp_path / "store", "--dry-run", tokens="2k")).stdout
    assert not (tmp_path / "store").exists()


# Nonsense: each run in this process, for speed; the exit status is that of the command.


def refused(*arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    from interp.cli import main

    with pytest.raises(SystemExit) as exit_:
        main(list(arguments))
    assert exit_.value.code == 2
    error = capsys.readouterr().err.replace("\n", " ")
    assert "Traceback" not in error
    return error


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "no/such-model"}, "no/such-model is not in the hub's cache"),
        ({"--sites": "blocks.99.hook_resid_post"}, "blocks.99.hook_resid_post"),
        ({"--sites": "blocks.0.hook_resid_mid"}, "hook_resid_mid"),
        ({"--sites": "blocks.0.attn.hook_pattern"}, "matrix over pairs of tokens"),
        ({"--data": "no/such/data.txt"}, "no/such/data.txt"),
        ({"--data": "no-such-dataset"}, "no-such-dataset"),
        ({"--tokens": "0"}, "Invalid value for --tokens: '0' is not a whole number"),
        ({"--tokens": "-5k"}, "--tokens: '-5k' is not"),
        ({"--tokens": "many"}, "--tokens: 'many' is not"),
        ({"--context": "257"}, "--context 257: a row has at least 2 tokens and at most 256"),
        ({"--context": "0"}, "--context 0"),
        ({"--shard-size": "-1"}, "--shard-size: '-1' is not"),
        ({"--batch-rows": "0"}, "--batch-rows is 0; it must be 1 or more"),
        ({"--drop-first": "300"}, "--drop-first 300 is not from 0 to"),
        ({"--column": "words"}, "words"),
    ],
)
def test_nonsense_is_told_in_a_line(
    change: dict[str, str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {
        "--sites": "blocks.0.hook_resid_post",
        "--data": str(TEXT),
        "--tokens": "1k",
        "--out": str(tmp_path / "store"),
    } | change
    model = options.pop("model", "embedded")
    error = refused("cache", model, *(f"{name}={value}" for name, value in options.items()), capsys=capsys)
    assert message in error
    assert not (tmp_path / "store" / "cache.json").exists()


def test_empty_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.txt").write_text("")
    arguments = ["--sites=blocks.0.hook_resid_post", f"--data={tmp_path / 'empty.txt'}", "--tokens=10"]
    assert "holds no text" in refused("cache", "embedded", *arguments, f"--out={tmp_path / 'store'}", capsys=capsys)


def test_output_folder_of_another_run(straight: tuple[Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(straight[0])
    error = refused(*command(straight[0], "--dtype", "float16"), capsys=capsys)
    assert "holds another run (dtype: there 'float32', asked 'float16'" in error
    assert contents(straight[0]) == before


def test_a_folder_of_something_else_stays_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    assert "not of an activation store (thesis.tex)" in refused(*command(tmp_path), capsys=capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_output_that_is_no_writable_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("a file")
    error = refused(*command(tmp_path / "file" / "store"), capsys=capsys)
    assert f"{tmp_path / 'file'} is a file, so that nothing can be written below it" in error
    if os.access("/proc/version", os.R_OK):  # a folder that even root cannot write
        assert "/proc" in refused(*command(Path("/proc/store")), capsys=capsys)


def test_a_model_without_tokenizer_takes_ids(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from interp.cli import main

    tiny_bridge(tmp_path / "model")
    rows = random_rows(tmp_path / "rows", rows=4)
    ids = tmp_path / "ids.jsonl"
    ids.write_text("\n".join(json.dumps({"ids": row}) for row in rows.ids.tolist()))
    arguments = ["cache", str(tmp_path / "model"), "--sites=blocks.0.hook_resid_post", "--tokens=128"]
    assert "there is no tokenizer" in refused(*arguments, f"--data={TEXT}", f"--out={tmp_path / 'text'}", capsys=capsys)
    with pytest.raises(SystemExit) as exit_:
        main([*arguments, f"--data={ids}", "--column=ids", f"--out={tmp_path / 'store'}"])
    assert exit_.value.code == 0
    assert ActivationStore(tmp_path / "store").tokens().tokens.tolist() == rows.ids.flatten().tolist()
