"""The loop: exact resume after a kill, refusals, and what it does to the decoder."""

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from interp import ActivationStore, Site
from interp.store.caching import cache_activations
from saes import SAE, TrainConfig, train, train_many
from saes.activations import ACTIVATIONS
from saes.losses import Pass
from saes.training import loop
from saes.training.initial import initial_state
from saes.training.step import train_step
from tests.interp.store.stores import random_rows, tiny_bridge
from tests.saes.sources import MemorySource, planted
from tests.saes.training.killed import kill_in_the_middle, start_slowly

TRAINING = """
from tests.saes.training.test_loop import killable, planted, MemorySource
loop.train(killable(Path(sys.argv[1]), sys.argv[2]), MemorySource(planted(1000, d=32, features=64)[0]))
"""


def killable(out: Path, activation: str) -> TrainConfig:
    """60 steps; the 1,000 rows make 4 batches an epoch, the last one short, so that epochs are crossed too. A name with
    -l0 behind it is trained to a number of latents."""
    activation, _, target = activation.partition("-")
    return TrainConfig(
        site="s",
        out=out,
        activation=activation,
        l0=4.0 if target else None,
        k=4 if activation in ("topk", "batchtopk", "matryoshka") else None,
        d_sae=96,
        tokens=60 * 256,
        batch_size=256,
        checkpoint_every=7,
        log_every=1,
        lr=1e-3,
        dead_after_tokens=3 * 256,
    )


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    "activation",
    [
        name if name in ("topk", "batchtopk") else pytest.param(name, marks=pytest.mark.slow)
        for name in (*ACTIVATIONS, "jumprelu-l0", "gated-l0", "relu-l0")
    ],
)
def test_killed_and_resumed_is_bit_equal(activation: str, tmp_path: Path) -> None:
    folder, source = tmp_path / "killed", MemorySource(planted(1000, d=32, features=64)[0])
    process = start_slowly(TRAINING, folder, activation)
    straight = train(killable(tmp_path / "straight", activation), source)
    kill_in_the_middle(process, folder)
    resumed = train(killable(folder, activation), source)
    for name, parameter in straight.named_parameters():
        assert torch.equal(parameter, resumed.get_parameter(name)), name
    steps = [json.loads(line)["step"] for line in (folder / "log.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 61))
    assert len(list((folder / "checkpoints").iterdir())) == 2


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("asked", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_asked_to_stop_saves_the_step_it_is_at(
    asked: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of a step before the first checkpoint; of two runs that share the data, both."""
    source, step, steps = MemorySource(planted(1000, d=32, features=64)[0]), loop.train_step, []
    configs = [replace(killable(tmp_path / name, "topk"), checkpoint_every=1000) for name in ("one", "other")]
    straight = train(replace(configs[0], out=tmp_path / "straight"), source)

    def stopping(*arguments: Any, **options: Any) -> None:
        steps.append(1)
        if len(steps) == 9:  # the fifth step of the first run
            signal.raise_signal(asked)
        step(*arguments, **options)

    class Terminated(KeyboardInterrupt):
        pass

    def raising(*_: object) -> None:
        raise Terminated

    monkeypatch.setattr(loop, "train_step", stopping)
    before = {number: signal.signal(number, raising) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with pytest.raises(Terminated) as stop:
            train_many(configs, source)
        assert signal.getsignal(asked) is raising
    finally:
        for number, old in before.items():
            signal.signal(number, old)
    assert f"the same command continues from what is in {configs[0].out}" in stop.value.__notes__
    assert len(steps) == 10
    for config in configs:
        assert [file.name for file in (config.out / "checkpoints").iterdir()] == ["step000000005.safetensors"]
        assert len((config.out / "log.jsonl").read_text().splitlines()) == 5
    for resumed in train_many(configs, source):
        assert all(torch.equal(p, resumed.get_parameter(name)) for name, p in straight.named_parameters())


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    return TrainConfig(
        site="s", out=tmp_path / "run", k=4, d_sae=64, tokens=5000, batch_size=256, checkpoint_every=5, log_every=5
    )


def test_finished_run_is_returned(config: TrainConfig) -> None:
    source = MemorySource(planted(1000, d=32)[0])
    first = train(config, source)
    assert torch.equal(train(config, source).W_dec, first.W_dec)
    assert first.provenance["train"]["k"] == 4


def test_a_run_with_a_list_among_its_options_continues(config: TrainConfig) -> None:
    """``train.json`` gives a tuple back as a list."""
    config, source = replace(config, activation="matryoshka", options={"shares": (0.25, 1.0)}), planted(1000, d=32)[0]
    first = train(config, MemorySource(source))
    assert torch.equal(train(config, MemorySource(source)).W_dec, first.W_dec)


def test_another_run_in_the_folder_is_refused(config: TrainConfig) -> None:
    source = MemorySource(planted(1000, d=32)[0], {"data": "one"})
    train(config, source)
    with pytest.raises(
        ValueError, match=r"holds another run \(train.lr: there .* sqrt\(1000 / steps\)\) .*', asked 0.1\)"
    ):
        train(replace(config, lr=0.1), source)
    with pytest.raises(ValueError, match=r"source.data: there 'one', asked 'two'"):
        train(config, MemorySource(source.data, {"data": "two"}))


def test_nan_stops_with_step_and_terms(config: TrainConfig) -> None:
    data = planted(1000, d=32)[0]

    class Broken(MemorySource):
        def batches_of(self, sites, batch_size, seed=0, start=0):  # type: ignore[no-untyped-def]
            for number, batch in enumerate(super().batches_of(sites, batch_size, seed, start), start):
                factor = torch.nan if seed == 3 and number == 1 else 1
                yield {site: factor * x for site, x in batch.items()}

    with pytest.raises(FloatingPointError, match=r"not finite at step 13 \(mse nan\), on activations 3328 to 3584"):
        train(config, Broken(data))
    kept = sorted(path.name for path in (config.out / "checkpoints").iterdir())
    assert kept == ["step000000005.safetensors", "step000000010.safetensors"]


def test_divergence_stops_though_every_number_is_finite(config: TrainConfig) -> None:
    with pytest.raises(FloatingPointError, match=r"diverged: the reconstruction has 1,000 times .* at step \d+ \(mse"):
        train(replace(config, lr=100.0, tokens=100_000), MemorySource(planted(1000, d=32)[0]))
    assert not (config.out / "cfg.json").exists()


def test_a_gradient_that_is_not_finite_changes_no_weight(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss of one term is finite where its slope is not."""

    def steep(p: Pass) -> Tensor:
        return (p.x_hat - p.x_hat.detach()).abs().sum().sqrt()

    monkeypatch.setattr("saes.training.stepping.loss.TERMS", {"mse": steep})
    source = MemorySource(planted(1000, d=32)[0])
    state = initial_state(config, source)
    before = state.sae.W_enc.detach().clone()
    with pytest.raises(FloatingPointError, match=r"the gradient is not finite at step 0 \(mse 0\), on activations 0"):
        train_step(state, source.data[:256], config)
    assert torch.equal(state.sae.W_enc, before)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d_sae": 0}, "d_sae is 0; it must be 1 or more"),
        ({"tokens": -1}, "tokens is -1"),
        ({"activation": "tokp"}, "unknown activation 'tokp'; choose one of topk, batchtopk"),
        ({"activation": "afa"}, "k is for topk, batchtopk, matryoshka; afa finds"),
        ({"warmup": 1.5}, "warmup is 1.5; it is a share"),
        ({"lr": 0.0}, "lr is 0.0; it must be above 0"),
        ({"loss_weights": {"l2": 1.0}}, "no loss term l2; there are mse, l1"),
        ({"loss_weights": {"l0": 1.0}}, "l0 is for jumprelu, not for topk"),
        ({"loss_weights": {"aux": float("nan")}}, "aux is nan; it must be a number of 0 or more"),
        ({"loss_weights": {"aux": -1.0}}, "aux is -1.0; it must be a number of 0 or more"),
        ({"skip": True}, "skip is for transcoders"),
        ({"l0": 4.0}, "l0 is for jumprelu, gated, relu, not for topk, which has a k"),
        ({"activation": "gated", "k": None, "l0": 20.0}, "l0 is 20; it must be .* at most a quarter of d_sae"),
        ({"activation": "relu", "k": None, "l0": 4.0, "loss_weights": {"l1": 0.0}}, "all are 0: give one of l1, l0"),
        ({"k": None}, "topk needs k"),
        ({"k": 65}, "only d_sae = 64 latents"),
    ],
)
def test_impossible_settings(config: TrainConfig, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train(replace(config, **changes), MemorySource(planted(100, d=32)[0]))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rows", "message"), [(0, "store is empty"), (300, "the first 300 activations at s are all zero")]
)
def test_nothing_to_learn(config: TrainConfig, rows: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train(config, MemorySource(torch.zeros(rows, 32)))


@pytest.mark.parametrize(
    ("value", "reason"), [(torch.inf, "not finite"), (torch.nan, "not finite"), (1e30, "too large for float32")]
)
def test_one_bad_row_is_named_before_the_first_step(config: TrainConfig, value: float, reason: str) -> None:
    data = planted(1000, d=32)[0]
    data[321, 5] = value
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(config.data_seed))
    place = int((order == 321).nonzero())
    with pytest.raises(ValueError, match=rf"1 of the first 1000 activations at s are {reason}; .* number {place} of"):
        train(config, MemorySource(data))


def test_a_bad_row_of_a_store_is_named_by_its_token(config: TrainConfig, tmp_path: Path) -> None:
    """A flipped bit of an exponent leaves a finite number that no norm can hold."""
    site = "blocks.0.hook_resid_post"
    model, rows = tiny_bridge(tmp_path / "model"), random_rows(tmp_path / "rows", rows=30)
    cache_activations(model, rows, [site], tmp_path / "store")
    (shard,) = (tmp_path / "store" / "shards").glob("*.safetensors")
    whole = load_file(shard)
    whole[site][777, 3] = 3e38
    save_file(whole, shard)
    token = "token 777 of the store, position 9 of document"
    with pytest.raises(ValueError, match=rf"are too large for float32; .*{token} {int(whole['documents'][777])}\."):
        train(replace(config, site=site, d_sae=64), ActivationStore(tmp_path / "store"))


def test_a_bad_row_that_comes_late_is_named(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saes.training.initial.STATISTICS_ROWS", 128)
    data = planted(1000, d=32)[0]
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(config.data_seed))
    data[order[700]] = torch.nan
    with pytest.raises(FloatingPointError, match=r"\(1 of them not finite, the first is number 700\)"):
        train(replace(config, tokens=1000), MemorySource(data))


@pytest.mark.parametrize("rows", [1, 7])
def test_a_batch_without_variance_has_no_fvu_and_the_log_is_json(
    config: TrainConfig, tmp_path: Path, rows: int
) -> None:
    """Of one row, or of equal ones whose mean is rounded: Infinity, or a huge number of no meaning, would be logged."""
    row = torch.randn(32, generator=torch.Generator().manual_seed(0))
    source = MemorySource(row.expand(rows * 6, -1).clone())
    train(replace(config, batch_size=rows, tokens=rows * 6, log_every=1, log_to=("tensorboard",)), source)
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    found = [json.loads(line, parse_constant=refuse) for line in lines]
    assert [line["fvu"] for line in found] == [None] * 6
    assert all(line["loss"] > 0 for line in found)


def test_training_runs_in_units_of_the_data(config: TrainConfig) -> None:
    """The saved SAE takes raw activations, whatever their scale: folding is part of saving."""
    data = 1000 * planted(2000, d=32, active=3)[0] + 500
    sae = train(replace(config, tokens=100_000, lr=3e-3), MemorySource(data))
    unexplained = (data - sae(data)).square().sum() / (data - data.mean(0)).square().sum()
    assert float(unexplained.detach()) < 0.35


@pytest.mark.usefixtures("one_thread")
def test_many_at_once_equal_each_alone(config: TrainConfig, tmp_path: Path) -> None:
    """Other variants, sizes and initial seeds over one pass; one of them had come further before a kill."""
    source = MemorySource(planted(1000, d=32)[0])
    configs = [
        replace(config, out=tmp_path / "a"),
        replace(config, out=tmp_path / "b", activation="batchtopk", d_sae=96, seed=3),
        replace(config, out=tmp_path / "c", activation="jumprelu", k=None),
    ]
    alone = [train(replace(c, out=c.out / "alone"), source) for c in configs]
    _interrupt(configs[1], source, step=11)
    together = train_many(configs, source)
    for one, other in zip(alone, together, strict=True):
        for name, parameter in one.named_parameters():
            assert torch.equal(parameter, other.get_parameter(name)), name


def _interrupt(config: TrainConfig, source: MemorySource, *, step: int) -> None:
    """Leave the folder as a run leaves it that ends in the middle."""

    class Ends(MemorySource):
        served = 0

        def batches_of(self, sites, batch_size, seed=0, start=0):  # type: ignore[no-untyped-def]
            for batch in super().batches_of(sites, batch_size, seed, start):
                if self.served > step:
                    raise KeyboardInterrupt
                self.served += 1
                yield batch

    with pytest.raises(KeyboardInterrupt):
        train(config, Ends(source.data))


def test_many_must_share_the_data(config: TrainConfig, tmp_path: Path) -> None:
    source = MemorySource(planted(100, d=32)[0])
    with pytest.raises(ValueError, match=r"share batch_size; got \[128, 256\]"):
        train_many([config, replace(config, batch_size=128, out=tmp_path / "b")], source)
    with pytest.raises(ValueError, match="folder of its own"):
        train_many([config, config], source)


def test_warm_start_continues_from_the_saved_weights(config: TrainConfig, tmp_path: Path) -> None:
    """Started from a finished SAE and hardly moved, it is that SAE, in units of the raw data."""
    source = MemorySource(50 * planted(1000, d=32)[0])
    first = train(config, source)
    again = train(replace(config, out=tmp_path / "again", init_from=config.out, lr=1e-12, tokens=512), source)
    torch.testing.assert_close(again(source.data), first(source.data), rtol=1e-4, atol=1e-3)
    with pytest.raises(ValueError, match="the SAE to start from has weights"):
        train(replace(config, out=tmp_path / "wider", init_from=config.out, d_sae=96), source)


def test_transcoder_learns_another_site(tmp_path: Path) -> None:
    """Targets are a linear image of the inputs' sparse codes, in 16 dimensions instead of 32."""
    data = planted(4000, d=32, features=32, active=3)[0]
    codes = data @ torch.randn(32, 16, generator=torch.Generator().manual_seed(5))

    class Two(MemorySource):
        def at(self, site: Site) -> torch.Tensor:
            return 100 * codes if site == Site.parse("out") else data

    config = TrainConfig(
        site="in", target_site="out", skip=True, out=tmp_path, k=8, d_sae=96, tokens=400_000, batch_size=500, lr=3e-3
    )
    sae = train(config, Two(data))
    assert (sae.d_in, sae.d_out, sae.site, sae.target_site) == (32, 16, "in", "out")
    target = 100 * codes
    unexplained = (target - sae(data)).square().sum() / (target - target.mean(0)).square().sum()
    assert float(unexplained.detach()) < 0.05
    again = SAE.load(tmp_path)
    assert torch.equal(again(data), sae(data))


def test_batchtopk_learns_the_threshold_that_gives_k(config: TrainConfig) -> None:
    data = planted(4000, d=32)[0]
    sae = train(replace(config, activation="batchtopk", tokens=100_000, lr=3e-3), MemorySource(data))
    assert float(sae.threshold) > 0
    assert float(sae.encode(data).l0.float().mean()) == pytest.approx(4, rel=0.15)


def test_jumprelu_thresholds_move_to_where_the_loss_wants_them(config: TrainConfig) -> None:
    """Peers' thresholds stood still for a year. Here all of them rise severalfold in 200 steps."""
    data = planted(4000, d=32)[0]
    sae = train(
        replace(config, activation="jumprelu", k=None, tokens=200 * 256, lr=3e-3, loss_weights={"l0": 2.0}),
        MemorySource(data),
    )
    assert float(sae.threshold.detach().min()) > 3 * 0.1


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_bfloat16_trains_as_float32_does(activation: str, tmp_path: Path) -> None:
    source, unexplained = MemorySource(planted(1000, d=32, features=64)[0]), []
    for precision in ("float32", "bfloat16"):
        train(replace(killable(tmp_path / precision, activation), precision=precision), source)  # type: ignore[arg-type]
        unexplained.append(json.loads((tmp_path / precision / "log.jsonl").read_text().splitlines()[-1])["fvu"])
    assert unexplained[1] == pytest.approx(unexplained[0], rel=0.05)


def test_the_device_is_no_part_of_a_run(config: TrainConfig) -> None:
    source = MemorySource(planted(600, d=32, features=64)[0])
    sae = train(replace(config, device="cpu"), source)
    assert torch.equal(train(config, source).W_enc, sae.W_enc)
    with pytest.raises(ValueError, match="device is 'cuda:99', which is not to be had here"):
        train(replace(config, device="cuda:99", out=config.out / "other"), source)


@pytest.mark.gpu
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_gpu_trains_what_the_cpu_trains(activation: str, tmp_path: Path) -> None:
    source = MemorySource(planted(1000, d=32, features=64)[0])
    runs = [train(replace(killable(tmp_path / d, activation), device=d), source) for d in ("cpu", "cuda")]
    assert runs[1].W_enc.is_cuda
    for name, parameter in runs[0].named_parameters():
        torch.testing.assert_close(runs[1].get_parameter(name).cpu(), parameter, rtol=1e-2, atol=1e-3)


def test_a_latent_is_dead_after_tokens_whatever_the_batch(tmp_path: Path) -> None:
    """By hand: a short batch counts as the tokens that it has, and the step that reaches the number is the last silent
    one. The former setting counts whole batches."""
    source = MemorySource(planted(1000, d=32, features=64)[0])
    config = replace(killable(tmp_path / "run", "topk"), d_sae=512, dead_after_tokens=138)
    state, silent = initial_state(config, source), torch.zeros(512, dtype=torch.int64)
    for batch in source.data[:414].split([256, 38, 100, 20]):
        loop.train_step(state, batch, config)
        assert state.metrics["dead"] == (silent >= 138).sum()
        assert bool(((state.silent == silent + len(batch)) | (state.silent == 0)).all())
        before, silent = silent, state.silent.clone()
    assert {20, 120, 158} <= set(silent.tolist()) <= {0, 20, 120, 158, 414}
    assert 138 in before

    former = replace(killable(tmp_path / "former", "topk"), dead_after_tokens=None, dead_after_steps=3)
    assert former.to_json() == killable(tmp_path / "today", "topk").to_json()
    default = replace(former, dead_after_steps=None)
    lengths = {15_360: 20_480, 500_000: 50_000, 2**31: 204_800}  # a tenth of the run, within bounds
    assert {n: replace(default, tokens=n).to_json()["dead_after_tokens"] for n in lengths} == lengths
    assert replace(default, activation="afa", k=None, tokens=2**31).dead_after == 20_480
    with pytest.raises(ValueError, match="leave dead_after_steps out"):
        train(replace(former, dead_after_tokens=5), source)
    with pytest.raises(ValueError, match="dead_after_tokens is 0; it must be 1 or more"):
        train(replace(default, dead_after_tokens=0), source)


def test_a_run_that_counted_silence_in_steps_is_refused(tmp_path: Path) -> None:
    source, config = MemorySource(planted(1000, d=32, features=64)[0]), killable(tmp_path / "run", "topk")
    short = replace(config, tokens=256)
    train(short, source)
    asked = json.loads((short.out / "train.json").read_text())
    del asked["train"]["dead_after_tokens"]
    asked["train"]["dead_after_steps"] = 3
    (short.out / "train.json").write_text(json.dumps(asked))
    with pytest.raises(ValueError, match=r"train\.dead_after_steps: there 3, asked None"):
        train(short, source)


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_the_unit_of_the_loss_does_not_matter(activation: str, tmp_path: Path) -> None:
    """Adam's step has no unit: with every weight of the loss, and the clip, 1,024 times as large, the weights are the
    same, those of latents too that are rarely active in a wide SAE. A power of two, so that products round alike and
    no latent is selected otherwise; only Adam's eps is 1,024 times as small beside the gradients."""
    source = MemorySource(planted(4096, d=32, features=512, active=2)[0])
    config = replace(killable(tmp_path / "1", activation), d_sae=1024, tokens=25 * 256, dead_after_tokens=10 * 256)
    weights = config.weights(config.build_activation())
    large = replace(
        config,
        out=tmp_path / "1024",
        loss_weights={name: 1024 * weight for name, weight in weights.items()},
        clip=1024 * config.clip,
    )
    expected, found = train(config, source), train(large, source)
    for name, parameter in expected.named_parameters():
        torch.testing.assert_close(found.get_parameter(name), parameter, rtol=0, atol=1e-4)
