"""Other tools' files: round trips for what can be written, hand-made files for what is only read, and hostile ones."""

import io
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from saes import SAE, Gated, JumpReLU, ReLU, TopAFA, TopK
from saes.convert import FORMATS, read, write
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
    again = read(tmp_path / "sae")
    torch.testing.assert_close(again.encode(x).to_dense(), sae.encode(x).to_dense(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(again(x), sae(x), rtol=1e-5, atol=1e-5)
    assert SAE.load(tmp_path / "sae").activation == again.activation


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
        read(tmp_path)
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
    again = read(tmp_path)
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
        again, x = read(tmp_path / form), inputs(dtype=torch.float32)
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


def test_openai(tmp_path: Path) -> None:
    w, x = weights(), inputs(dtype=torch.float32)
    content = {
        "encoder.weight": w["W_enc"].T,
        "decoder.weight": w["W_dec"].T,
        "latent_bias": w["b_enc"],
        "pre_bias": w["b_dec"],
        "activation": "TopK",
        "activation_state_dict": {"k": 4},
    }
    torch.save(content, tmp_path / "autoencoder.pt")
    sae = SAE.load(tmp_path / "autoencoder.pt")
    pre = (x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
    values, indices = pre.topk(4)
    expected = torch.zeros_like(pre).scatter(-1, indices, values.relu())
    torch.testing.assert_close(sae.encode(x).to_dense(), expected, rtol=1e-5, atol=1e-5)


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


def test_damaged_files(tmp_path: Path) -> None:
    write(random_sae(TopK(4)), "sparsify", tmp_path)
    (tmp_path / "sae.safetensors").write_bytes((2**60).to_bytes(8, "little") + b"{}")
    with pytest.raises(ValueError, match=r"sae.safetensors cannot be read"):
        SAE.load(tmp_path)
    (tmp_path / "cfg.json").write_text("{")
    with pytest.raises(ValueError, match=r"cfg.json cannot be read"):
        SAE.load(tmp_path)


def test_gated_and_jumprelu_keep_their_meaning(tmp_path: Path) -> None:
    """A JumpReLU that subtracts b_dec, written for a tool whose own does not: the bias is folded."""
    sae, x = random_sae(JumpReLU(), dtype=torch.float32), inputs(dtype=torch.float32)
    write(sae, "dictionary_learning", tmp_path)
    again = read(tmp_path)
    assert not again.subtract_b_dec
    torch.testing.assert_close(again(x), sae(x), rtol=1e-5, atol=1e-5)
    assert isinstance(read(_gated(tmp_path / "gated")).activation, Gated)


def _gated(folder: Path) -> Path:
    write(random_sae(Gated()), "dictionary_learning", folder)
    return folder


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
