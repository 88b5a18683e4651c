"""Files are not trusted, and every mistake is named."""

import inspect
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from saes import SAE, TopAFA, TopK
from saes.activations import activation_from_config


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    SAE(4, 8, TopK(2)).save(tmp_path / "sae")
    return tmp_path / "sae"


def change(folder: Path, **values: object) -> None:
    """As someone would who writes such a file: without a checksum over the whole."""
    path = folder / "cfg.json"
    config = json.loads(path.read_text()) | values
    config.pop("checksum")
    path.write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"d_sae": 16}, r"W_enc is F32 \(4, 8\), cfg.json says torch.float32 \(4, 16\)"),
        ({"dtype": "float16"}, "cfg.json says torch.float16"),
        ({"dtype": "object"}, "it lacks 'object'"),
        ({"d_in": "4"}, "d_in is '4'; it must be a whole number"),
        ({"skip": 1}, "skip is 1; it must be true or false"),
        ({"format": "other"}, "its format is 'other'"),
        ({"activation": {"name": "os.system"}}, "unknown activation 'os.system'; this version has topk, batchtopk"),
        ({"activation": {"name": "topk", "k": "2"}}, "whole number"),
        ({"activation": {"name": "topk", "k": 9}}, "only d_sae = 8 latents"),
        ({"activation": {"name": "topk", "k": 2, "evil": 1}}, "no option"),
        ({"weights_sha256": "0"}, "checksum"),
    ],
)
def test_altered_config(saved: Path, values: dict[str, object], message: str) -> None:
    change(saved, **values)
    with pytest.raises(ValueError, match=message):
        SAE.load(saved)


def test_a_flipped_bit_in_the_config_is_refused_or_changes_nothing(saved: Path) -> None:
    """k = 2 becomes 3 or 6, say: the weights fit and their checksum too, and every activation would be another."""
    path, x = saved / "cfg.json", torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    SAE(4, 8, TopK(2), site="blocks.1.hook_resid_post").initialise(seed=0, mean=torch.zeros(4)).save(saved)
    expected, content = SAE.load(saved)(x), path.read_bytes()
    refused = 0
    bits = range(0, 8 * len(content), 5)  # one or two of every byte
    for bit in bits:
        altered = bytearray(content)
        altered[bit // 8] ^= 1 << bit % 8
        path.write_bytes(altered)
        try:
            loaded = SAE.load(saved)
        except ValueError:
            refused += 1
            continue
        assert torch.equal(loaded(x), expected), content[max(0, bit // 8 - 20) : bit // 8 + 20]
        assert loaded.site == "blocks.1.hook_resid_post"
    assert refused > 0.9 * len(bits)  # the rest are in white space and in the checksum's own name
    path.write_bytes(content.replace(b'"k": 2', b'"k": 3'))
    with pytest.raises(ValueError, match=r"cfg.json was altered: its checksum differs. If the change was yours"):
        SAE.load(saved)
    path.write_bytes(content)
    change(saved)
    assert torch.equal(SAE.load(saved)(x), expected)  # a file of an earlier version


def test_altered_weights(saved: Path) -> None:
    save_file({"W_enc": torch.zeros(4, 8)}, saved / "sae_weights.safetensors")
    with pytest.raises(ValueError, match="expected"):
        SAE.load(saved)
    (saved / "sae_weights.safetensors").write_bytes(b"\x80\x04\x95 a pickle, perhaps")
    with pytest.raises(ValueError, match="cannot load an SAE"):
        SAE.load(saved)


def test_no_sae_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no SAE"):
        SAE.load(tmp_path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "jumprelu", "bandwidth": 0}, "bandwidth is 0; it must be a number above 0"),
        ({"name": "matryoshka", "k": 2, "shares": [0.5, 0.25, 1]}, "rising numbers above 0, the last of them 1"),
        ({"name": "matryoshka", "k": 2, "shares": [0.5]}, "the last of them 1"),
        ({"name": "batchtopk"}, "batchtopk needs k"),
    ],
)
def test_impossible_options(config: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        activation_from_config(config)


def test_a_skip_connection_needs_the_input() -> None:
    sae = SAE(4, 8, TopK(2), d_out=6, subtract_b_dec=False, skip=True)
    latents = sae.encode(torch.ones(3, 4))
    assert sae.decode(latents, torch.ones(3, 4)).shape == (3, 6)
    with pytest.raises(ValueError, match="needs the input too"):
        sae.decode(latents)
    with pytest.raises(ValueError, match="subtract_b_dec=False"):
        SAE(4, 8, TopK(2), d_out=6)


@pytest.mark.parametrize(("d_in", "d_sae", "k"), [(0, 8, 2), (4, 0, 2), (4, 8, 9)])
def test_impossible_sizes(d_in: int, d_sae: int, k: int) -> None:
    with pytest.raises(ValueError, match=r"d_in is 0|d_sae is 0|k is 9"):
        SAE(d_in, d_sae, TopK(k))


def test_unknown_sentinel() -> None:
    with pytest.raises(ValueError, match="'safe' or 'parity'"):
        activation_from_config({"name": "afa", "sentinel": 1e8})
    assert activation_from_config({"name": "afa", "sentinel": "parity"}) == TopAFA("parity")


def test_what_it_cannot_read_is_told_with_what_it_can() -> None:
    sae = SAE(8, 16, TopK(2), site="blocks.1.hook_mlp_in", target_site="blocks.1.hook_mlp_out", subtract_b_dec=False)
    place = "it was trained at blocks.1.hook_mlp_in for blocks.1.hook_mlp_out"
    with pytest.raises(ValueError, match=f"the rows have 7 dimensions; this SAE reads 8: {place}"):
        sae(torch.randn(3, 7))
    with pytest.raises(ValueError, match="decode takes sparse Latents, as encode returns them, not a Tensor"):
        inspect.unwrap(SAE.decode)(sae, torch.randn(3, 16))  # as without the types' check of the tests


def test_its_text_says_what_it_is() -> None:
    assert repr(SAE(8, 16, TopK(2), site="blocks.1.hook_resid_post")) == (
        "SAE(TopK(k=2), d_in=8, d_sae=16, site='blocks.1.hook_resid_post')"
    )


def test_rows_that_are_not_finite_are_counted_and_the_first_is_named() -> None:
    x = torch.zeros(2, 3, 4)
    x[1, 0, 2], x[1, 2, 0] = torch.nan, torch.inf
    with pytest.raises(ValueError, match=r"2 of the 6 rows to encode are not finite .the first is row 3.: run the"):
        SAE(4, 8, TopK(2)).encode(x)
