"""Written for Gemma Scope 2 and Llamascopium: there and back, by the tools' arithmetic, lazily by rows, refusals."""

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from interp.store.plan import peak_memory
from saes import SAE, BatchTopK, Gated, JumpReLU, Matryoshka, ReLU, TopK
from saes.activations import Activation
from saes.conditions import conditions_of
from saes.places import (
    Dictionary,
    Layout,
    decoder_rows,
    load_any,
    save_dictionary,
    write_circuit_tracer,
    write_gemma_scope,
    write_llamascopium,
)
from saes.same_model import said_model_of
from tests.saes.convert.by_hand import K
from tests.saes.evaluation.evaluated import run
from tests.saes.places.by_hand import (
    IN,
    OUT,
    RESIDUAL,
    SEVERAL,
    Computed,
    Weights,
    of_gemma_scope,
    of_llamascopium_clt,
    of_llamascopium_crosscoder,
)
from tests.saes.places.kinds import random_dictionary, randomised

LAYERS, D, D_SAE = 3, 6, 96
SOURCE = {"model": "gpt2", "context": 128, "bos": "never"}
Write = Callable[[Dictionary, Path], None]


def random(
    kind: str,
    activation: Activation,
    *,
    skip: bool = False,
    subtract: bool = False,
    dtype: torch.dtype = torch.float32,
    reads: list[str] = IN,
    writes: list[str] = OUT,
) -> Dictionary:
    layout = Layout(kind, tuple(reads), tuple(reads if kind == "crosscoder" else writes))
    dictionary = Dictionary(
        layout, ((D,) * len(reads),) * 2, d_sae=D_SAE, activation=activation, skip=skip, subtract_b_dec=subtract,
        provenance={"source": SOURCE}, dtype=dtype,
    )  # fmt: skip
    return randomised(dictionary, seed=0)


def weakly_causal(activation: Activation, *, reads: list[str] = RESIDUAL, skip: bool = False) -> Dictionary:
    return random("clt", activation, reads=reads, writes=reads, skip=skip)


def inputs() -> list[Tensor]:
    return list(torch.randn(LAYERS, 40, D, generator=torch.Generator().manual_seed(1)))


def read_back(dictionary: Dictionary, folder: Path) -> Dictionary:
    """What was read from the folder, after its latents and outputs were found to be the same to the bit."""
    again = load_any(folder)
    assert isinstance(again, Dictionary)
    assert again.layout == dictionary.layout
    xs = inputs()
    for ours, theirs in zip(dictionary.encode(xs), again.encode(xs), strict=True):
        assert 0 < (ours.values > 0).sum() < ours.values[..., :1].numel() * D_SAE, "some latents are active"
        assert torch.equal(ours.to_dense(), theirs.to_dense())
    for ours, theirs in zip(dictionary(xs), again(xs), strict=True):
        assert torch.equal(ours, theirs)
    assert said_model_of(again.provenance) == "gpt2"
    assert again.provenance["source"] == SOURCE
    assert conditions_of(again.provenance).bos == "never", "not what Gemma Scope's were trained with"
    return again


def agree(computed: Computed, dictionary: Dictionary) -> None:
    xs = inputs()
    for theirs, ours in zip(computed[0], dictionary.encode(xs), strict=True):
        torch.testing.assert_close(theirs, ours.to_dense())
    for theirs, ours in zip(computed[1], dictionary(xs), strict=True):
        torch.testing.assert_close(theirs, ours)


def of_gemma_files(folder: Path) -> list[Weights]:
    found = [load_file(folder / f"params_layer_{number}.safetensors") for number in range(LAYERS)]
    return [
        {"W_enc": w["w_enc"], "W_dec_to": w["w_dec"].transpose(0, 1), "skip": w.get("affine_skip_connection")} | w  # type: ignore[dict-item]
        for w in found
    ]


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("activation", [ReLU(), JumpReLU(), BatchTopK(3), Matryoshka(3)], ids=lambda a: a.name)
@torch.no_grad()
def test_gemma_scope_there_and_back_and_by_its_arithmetic(activation: Activation, skip: bool, tmp_path: Path) -> None:
    residual = ["blocks.7.hook_resid_post", "blocks.13.hook_resid_post", "blocks.22.hook_resid_post"]
    for name, dictionary in (
        ("clt", random("clt", activation, skip=skip)),
        ("crosscoder", weakly_causal(activation, reads=residual, skip=skip)),
        ("crosscoder/layer_7_13_22_width_262k_l0_medium", weakly_causal(activation, reads=residual, skip=skip)),
    ):
        folder = tmp_path / "mine" / name
        write_gemma_scope(dictionary, folder)
        again = read_back(dictionary, folder)
        assert again.activation.name == "jumprelu"
        agree(of_gemma_scope(of_gemma_files(folder), inputs(), affine=skip), dictionary)


@pytest.mark.parametrize("activation", [ReLU(), JumpReLU(), BatchTopK(3), TopK(K)], ids=lambda a: a.name)
@torch.no_grad()
def test_llamascopiums_clt_there_and_back_and_by_its_arithmetic(activation: Activation, tmp_path: Path) -> None:
    for number, dictionary in enumerate((random("clt", activation), weakly_causal(activation))):
        folder = tmp_path / str(number)
        write_llamascopium(dictionary, folder)
        read_back(dictionary, folder)
        found, config = load_file(folder / "sae_weights.safetensors"), json.loads((folder / "config.json").read_text())
        log = found.get("activation_function.log_jumprelu_threshold", torch.zeros(LAYERS, D_SAE))
        weights = [
            {
                "W_enc": found["W_E"][i],
                "b_enc": found["b_E"][i],
                "b_dec": found[f"b_D.{i}"],
                "threshold": log[i].exp(),
                "W_dec_to": torch.stack(
                    [found[f"W_D.{m}"][i] if m >= i else torch.zeros(D_SAE, D) for m in range(LAYERS)]
                ),
            }
            for i in range(LAYERS)
        ]
        computed = of_llamascopium_clt(
            weights,
            inputs(),
            act_fn=config["act_fn"],
            gated=config["sparsity_include_decoder_norm"],
            scales=[(1.0, 1.0)] * LAYERS,
        )
        agree(computed, dictionary)
        assert config.get("top_k") == (K if isinstance(activation, TopK) else None)


@torch.no_grad()
def test_llamascopiums_crosscoder_there_and_back_and_by_its_arithmetic(tmp_path: Path) -> None:
    dictionary = random("crosscoder", ReLU(), reads=RESIDUAL)
    write_llamascopium(dictionary, tmp_path)
    read_back(dictionary, tmp_path)
    agree(of_crosscoder_file(tmp_path), dictionary)


def of_crosscoder_file(folder: Path) -> Computed:
    found, config = load_file(folder / "sae_weights.safetensors"), json.loads((folder / "config.json").read_text())
    assert config["sparsity_include_decoder_norm"], "theirs has no other"
    names = {"W_enc": "W_E", "b_enc": "b_E", "W_dec": "W_D", "b_dec": "b_D"}
    weights = [{ours: found[theirs][place] for ours, theirs in names.items()} for place in range(LAYERS)]
    return of_llamascopium_crosscoder(weights, inputs(), act_fn=config["act_fn"], scales=[(1.0, 1.0)] * LAYERS)


@torch.no_grad()
def test_a_subtracted_bias_is_folded(tmp_path: Path) -> None:
    dictionary = random("crosscoder", ReLU(), reads=RESIDUAL, subtract=True)
    write_llamascopium(dictionary, tmp_path)
    agree(of_crosscoder_file(tmp_path), dictionary)
    again = load_any(tmp_path)
    assert isinstance(again, Dictionary)
    agree(([latents.to_dense() for latents in again.encode(inputs())], list(again(inputs()))), dictionary)


@pytest.mark.parametrize("name", SEVERAL)
@torch.no_grad()
def test_published_ones_are_written_again(name: str, tmp_path: Path) -> None:
    """With scales folded, and with what their files say of the model and the text."""
    layout = SEVERAL[name]
    first = load_any(layout.write(tmp_path, layout.weights()))
    assert isinstance(first, Dictionary)
    (write_gemma_scope if name.startswith("gemma") else write_llamascopium)(first, tmp_path / "again")
    again = load_any(tmp_path / "again")
    assert isinstance(again, Dictionary)
    assert again.layout == first.layout
    assert said_model_of(again.provenance) == said_model_of(first.provenance)
    assert conditions_of(again.provenance) == conditions_of(first.provenance)
    xs, _ = layout.between()
    for ours, theirs in zip(again.encode(xs), first.encode(xs), strict=True):
        assert torch.equal(ours.to_dense(), theirs.to_dense())
    for ours, theirs in zip(again(xs), first(xs), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("write", [write_gemma_scope, write_llamascopium])
@torch.no_grad()
def test_half_precision_stays(write: Write, tmp_path: Path) -> None:
    dictionary = random("clt", ReLU(), dtype=torch.bfloat16)
    write(dictionary, tmp_path)
    again = load_any(tmp_path)
    for name, parameter in dictionary.named_parameters():
        assert torch.equal(again.get_parameter(name), parameter)


@torch.no_grad()
def test_thresholds_come_back_from_their_logarithms(tmp_path: Path) -> None:
    """One of 0 too; a negative one lets nothing more through."""
    dictionary = random("clt", JumpReLU())
    threshold = dictionary.parts[0].threshold
    threshold[:4] = torch.tensor([0.0, -1.0, 1e-6, 3e4])
    write_llamascopium(dictionary, tmp_path)
    again = load_any(tmp_path)
    assert isinstance(again, Dictionary)
    torch.testing.assert_close(again.parts[0].threshold, threshold.clamp_min(0), rtol=2e-6, atol=0)


def test_the_number_of_latents_is_what_llamascopium_computes(tmp_path: Path) -> None:
    """Llamascopium takes the whole part of a product, which rounding may bring below the number."""
    for d, d_sae in [(d, d_sae) for d in (6, 49, 107) for d_sae in range(1, 120, 7)]:
        clt = Dictionary(
            Layout("clt", ("blocks.0.mlp.hook_in",), ("blocks.0.hook_mlp_out",)),
            ((d,), (d,)),
            d_sae=d_sae,
            activation=ReLU(),
        )
        write_llamascopium(clt, tmp_path)
        config = json.loads((tmp_path / "config.json").read_text())
        assert int(config["d_model"] * config["expansion_factor"]) == d_sae


SELECTED = BatchTopK(2, decoder_norms=True)


@pytest.mark.parametrize(
    ("write", "dictionary", "message"),
    [
        (write_gemma_scope, random("transcoders", ReLU()), "causal crosscoders; this is of the kind transcoders"),
        (write_gemma_scope, random("crosscoder", ReLU(), reads=RESIDUAL), "this is of the kind crosscoder"),
        (write_gemma_scope, random("clt", TopK(2)), "holds relu, jumprelu, batchtopk, matryoshka, not topk"),
        (write_gemma_scope, random("clt", SELECTED), "selects latents by their values alone"),
        (write_gemma_scope, random("clt", ReLU(), reads=IN[1:], writes=OUT[1:]), "of every layer from 0"),
        (write_gemma_scope, random("clt", ReLU(), reads=RESIDUAL), "this one reads blocks.0.hook_resid_post"),
        (write_gemma_scope, weakly_causal(ReLU(), reads=OUT), "crosscoders of blocks.*.hook_resid_post"),
        (write_llamascopium, random("transcoders", ReLU()), "CLTs and crosscoders; this is of the kind transcoders"),
        (write_llamascopium, random("clt", ReLU(), skip=True), "no skip connections; this CLT has them"),
        (write_llamascopium, random("clt", Gated()), "Llamascopium's clt holds relu, .*, topk, not gated"),
        (write_llamascopium, random("clt", SELECTED), "selects latents by their values alone"),
        (write_llamascopium, random("crosscoder", TopK(2), reads=RESIDUAL), "crosscoder holds relu, not topk"),
        (write_llamascopium, random("crosscoder", JumpReLU(), reads=RESIDUAL), "crosscoder holds relu, not jumprelu"),
        (write_llamascopium, random("crosscoder", ReLU(), reads=["0:blocks.0.hook_mlp_out"]), "0:blocks.0.* is none"),
        (write_llamascopium, random("clt", ReLU(), reads=["a.b", "c.d", "e.f"]), "a.b is none"),
    ],
)  # fmt: skip
def test_what_cannot_be_written(write: Write, dictionary: Dictionary, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        write(dictionary, tmp_path)
    assert not list(tmp_path.iterdir())


def test_widths_names_of_folders_and_empty_rows_are_refused_too(tmp_path: Path) -> None:
    layout = Layout("clt", tuple(IN), tuple(OUT))
    for write in (write_gemma_scope, write_llamascopium):
        with pytest.raises(ValueError, match="holds places of one width; these have 3, 4, 5"):
            write(Dictionary(layout, ((5, 3, 4), (5, 3, 4)), d_sae=4, activation=ReLU()), tmp_path / "no")
    with pytest.raises(ValueError, match=r"name has the layers \[1, 2\], the crosscoder is of \[0, 1, 2\]"):
        write_gemma_scope(weakly_causal(ReLU()), tmp_path / "layer_1_2_width_4")
    crosscoder = random("crosscoder", ReLU(), reads=RESIDUAL)
    with torch.no_grad():
        crosscoder.parts[0].at_place(1)[3] = 0
    with pytest.raises(ValueError, match="decoder row is zero at a place"):
        write_llamascopium(crosscoder, tmp_path / "no")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("write", "last"),
    [(write_gemma_scope, "params_layer_2.safetensors"), (write_llamascopium, "sae_weights.safetensors")],
)
def test_the_configuration_comes_last(write: Write, last: str, tmp_path: Path) -> None:
    (tmp_path / last).mkdir()  # the last weights cannot be written
    with pytest.raises(OSError, match=last):
        write(random("clt", ReLU()), tmp_path)
    assert not (tmp_path / "config.json").exists()
    assert not list(tmp_path.glob(".*"))


def test_layers_that_a_configuration_of_ours_does_not_say_well(tmp_path: Path) -> None:
    write_gemma_scope(weakly_causal(ReLU()), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for layers, message in (
        ([0, 1], r"has the layers \[0, 1\], and there are 3 files"),
        (["0", "1", "2"], "which layers it is of"),
        (None, "which layers it is of"),
    ):
        config["deepfield"]["layers"] = layers
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(ValueError, match=message):
            load_any(tmp_path)


LATENTS = torch.tensor([7, 2, 2])


@pytest.mark.parametrize("name", SEVERAL)
@torch.no_grad()
def test_rows_of_published_files_are_those_of_the_whole(name: str, tmp_path: Path) -> None:
    layout = SEVERAL[name]
    folder = layout.write(tmp_path, layout.weights())
    compare_rows(folder, exact="topk, by decoder norms" not in name)


@torch.no_grad()
def test_rows_of_other_files_are_those_of_the_whole(tmp_path: Path) -> None:
    writes: dict[str, Write] = {"ours": save_dictionary, "circuit_tracer": write_circuit_tracer}
    for name, write in writes.items():
        for kind in ("transcoders", "clt"):
            write(random(kind, ReLU()), tmp_path / name / kind)
            compare_rows(tmp_path / name / kind)
    save_dictionary(random("crosscoder", ReLU(), reads=RESIDUAL), tmp_path / "crosscoder")
    compare_rows(tmp_path / "crosscoder")
    save_dictionary(random_dictionary("clt", ReLU()), tmp_path / "widths")
    with pytest.raises(ValueError, match=r"widths \[3, 4, 5\], whose rows are no one tensor"):
        decoder_rows(tmp_path / "widths", 0, LATENTS)
    with pytest.raises(ValueError, match="holds no dictionary over several places"):
        decoder_rows(tmp_path, 0, LATENTS)


def compare_rows(folder: Path, *, exact: bool = True) -> None:
    whole = load_any(folder)
    assert isinstance(whole, Dictionary)
    for number, (part, places) in enumerate(whole.placed()):
        found = decoder_rows(folder, number, LATENTS)
        expected = part.W_dec[LATENTS].unflatten(1, (len(places.writes), -1))
        torch.testing.assert_close(found, expected, **({"rtol": 0, "atol": 0} if exact else {}))
        assert decoder_rows(folder, number, LATENTS[:0]).shape == (0, *expected.shape[1:])
    with pytest.raises(ValueError, match="latents run from 3 to"):
        decoder_rows(folder, 0, torch.tensor([3, whole.d_sae]))
    for absent in (-1, len(whole.parts)):
        with pytest.raises(ValueError, match=rf"part {absent};|_{absent}|_00{absent}|_{absent:03d}"):
            decoder_rows(folder, absent, LATENTS)


def sparse_file(path: Path, name: str, shape: tuple[int, ...], bytes_before: int, row: Tensor) -> None:
    """A file of one tensor of zeros, which takes no room on the disk, but for ``row``."""
    size = torch.Size(shape).numel() * 4
    header = json.dumps({name: {"dtype": "F32", "shape": list(shape), "data_offsets": [0, size]}}).encode()
    header += b" " * (-len(header) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        begin = file.tell()
        file.seek(begin + bytes_before)
        file.write(row.numpy().tobytes())
        file.truncate(begin + size)


def test_rows_are_read_without_the_rest(tmp_path: Path) -> None:
    """From tensors of 4 GiB the memory that was ever used grows by less than 100 MB."""
    d_sae, d, latent, row = 2**19, 512, 400_000, torch.arange(512.0)
    gemma, llama = tmp_path / "gemma", tmp_path / "llama"
    sparse_file(gemma / "params_layer_1.safetensors", "w_dec", (d_sae, 4, d), (latent * 4 + 2) * d * 4, row)
    sparse_file(llama / "sae_weights.safetensors", "W_D", (4, d_sae, d), (2 * d_sae + latent) * d * 4, row)
    config = {"sae_type": "crosscoder", "hook_points": [*RESIDUAL, "blocks.3.hook_resid_post"], "d_model": d}
    (llama / "config.json").write_text(json.dumps(config | {"norm_activation": "inference", "act_fn": "relu"}))
    before = peak_memory()
    latents = torch.tensor([latent, 5])
    of_gemma, of_llama = decoder_rows(gemma, 1, latents), decoder_rows(llama, 0, latents)
    assert peak_memory() - before < 100e6
    for found, place in ((of_gemma, 1), (of_llama, 2)):
        assert torch.equal(found[0, place], row)
        assert found.abs().sum() == row.sum()


def test_the_command_writes_both(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clt = random("clt", JumpReLU())
    save_dictionary(clt, tmp_path / "ours")
    source = "ours"
    for to in ("gemma_scope", "llamascopium", "circuit_tracer", "deepfield"):
        assert run("sae", "convert", str(tmp_path / source), "--to", to, "--out", str(tmp_path / to)) == 0
        assert f"jumprelu clt over 3 places, written for {to}" in " ".join(capsys.readouterr().out.split())
        source = to
    again = load_any(tmp_path / "deepfield")
    for name, parameter in clt.named_parameters():
        torch.testing.assert_close(again.get_parameter(name), parameter, rtol=2e-6, atol=0)
    SAE(4, 8, TopK(2)).save(tmp_path / "sae")
    for to in ("gemma_scope", "llamascopium"):
        assert run("sae", "convert", str(tmp_path / "sae"), "--to", to, "--out", str(tmp_path / "no")) != 0
        assert "holds an SAE of one site" in " ".join(capsys.readouterr().err.split())
