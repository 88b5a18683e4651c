"""Runs that end badly are stopped, or say so in their last line."""

import json
import logging
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from interp.cli import main
from interp.embedded import TEXT_FOLDER
from saes import SAE, TrainConfig, train
from saes.training.figures.fvu import fvu_of
from saes.training.plan import plan
from saes.training.verdict import HOPELESS, Verdict, Watch, judge, read_verdict
from tests.saes.sources import MemorySource, planted


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    return TrainConfig(site="s", out=tmp_path / "run", k=4, d_sae=64, tokens=256_000, batch_size=256, warmup=0.1)


def test_a_fvu_that_stays_above_1_is_told_once(config: TrainConfig, caplog: pytest.LogCaptureFixture) -> None:
    """1,000 steps, of which the first 100 warm up: patience is 100 steps."""
    watch = Watch(config, 1e-3)
    with caplog.at_level(logging.WARNING):
        for step in range(10, 190, 10):
            watch.see(step, 3.0 if step != 150 else 0.9)
        assert caplog.messages == []
        for step in range(190, 400, 10):
            watch.see(step, 3.0)
    (message,) = caplog.messages
    assert message.startswith("the FVU has been above 1 since step 150, and is 3 at step 250")


def test_a_fvu_that_stays_hopeless_stops_the_run(config: TrainConfig) -> None:
    watch = Watch(config, 1e-3)
    for step in range(10, 200, 10):
        watch.see(step, 2 * HOPELESS)
    with pytest.raises(FloatingPointError, match=r"FVU has been above 10000 since step 100, and is inf at step 200"):
        watch.see(200, float("inf"))


def test_the_loop_looks_at_it(config: TrainConfig, caplog: pytest.LogCaptureFixture) -> None:
    """At a rate that is too high, but does not blow up, the run ends; every step but the first ones was bad."""
    train(replace(config, lr=5.0, tokens=120 * 256, warmup=0.0), MemorySource(planted(1000, d=32)[0]))
    assert "the FVU has been above 1 since step 0" in caplog.text
    found = read_verdict(config.out)
    assert found is not None
    assert "above 1" in found.faults()[0]


def test_a_run_whose_last_step_destroys_it_is_not_saved(config: TrainConfig) -> None:
    """Its only figures are of before that step."""
    with pytest.raises(FloatingPointError, match=r"ends with an FVU of .*e.*nothing is saved: lower lr \(1e\+06\)"):
        train(replace(config, lr=1e6, tokens=256, warmup=0.0, decay=0.0), MemorySource(planted(1000, d=32)[0]))
    assert not (config.out / "cfg.json").exists()


def test_figures_are_of_what_is_saved(config: TrainConfig) -> None:
    source = MemorySource(planted(2000, d=32)[0])
    sae = train(replace(config, tokens=20_000), source)
    found = read_verdict(config.out)
    assert found is not None
    assert (found.latents, found.d_in, found.tokens) == (64, 32, 256)
    batch = {"s": source.data[:256]}
    again = judge(SAE.load(config.out), config, batch, dead=0)
    x_hat = sae(source.data[:256])
    error = (source.data[:256] - x_hat).square().sum() / (source.data[:256] - source.data[:256].mean(0)).square().sum()
    assert again.fvu == pytest.approx(float(error.detach()), rel=1e-5)
    assert again.l0 == found.l0 == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, None),
        ({"fvu": 1.5}, "FVU 1.5 is above 1"),
        ({"fvu": None}, None),
        ({"dead": 33}, "33 of 64 latents are dead"),
        ({"dead": None}, None),
        ({"l0_asked": 4.5}, None),
        ({"l0_asked": 8.0}, r"L0 4.0 is not the 8 that was asked for: train on more tokens"),
        ({"l0": 32.5}, "L0 32.5 is above the 32 dimensions that are read: nothing is sparse; lower --k"),
        ({"l0": 32.5, "activation": "afa"}, "L0 32.5 is above the 32 dimensions .* top-AFA chooses so many; lower"),
    ],
)
def test_faults(changes: dict[str, float | str | None], message: str | None) -> None:
    good = Verdict(fvu=0.5, l0=4.0, dead=32, latents=64, d_in=32, tokens=256)
    faults = replace(good, **changes).faults()  # type: ignore[arg-type]
    assert faults == [] if message is None else re.match(message, faults[0])


def test_a_run_tells_how_many_are_dead_once_it_is_as_long_as_their_silence(config: TrainConfig) -> None:
    source = MemorySource(planted(1000, d=32)[0])
    for tokens, dead in ((2047, None), (2048, 0)):
        run = replace(config, tokens=tokens, dead_after_tokens=2048, out=config.out / str(tokens))
        train(run, source)
        found = read_verdict(run.out)
        assert found is not None
        assert (found.dead, found.dead_after) == (dead, 2048)
        assert ("too short a run" in str(found)) == (dead is None)
        assert ("0 of 64 latents dead" in str(found)) == (dead == 0)


def test_rows_without_variance_have_no_fvu() -> None:
    x = torch.ones(5, 3)
    assert fvu_of(x, x) is None


def test_the_command_judges_and_does_so_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["train", "--model", "embedded", "--data", str(TEXT_FOLDER / "heldout.jsonl"), "--k", "4", "--d-sae", "128"]
    line += ["--site", "blocks.1.hook_resid_post", "--tokens", "2k", "--batch-size", "512", "--out", str(tmp_path)]
    for _ in range(2):
        with pytest.raises(SystemExit) as ended:
            main(line)
        assert ended.value.code == 0
        shown = capsys.readouterr().out
        assert "FVU " in shown
        assert "L0 4.0 on 512 of the last activations of training; too short a run to tell which latents are" in shown
        assert "dead: that takes 20,480 activations of silence, so train on more --tokens" in shown


def test_top_afa_says_beforehand_and_in_the_log_that_it_may_choose_more_than_there_are_dimensions(
    tmp_path: Path,
) -> None:
    data = planted(1000, d=32)[0]
    config = TrainConfig(site="s", out=tmp_path, activation="afa", d_sae=256, tokens=1024, batch_size=256, log_every=1)
    train(config, MemorySource(data))
    for line in map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines()):
        assert line["l0_per_dimension"] == pytest.approx(line["l0"] / 32)

    class Sized(MemorySource):
        sites = ("s",)

        def width(self, _site: str) -> int:
            return 32

    lines = plan(config, Sized(data)).lines()
    assert "often more than there are dimensions (32;" in lines[-1]
    assert "top-AFA" not in "".join(plan(replace(config, activation="topk", k=4), Sized(data)).lines())
