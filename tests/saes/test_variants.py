"""One table of variants; every variant passes every test of this file."""

from pathlib import Path

import pytest
import torch

from saes import SAE, TrainConfig, train
from saes.activations import ACTIVATIONS, Activation
from saes.training.initial import initial_state
from tests.saes.sources import MemorySource, planted
from tests.saes.variants import VARIANTS, inputs, random_sae

variants = pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)


def test_the_table_has_every_variant() -> None:
    assert {variant.name for variant in VARIANTS.values()} == set(ACTIVATIONS)


@variants
def test_sparse_and_dense_agree(variant: Activation) -> None:
    sae, x = random_sae(variant), inputs()
    latents = sae.encode(x)
    dense = latents.to_dense()
    torch.testing.assert_close(sae.decode(latents), dense @ sae.W_dec + sae.b_dec, rtol=1e-12, atol=1e-12)
    assert torch.equal((dense != 0).sum(-1), latents.l0)
    assert (dense >= 0).all()
    torch.testing.assert_close(sae(x), sae.decode(latents))


@variants
def test_gather_and_dense_decode_agree(variant: Activation, monkeypatch: pytest.MonkeyPatch) -> None:
    sae, x = random_sae(variant), inputs()
    latents = sae.encode(x)
    outputs = []
    for limit in (0.0, 1.0):
        monkeypatch.setattr("saes.sae.GATHER_UP_TO", limit)
        outputs.append(sae.decode(latents))
    torch.testing.assert_close(*outputs, rtol=1e-12, atol=1e-12)


@variants
def test_leading_dimensions_are_kept(variant: Activation) -> None:
    sae, x = random_sae(variant), inputs(12)
    assert torch.equal(sae(x.view(3, 4, 8)), sae(x).view(3, 4, 8))


@variants
def test_a_row_does_not_depend_on_its_batch(variant: Activation) -> None:
    sae, x = random_sae(variant), inputs()
    alone = torch.cat([sae(row[None]) for row in x])
    torch.testing.assert_close(alone, sae(x), rtol=1e-12, atol=1e-12)


@variants
def test_saved_and_loaded_is_the_same(variant: Activation, tmp_path: Path) -> None:
    sae = random_sae(variant, dtype=torch.float32)
    sae.save(tmp_path / "sae")
    again = SAE.load(tmp_path / "sae")
    assert again.activation == variant
    assert (again.site, again.provenance) == (sae.site, sae.provenance)
    for name, parameter in sae.named_parameters():
        assert torch.equal(again.get_parameter(name), parameter)
    x = inputs(dtype=torch.float32)
    assert torch.equal(again(x), sae(x))


@variants
def test_folding_the_input_scale_changes_no_output(variant: Activation) -> None:
    sae, x = random_sae(variant), inputs()
    latents, output = sae.encode(x * 3.7), sae(x * 3.7) / 3.7
    sae.fold_scales(3.7)
    torch.testing.assert_close(sae(x), output, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(sae.encode(x).to_dense(), latents.to_dense(), rtol=1e-10, atol=1e-12)


RECOVERY = {
    "topk": {"k": 5},
    "batchtopk": {"k": 5},
    "matryoshka": {"k": 5},
    "jumprelu": {},
    "gated": {},
    "relu": {"loss_weights": {"l1": 2.0}},
    # Top-AFA alone keeps whatever is positive: nothing in its loss asks for few latents.
    "afa": {"loss_weights": {"l1": 2.0}},
}


@pytest.mark.parametrize(
    "activation", [name if name == "topk" else pytest.param(name, marks=pytest.mark.slow) for name in ACTIVATIONS]
)
def test_recovers_a_planted_dictionary(activation: str, tmp_path: Path) -> None:
    """Mean over the true features of the best cosine, after training on sums of 5 of 128 features in 64 dimensions."""
    data, dictionary = planted(20_000)
    config = TrainConfig(
        site="s",
        out=tmp_path / "run",
        activation=activation,
        d_sae=128,
        tokens=800 * 1024,
        batch_size=1024,
        lr=1e-2,
        **RECOVERY[activation],  # type: ignore[arg-type]
    )
    sae = train(config, MemorySource(data))
    assert not sae.training
    cosines = torch.nn.functional.normalize(sae.W_dec.detach(), dim=-1) @ dictionary.T
    assert float(cosines.max(0).values.mean()) > 0.9


@variants
def test_the_first_state_follows_the_variant(variant: Activation, tmp_path: Path) -> None:
    data = planted(4_000)[0] + 1
    k = getattr(variant, "k", None)
    config = TrainConfig(site="s", out=tmp_path, activation=variant.name, k=k, d_sae=128, tokens=1000)
    state = initial_state(config, MemorySource(data))
    torch.testing.assert_close(state.sae.W_dec.norm(dim=-1), torch.ones(128))
    scaled = data * state.scale
    assert float(scaled.norm(dim=-1).mean()) == pytest.approx(8.0, rel=1e-5)
    if variant.starts_at_mean:
        torch.testing.assert_close(state.sae.b_dec.detach(), scaled.mean(0), rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(torch.nn.functional.normalize(state.sae.W_enc, dim=0), state.sae.W_dec.T)
        sizes = state.sae.W_enc.norm(dim=0)  # one for all, which ``saes.training.sparsity.start`` chooses
        torch.testing.assert_close(sizes, sizes[:1].expand(128))
    else:
        # Kaiming: all positive latents together have about the input's norm, so AFA starts dense.
        ratio = state.sae.pre_activations(scaled).relu().norm(dim=-1) / scaled.norm(dim=-1)
        assert float(ratio.detach().mean()) == pytest.approx(1.0, abs=0.1)
