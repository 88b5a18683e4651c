"""SAEs of layer-normalised activations: trained on them, they take plain ones."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from saes import SAE, TopK, TrainConfig, train
from saes.activations import ACTIVATIONS, Activation
from saes.layer_norm import RowScale
from saes.losses import afa, run
from tests.saes.sources import MemorySource, planted
from tests.saes.variants import VARIANTS, inputs, random_sae


def standardised(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """By NumPy's definition, in float64."""
    values = x.double().numpy()
    mean, std = values.mean(-1, keepdims=True), values.std(-1, keepdims=True, ddof=1)
    return torch.from_numpy((values - mean) / (std + 1e-5)), torch.from_numpy(mean), torch.from_numpy(std)


def test_every_row_has_the_norm_that_the_paper_trains_on() -> None:
    """F8: sqrt(767) at d = 768, whatever the activations are."""
    x = 40 * torch.randn(100, 768, generator=torch.Generator().manual_seed(0)) + 7
    normalised = RowScale.of(x).remove(x)
    assert normalised.norm(dim=-1).sub(27.695).abs().max() < 1e-3
    torch.testing.assert_close(RowScale.of(x).restore(normalised), x, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_it_is_the_sae_of_normalised_rows(variant: Activation) -> None:
    sae, plain, x = random_sae(variant), random_sae(variant), 5 * inputs() + 3
    sae.layer_norm = True
    normalised, mean, std = standardised(x)
    torch.testing.assert_close(sae.encode(x).to_dense(), plain.encode(normalised).to_dense())
    torch.testing.assert_close(sae(x), plain(normalised) * std + mean)
    torch.testing.assert_close(sae.encode(100 * x - 9).to_dense(), sae.encode(x).to_dense(), rtol=1e-4, atol=1e-4)


def test_the_gradient_reaches_the_activation() -> None:
    sae = random_sae(ACTIVATIONS["relu"]())
    sae.layer_norm = True
    assert torch.autograd.gradcheck(sae, inputs(3).requires_grad_())


def test_the_norms_that_top_afa_compares_are_the_saes_own() -> None:
    sae, plain, x = random_sae(VARIANTS["afa"]), random_sae(VARIANTS["afa"]), 5 * inputs() + 3
    sae.layer_norm = True
    none_dead = torch.zeros(sae.d_sae, dtype=torch.bool)
    normalised = standardised(x)[0]
    torch.testing.assert_close(afa(run(sae, x, x, none_dead)), afa(run(plain, normalised, normalised, none_dead)))


def test_saved_and_loaded(tmp_path: Path) -> None:
    sae, x = random_sae(TopK(4)), inputs()
    sae.layer_norm = True
    sae.save(tmp_path)
    assert torch.equal(SAE.load(tmp_path)(x), sae(x))
    config = json.loads((tmp_path / "cfg.json").read_text())
    del config["layer_norm"], config["checksum"]  # as files were before there was the option
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    assert not SAE.load(tmp_path).layer_norm


def test_decoding_needs_the_input() -> None:
    sae = SAE(4, 8, TopK(2), layer_norm=True)
    with pytest.raises(ValueError, match="layer-normalised activations: decode needs the input too"):
        sae.decode(sae.encode(torch.randn(3, 4)))
    for options in ({"skip": True}, {"d_out": 6, "subtract_b_dec": False}, {"target_site": "b"}):
        with pytest.raises(ValueError, match=r"layer_norm .* is not for transcoders"):
            SAE(4, 8, TopK(2), layer_norm=True, **options)  # type: ignore[arg-type]


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    return TrainConfig(
        site="s", out=tmp_path / "run", k=4, d_sae=64, tokens=5000, batch_size=256, normalise="layer_norm"
    )


def test_training_is_that_on_normalised_rows(config: TrainConfig, tmp_path: Path) -> None:
    """Weight for weight; and every activation may have a scale and a mean of its own."""
    generator = torch.Generator().manual_seed(0)
    signal = planted(1000, d=32, active=3)[0]
    x = signal * (1 + 50 * torch.rand(1000, 1, generator=generator)) + 9 * torch.randn(1000, 1, generator=generator)
    scale = RowScale.of(x)
    sae = train(config, MemorySource(x))
    plain = train(replace(config, out=tmp_path / "plain", normalise="none"), MemorySource(scale.remove(x)))
    for name, parameter in plain.named_parameters():
        assert torch.equal(sae.get_parameter(name), parameter), name
    assert (sae.layer_norm, plain.layer_norm) == (True, False)
    assert torch.equal(sae(x), scale.restore(plain(scale.remove(x))))
    again = SAE.load(config.out)
    assert torch.equal(again(x), sae(x))


def test_a_warm_start_must_be_of_the_same_activations(config: TrainConfig, tmp_path: Path) -> None:
    source = MemorySource(planted(1000, d=32)[0])
    first = train(config, source)
    other = replace(config, out=tmp_path / "again", init_from=config.out, lr=1e-12, tokens=512)
    torch.testing.assert_close(train(other, source)(source.data), first(source.data), rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="is of layer-normalised activations: pass normalise='layer_norm'"):
        train(replace(other, out=tmp_path / "wrong", normalise="mean_norm"), source)
    with pytest.raises(ValueError, match="normalise='layer_norm' is for SAEs"):
        train(replace(other, out=tmp_path / "wrong", init_from=None, target_site="t"), source)
