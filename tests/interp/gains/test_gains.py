"""Planted spectra, gains recomputed from the original modules, exponents of planted powers, AdamW's steady state."""

import math

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from interp.gains import MATRICES, gains, steady_state_rms, top_singular_values, width_exponent
from tests.tiny_models import FAMILIES, LAYERS, VOCAB, WIDTH, as_bridge, tiny_model

TOKENS = torch.randint(1, VOCAB, (3, 16), generator=torch.Generator().manual_seed(2))
PATHS = {
    "gpt2": {"o": "attn.c_proj", "in": "mlp.c_fc", "out": "mlp.c_proj"},
    "gpt_neox": {"o": "attention.dense", "in": "mlp.dense_h_to_4h", "out": "mlp.dense_4h_to_h"},
}
LLAMA = {"q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.o_proj"}
LLAMA |= {"gate": "mlp.gate_proj", "in": "mlp.up_proj", "out": "mlp.down_proj"}


def with_spectrum(values: Tensor, rows: int, columns: int) -> Tensor:
    torch.manual_seed(0)
    left, _ = torch.linalg.qr(torch.randn(rows, len(values), dtype=torch.float64))
    right, _ = torch.linalg.qr(torch.randn(columns, len(values), dtype=torch.float64))
    return ((left * values) @ right.T).float()


@pytest.mark.parametrize(("rows", "columns"), [(300, 400), (400, 300), (40, 500)])
@pytest.mark.parametrize("second", [4.9, 5.0, 1.0])
def test_a_planted_spectrum_is_recovered(rows: int, columns: int, second: float) -> None:
    """Also where two values are equal, or where the first is far ahead."""
    bulk = torch.linspace(0.9, 0.1, min(rows, columns) - 2, dtype=torch.float64)
    weight = with_spectrum(torch.cat([torch.tensor([5.0, second], dtype=torch.float64), bulk]), rows, columns)
    assert top_singular_values(weight).tolist() == pytest.approx([5.0, second], rel=1e-5)


def test_a_random_matrix_and_one_of_rank_one() -> None:
    torch.manual_seed(1)
    weight = torch.randn(500, 700)
    assert torch.allclose(top_singular_values(weight, k=3), torch.linalg.svdvals(weight.double())[:3], rtol=1e-6)
    assert top_singular_values(torch.ones(200, 200)).tolist() == pytest.approx([200.0, 0.0], abs=1e-9)
    assert top_singular_values(torch.zeros(200, 200)).tolist() == [0.0, 0.0]


def hf_weight(module: nn.Module) -> Tensor:
    weight = module.get_parameter("weight").detach()
    return weight.T if isinstance(module, Conv1D) else weight


@pytest.mark.parametrize("family", FAMILIES)
def test_gains_are_those_of_the_original_modules(family: str) -> None:
    hf_model = tiny_model(family)
    blocks = {"gpt2": "transformer.h", "gpt_neox": "gpt_neox.layers"}.get(family, "model.layers")
    entering: dict[tuple[int, str], Tensor] = {}
    for layer in range(LAYERS):
        for name, path in PATHS.get(family, LLAMA).items():
            module = hf_model.get_submodule(f"{blocks}.{layer}.{path}")
            place = (layer, name)
            module.register_forward_pre_hook(
                lambda _m, args, place=place: entering.__setitem__(place, args[0].detach())
            )
    hf_model(TOKENS)
    model = as_bridge(tiny_model(family))
    found = {(each.layer, each.matrix): each for each in gains(model, TOKENS, batch=2)}
    gated = family not in PATHS
    assert list(found) == [(i, name) for i in range(LAYERS) for name in MATRICES if gated or name != "gate"]
    for (layer, name), x in entering.items():
        weight = hf_weight(hf_model.get_submodule(f"{blocks}.{layer}.{PATHS.get(family, LLAMA)[name]}"))
        each = found[layer, name]
        expected = float(((x @ weight.T).square().mean() / x.square().mean()).sqrt())
        values = torch.linalg.svdvals(weight.double())
        assert each.shape == tuple(weight.shape)
        assert each.gain.value == pytest.approx(expected, rel=1e-4)
        assert (each.sigma1, each.sigma2) == pytest.approx((float(values[0]), float(values[1])), rel=1e-6)
        assert each.stable_rank == pytest.approx(float((values**2).sum() / values[0] ** 2), rel=1e-6)
        assert each.gain.value <= each.sigma1 * math.sqrt(weight.shape[1] / weight.shape[0])
        assert each.gain.n == 3
    modules = [found[0, name].shape for name in ("q", "k", "v")]
    assert modules == [(WIDTH, WIDTH)] + [(16 if gated else WIDTH, WIDTH)] * 2


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox"])
def test_fused_projections_are_taken_apart(family: str) -> None:
    hf_model = tiny_model(family)
    if family == "gpt2":
        parts = hf_model.transformer.h[1].attn.c_attn.weight.detach().T.chunk(3)
    else:
        fused = hf_model.gpt_neox.layers[1].attention.query_key_value.weight.detach()
        parts = tuple(part.reshape(WIDTH, WIDTH) for part in fused.unflatten(0, (4, 3, 8)).unbind(1))
    found = {each.matrix: each for each in gains(as_bridge(hf_model), TOKENS) if each.layer == 1}
    for name, part in zip("qkv", parts, strict=True):
        assert found[name].sigma1 == pytest.approx(float(torch.linalg.matrix_norm(part.double(), 2)), rel=1e-6)


def test_an_error_inside_leaves_no_hooks() -> None:
    model = as_bridge(tiny_model("gpt2"))
    with pytest.raises((IndexError, RuntimeError)):
        gains(model, TOKENS + VOCAB)
    assert not any(module._forward_pre_hooks for block in model.blocks for module in block.mlp.children())
    assert gains(model, TOKENS)[0].matrix == "q"


def test_exponents_of_planted_powers() -> None:
    widths = [64, 128, 256, 512]
    for slope in (0.0, 0.5, -1.25):
        noise = torch.randn(4, generator=torch.Generator().manual_seed(0)).mul(0.002).exp().tolist()
        found = width_exponent(widths, [3 * w**slope * n for w, n in zip(widths, noise, strict=True)])
        assert found.slope == pytest.approx(slope, abs=0.01)
        assert abs(found.slope - slope) < 4 * found.standard_error
    assert math.isnan(width_exponent([1, 2], [1.0, 2.0]).standard_error)
    for widths, values in (([64], [1.0]), ([64, 64], [1.0, 2.0]), ([64, 128], [1.0])):
        with pytest.raises(ValueError, match="two widths or more"):
            width_exponent(widths, values)
    with pytest.raises(ValueError, match="must be above 0"):
        width_exponent([64, 128], [1.0, 0.0])


def test_noise_alone_holds_the_weights_of_adamw_at_their_size() -> None:
    """White gradients of any scale, β₁ = 0, after five times 1 / (ηλ) steps."""
    rate, decay = 0.02, 0.5
    torch.manual_seed(0)
    weight = nn.Parameter(torch.zeros(20_000))
    optimizer = torch.optim.AdamW([weight], lr=rate, weight_decay=decay, betas=(0.0, 0.99))
    for _ in range(500):
        weight.grad = torch.randn_like(weight) * 7e-3
        optimizer.step()
    expected = steady_state_rms(learning_rate=rate, weight_decay=decay)
    assert float(weight.detach().square().mean().sqrt()) == pytest.approx(expected, rel=0.05)
    for wrong in ((0.0, 1.0), (1.0, 0.0), (2.0, 1.0)):
        with pytest.raises(ValueError, match="must be above 0"):
            steady_state_rms(learning_rate=wrong[0], weight_decay=wrong[1])


def test_what_cannot_be_measured_is_refused() -> None:
    model = as_bridge(tiny_model("gpt2"))
    with pytest.raises(ValueError, match="one or more of each"):
        gains(model, TOKENS[:0])
    with pytest.raises(ValueError, match="k=3; a matrix"):
        top_singular_values(torch.ones(2, 5), k=3)
    with pytest.raises(ValueError, match="not finite"):
        top_singular_values(torch.full((2, 2), math.nan))
    with pytest.raises(ValueError, match="tolerance"):
        top_singular_values(torch.ones(2, 2), tolerance=0.0)
    vars(model)["_weights_processed"] = True
    with pytest.raises(ValueError, match="processed weights"):
        gains(model, TOKENS)
