"""SAEs of normalised inputs: latents and outputs are those of the tool that normalises, on the way in and out."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from saes import SAE, Gated, JumpReLU, ReLU, TopK
from saes.activations import Activation
from saes.convert import write
from tests.saes.convert.by_hand import K, Layout, jumprelu, save_json, topk
from tests.saes.convert.layouts import NEOX, RESID_POST, openai, saelens, sparsify
from tests.saes.convert.test_places import measured  # noqa: F401
from tests.saes.variants import random_sae

FACTOR = 0.37


def whitening(d: int = 8) -> dict[str, Tensor]:
    """Of a random covariance, as SAELens makes it from the eigenvectors."""
    generator = torch.Generator().manual_seed(5)
    root = torch.randn(d, d, generator=generator, dtype=torch.float64)
    values, vectors = torch.linalg.eigh(root @ root.T)
    values = values + 1e-3
    return {
        "mean": torch.randn(d, generator=generator, dtype=torch.float64),
        "matrix": (vectors * values.rsqrt()).contiguous(),
        "inverse_matrix": (values.sqrt()[:, None] * vectors.T).contiguous(),
    }


def raw_inputs() -> Tensor:
    return torch.randn(16, 8, generator=torch.Generator().manual_seed(2)) * 3 + 1


def as_written(variant: Activation, folder: Path, *, normalised: str, subtract: bool = True) -> SAE:
    """An SAE of normalised inputs; its files say so, and its own arithmetic is that of the weights in them."""
    sae = SAE(8, 24, variant, subtract_b_dec=subtract, site="blocks.0.hook_resid_post")
    sae.load_state_dict(random_sae(variant, dtype=torch.float32).state_dict())
    write(sae, "saelens", folder)
    config = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps(config | {"normalize_activations": normalised}))
    return sae


def dense(sae: SAE, x: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        return sae.encode(x).to_dense(), sae(x)


@pytest.mark.parametrize("subtract", [True, False])
@pytest.mark.parametrize("variant", [ReLU(), TopK(4), JumpReLU(), Gated()], ids=lambda v: v.name)
def test_a_constant_factor_is_folded(variant: Activation, subtract: bool, tmp_path: Path) -> None:
    trained = as_written(variant, tmp_path, normalised="expected_average_only_in", subtract=subtract)
    save_json(tmp_path / "activation_scaler.json", {"scaling_factor": FACTOR, "has_whitening": False})
    latents, output = dense(trained, raw_inputs() * FACTOR)
    found = dense(SAE.load(tmp_path), raw_inputs())
    torch.testing.assert_close(found[0], latents, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[1], output / FACTOR, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("subtract", [True, False])
@pytest.mark.parametrize("variant", [ReLU(), TopK(4), JumpReLU(), Gated()], ids=lambda v: v.name)
def test_whitening_is_folded(variant: Activation, subtract: bool, tmp_path: Path) -> None:
    trained = as_written(variant, tmp_path, normalised="covariance_whitening", subtract=subtract)
    w = whitening()
    save_file(w, tmp_path / "activation_whitening.safetensors")
    z = (raw_inputs().double() - w["mean"]) @ w["matrix"]
    latents, output = dense(trained, z.float())
    found = SAE.load(tmp_path)
    torch.testing.assert_close(dense(found, raw_inputs())[0], latents, rtol=1e-4, atol=1e-5)
    expected = (output.double() @ w["inverse_matrix"] + w["mean"]).float()
    torch.testing.assert_close(dense(found, raw_inputs())[1], expected, rtol=1e-4, atol=1e-5)
    # It is part of what is written for others.
    write(found, "saelens", tmp_path / "again")
    assert json.loads((tmp_path / "again" / "cfg.json").read_text())["normalize_activations"] == "none"
    torch.testing.assert_close(dense(SAE.load(tmp_path / "again"), raw_inputs())[1], expected, rtol=1e-4, atol=1e-5)


def test_scales_of_latents_before_version_6(tmp_path: Path) -> None:
    """SAELens up to version 5 multiplied latents by them before they were decoded, where its configuration said so."""
    trained = as_written(ReLU(), tmp_path, normalised="none")
    file = tmp_path / "sae_weights.safetensors"
    scales = torch.linspace(0.5, 2, 24)
    save_file(load_file(file) | {"scaling_factor": scales}, file)
    config = {"d_in": 8, "d_sae": 24, "hook_name": "blocks.0.hook_resid_post", "finetuning_scaling_factor": True}
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    x = raw_inputs()
    latents, _ = dense(trained, x)
    found = dense(SAE.load(tmp_path), x)
    torch.testing.assert_close(found[0], latents, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found[1], (latents * scales) @ trained.W_dec + trained.b_dec, rtol=1e-5, atol=1e-5)
    (tmp_path / "cfg.json").write_text(json.dumps(config | {"finetuning_scaling_factor": False}))
    with pytest.raises(ValueError, match="holds a scaling_factor, but finetuning_scaling_factor is not true"):
        SAE.load(tmp_path)


def saelens_scaled(root: Path, w: dict[str, Tensor]) -> Path:
    metadata = {"hook_name": RESID_POST, "model_name": NEOX}
    folder = saelens(
        root, w, names=("threshold",), architecture="jumprelu", metadata=metadata,
    )  # fmt: skip
    config = json.loads((folder / "cfg.json").read_text())
    save_json(folder / "cfg.json", config | {"normalize_activations": "expected_average_only_in"})
    save_json(folder / "activation_scaler.json", {"scaling_factor": FACTOR})
    return folder


def scaled(compute: Callable[..., tuple[Tensor, Tensor]], w: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    latents, output = compute(w, x * FACTOR)
    return latents, output / FACTOR


def test_eval_prints_the_figure_of_raw_activations(measured: Any, tmp_path: Path) -> None:  # noqa: F811
    layout = Layout(
        model=NEOX,
        reads="layers.1.output",
        site=RESID_POST,
        write=saelens_scaled,
        compute=lambda w, x: scaled(jumprelu, w, x),
        scale=FACTOR,
    )
    assert layout.fvu() < 0.5
    report = measured(layout, layout.write(tmp_path, layout.weights()))
    assert report["fvu"]["value"] == pytest.approx(layout.fvu(), rel=1e-4)


@pytest.mark.parametrize("factor", [0, -1, "1", None, True, float("inf"), [1.0]])
def test_a_factor_that_is_none(factor: object, tmp_path: Path) -> None:
    as_written(ReLU(), tmp_path, normalised="expected_average_only_in")
    (tmp_path / "activation_scaler.json").write_text(json.dumps({"scaling_factor": factor}))
    with pytest.raises(ValueError, match=r"activation_scaler\.json"):
        SAE.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inverse_matrix": torch.eye(8)}, "is not the inverse of matrix"),
        ({"mean": torch.zeros(7)}, r"mean of its whitening has shape \(7,\)"),
        ({"matrix": torch.full((8, 8), torch.nan)}, "matrix of its whitening"),
        ({"other": torch.zeros(1)}, "its whitening has inverse_matrix, matrix, mean, other"),
    ],
)
def test_whitening_that_is_none(change: dict[str, Tensor], message: str, tmp_path: Path) -> None:
    as_written(ReLU(), tmp_path, normalised="covariance_whitening")
    save_file(whitening() | change, tmp_path / "activation_whitening.safetensors")
    with pytest.raises(ValueError, match=message):
        SAE.load(tmp_path)


def test_signed_latents_are_refused(tmp_path: Path) -> None:
    """Old files of sparsify take the k largest of either sign; as plain TopK their figures would be of another SAE."""
    sae = random_sae(TopK(4), dtype=torch.float32)
    w = {name: value.detach() for name, value in sae.named_parameters()}
    with pytest.raises(ValueError, match="its latents are signed"):
        SAE.load(sparsify(tmp_path, w, hookpoint="layers.1", k=4, signed=True))
    folder = sparsify(tmp_path / "unsigned", w, hookpoint="layers.1", k=4, signed=False)
    x = raw_inputs()
    torch.testing.assert_close(SAE.load(folder)(x), topk(w, x, centred=True, k=4)[1], rtol=1e-5, atol=1e-5)
    assert K != 4


def test_tensors_that_no_rule_uses_are_named(tmp_path: Path) -> None:
    w = {name: value.detach() for name, value in random_sae(ReLU(), dtype=torch.float32).named_parameters()}
    path = openai(tmp_path, w)
    torch.save(torch.load(path, weights_only=True) | {"stats_last_nonzero": torch.zeros(24)}, path)
    SAE.load(path)
    torch.save(torch.load(path, weights_only=True) | {"post_bias": torch.zeros(8)}, path)
    with pytest.raises(ValueError, match="no rule of OpenAI's SAEs uses post_bias"):
        SAE.load(path)
    folder = sparsify(tmp_path, w, hookpoint="layers.1", k=4)
    file = folder / "sae.safetensors"
    save_file(load_file(file) | {"post_enc_scale": torch.ones(24)}, file)
    with pytest.raises(ValueError, match="has no post_enc_scale, which the file holds"):
        SAE.load(folder)
