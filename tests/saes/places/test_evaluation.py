"""The replacement model against one put together layer by layer, the report by hand, and the table of a crosscoder."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from interp import Site, capture, metrics
from interp.sites.splicing import spliced_logits
from interp.tokens.batches import measured
from saes import BatchTopK, TopK, TrainConfig
from saes.evaluation import sharing
from saes.evaluation.places_report import evaluate_places
from saes.evaluation.replacement import replacement_logits
from saes.places import Dictionary, Layout, save_dictionary
from saes.training import train_dictionary
from tests.saes.evaluation.evaluated import CONTEXT, WIDTH, run, text_rows
from tests.saes.places.kinds import PlacesSource
from tests.saes.sources import planted

READS = tuple(f"blocks.{layer}.mlp.hook_in" for layer in range(4))
WRITES = tuple(f"blocks.{layer}.hook_mlp_out" for layer in range(4))
RESIDUAL = tuple(f"blocks.{layer}.hook_resid_post" for layer in range(4))


def dictionary_of(kind: str, *, skip: bool = True, places: slice = slice(None)) -> Dictionary:
    """Random, in about the scale of the embedded model's activations."""
    layout = (
        Layout(kind, RESIDUAL[places], RESIDUAL[places])
        if kind == "crosscoder"
        else Layout(kind, READS[places], WRITES[places])
    )
    widths = (WIDTH,) * len(layout.reads)
    dictionary = Dictionary(
        layout, (widths, widths), d_sae=200, activation=TopK(8), skip=skip and kind != "crosscoder",
        provenance={"source": {"model": "embedded"}},
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in dictionary.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 20)
    return dictionary


def rows_and_clean(embedded: Any, tmp_path: Path, names: tuple[str, ...]) -> tuple[Tensor, Tensor, Any]:
    rows = text_rows(embedded.tokenizer, tmp_path)
    ids, documents = rows.tensor_of("ids", slice(None)), rows.tensor_of("documents", slice(None))
    return ids, measured(documents, 2), capture(embedded, ids, names, attention_mask=documents >= 0)


def replaced_layer_by_layer(dictionary: Dictionary, model: Any, ids: Tensor, where: Tensor) -> Tensor:
    """One forward pass a layer, each with all earlier layers replaced, from the definition."""
    outputs: list[Tensor] = []
    latents: list[Any] = []

    def hooks() -> list[Any]:
        def put(value: Tensor, hook: Any, x_hat: Tensor) -> Tensor:
            return torch.where(where[..., None], x_hat, value)

        return [
            (name, lambda value, hook, x_hat=x_hat: put(value, hook, x_hat))
            for name, x_hat in zip(dictionary.layout.writes, outputs, strict=False)
        ]

    for number, (part, _) in enumerate(dictionary.placed()):
        seen: dict[str, Tensor] = {}

        def keep(value: Tensor, hook: Any, seen: dict[str, Tensor] = seen) -> None:
            seen["x"] = value.detach().clone()

        model.run_with_hooks(ids, fwd_hooks=[*hooks(), (dictionary.layout.reads[number], keep)])
        latents.append(part.encode(seen["x"]).to_dense())
        total = part.b_dec + seen["x"] @ part.W_skip.T if part.skip else part.b_dec
        for earlier, (writer, places) in enumerate(dictionary.placed()[: number + 1]):
            if number in places.writes:
                total = total + latents[earlier] @ writer.at_place(places.writes.index(number))
        outputs.append(total)
    return model.run_with_hooks(ids, fwd_hooks=hooks())


@pytest.mark.parametrize("kind", ["transcoders", "clt"])
@pytest.mark.parametrize("skip", [False, True])
@torch.no_grad()
def test_errors_compound_as_layer_by_layer(kind: str, skip: bool, embedded: TransformerBridge, tmp_path: Path) -> None:
    dictionary = dictionary_of(kind, skip=skip)
    ids, where, clean = rows_and_clean(embedded, tmp_path, READS + WRITES)
    found = replacement_logits(dictionary, embedded, ids, clean, where=where, compounding=True)
    expected = replaced_layer_by_layer(dictionary, embedded, ids, where)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    stream = replacement_logits(dictionary, embedded, ids, clean, where=where, compounding=False)
    assert (found - stream).abs().max() > 0.1  # the two differ, so that comparing them is not idle


@pytest.mark.parametrize("kind", ["transcoders", "clt", "crosscoder"])
@torch.no_grad()
def test_with_error_nodes_it_is_the_model(kind: str, embedded: TransformerBridge, tmp_path: Path) -> None:
    dictionary = dictionary_of(kind)
    ids, where, clean = rows_and_clean(embedded, tmp_path, READS + WRITES + RESIDUAL)
    logits = embedded(ids)
    for compounding in (False, True) if kind != "crosscoder" else (False,):
        exact = replacement_logits(dictionary, embedded, ids, clean, where=where, compounding=compounding, errors=True)
        # Rows end in padding, which capture does not let other positions see; what stands there means nothing.
        real = where.clone()
        torch.testing.assert_close(exact[real], logits[real], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_one_layer_on_the_true_stream_is_a_splice(embedded: TransformerBridge, tmp_path: Path) -> None:
    dictionary = dictionary_of("transcoders", places=slice(2, 3))
    ids, where, clean = rows_and_clean(embedded, tmp_path, READS + WRITES)
    (x_hat,) = dictionary([clean[READS[2]]])
    expected = spliced_logits(embedded, ids, Site.parse(WRITES[2]), x_hat, where=where)
    for compounding in (False, True):
        found = replacement_logits(dictionary, embedded, ids, clean, where=where, compounding=compounding)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["transcoders", "clt", "crosscoder"])
@torch.no_grad()
def test_the_report_is_what_it_says(kind: str, embedded: TransformerBridge, tmp_path: Path) -> None:
    dictionary = dictionary_of(kind)
    rows = text_rows(embedded.tokenizer, tmp_path)
    report = evaluate_places(dictionary, embedded, rows, first_position=2, batch_rows=3)
    names = dictionary.layout.reads + dictionary.layout.writes
    ids, where, clean = rows_and_clean(embedded, tmp_path / "again", names)
    xs = [clean[name] for name in dictionary.layout.reads]
    latents = dictionary.encode(xs)
    fvus = []
    for place, x_hat, figures in zip(dictionary.layout.writes, dictionary(xs), report.places, strict=True):
        z = clean[place][where]
        fvus.append(float((z - x_hat[where]).square().sum() / (z - z.mean(0)).square().sum()))
        assert figures.place == place
        assert figures.fvu.value == pytest.approx(fvus[-1], rel=1e-4)
    assert report.fvu.value == pytest.approx(sum(fvus) / len(fvus), rel=1e-4)
    assert report.l0.value == pytest.approx(8 * len(latents), rel=1e-6)
    dead = [float((its.to_dense()[where] == 0).all(0).float().mean()) for its in latents]
    assert [part.dead_fraction.value for part in report.parts] == pytest.approx(dead)
    assert report.dead_fraction.value == pytest.approx(sum(dead) / len(dead))
    living = [sum(part.density_histogram) for part in report.parts]
    assert living == [round(200 * (1 - share)) for share in dead]
    logits = embedded(ids)
    predicts = torch.nn.functional.pad(where[:, 1:], (0, 1)) & where
    for mode, figures in ((False, report.true_stream), (True, report.compounding)):
        if figures is None:
            assert kind == "crosscoder"
            continue
        replaced = replacement_logits(dictionary, embedded, ids, clean, where=where, compounding=mode)
        assert figures.kl.value == pytest.approx(float(metrics.kl(logits, replaced)[predicts].mean()), rel=1e-3)
        same = (logits.argmax(-1) == replaced.argmax(-1))[predicts].float().mean()
        assert figures.top_1.value == pytest.approx(float(same), abs=0.02)
        assert figures.ce.value - report.ce_clean.value == pytest.approx(figures.ce_difference.value, abs=1e-4)
        assert figures.kl.standard_error > 0
    assert report.with_error_nodes < 1e-4
    assert report.tokens == int(where.sum())
    assert report.to_json()["places"][0]["fvu"]["value"] == report.places[0].fvu.value


def test_what_cannot_be_evaluated_is_named(embedded: TransformerBridge, tmp_path: Path) -> None:
    rows = text_rows(embedded.tokenizer, tmp_path)
    two = Dictionary(
        Layout("crosscoder", ("0:a", "1:a"), ("0:a", "1:a")), ((WIDTH,) * 2,) * 2, d_sae=8, activation=TopK(2)
    )
    with pytest.raises(ValueError, match=r"0:a, 1:a are places of several models: .* saes.evaluation.sharing"):
        evaluate_places(two, embedded, rows)
    beyond = Layout("clt", *(tuple(f"blocks.{i}.{hook}" for i in (3, 4)) for hook in ("mlp.hook_in", "hook_mlp_out")))
    with pytest.raises(ValueError, match=r"blocks\.4"):
        evaluate_places(Dictionary(beyond, ((WIDTH,) * 2,) * 2, d_sae=8, activation=TopK(2)), embedded, rows)
    other = dictionary_of("clt")
    other.provenance = {"source": {"model": "gpt2"}}
    with pytest.raises(ValueError, match="this dictionary is of the model gpt2, these activations are of embedded"):
        evaluate_places(other, embedded, rows)
    ids, where, clean = rows_and_clean(embedded, tmp_path / "more", RESIDUAL)
    with pytest.raises(ValueError, match="it has no replacement model whose errors compound"):
        replacement_logits(dictionary_of("crosscoder"), embedded, ids, clean, where=where, compounding=True)


@pytest.mark.parametrize("kind", ["clt", "crosscoder"])
def test_the_command_shows_it(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from interp.embedded import TEXT_FOLDER

    save_dictionary(dictionary_of(kind), tmp_path / "d")
    line = ["eval", str(tmp_path / "d"), "--data", str(TEXT_FOLDER / "heldout.jsonl"), "--tokens", "600"]
    options = ["--out", str(tmp_path / "figures.json"), "--html", str(tmp_path / "page.html")]
    assert run(*line, "--context", str(CONTEXT), *options) == 0
    said = capsys.readouterr().out
    page = (tmp_path / "page.html").read_text()
    for text in ("FVU", "KL", "error nodes"):
        assert text in said
        assert text in page
    assert "blocks.3." in page
    assert ("compounding" in said) == (kind == "clt")


# The table of a crosscoder of two models.


def two_models(rows: int, *, planted_in_second: bool) -> PlacesSource:
    """64 features in both models, in nearly the same directions; one more in the second alone."""
    data = planted(rows, d=32, features=64, active=4)[0]
    generator = torch.Generator().manual_seed(5)
    second = data + 0.1 * data @ torch.randn(32, 32, generator=generator) / 32**0.5
    if planted_in_second:
        active = (torch.rand(rows, 1, generator=generator) < 0.1) * (1 + torch.rand(rows, 1, generator=generator))
        second = second + active * torch.nn.functional.normalize(torch.randn(32, generator=generator), dim=0)
    return PlacesSource({"a": data, "b": second})


def crosscoder_config(out: Path) -> TrainConfig:
    return TrainConfig(
        out=out, kind="crosscoder", reads=("a", "b"), activation="batchtopk", k=4, options={"decoder_norms": True},
        d_sae=96, tokens=1_500_000, batch_size=1024, lr=3e-3, log_every=500,
    )  # fmt: skip


@pytest.mark.slow
def test_a_model_with_itself_has_no_exclusive_latents(tmp_path: Path) -> None:
    data = planted(20_000, d=32, features=64, active=4)[0]
    source = PlacesSource({"a": data, "b": data})
    table = sharing(train_dictionary(crosscoder_config(tmp_path), source), source, max_tokens=10_000)
    seen = table.active > 0
    first, second = table.exclusive
    assert float((first | second)[seen].float().mean()) < 0.01
    torch.testing.assert_close(table.relative_norm[seen], torch.full((int(seen.sum()),), 0.5), atol=0.05, rtol=0)


@pytest.mark.slow
def test_a_planted_direction_is_exclusive_and_confirmed(tmp_path: Path) -> None:
    source = two_models(20_000, planted_in_second=True)
    direction = two_models(20_000, planted_in_second=True).at["b"] - two_models(20_000, planted_in_second=False).at["b"]
    on = direction.norm(dim=-1) > 0
    direction = torch.nn.functional.normalize(direction[on].mean(0), dim=0)
    crosscoder = train_dictionary(crosscoder_config(tmp_path), source)
    table = sharing(crosscoder, source, max_tokens=20_000)
    part = crosscoder.placed()[0][0]
    cosines = torch.nn.functional.normalize(part.at_place(1), dim=-1).detach() @ direction
    latent = int(cosines.argmax())
    assert cosines[latent] > 0.95
    assert table.relative_norm[latent] > 0.9
    assert bool(table.exclusive[1][latent])
    assert bool(table.confirmed[latent])
    assert table.of_reconstruction[1, latent] == pytest.approx(1, abs=0.25)
    shared = (table.active > 200) & (table.relative_norm > 0.4) & (table.relative_norm < 0.6)
    assert int(shared.sum()) > 40
    assert float((table.ratios[1][shared] > 0.5).float().mean()) > 0.9  # what both models have, both errors have
    assert not bool(table.confirmed[shared].any())
    rows = dict((name, count) for name, count, _ in table.rows())
    assert sum(rows.values()) == 96
    assert rows["only b"] >= 1


@torch.no_grad()
def test_latent_scaling_is_the_least_squares_factor() -> None:
    """Against a regression, latent by latent, in the units of training."""
    generator = torch.Generator().manual_seed(2)
    crosscoder = Dictionary(
        Layout("crosscoder", ("a", "b"), ("a", "b")), ((6, 6), (6, 6)), d_sae=10, activation=BatchTopK(3)
    )
    for parameter in crosscoder.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) / 2)
    crosscoder.parts[0].threshold.fill_(0.3)
    crosscoder.fold_scales([2.0, 0.5], [2.0, 0.5])
    source = PlacesSource({name: torch.randn(200, 6, generator=generator) for name in "ab"})
    table = sharing(crosscoder, source, batch_size=64)
    xs = [source.at["a"], source.at["b"]]
    (part, _) = crosscoder.placed()[0]
    f = crosscoder.encode(xs)[0].to_dense()
    for latent in range(10):
        scaled = [part.at_place(i)[latent] * scale for i, scale in enumerate((2.0, 0.5))]
        norms = torch.stack([row.norm() for row in scaled])
        assert float(table.relative_norm[latent]) == pytest.approx(float(norms[1] / norms.sum()), rel=1e-5)
        basis = (f[:, latent, None] * scaled[int(norms.argmax())]).flatten()[:, None]
        for model, scale in enumerate((2.0, 0.5)):
            x_hat = crosscoder(xs)[model]
            b_dec = part.b_dec.split(6)[model]
            without = xs[model] - x_hat + f[:, latent, None] * part.at_place(model)[latent]
            for found, y in ((table.of_reconstruction, x_hat - b_dec), (table.of_error, without)):
                factor = torch.linalg.lstsq(basis, (y * scale).flatten()[:, None]).solution
                assert float(found[model, latent]) == pytest.approx(float(factor), rel=1e-3, abs=1e-4)


def test_other_kinds_have_no_table() -> None:
    with pytest.raises(ValueError, match="this is a clt over 4 places; shared and exclusive latents are those of"):
        sharing(dictionary_of("clt"), PlacesSource({}))
