"""circuit-tracer's folders: their arithmetic, there and back, lazily by rows, and what is refused."""

from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from torch import Tensor

from saes import SAE, BatchTopK, JumpReLU, ReLU, TopK
from saes.activations import Activation
from saes.convert import write
from saes.places import Dictionary, Layout, decoder_rows, load_any, load_dictionary, save_dictionary
from saes.places.circuit_tracer import read_circuit_tracer, write_circuit_tracer
from tests.saes.evaluation.evaluated import run
from tests.saes.places.kinds import randomised

LAYERS, D, D_SAE = 3, 6, 10
READS = tuple(f"blocks.{i}.mlp.hook_in" for i in range(LAYERS))
WRITES = tuple(f"blocks.{i}.hook_mlp_out" for i in range(LAYERS))


def random(kind: str, activation: Activation, *, skip: bool = False) -> Dictionary:
    places = Layout(kind, READS, READS if kind == "crosscoder" else WRITES)
    dictionary = Dictionary(
        places, ((D,) * LAYERS,) * 2, d_sae=D_SAE, activation=activation, skip=skip,
        provenance={"source": {"model": "gpt2"}},
    )  # fmt: skip
    return randomised(dictionary, seed=0)


CASES = [
    ("transcoders", ReLU(), False),
    ("transcoders", JumpReLU(), True),
    ("transcoders", TopK(3), True),
    ("clt", ReLU(), False),
    ("clt", JumpReLU(), False),
]


@pytest.mark.parametrize(("kind", "activation", "skip"), CASES, ids=lambda value: str(getattr(value, "name", value)))
@torch.no_grad()
def test_there_and_back_and_by_their_arithmetic(kind: str, activation: Activation, skip: bool, tmp_path: Path) -> None:
    dictionary = random(kind, activation, skip=skip)
    write_circuit_tracer(dictionary, tmp_path)
    again = read_circuit_tracer(tmp_path)
    assert again.layout == dictionary.layout
    assert again.activation.name == activation.name
    xs = torch.randn(LAYERS, 8, D, generator=torch.Generator().manual_seed(1))
    outputs = again(list(xs))
    for ours, theirs in zip(dictionary(list(xs)), outputs, strict=True):
        assert torch.equal(ours, theirs)
    expected = by_their_arithmetic(tmp_path, kind, activation, xs)
    torch.testing.assert_close(torch.stack(outputs), expected)


def by_their_arithmetic(folder: Path, kind: str, activation: Activation, xs: Tensor) -> Tensor:
    """Dense, from the files: layer by layer of a set, and for a CLT what every layer adds to itself and later ones."""
    out = torch.zeros(LAYERS, len(xs[0]), D)
    for i in range(LAYERS):
        if kind == "transcoders":
            w = load_file(folder / f"layer_{i}.safetensors")
            threshold = w.get("activation_function.threshold")
        else:
            w = load_file(folder / f"W_enc_{i}.safetensors") | load_file(folder / f"W_dec_{i}.safetensors")
            w = {name.rsplit("_", 1)[0]: tensor for name, tensor in w.items()}
            threshold = w.get("threshold")
        pre = xs[i] @ w["W_enc"].T + w["b_enc"]
        f = pre.relu()
        if threshold is not None:
            f = pre * (pre > threshold)
        elif activation.name == "topk":
            f = torch.zeros_like(pre).scatter(-1, pre.topk(3).indices, pre.topk(3).values.relu())
        if kind == "transcoders":
            out[i] += f @ w["W_dec"] + w["b_dec"]
            if "W_skip" in w:
                out[i] += xs[i] @ w["W_skip"].T
        else:
            assert w["W_dec"].shape == (D_SAE, LAYERS - i, D)
            for later in range(LAYERS - i):
                out[i + later] += f @ w["W_dec"][:, later]
            out[i] += w["b_dec"]
    return out


def test_rows_are_read_alone(tmp_path: Path) -> None:
    clt = random("clt", ReLU())
    write_circuit_tracer(clt, tmp_path)
    latents = torch.tensor([7, 2, 2])
    expected = clt.parts[1].W_dec.detach()[latents].view(3, 2, D)
    assert torch.equal(decoder_rows(tmp_path, 1, latents), expected)
    assert decoder_rows(tmp_path, 1, latents[:0]).shape == (0, 2, D)
    with pytest.raises(ValueError, match="latents run from 3 to 10; there are 10"):
        decoder_rows(tmp_path, 0, torch.tensor([3, 10]))


@pytest.mark.parametrize(
    ("dictionary", "message"),
    [
        (random("crosscoder", ReLU()), "not a crosscoder"),
        (random("clt", TopK(2)), "cross_layer_transcoder has relu, jumprelu, not topk"),
        (random("transcoders", BatchTopK(2)), "transcoder_set has relu, jumprelu, topk, not batchtopk"),
        (random("clt", ReLU(), skip=True), "reads no skip connection of a CLT from files; this one has one"),
    ],
)
def test_what_cannot_be_written(dictionary: Dictionary, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        write_circuit_tracer(dictionary, tmp_path)
    assert not list(tmp_path.iterdir())


def test_places_that_are_not_every_layer(tmp_path: Path) -> None:
    layout = Layout("clt", READS[1:], WRITES[1:])
    part = Dictionary(layout, ((D,) * 2,) * 2, d_sae=4, activation=ReLU())
    with pytest.raises(ValueError, match=r"every layer from 0; these places are blocks.1.mlp.hook_in"):
        write_circuit_tracer(part, tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_circuit_tracer(random("clt", JumpReLU()), tmp_path)
    return tmp_path


def test_missing_files_are_named(folder: Path) -> None:
    (folder / "W_dec_2.safetensors").unlink()
    with pytest.raises(ValueError, match=r"there are 3 files W_enc_\*, but 2 files W_dec_\*"):
        read_circuit_tracer(folder)
    (folder / "W_enc_1.safetensors").unlink()
    with pytest.raises(ValueError, match=r"W_enc_1.safetensors is missing: there are numbers up to 2"):
        read_circuit_tracer(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threshold_1": torch.full((D_SAE,), -1.0)}, "layer 1 has thresholds below 0"),
        ({"b_enc_1": torch.full((D_SAE,), torch.nan)}, "layer 1: b_enc is not finite"),
        ({"b_enc_1": torch.zeros(D_SAE - 1)}, "layer 1 has .*, expected"),
        ({"extra_1": torch.zeros(1)}, "layer 1 has .*extra"),
    ],
)
def test_altered_weights(folder: Path, change: dict[str, Tensor], message: str) -> None:
    save_file(load_file(folder / "W_enc_1.safetensors") | change, folder / "W_enc_1.safetensors")
    with pytest.raises(ValueError, match=message):
        read_circuit_tracer(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_kind": "sae"}, "model_kind of config.yaml is 'sae'; it must be one of transcoder_set"),
        ({"transcoders": ["a/b/c"]}, "names 'a/b/c'; names are hf://owner/name/path"),
        ({"transcoders": {}}, "transcoders of config.yaml is {}; it must be a list"),
        ({"activation": "gelu"}, "activation of config.yaml is 'gelu'"),
        ({"activation": "topk", "k": 0}, "k is 0; it must be a whole number"),
    ],
)
def test_altered_config(folder: Path, change: dict[str, object], message: str) -> None:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        read_circuit_tracer(folder)
    path.write_text("!!python/object/apply:os.system ['true']")
    with pytest.raises(ValueError, match="is not YAML"):
        read_circuit_tracer(folder)


def test_the_command_converts_there_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clt = random("clt", JumpReLU())
    save_dictionary(clt, tmp_path / "ours")
    line = ["sae", "convert"]
    assert run(*line, str(tmp_path / "ours"), "--to", "circuit_tracer", "--out", str(tmp_path / "theirs")) == 0
    assert run(*line, str(tmp_path / "theirs"), "--to", "deepfield", "--out", str(tmp_path / "again")) == 0
    assert "jumprelu clt over 3 places, written for deepfield" in " ".join(capsys.readouterr().out.split())
    again = load_dictionary(tmp_path / "again")
    for name, parameter in clt.named_parameters():
        assert torch.equal(again.get_parameter(name), parameter)
    assert run(*line, str(tmp_path / "ours"), "--to", "sparsify", "--out", str(tmp_path / "no")) != 0
    assert "holds a clt, which sparsify cannot hold" in " ".join(capsys.readouterr().err.split())
    SAE(4, 8, TopK(2)).save(tmp_path / "sae")
    assert run(*line, str(tmp_path / "sae"), "--to", "circuit_tracer", "--out", str(tmp_path / "no")) != 0
    assert "holds an SAE of one site" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("tool", ["saelens", "dictionary_learning"])
def test_a_selection_by_decoder_norms_is_not_written_for_tools_without_it(tool: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"{tool} selects latents by their values alone"):
        write(SAE(4, 8, BatchTopK(2, decoder_norms=True)), tool, tmp_path)


@torch.no_grad()
def test_the_skip_connection_of_a_clt_is_the_other_way_round(tmp_path: Path) -> None:
    """circuit-tracer multiplies x @ W_skip in a CLT, and x @ W_skip.T in a set."""
    write_circuit_tracer(random("clt", JumpReLU()), tmp_path)
    skips = torch.randn(LAYERS, D, D, generator=torch.Generator().manual_seed(2))
    xs = torch.randn(LAYERS, 8, D, generator=torch.Generator().manual_seed(1))
    expected = by_their_arithmetic(tmp_path, "clt", JumpReLU(), xs) + xs @ skips
    for i in range(LAYERS):
        file = tmp_path / f"W_enc_{i}.safetensors"
        save_file(load_file(file) | {f"W_skip_{i}": skips[i].contiguous()}, file)
    torch.testing.assert_close(torch.stack(read_circuit_tracer(tmp_path)(list(xs))), expected)


def test_a_set_without_a_configuration(tmp_path: Path) -> None:
    folder = tmp_path / "mwhanna--qwen3-0.6b-transcoders-lowl0"
    write_circuit_tracer(random("transcoders", JumpReLU()), folder)
    (folder / "config.yaml").unlink()
    dictionary = load_any(folder)
    assert isinstance(dictionary, Dictionary)
    assert dictionary.layout == Layout("transcoders", READS, WRITES)
    assert dictionary.provenance["imported"]["model"] == "Qwen/Qwen3-0.6B"


def test_a_clt_without_its_hooks_is_refused(folder: Path) -> None:
    """circuit-tracer would take its own default, which is another place than that of most sets."""
    config = yaml.safe_load((folder / "config.yaml").read_text())
    del config["feature_input_hook"]
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(ValueError, match=r"stands in config\.yaml alone"):
        read_circuit_tracer(folder)
    (folder / "config.yaml").unlink()
    with pytest.raises(ValueError, match=r"stands in config\.yaml alone"):
        load_any(folder)


def test_the_published_set_whose_topk_is_in_no_file(tmp_path: Path) -> None:
    """facebook/crv-8b-instruct-transcoders: their loader knows k = 128 by its name."""
    config = {"model_kind": "transcoder_set", "model_name": "meta-llama/Llama-3.1-8B-Instruct"}
    for name in ("models--facebook--crv-8b-instruct-transcoders/snapshots/1", "downloaded"):
        places = Layout("transcoders", READS, WRITES)
        dictionary = randomised(Dictionary(places, ((D,) * LAYERS,) * 2, d_sae=130, activation=ReLU()), seed=0)
        write_circuit_tracer(dictionary, tmp_path / name)
        (tmp_path / name / "config.yaml").write_text(yaml.safe_dump(config))
    known, other = (tmp_path / name for name in ("models--facebook--crv-8b-instruct-transcoders/snapshots/1", name))
    assert read_circuit_tracer(known).activation == TopK(128)
    assert SAE.load(known / "layer_1.safetensors").activation == TopK(128)
    for load in (lambda: read_circuit_tracer(other), lambda: SAE.load(other / "layer_1.safetensors")):
        with pytest.raises(
            ValueError, match=r"has TopK with k = 128, which stands in no file of it: write 'activation"
        ):
            load()
    (other / "config.yaml").write_text(yaml.safe_dump(config | {"activation": "relu"}))
    assert read_circuit_tracer(other).activation == ReLU()
    (other / "config.yaml").write_text(yaml.safe_dump(config | {"activation": "jump_relu"}))
    with pytest.raises(ValueError, match="activation is jump_relu, and its files hold no thresholds"):
        read_circuit_tracer(other)


def hub_repository(cache: Path, repo: str) -> Path:
    """An empty repository in the cache, at its main branch."""
    place = cache / f"models--{repo.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("a" * 40)
    return place / "snapshots" / ("a" * 40)


@torch.no_grad()
def test_by_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A set and a CLT of the cache, a CLT in a folder, ours, and a set whose files are another repository's."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    xs = list(torch.randn(LAYERS, 8, D, generator=torch.Generator().manual_seed(1)))
    of_set, clt = random("transcoders", JumpReLU()), random("clt", ReLU())
    write_circuit_tracer(of_set, hub_repository(tmp_path, "mwhanna/set"))
    write_circuit_tracer(clt, hub_repository(tmp_path, "mntss/clt-x") / "sub" / "folder")
    save_dictionary(clt, hub_repository(tmp_path, "me/mine"))
    names = [f"hf://mwhanna/set/layer_{i}.safetensors?revision=main" for i in range(LAYERS)]
    listed = hub_repository(tmp_path, "mwhanna/listed")
    listed.mkdir(parents=True)
    config = {"model_kind": "transcoder_set", "model_name": "gpt2", "transcoders": names}
    hooks = {"feature_input_hook": "mlp.hook_in", "feature_output_hook": "hook_mlp_out"}
    (listed / "config.yaml").write_text(yaml.safe_dump(config | hooks))
    for name, expected in (
        ("mwhanna/set", of_set),
        ("mntss/clt-x/sub/folder", clt),
        ("me/mine", clt),
        ("mwhanna/listed", of_set),
    ):
        found = load_any(name)
        assert isinstance(found, Dictionary)
        assert found.layout == expected.layout
        for ours, theirs in zip(found(xs), expected(xs), strict=True):
            assert torch.equal(ours, theirs)
    assert load_any("mwhanna/set", revision="main").layout == of_set.layout  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="is neither a folder here nor in the hub's cache"):
        load_any("mwhanna/other")
    (listed / "config.yaml").write_text(
        yaml.safe_dump(config | hooks | {"transcoders": [*names[:-1], "hf://a/b/c.npz"]})
    )
    with pytest.raises(ValueError, match=r"a/b/c\.npz is neither a folder here"):
        load_any("mwhanna/listed")


def test_one_layer_of_a_clt_by_its_name_in_the_directory() -> None:
    with pytest.raises(ValueError, match=r"load all of it with saes\.places\.load_any\('mntss/clt-gemma-2-2b-2\.5M'\)"):
        load_any("mntss-gemma-2-2b-2.5m-clt-as-per-layer/layer_0")
    with pytest.raises(ValueError, match="is a temporal SAE, whose latents depend on the tokens before"):
        SAE.load("temporal-sae-gemma-2-2b/blocks.12.hook_resid_post")
