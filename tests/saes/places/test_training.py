"""Training of every kind: what it equals, that it resumes to the same bits, and what it finds where that is known."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from saes import SAE, TrainConfig, train
from saes.activations import ACTIVATIONS
from saes.places import Dictionary, load_dictionary
from saes.training import loop, train_all, train_dictionary
from tests.saes.places.kinds import PlacesSource
from tests.saes.sources import planted
from tests.saes.training.killed import kill_in_the_middle, start_slowly

pytestmark = pytest.mark.usefixtures("one_thread")
ROOT = Path(__file__).parents[3]
READS, WRITES = ("in0", "in1", "in2"), ("out0", "out1", "out2")


def source(rows: int = 1000) -> PlacesSource:
    """Three layers of different size and offset; what is written is a random map of what is read."""
    generator = torch.Generator().manual_seed(1)
    at = {}
    for layer, name in enumerate(READS):
        x = planted(rows, d=16, features=32, active=3, seed=layer)[0]
        at[name] = x * (layer + 1) + layer
        at[WRITES[layer]] = (x @ torch.randn(16, 16, generator=generator)).relu() * 10**layer
    return PlacesSource(at)


def config(out: Path, kind: str, activation: str = "topk", **changes: object) -> TrainConfig:
    """60 steps; the 1,000 rows make 4 batches an epoch, the last one short; latents die and gradients are clipped."""
    with_k = activation in ("topk", "batchtopk", "matryoshka")
    options: dict[str, object] = {
        "k": 4 if with_k else None,
        "d_sae": 64,
        "tokens": 60 * 256,
        "batch_size": 256,
        "checkpoint_every": 7,
        "log_every": 1,
        "lr": 1e-3,
        "dead_after_tokens": 3 * 256,
        "skip": kind != "crosscoder",
    }
    writes = () if kind == "crosscoder" else WRITES
    return TrainConfig(
        out=out,
        kind=kind,
        reads=READS,
        writes=writes,
        activation=activation,
        **(options | changes),  # type: ignore
    )


def weights(dictionary: Dictionary) -> dict[str, Tensor]:
    return dict(dictionary.named_parameters())


class Stopped(Exception):
    """In the middle of a run."""


# All activations share one loop; what differs in state (a threshold that moves, a step without one) runs always.
activations = pytest.mark.parametrize(
    "activation",
    [name if name in ("topk", "batchtopk") else pytest.param(name, marks=pytest.mark.slow) for name in ACTIVATIONS],
)


@pytest.mark.parametrize("kind", ["transcoders", "clt", "crosscoder"])
@activations
def test_stopped_and_resumed_is_bit_equal(
    kind: str, activation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = train_dictionary(config(tmp_path / "straight", kind, activation), source())
    step = loop.train_step

    def stopping(state, *arguments, **options):  # type: ignore[no-untyped-def]
        if state.step == 17:
            raise Stopped
        step(state, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", stopping)
        with pytest.raises(Stopped):
            train_dictionary(config(tmp_path / "stopped", kind, activation), source())
    assert not (tmp_path / "stopped" / "cfg.json").exists()
    resumed = train_dictionary(config(tmp_path / "stopped", kind, activation), source())
    for name, parameter in weights(straight).items():
        assert torch.equal(parameter, weights(resumed)[name]), name
    log = [json.loads(line) for line in (tmp_path / "stopped" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == list(range(1, 61))
    # relu and gated begin where they rebuild best, and their loss may trade that for fewer latents.
    assert log[-1]["fvu"] < log[0]["fvu"] or (activation in ("relu", "gated") and log[-1]["l0"] < log[0]["l0"])
    assert {"fvu.0", "fvu.2"} <= set(log[-1])
    assert ("l0.2" in log[-1]) == (kind != "crosscoder")
    again = load_dictionary(tmp_path / "stopped")
    assert all(torch.equal(value, weights(again)[name]) for name, value in weights(straight).items())
    assert again.provenance["train"]["kind"] == kind
    finished = train_dictionary(config(tmp_path / "stopped", kind, activation), source())
    assert torch.equal(finished.parts[0].W_enc, again.parts[0].W_enc)


TRAINING = """
from tests.saes.places.test_training import config, source
loop.train_dictionary(config(Path(sys.argv[1]), "clt", "batchtopk", budget="all"), source())
"""


def test_killed_and_resumed_is_bit_equal(tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    process = start_slowly(TRAINING, folder)
    straight = train_dictionary(config(tmp_path / "straight", "clt", "batchtopk", budget="all"), source())
    kill_in_the_middle(process, folder)
    resumed = train_dictionary(config(folder, "clt", "batchtopk", budget="all"), source())
    for name, parameter in weights(straight).items():
        assert torch.equal(parameter, weights(resumed)[name]), name
    assert len({float(part.threshold) for part in resumed.parts}) == 1


@activations
def test_a_crosscoder_of_one_place_trains_what_an_sae_trains(activation: str, tmp_path: Path) -> None:
    alone = config(tmp_path / "sae", "crosscoder", activation, normalise="mean_norm", tokens=30 * 256)
    sae = train(replace(alone, kind=None, reads=(), site="in1"), source())
    crosscoder = train_dictionary(replace(alone, reads=("in1",), out=tmp_path / "crosscoder"), source())
    for name, parameter in sae.named_parameters():
        assert torch.equal(parameter, crosscoder.parts[0].get_parameter(name)), name
    x = source().at["in1"]
    assert torch.equal(crosscoder([x])[0], sae(x))


@activations
def test_a_set_trains_what_its_transcoders_train_alone(activation: str, tmp_path: Path) -> None:
    """Where no gradient is clipped, whose norm is that of all layers together."""
    together = config(tmp_path / "set", "transcoders", activation, clip=1e9, tokens=30 * 256)
    alone = [
        replace(
            together,
            kind=None,
            reads=(),
            writes=(),
            site=READS[layer],
            target_site=WRITES[layer],
            seed=1000 * layer,
            normalise="variance",
            out=tmp_path / f"{layer}",
        )
        for layer in range(3)
    ]
    dictionary, *transcoders = train_all([together, *alone], source())
    assert isinstance(dictionary, Dictionary)
    for part, transcoder in zip(dictionary.parts, transcoders, strict=True):
        assert isinstance(transcoder, SAE)
        for name, parameter in transcoder.named_parameters():
            assert torch.equal(parameter, part.get_parameter(name)), name


def test_every_place_has_the_same_say(tmp_path: Path) -> None:
    """Though what is written at the last is a hundred times as large as at the first."""
    trained = train_dictionary(config(tmp_path, "clt", tokens=60_000, lr=5e-3), source())
    at = source().at
    targets = [at[name] for name in WRITES]
    with torch.no_grad():
        outputs = trained([at[name] for name in READS])
    fvu = [
        float((y - x_hat).square().sum() / (y - y.mean(0)).square().sum())
        for y, x_hat in zip(targets, outputs, strict=True)
    ]
    assert max(fvu) < 0.3
    assert max(fvu) < 4 * min(fvu)


def two_layers(rows: int) -> tuple[PlacesSource, Tensor, Tensor]:
    """64 features, 4 of them at a time: read at layers 0 and 1, and each written at both."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.zeros(rows, 64)
    chosen = torch.rand(rows, 64, generator=generator).topk(4, dim=-1).indices
    codes.scatter_(-1, chosen, 0.5 + torch.rand(rows, 4, generator=generator))
    read, first, second = (normalize(torch.randn(64, 32, generator=generator), dim=-1) for _ in range(3))
    later = torch.linalg.qr(torch.randn(32, 32, generator=generator)).Q
    x = codes @ read
    at = {"in0": x, "in1": x @ later, "out0": codes @ first, "out1": codes @ second}
    return PlacesSource(at), first, second


@pytest.mark.slow
def test_a_clt_finds_one_latent_for_what_is_written_at_two_layers(tmp_path: Path) -> None:
    """Four latents a token, of both layers together, explain what a transcoder set needs eight for."""
    data, first, second = two_layers(20_000)
    base = TrainConfig(
        out=tmp_path / "clt",
        kind="clt",
        reads=("in0", "in1"),
        writes=("out0", "out1"),
        activation="batchtopk",
        k=2,
        budget="all",
        d_sae=96,
        tokens=1_500_000,
        batch_size=1024,
        lr=3e-3,
        log_every=100,
    )
    clt, transcoders = train_all([base, replace(base, kind="transcoders", out=tmp_path / "set")], data)
    assert isinstance(clt, Dictionary)
    part = clt.parts[0]
    cosines = [normalize(part.at_place(place), dim=-1) @ true.T for place, true in enumerate((first, second))]
    both = torch.minimum(*cosines).max(0).values  # of the best latent of layer 0 for each feature, the worse of its two
    assert float((both > 0.95).float().mean()) > 0.9
    unexplained = {}
    for name, dictionary in (("clt", clt), ("set", transcoders)):
        assert isinstance(dictionary, Dictionary)
        with torch.no_grad():
            outputs = dictionary([data.at["in0"], data.at["in1"]])
        targets = [data.at["out0"], data.at["out1"]]
        errors = [
            (y - x_hat).square().sum() / (y - y.mean(0)).square().sum()
            for y, x_hat in zip(targets, outputs, strict=True)
        ]
        unexplained[name] = float(sum(errors)) / 2
    assert unexplained["clt"] < 0.15
    assert unexplained["set"] > 2 * unexplained["clt"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"site": "in0"}, "a clt has reads and writes; leave site and target_site out"),
        ({"writes": WRITES[:2]}, "reads 3 places and writes 2"),
        ({"reads": ()}, "reads names no place"),
        ({"decoder": "tied"}, "decoder='tied' is for SAEs of one site, not for a clt"),
        ({"normalise": "layer_norm"}, "normalise='layer_norm' is for SAEs of one site"),
        ({"init_from": Path("x")}, "init_from is for SAEs of one site, not for a clt"),
        ({"budget": "all"}, "budget='all' is for batchtopk and matryoshka, and for an l0; topk has no"),
        ({"kind": "crosscoder", "writes": ()}, "skip is for transcoders"),
        ({"kind": None}, "no site: name one"),
        ({"kind": None, "site": "in0"}, "reads and writes are for a kind"),
        ({"k": 65}, "only d_sae = 64 latents"),
        ({"loss_weights": {"tanh": 1.0}}, "tanh is for jumprelu, not for topk"),
    ],
)
def test_impossible_settings(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        train_all([replace(config(tmp_path, "clt"), **changes)], source(100))  # type: ignore[arg-type]


def test_a_place_that_does_not_vary_is_named(tmp_path: Path) -> None:
    data = source(300)
    data.at["out1"] = torch.ones(300, 16)
    with pytest.raises(ValueError, match=r"the first 300 activations at out1 are all equal: they have no variance"):
        train_dictionary(config(tmp_path, "clt"), data)


def test_kinds_and_saes_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"clt among the configs: train those with saes.training.train_all"):
        train(config(tmp_path, "clt"), source())
    with pytest.raises(ValueError, match=r"this config has no kind: train an SAE"):
        train_dictionary(TrainConfig(site="in0", out=tmp_path, k=4), source())


def test_the_published_jumprelu_recipe_trains(tmp_path: Path) -> None:
    """Tanh penalty that rises over the whole run, and the pre-activation term: few latents die, and L0 falls."""
    recipe = config(
        tmp_path,
        "clt",
        "jumprelu",
        decoder="free",
        sparsity_warmup=1.0,
        loss_weights={"l0": 0.0, "tanh": 0.3, "pre_act": 3e-6},
        tokens=60_000,
        lr=3e-3,
    )
    train_dictionary(recipe, source())
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert log[-1]["l0"] < 0.7 * log[0]["l0"]
    assert log[-1]["fvu"] < 0.5
    assert log[0]["tanh"] < log[-1]["tanh"]
    assert all("pre_act" in line for line in log)
