"""Kinds and variants against dense definitions, on disk, and what is refused."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from saes import SAE, BatchTopK, Matryoshka, TopK
from saes.activations import Activation
from saes.places import Dictionary, Layout, load_any, load_dictionary, save_dictionary
from tests.saes.places.kinds import D_SAE, KINDS, READS, WIDTHS, WRITES, dense_decode, dense_pre, inputs
from tests.saes.places.kinds import random_dictionary as random
from tests.saes.variants import VARIANTS

kinds = pytest.mark.parametrize("kind", KINDS)
variants = pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)


def dense_latents(dictionary: Dictionary, xs: tuple[Tensor, ...], *, training: bool) -> list[Tensor]:
    """Selection by definition, of the variants that do not look at the whole input."""
    found = []
    for part, pre in zip(dictionary.parts, dense_pre(dictionary, xs), strict=True):
        name = part.activation.name
        if name == "topk":
            kept = pre >= pre.sort(-1, descending=True).values[:, 3:4]
        elif name in ("batchtopk", "matryoshka"):
            norms = torch.ones(D_SAE, dtype=pre.dtype)
            if part.activation.decoder_norms:
                pieces = part.W_dec.split(part.written_widths, -1)
                squares = [piece.square().sum(-1) for piece in pieces]
                crosscoder = dictionary.layout.kind == "crosscoder"
                norms = sum(s.sqrt() for s in squares) if crosscoder else sum(squares).sqrt()  # type: ignore
            scores = pre * norms
            kept = scores > part.threshold
            if training:
                kept = scores >= scores.flatten().sort(descending=True).values[4 * len(pre) - 1]
        elif name == "jumprelu":
            kept = pre > part.threshold
        elif name == "gated":
            kept = pre > 0
            pre = (pre - part.b_enc) * part.r_mag.exp() + part.b_mag
        else:
            kept = pre > 0
        found.append(torch.where(kept, pre.relu(), 0))
    return found


@kinds
@variants
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_latents_and_outputs_are_those_of_the_definition(kind: str, variant: Activation, training: bool) -> None:
    dictionary, xs = random(kind, variant).train(training), inputs()
    latents = dictionary.encode(xs)
    if variant.name != "afa":
        expected = dense_latents(dictionary, xs, training=training)
        for its, dense in zip(latents, expected, strict=True):
            torch.testing.assert_close(its.to_dense(), dense, rtol=1e-10, atol=1e-12)
    outputs = dictionary.decode(latents, xs)
    for x_hat, dense in zip(outputs, dense_decode(dictionary, [i.to_dense() for i in latents], xs), strict=True):
        torch.testing.assert_close(x_hat, dense, rtol=1e-10, atol=1e-12)
    assert [x_hat.shape[1] for x_hat in outputs] == list(WIDTHS)


@pytest.mark.parametrize("decoder_norms", [False, True])
@pytest.mark.parametrize("kind", ["transcoders", "clt", "crosscoder"])
@pytest.mark.parametrize("width", [12, 600], ids=["most", "few"])
def test_one_budget_takes_the_largest_of_all_parts(kind: str, decoder_norms: bool, width: int) -> None:
    dictionary = random(kind, BatchTopK(3, decoder_norms=decoder_norms), budget="all", d_sae=width).train()
    xs = inputs(40)
    with torch.no_grad():  # one part has most of the largest values
        dictionary.parts[0].W_enc.mul_(3)
    pre = dense_pre(dictionary, xs)
    scores = torch.stack(
        [p * part.decoder_norms() if decoder_norms else p for p, part in zip(pre, dictionary.parts, strict=True)]
    )
    n = 3 * len(pre) * 40
    bound = scores.flatten().sort(descending=True).values[n - 1]
    latents = dictionary.encode(xs)
    for its, p, score in zip(latents, pre, scores, strict=True):
        torch.testing.assert_close(its.to_dense(), torch.where((score >= bound) & (p > 0), p, 0))
    assert sum(int(its.l0.sum()) for its in latents) == n
    with torch.no_grad():
        for part in dictionary.parts:
            part.threshold.zero_()  # as before the first step
        dictionary.after_step(latents)
    assert len({float(part.threshold) for part in dictionary.parts}) == 1


@variants
def test_a_crosscoder_of_one_place_is_an_sae(variant: Activation) -> None:
    """Bit for bit, forward and in every gradient; and so is a set or CLT of one layer a transcoder."""
    (x, *_), target = inputs(dtype=torch.float32), inputs(seed=9, dtype=torch.float32)[0]
    for kind, skip in (("crosscoder", False), ("transcoders", True), ("clt", True)):
        layout = Layout(kind, ("a",), ("a",) if kind == "crosscoder" else ("b",))
        dictionary = Dictionary(layout, ((5,), (5,)), d_sae=24, activation=variant, skip=skip).train()
        sae = SAE(5, 24, variant, subtract_b_dec=kind == "crosscoder", skip=skip).train()
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name, parameter in sae.named_parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator).abs() / 2)
                dictionary.parts[0].get_parameter(name).copy_(parameter)
        (x_hat,) = dictionary([x])
        assert torch.equal(x_hat, sae(x))
        (x_hat - target).square().mean().backward()
        (sae(x) - target).square().mean().backward()
        for name, parameter in sae.named_parameters():
            gradient = dictionary.parts[0].get_parameter(name).grad
            assert (gradient is None) == (parameter.grad is None)
            assert gradient is None or torch.equal(gradient, parameter.grad), name


@variants
def test_a_clt_that_writes_nothing_to_later_layers_is_a_set(
    variant: Activation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit forward, where latents are gathered; dense products, and the latents' gradient, which is a sum over
    all places written, add zeros in another order."""
    monkeypatch.setattr("saes.sae.GATHER_UP_TO", 1.0)
    xs, targets = (tuple(torch.randn(3, 20, 16, generator=torch.Generator().manual_seed(i))) for i in (0, 1))
    clt, alone = (
        Dictionary(Layout(kind, READS, WRITES), ((16,) * 3,) * 2, d_sae=96, activation=variant, skip=True).train()
        for kind in ("clt", "transcoders")
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for ours, theirs in zip(clt.parts, alone.parts, strict=True):
            for name, parameter in theirs.named_parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator).abs() / 3)
                same = ours.get_parameter(name)
                (same[:, : theirs.d_out] if name == "W_dec" else same).copy_(parameter)
    for mine, its in zip(clt(xs), alone(xs), strict=True):
        assert torch.equal(mine, its)
    for dictionary in (clt, alone):
        errors = zip(dictionary(xs), targets, strict=True)
        torch.stack([(x_hat - t).square().mean() for x_hat, t in errors]).sum().backward()
    for ours, theirs in zip(clt.parts, alone.parts, strict=True):
        for name, parameter in theirs.named_parameters():
            if parameter.grad is not None:
                gradient = ours.get_parameter(name).grad
                gradient = gradient[:, : theirs.d_out] if name == "W_dec" else gradient
                torch.testing.assert_close(gradient, parameter.grad, rtol=1e-4, atol=1e-6)


@kinds
@variants
def test_saved_and_loaded_is_the_same(kind: str, variant: Activation, tmp_path: Path) -> None:
    dictionary, xs = random(kind, variant, dtype=torch.float32), inputs(dtype=torch.float32)
    dictionary.fold_scales([2.0, 3.0, 0.5], [2.0, 3.0, 0.5])
    save_dictionary(dictionary, tmp_path / "d")
    again = load_any(tmp_path / "d")
    assert isinstance(again, Dictionary)
    assert (again.activation, again.layout, again.budget) == (variant, dictionary.layout, "part")
    assert again.provenance == dictionary.provenance
    for ours, theirs in zip(again(xs), dictionary(xs), strict=True):
        assert torch.equal(ours, theirs)
    for mine, its in zip(again.parts, dictionary.parts, strict=True):
        assert torch.equal(mine.decoder_norms(), its.decoder_norms())


@kinds
@variants
def test_folding_scales_changes_no_output(kind: str, variant: Activation) -> None:
    """With another scale at every place, also where decoder norms take part in the selection."""
    dictionary, xs = random(kind, variant), inputs()
    scales = (0.3, 2.0, 5.0)
    write_scales = scales if kind.startswith("crosscoder") else (4.0, 0.7, 1.5)
    scaled = [x * scale for x, scale in zip(xs, scales, strict=True)]
    latents = dictionary.encode(scaled)
    expected = [y / scale for y, scale in zip(dictionary.decode(latents, scaled), write_scales, strict=True)]
    dictionary.fold_scales(scales, write_scales)
    for its, before in zip(dictionary.encode(xs), latents, strict=True):
        torch.testing.assert_close(its.to_dense(), before.to_dense(), rtol=1e-9, atol=1e-12)
    for ours, theirs in zip(dictionary(xs), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_leading_dimensions_are_kept() -> None:
    dictionary, xs = random("clt", TopK(4)), inputs(6)
    shaped = dictionary([x.view(2, 3, -1) for x in xs])
    for flat, found in zip(dictionary(xs), shaped, strict=True):
        assert torch.equal(flat.view(found.shape), found)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Layout("plt", ("a",), ("b",)), "no kind of dictionary 'plt'; there are transcoders, clt, crosscoder"),
        (lambda: Layout("clt", (), ()), "reads names no place"),
        (lambda: Layout("clt", ("a", "a"), ("b", "c")), "reads names a twice"),
        (lambda: Layout("clt", ("a", "b"), ("c",)), "reads 2 places and writes 1"),
        (lambda: Layout("crosscoder", ("a", "b"), ("a", "c")), "writes the places that it reads"),
        (lambda: random("crosscoder", TopK(4), budget="all"), "budget='all' is for batchtopk and matryoshka; topk"),
        (lambda: random("clt", TopK(4), budget="some"), "budget is 'some'; it is 'part' or 'all'"),
        (lambda: random("clt", TopK(13)), "k is 13 but there are only d_sae = 12"),
        (lambda: random("clt", TopK(4)).encode(inputs()[:2]), r"widths \[5, 3\]; the places read are in0 \[.., 5\]"),
        (lambda: random("clt-skip", TopK(4)).decode(random("clt", TopK(4)).encode(inputs())), "needs the inputs too"),
        (lambda: random("clt", TopK(4)).decode([]), "there are 3 parts, but latents of 0"),
        (lambda: random("crosscoder", TopK(4)).fold_scales([1.0, 1.0, 1.0], [1.0, 1.0, 2.0]), "share b_dec"),
        (
            lambda: Dictionary(
                Layout("crosscoder", READS, READS), (WIDTHS, WIDTHS), d_sae=9, activation=TopK(2), skip=True
            ),
            "skip is for transcoders",
        ),
        (
            lambda: Dictionary(
                Layout("clt", READS, WRITES), (WIDTHS, WIDTHS), d_sae=9, activation=TopK(2), subtract_b_dec=True
            ),
            "cannot subtract b_dec",
        ),
        (
            lambda: Dictionary(Layout("clt", READS, WRITES), (WIDTHS, WIDTHS[:2]), d_sae=9, activation=TopK(2)),
            "3 places are written, but there are 2 widths",
        ),
    ],
)
def test_what_does_not_fit_is_named(build, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        build()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_dictionary(random("clt", TopK(4), dtype=torch.float32), tmp_path / "clt")
    return tmp_path / "clt"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "plt"}, "no kind of dictionary 'plt'"),
        ({"d_sae": 24}, r"W_enc is F32 \(5, 12\)"),
        ({"d_sae": "12"}, "d_sae is '12'; it must be a whole number"),
        ({"reads": "in0"}, "reads is 'in0'; it must be a list of names"),
        ({"read_widths": [5, 3, 4.0]}, "read_widths is .* list of whole numbers"),
        ({"norm_scales": [[1.0], [1.0], [1.0]]}, "must be 3 numbers above 0"),
        ({"norm_scales": []}, "a list of numbers for each of 3 parts"),
        ({"weights_sha256": ["0", "0", "0"]}, "part_000.safetensors is not the file that cfg.json describes"),
        ({"weights_sha256": ["0"]}, "checksums of other files than 3 parts"),
        ({"format": "other"}, "its format is 'other'"),
    ],
)
def test_altered_config(saved: Path, values: dict[str, object], message: str) -> None:
    path = saved / "cfg.json"
    config = json.loads(path.read_text()) | values
    config.pop("checksum")
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        load_dictionary(saved)


def test_a_flipped_bit_and_missing_and_extra_files(saved: Path) -> None:
    path = saved / "cfg.json"
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"k": 4', b'"k": 5'))
    with pytest.raises(ValueError, match=r"cfg.json was altered: its checksum differs"):
        load_dictionary(saved)
    path.write_bytes(content)
    last = saved / "part_002.safetensors"
    last.rename(saved / "part_003.safetensors")
    with pytest.raises(ValueError, match=r"part_003.safetensors belongs to no part; cfg.json describes 3"):
        load_dictionary(saved)
    (saved / "part_003.safetensors").unlink()
    with pytest.raises(ValueError, match=r"part_002.safetensors is missing"):
        load_dictionary(saved)


def test_an_sae_is_read_as_one_and_a_dictionary_is_not(saved: Path, tmp_path: Path) -> None:
    SAE(4, 8, TopK(2)).save(tmp_path / "sae")
    assert isinstance(load_any(tmp_path / "sae"), SAE)
    with pytest.raises(ValueError, match=r"load it with saes.places.load_any"):
        SAE.load(saved)


def test_matryoshka_prefixes_are_of_every_part() -> None:
    from saes.places.losses import run

    dictionary, xs, targets = random("clt", Matryoshka(4, shares=(0.5, 1.0))).train(), inputs(), inputs(seed=9)
    forward = run(dictionary, xs, targets, torch.zeros(3, D_SAE, dtype=torch.bool))
    dense = [its.to_dense() for its in forward.latents]
    halves = [torch.cat([f[:, :6], torch.zeros_like(f[:, 6:])], 1) for f in dense]
    errors = [
        sum((t - y).square().mean() for t, y in zip(targets, dense_decode(dictionary, its, xs), strict=True))
        for its in (halves, dense)
    ]
    torch.testing.assert_close(forward.term("mse"), sum(errors) / 2)
