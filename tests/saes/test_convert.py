"""Other tools' files: round trips for what can be written, hand-made files for what is only read, and hostile ones."""

import io
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from saes import SAE, BatchTopK, Gated, JumpReLU, Matryoshka, ReLU, TopAFA, TopK
from saes.convert import FORMATS, write
from tests.saes.variants import VARIANTS, inputs, random_sae

HOLDS = {
    "saelens": ("topk", "batchtopk", "matryoshka", "jumprelu", "gated", "relu"),
    "sparsify": ("topk",),
    "dictionary_learning": ("topk", "batchtopk", "matryoshka", "jumprelu", "gated", "relu"),
}
CASES = [(form, variant) for form, variants in HOLDS.items() for variant in variants]


@pytest.mark.parametrize(("form", "variant"), CASES)
def test_written_and_read_is_the_same(form: str, variant: str, tmp_path: Path) -> None:
    sae, x = random_sae(VARIANTS[variant], dtype=torch.float32), inputs(dtype=torch.float32)
    write(sae, form, tmp_path / "sae")
    again = SAE.load(tmp_path / "sae")
    torch.testing.assert_close(again.encode(x).to_dense(), sae.encode(x).to_dense(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(again(x), sae(x), rtol=1e-5, atol=1e-5)
    assert SAE.load(tmp_path / "sae").activation == again.activation


@pytest.mark.parametrize("d_sae", [1, 2, 10])
@pytest.mark.parametrize("form", ["saelens", "dictionary_learning"])
@torch.no_grad()
def test_few_latents_are_held_too(form: str, d_sae: int, tmp_path: Path) -> None:
    """One latent has thresholds without a stride; shares of a few end at the same latent."""
    x = inputs(dtype=torch.float32)
    for number, activation in enumerate((BatchTopK(1), Matryoshka(1), JumpReLU(), Gated(), TopK(1))):
        sae = SAE(x.shape[-1], d_sae, activation).initialise(seed=0, mean=x.mean(0))
        write(sae, form, tmp_path / str(number))
        again = SAE.load(tmp_path / str(number))
        torch.testing.assert_close(again.encode(x).to_dense(), sae.encode(x).to_dense(), rtol=1e-5, atol=1e-5)
        if isinstance(again.activation, Matryoshka):
            assert set(again.activation.prefixes(d_sae)) == set(activation.prefixes(d_sae))


@pytest.mark.parametrize(
    ("form", "variant"),
    [(form, name) for form, held in HOLDS.items() for name in VARIANTS if name not in held],
)
def test_what_a_tool_cannot_hold_is_refused(form: str, variant: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{form.split('_')[0]}|SAELens"):
        write(random_sae(VARIANTS[variant]), form, tmp_path / "sae")
    assert not (tmp_path / "sae").exists()


def test_unknown_target_and_unwritable_format(tmp_path: Path) -> None:
    for to in ("neuronpedia", "gemma_scope"):
        with pytest.raises(ValueError, match="there are saelens, sparsify, dictionary_learning"):
            write(random_sae(TopK(4)), to, tmp_path)
    with pytest.raises(ValueError, match="holds no SAE of a known format"):
        SAE.load(tmp_path)
    assert set(HOLDS) == {name for name, form in FORMATS.items() if form.write}


def test_saelens_scaled_by_decoder_norms(tmp_path: Path) -> None:
    """SAELens's TopK selects by pre-activation times decoder norm and returns that product."""
    sae, x = random_sae(TopK(4), dtype=torch.float32), inputs(dtype=torch.float32)
    write(sae, "saelens", tmp_path)
    config = json.loads((tmp_path / "cfg.json").read_text())
    (tmp_path / "cfg.json").write_text(json.dumps(config | {"rescale_acts_by_decoder_norm": True}))
    norms = sae.W_dec.norm(dim=-1)
    pre = ((x - sae.b_dec) @ sae.W_enc + sae.b_enc) * norms
    values, indices = pre.topk(4)
    expected = torch.zeros_like(pre).scatter(-1, indices, values.relu())
    again = SAE.load(tmp_path)
    torch.testing.assert_close(again.encode(x).to_dense(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(again(x), (expected / norms) @ sae.W_dec + sae.b_dec, rtol=1e-5, atol=1e-5)


def test_saelens_layout_is_its_own(tmp_path: Path) -> None:
    write(random_sae(VARIANTS["batchtopk"], dtype=torch.float32), "saelens", tmp_path)
    config = json.loads((tmp_path / "cfg.json").read_text())
    weights = load_file(tmp_path / "sae_weights.safetensors")
    assert (config["architecture"], config["metadata"]["hook_name"]) == ("jumprelu", "blocks.0.hook_resid_post")
    assert {name: tuple(value.shape) for name, value in weights.items()} == {
        "W_enc": (8, 24),
        "b_enc": (24,),
        "W_dec": (24, 8),
        "b_dec": (8,),
        "threshold": (24,),
    }


def test_transcoders(tmp_path: Path) -> None:
    """With a skip connection through SAELens (ReLU) and sparsify (TopK)."""
    for form, variant in (("saelens", ReLU()), ("sparsify", TopK(3))):
        sae = SAE(8, 24, variant, d_out=8, subtract_b_dec=False, skip=True, site="a", target_site="b")
        with torch.no_grad():
            for parameter in sae.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(4)))
        write(sae, form, tmp_path / form)
        again, x = SAE.load(tmp_path / form), inputs(dtype=torch.float32)
        assert again.skip
        torch.testing.assert_close(again(x), sae(x), rtol=1e-5, atol=1e-5)


def weights(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"W_enc": (8, 24), "W_dec": (24, 8), "b_enc": (24,), "b_dec": (8,), "threshold": (24,)}
    return {name: torch.randn(shape, generator=generator).abs() - 0.2 for name, shape in shapes.items()}


@pytest.mark.parametrize("kind", ["npz", "safetensors"])
def test_gemma_scope(kind: str, tmp_path: Path) -> None:
    w, x = weights(), inputs(dtype=torch.float32)
    if kind == "npz":
        np.savez(tmp_path / "params.npz", **{name: value.numpy() for name, value in w.items()})
    else:
        lower = {"W_enc": "w_enc", "W_dec": "w_dec"}
        save_file({lower.get(name, name): value for name, value in w.items()}, tmp_path / "params.safetensors")
    pre = x @ w["W_enc"] + w["b_enc"]
    latents = pre.relu() * (pre > w["threshold"])
    sae = SAE.load(tmp_path)
    torch.testing.assert_close(sae.encode(x).to_dense(), latents, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(sae(x), latents @ w["W_dec"] + w["b_dec"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["TopK", "ReLU"])
def test_openai(kind: str, tmp_path: Path) -> None:
    """Their TopK autoencoders normalise each input, and bring the output back; their ReLU ones do neither."""
    w, x = weights(), 3 * inputs(dtype=torch.float32) + 2
    content = {
        "encoder.weight": w["W_enc"].T,
        "decoder.weight": w["W_dec"].T,
        "latent_bias": w["b_enc"],
        "pre_bias": w["b_dec"],
        "activation": kind,
        "activation_state_dict": {"k": 4, "postact_fn": "ReLU"} if kind == "TopK" else {},
    }
    torch.save(content, tmp_path / "autoencoder.pt")
    sae = SAE.load(tmp_path / "autoencoder.pt")
    mean, std = (x.mean(-1, keepdim=True), x.std(-1, keepdim=True)) if kind == "TopK" else (0, 1)
    taken = (x - mean) / (std + 1e-5) if kind == "TopK" else x
    pre = (taken - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
    expected = pre.relu()
    if kind == "TopK":
        values, indices = pre.topk(4)
        expected = torch.zeros_like(pre).scatter(-1, indices, values.relu())
    torch.testing.assert_close(sae.encode(x).to_dense(), expected, rtol=1e-5, atol=1e-5)
    output = (expected @ w["W_dec"] + w["b_dec"]) * std + mean
    torch.testing.assert_close(sae(x), output, rtol=1e-5, atol=1e-4)
    for change in ({"activation": "Identity"}, {"activation_state_dict": {"k": 4, "postact_fn": "Identity"}}):
        torch.save(content | change, tmp_path / "autoencoder.pt")
        with pytest.raises(ValueError, match=r"'Identity'.* has no counterpart here"):
            SAE.load(tmp_path / "autoencoder.pt")


# Hostile and damaged files


class Evil:
    """Unpickling it would create a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.marker,)


def test_a_pickle_is_not_executed(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    folder = tmp_path / "dl"
    write(random_sae(ReLU()), "dictionary_learning", folder)
    (folder / "ae.pt").write_bytes(pickle.dumps({"encoder.weight": Evil(marker)}))
    np.savez(tmp_path / "params.npz", W_enc=np.array([Evil(marker)], dtype=object))
    (tmp_path / "alone.pt").write_bytes(pickle.dumps(Evil(marker)))
    for place in (folder, tmp_path, tmp_path / "alone.pt"):
        with pytest.raises(ValueError, match="was not executed"):
            SAE.load(place)
    assert not marker.exists()
    pickle.load(io.BytesIO(pickle.dumps(Evil(marker))))
    assert marker.exists(), "the trap works where it is sprung"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"W_dec": torch.zeros(24, 9)}, "b_dec has d_out = 9 entries, the input 8"),
        ({"W_dec": torch.zeros(23, 8)}, r"W_dec has shape \(23, 8\), expected \(24, 8\)"),
        ({"b_enc": torch.full((24,), torch.nan)}, "b_enc is not finite"),
        ({"W_enc": torch.zeros(8)}, "expected a matrix"),
        ({"b_dec": None}, "lacks b_dec"),
    ],
)
def test_wrong_weights_are_named(change: dict[str, Tensor | None], message: str, tmp_path: Path) -> None:
    write(random_sae(TopK(4), dtype=torch.float32), "saelens", tmp_path)
    path = tmp_path / "sae_weights.safetensors"
    found = load_file(path) | change
    save_file({name: value for name, value in found.items() if value is not None}, path)
    with pytest.raises(ValueError, match=message):
        SAE.load(tmp_path)


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from saes import SAE, TopK
from saes.convert import FORMATS, write
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write past the limit fails, as on a full disk
resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, resource.RLIM_INFINITY))
for name in [name for name, form in FORMATS.items() if form.write]:
    try:
        write(SAE(32, 64, TopK(4)), name, Path(sys.argv[1], name))
    except OSError as error:
        print(error)
"""


def test_a_full_disk_is_told_in_words(tmp_path: Path) -> None:
    ran = subprocess.run([sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True, check=True)
    lines = ran.stdout.splitlines()
    written = [name for name, form in FORMATS.items() if form.write]
    assert len(lines) == len(written) == 3
    for name, line in zip(written, lines, strict=True):
        assert f"no room on the disk for {tmp_path / name}/" in line
        assert not list((tmp_path / name).iterdir())


def header(**tensors: object) -> bytes:
    """The start of a safetensors file, whatever it claims."""
    content = json.dumps(tensors).encode()
    return len(content).to_bytes(8, "little") + content


@pytest.mark.parametrize(
    "content",
    [
        b"",
        (2**60).to_bytes(8, "little") + b"{}",
        (2**27).to_bytes(8, "little") + b"{" + b" " * 2**10,
        header(W_enc={"dtype": "F32", "shape": [2**31, 2**31], "data_offsets": [0, 2**64 - 1]}),
        header(W_enc={"dtype": "F32", "shape": [2**20, 2**20], "data_offsets": [0, 2**42]}) + b"0" * 64,
        header(W_enc={"dtype": "F32", "shape": [4, 4], "data_offsets": [-64, 0]}) + b"0" * 64,
    ],
)
def test_a_header_that_claims_more_than_the_file(content: bytes, tmp_path: Path) -> None:
    for form, name in (("sparsify", "sae.safetensors"), ("saelens", "sae_weights.safetensors")):
        write(random_sae(TopK(4)), form, tmp_path / form)
        (tmp_path / form / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name} cannot be read"):
            SAE.load(tmp_path / form)
    (tmp_path / "params.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"params.safetensors cannot be read"):
        SAE.load(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[" * 100_000, "[]", '{"a": "' + "\ud800" + '"'])
def test_a_damaged_configuration(content: str, tmp_path: Path) -> None:
    for form, config in (("sparsify", "cfg.json"), ("saelens", "cfg.json"), ("dictionary_learning", "config.json")):
        write(random_sae(TopK(4)), form, tmp_path / form)
        (tmp_path / form / config).write_text(content, errors="surrogatepass")
        with pytest.raises(ValueError, match=rf"{config}( is damaged)|cannot load an SAE"):
            SAE.load(tmp_path / form)


@pytest.mark.parametrize("k", [0, -4, 1.5, True, None, "4", [4], float("inf"), 25, 10**30])
def test_a_k_that_is_none(k: object, tmp_path: Path) -> None:
    for form, config in (("sparsify", "cfg.json"), ("saelens", "cfg.json")):
        write(random_sae(TopK(4)), form, tmp_path / form)
        path = tmp_path / form / config
        path.write_text(json.dumps(json.loads(path.read_text()) | {"k": k}))
        with pytest.raises(ValueError, match=r"k is .*(it must be a whole number of 1 or more|lower k)"):
            SAE.load(tmp_path / form)


def test_a_k_that_two_files_say_differently(tmp_path: Path) -> None:
    write(random_sae(TopK(4)), "dictionary_learning", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["trainer"]["k"] = 8
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="its configuration says k 8, its weights 4"):
        SAE.load(tmp_path)


def test_weights_of_several_dtypes_lose_nothing(tmp_path: Path) -> None:
    write(random_sae(TopK(4), dtype=torch.float32), "sparsify", tmp_path)
    found = load_file(tmp_path / "sae.safetensors")
    found["encoder.weight"] = found["encoder.weight"].half()
    save_file(found, tmp_path / "sae.safetensors")
    sae = SAE.load(tmp_path)
    assert sae.W_enc.dtype == torch.float32
    assert torch.equal(sae.W_dec, found["W_dec"])
    save_file({name: value.half() for name, value in found.items()}, tmp_path / "sae.safetensors")
    assert SAE.load(tmp_path).W_dec.dtype == torch.float16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": torch.tensor([4, 5])}, "k is tensor"),
        ({"k": torch.tensor(0)}, "k is 0"),
        ({"group_sizes": torch.tensor([25, -1])}, "a group size is -1"),
        ({"group_sizes": torch.tensor([5, 5])}, "the groups have 10 latents together, the SAE 24"),
        ({"group_sizes": 24}, "holds a dictionary_learning SAE that cannot be read"),
        ({"W_enc": "a string"}, "W_enc is a str"),
        ({"W_enc": torch.zeros(8, 24, dtype=torch.int64)}, r"W_enc is of torch\.int64"),
        ({"b_dec": torch.zeros(8, dtype=torch.complex64)}, r"b_dec is of torch\.complex64"),
        ({"W_enc": torch.zeros(1).expand(10**6, 10**6)}, r"claims the shape \(1000000, 1000000\)"),
        ({"W_enc": torch.eye(8, 24).to_sparse()}, "W_enc is nested, sparse or quantised"),
        ({"W_enc": torch.empty(10**6, 10**6, device="meta")}, "does not store its values"),
        (
            {"W_enc": torch.nested.nested_tensor([torch.zeros(24), torch.zeros(8)])},
            "W_enc is nested, sparse or quantised",
        ),
        ({"note": {"inside": [torch.zeros(1).expand(10**6, 10**6)]}}, "note.inside claims the shape"),
        ({"threshold": torch.zeros(24)}, r"threshold has shape \(24,\), expected \(\)"),
    ],
)
def test_a_pickle_with_other_things(change: dict[str, object], message: str, tmp_path: Path) -> None:
    write(random_sae(VARIANTS["matryoshka"], dtype=torch.float32), "dictionary_learning", tmp_path)
    path = tmp_path / "ae.pt"
    torch.save(torch.load(path, weights_only=True) | change, path)
    with pytest.raises(ValueError, match=message):
        SAE.load(tmp_path)


def test_weights_without_entries(tmp_path: Path) -> None:
    """Shapes that need no bytes in the file, but much memory in what is made from them."""
    (tmp_path / "cfg.json").write_text(json.dumps({"architecture": "skip_transcoder", "apply_b_dec_to_input": False}))
    found = {"W_enc": torch.zeros(2**20, 1), "W_dec": torch.zeros(1, 2**20), "b_enc": torch.zeros(1)}
    found |= {"b_dec": torch.zeros(2**20), "W_skip": torch.zeros(1)}
    save_file(found, tmp_path / "sae_weights.safetensors")
    with pytest.raises(ValueError, match=r"W_skip has shape \(1,\), expected \(1048576, 1048576\)"):
        SAE.load(tmp_path)
    save_file(found | {"W_enc": torch.zeros(8, 0)}, tmp_path / "sae_weights.safetensors")
    with pytest.raises(ValueError, match="d_sae is 0"):
        SAE.load(tmp_path)


@pytest.mark.parametrize("size", [2**20, 10**30])
def test_our_own_configuration_takes_no_memory_for_what_it_claims(size: int, tmp_path: Path) -> None:
    random_sae(TopK(4)).save(tmp_path)
    path = tmp_path / "cfg.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"d_in": size, "d_out": size, "d_sae": size}))
    with pytest.raises(ValueError, match="cannot load an SAE"):
        SAE.load(tmp_path)


def test_names_of_another_kind_are_not_taken(tmp_path: Path) -> None:
    write(random_sae(TopK(4), dtype=torch.float32), "saelens", tmp_path)
    path = tmp_path / "cfg.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"metadata": {"hook_name": ["../.."], "hook_name_out": 7}}))
    sae = SAE.load(tmp_path)
    assert (sae.site, sae.target_site) == (None, None)
    for change in ({"metadata": ["hook_name"]}, {"architecture": ["topk"]}):
        path.write_text(json.dumps(config | change))
        with pytest.raises(ValueError, match="holds a saelens SAE that cannot be read"):
            SAE.load(tmp_path)


# Files of other times and widths


def test_saelens_before_version_6(tmp_path: Path) -> None:
    """Its TopK was an activation of the standard architecture, and site and activation stood at the top."""
    sae, x = random_sae(TopK(4), dtype=torch.float32), inputs(dtype=torch.float32)
    write(sae, "saelens", tmp_path)
    path = tmp_path / "cfg.json"
    old = {"d_in": 8, "d_sae": 24, "hook_point": "blocks.0.hook_resid_post", "normalize_activations": False}
    topk = {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 4}}
    path.write_text(json.dumps(old | topk))
    again = SAE.load(tmp_path)
    assert (again.activation, again.site) == (TopK(4), sae.site)
    torch.testing.assert_close(again(x), sae(x), rtol=1e-5, atol=1e-5)
    path.write_text(json.dumps(old | {"activation_fn": "relu"}))
    assert SAE.load(tmp_path).activation == ReLU()
    for change, message in (
        ({"activation_fn_str": "tanh-relu"}, "tanh-relu"),
        ({"normalize_activations": True}, "normalize_activations is True"),
    ):
        path.write_text(json.dumps(old | change))
        with pytest.raises(ValueError, match=message):
            SAE.load(tmp_path)
    path.write_text(json.dumps(old))
    file = tmp_path / "sae_weights.safetensors"
    save_file(load_file(file) | {"scaling_factor": torch.full((24,), 2.0)}, file)
    with pytest.raises(ValueError, match="scaling_factor"):
        SAE.load(tmp_path)


@pytest.mark.parametrize(
    "option",
    [
        {"normalize_activations": "expected_average_only_in"},
        {"normalize_activations": "covariance_whitening"},
        {"normalize_activations": "constant_norm_rescale"},
        {"normalize_activations": "something_new"},
        {"reshape_activations": "hook_q"},
    ],
)
def test_saelens_of_transformed_activations_is_refused(option: dict[str, str], tmp_path: Path) -> None:
    write(random_sae(TopK(4), dtype=torch.float32), "saelens", tmp_path)
    path = tmp_path / "cfg.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | option))
    with pytest.raises(ValueError, match=r"there is no activation_\w+\.\w+|has no counterpart here|not none or hook_z"):
        SAE.load(tmp_path)


def test_transcoders_of_two_widths_and_centred_ones_are_refused_where_there_are_none(tmp_path: Path) -> None:
    wide = SAE(8, 24, TopK(4), d_out=6, subtract_b_dec=False)
    for form, message in (("sparsify", "here they are 6 and 8"), ("saelens", "a transcoder of topk")):
        with pytest.raises(ValueError, match=message):
            write(wide, form, tmp_path / form)
    centred = SAE(8, 24, ReLU(), skip=True)
    with pytest.raises(ValueError, match="transcoders subtract no b_dec"):
        write(centred, "saelens", tmp_path / "saelens")
    same_width = SAE(8, 24, JumpReLU(), subtract_b_dec=False, site="a", target_site="b")
    with pytest.raises(ValueError, match="no transcoders"):
        write(same_width, "dictionary_learning", tmp_path / "dictionary_learning")
    assert list(tmp_path.iterdir()) == []


def test_a_threshold_in_half_precision_is_rounded_down(tmp_path: Path) -> None:
    """SAELens compares in the weights' dtype: nearest rounding would lose latents that lie on the threshold."""
    sae = random_sae(VARIANTS["batchtopk"], dtype=torch.bfloat16)
    with torch.no_grad():
        sae.threshold.fill_(1.0037)  # between 1 and the next bfloat16, nearer to the latter
    write(sae, "saelens", tmp_path)
    assert set(SAE.load(tmp_path).threshold.tolist()) == {1.0}


def test_gated_and_jumprelu_keep_their_meaning(tmp_path: Path) -> None:
    """A JumpReLU that subtracts b_dec, written for a tool whose own does not: the bias is folded."""
    sae, x = random_sae(JumpReLU(), dtype=torch.float32), inputs(dtype=torch.float32)
    write(sae, "dictionary_learning", tmp_path)
    again = SAE.load(tmp_path)
    assert not again.subtract_b_dec
    torch.testing.assert_close(again(x), sae(x), rtol=1e-5, atol=1e-5)
    assert isinstance(SAE.load(_gated(tmp_path / "gated")).activation, Gated)


def _gated(folder: Path) -> Path:
    write(random_sae(Gated()), "dictionary_learning", folder)
    return folder


def test_layer_normalised(tmp_path: Path) -> None:
    sae, x = random_sae(TopK(4), dtype=torch.float32), 3 * inputs(dtype=torch.float32) + 2
    sae.layer_norm = True
    write(sae, "saelens", tmp_path / "saelens")
    assert torch.equal(SAE.load(tmp_path / "saelens")(x), sae(x))
    for form in ("sparsify", "dictionary_learning"):
        with pytest.raises(ValueError, match=f"{form} does not layer-normalise its input"):
            write(sae, form, tmp_path / form)
        assert not (tmp_path / form).exists()


def test_top_afa_stays_here(tmp_path: Path) -> None:
    for form in HOLDS:
        with pytest.raises(ValueError, match="afa"):
            write(random_sae(TopAFA()), form, tmp_path)


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from interp.cli import main

    sae, x = random_sae(TopK(4), dtype=torch.float32), inputs(dtype=torch.float32)
    sae.save(tmp_path / "ours")
    for source, to in (("ours", "saelens"), ("saelens", "sparsify"), ("sparsify", "deepfield")):
        with pytest.raises(SystemExit) as exit_:
            main(["sae", "convert", str(tmp_path / source), "--to", to, "--out", str(tmp_path / to)])
        assert exit_.value.code == 0
    torch.testing.assert_close(SAE.load(tmp_path / "deepfield")(x), sae(x), rtol=1e-5, atol=1e-5)
    with pytest.raises(SystemExit) as exit_:
        main(["sae", "convert", str(tmp_path / "ours"), "--to", "saelens", "--out", str(tmp_path / "saelens")])
    assert exit_.value.code == 2
    assert "is not empty; choose a new folder" in capsys.readouterr().err
