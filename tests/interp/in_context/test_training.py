"""A training that is killed comes to the same numbers; other folders are refused; the network learns."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from interp.commands.dynamics import icl
from interp.in_context import (
    AttentionClassifier,
    Output,
    Setting,
    TrainConfig,
    draw_classes,
    evaluation_sets,
    load_run,
    measure,
    train,
)
from interp.in_context import training as module

TINY: dict[str, Any] = {"classes": 16, "labels": 4, "width": 8, "batch": 16, "hidden": 16, "sequences": 40}
CONFIG = TrainConfig(**TINY, steps=40, checkpoints=9)


def test_schedule() -> None:
    schedule = TrainConfig(steps=6000).schedule
    assert schedule[:3] == (0, 10, 11)
    assert schedule[-1] == 6000
    assert len(schedule) == 61
    ratios = [b / a for a, b in pairwise(schedule[20:])]
    assert max(ratios) - min(ratios) < 0.02


def test_killed_anywhere_it_comes_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(CONFIG, tmp_path / "whole")
    assert whole.steps == CONFIG.schedule
    calls = 0
    real = module.measure

    def killed(*given: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls in (4, 7):
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(module, "measure", killed)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            train(CONFIG, tmp_path / "parts")
    assert load_run(tmp_path / "parts").steps == CONFIG.schedule[:5]
    train(CONFIG, tmp_path / "parts")
    assert calls == len(CONFIG.schedule) + 2  # no checkpoint was measured twice
    names = sorted(path.name for path in (tmp_path / "whole").glob("step*"))
    assert len(names) == len(CONFIG.schedule)
    for name in names:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()


def test_a_checkpoint_that_is_missing_between_others_is_made_again(tmp_path: Path) -> None:
    """As the message about a damaged one promises."""
    train(CONFIG, tmp_path)
    missing = tmp_path / f"step{CONFIG.schedule[3]}.safetensors"
    content = missing.read_bytes()
    missing.unlink()
    assert train(CONFIG, tmp_path).steps == CONFIG.schedule
    assert missing.read_bytes() == content


def test_what_cannot_be_drawn_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give a smaller zipf"):
        train(TrainConfig(**TINY, steps=40, checkpoints=9, zipf=4000.0), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_training_that_diverges_stops_and_keeps_what_was_before(optimizer: str, tmp_path: Path) -> None:
    """Numbers of a network of NaN would look like chance."""
    config = TrainConfig(**TINY, steps=40, checkpoints=9, optimizer=optimizer, learning_rate=1e30)
    with pytest.raises(ValueError, match=r"diverged: its loss is \S+ at step \d+.*below 1e\+30"):
        train(config, tmp_path)
    assert load_run(tmp_path).steps == (0,)
    with pytest.raises(ValueError, match="logits on the set plain are not finite"):
        measure(
            lambda inputs: Output(torch.full((len(inputs), 4), torch.nan)), evaluation_sets(draw_classes(config), 20)
        )


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_it_learns(optimizer: str, tmp_path: Path) -> None:
    """To answer with the labels of its context, within a second."""
    rate = 3e-3 if optimizer == "adam" else 0.1
    config = TrainConfig(**{**TINY, "batch": 64}, steps=200, checkpoints=8, optimizer=optimizer, learning_rate=rate)
    run = train(config, tmp_path)
    curve = run.curve("copied")
    assert curve[-1] - curve[0] > 0.25
    assert run.curve("plain")[-1] > run.chance["plain"][0] + 0.15


def test_another_run_and_damage_are_refused(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(CONFIG, run)
    with pytest.raises(ValueError, match=r"noise: there 0\.1, asked 0\.2"):
        train(TrainConfig(**TINY, steps=40, checkpoints=9, noise=0.2), run)
    with pytest.raises(ValueError, match="'loss' was not measured; there are any_label"):
        load_run(run).curve("loss")
    with pytest.raises(ValueError, match="is no run of interp icl train"):
        load_run(tmp_path)
    last = run / "step40.safetensors"
    content = bytearray(last.read_bytes())
    content[-5] ^= 1
    last.write_bytes(content)
    with pytest.raises(ValueError, match="its checksum differs"):
        load_run(run)
    tensors = load_file(run / f"step{CONFIG.schedule[-2]}.safetensors")
    save_file({name: t for name, t in tensors.items() if name != "rows.novel"}, last)
    with pytest.raises(ValueError, match=r"step40.* is no checkpoint of this run: its measures are not those"):
        load_run(run)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 5}, "give 20 steps or more"),
        ({"learning_rate": 0.0}, "the first must be above 0"),
        ({"optimizer": "lion"}, "optimizer is 'lion'; it must be adam or sgd"),
        ({"batch": 0}, "batch is 0; it must be 1 or more"),
        ({"classes": 30}, "30 classes cannot be shared out to 8 labels"),
        ({"sequences": 1}, "sequences is 1; it must be 10 or more"),
        ({"seed": -1}, "seed is -1; it must be 0 or more"),
        ({"noise": 1e200}, "noise is 1e\\+200; it must be from 0 to 1000"),
    ],
)
def test_configurations_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig(**options)


def test_attention_is_causal_and_scaled() -> None:
    """Against the formula, in loops."""
    setting = Setting(width=5, pairs=2, burstiness=1)
    network = AttentionClassifier(setting, seed=3)
    x = torch.randn(2, 5, setting.input_width)
    stream = x.clone()
    patterns = network(x).patterns
    for layer in range(2):
        new = stream.clone()
        for b in range(2):
            for i in range(5):
                q = stream[b, i] @ network.queries[layer]
                scores = torch.stack([q @ (stream[b, j] @ network.keys[layer]) for j in range(i + 1)])
                weights = (scores / setting.input_width**0.5).softmax(0)
                assert torch.allclose(patterns[layer][b, i, : i + 1], weights, atol=1e-5)
                assert not patterns[layer][b, i, i + 1 :].any()
                new[b, i] = new[b, i] + sum(w * (stream[b, j] @ network.values[layer]) for j, w in enumerate(weights))
        stream = new
    assert torch.allclose(network(x).logits, network.classifier(stream[:, -1]), atol=1e-5)


def test_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = AttentionClassifier(Setting(), seed=4).state_dict()
    state = torch.get_rng_state()
    second = AttentionClassifier(Setting(), seed=4).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["keys"], AttentionClassifier(Setting(), seed=5).state_dict()["keys"])


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def call(*line: str) -> str:
        icl.app(list(line), print_error=False, exit_on_error=False, result_action="return_value")
        return " ".join(capsys.readouterr().out.split())

    options = [f"--{name}={value}" for name, value in TINY.items()]
    said = call("train", "--out", str(tmp_path), *options, "--steps=40", "--checkpoints=12")
    assert "16 classes, 4 labels, contexts of 4 pairs" in said
    assert "Chance of weights: 0.250 by guessing" in said
    assert "Two levels over the logarithm of the step" in said
    page = (tmp_path / "report.html").read_text()
    assert "Share of sequences of new classes that are answered with some label of the context" in page
    again = call(str(tmp_path), "--html", str(tmp_path / "again.html"))
    assert again.split("Report:")[0] in said
    assert "figcaption" in (tmp_path / "again.html").read_text()


@pytest.mark.slow
def test_the_transition_is_abrupt_and_layers_change_in_order(tmp_path: Path) -> None:
    """The documented run: minutes on one core."""
    run = train(TrainConfig(), tmp_path)
    found = run.change_points()
    novel = found.points["novel"]
    assert novel.clear
    assert novel.explained > 0.9
    assert run.curve("novel")[-1] > 0.95
    assert run.curve("swapped")[-1] > 0.95
    assert 1000 < novel.step < 4000
    assert found.points["copied"].step < novel.step / 5
