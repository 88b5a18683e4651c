"""Massive activations: planted ones are found exactly, figures agree with closed forms and brute force."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from interp import massive
from interp.cli import main
from interp.massive.attention import importance
from interp.massive.stats import extremes
from interp.massive.sweep_table import _plain, _stats
from interp.models.loading import load_model
from interp.sites.capturing import capture
from interp.tokens.sequences import text_rows
from tests.interp.massive.planted import (
    DIM,
    LAYER,
    NEURON,
    PLACES,
    TOKEN,
    planted_bridge,
    planted_model,
    planted_tokens,
)
from tests.tiny_models import FAMILIES, tiny_model


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return planted_bridge(tmp_path_factory.mktemp("planted"))


@pytest.fixture(scope="module")
def hidden() -> list[np.ndarray]:
    """Every block's output of the plain model, by torch's own hooks: [sequence, position, dimension]."""
    model, found = planted_model(), []
    for layer in model.gpt_neox.layers:
        layer.register_forward_hook(lambda _m, _a, output: found.append(output.detach().double().numpy()))
    with torch.no_grad():
        model(planted_tokens())
    return found


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_planted_activations_are_found_and_no_others(planted: Any, batch: int) -> None:
    found = massive.detect(massive.layer_stats(planted, planted_tokens(), batch=batch))
    assert {(each.sequence, each.position, each.dim) for each in found} == {(*place, DIM) for place in PLACES}
    assert (found.first_layer, found.last_layer) == (LAYER, 3)
    assert len(found) == len(PLACES) * 3
    assert found.fixed_dims == (DIM,)
    assert found.fixed_positions == ()
    assert found.tokens == {TOKEN: 4}
    assert (found.starting, found.not_starting) == (0, 4)
    assert not found.truncated
    assert all(each.value > 1000 and each.ratio > 10_000 for each in found)
    assert found[0].layer == LAYER
    assert isinstance(found[:2], tuple)


def test_figures_are_those_of_brute_force(planted: Any, hidden: list[np.ndarray]) -> None:
    stats = massive.layer_stats(planted, planted_tokens())
    for layer, of_layer in enumerate(hidden):
        for sequence, values in enumerate(of_layer):
            magnitudes = np.sort(np.abs(values).ravel())
            lower_middle = magnitudes[(len(magnitudes) - 1) // 2]
            assert stats.medians[layer, sequence] == pytest.approx(lower_middle, rel=1e-4)
            assert stats.values[layer, sequence].abs().tolist() == pytest.approx(magnitudes[:-4:-1], rel=1e-4)
            for rank in range(3):
                place = int(stats.positions[layer, sequence, rank]), int(stats.dims[layer, sequence, rank])
                assert values[place] == pytest.approx(float(stats.values[layer, sequence, rank]), rel=1e-4)
    assert torch.equal(stats.tokens[LAYER, :, 0], torch.full((3,), TOKEN))


def test_both_ratios(planted: Any) -> None:
    stats = massive.layer_stats(planted, planted_tokens())
    top, medians = stats.values[..., 0].abs().double(), stats.medians.double()
    assert [e.value for e in stats.ratio] == pytest.approx((top.mean(1) / medians.mean(1)).tolist())
    assert [e.value for e in stats.mean_of_ratios] == pytest.approx((top / medians).mean(1).tolist())
    assert stats.ratio[LAYER].n == 3
    assert stats.as_released().shape == (3, 4, 4)
    assert stats.as_released()[2, 0, LAYER] == stats.values[LAYER, 2, 0].abs()
    assert stats.as_released()[2, 3, LAYER] == stats.medians[LAYER, 2]
    one = massive.layer_stats(planted, planted_tokens()[:1])
    assert [e.value for e in one.ratio] == pytest.approx([e.value for e in one.mean_of_ratios])


def test_signs_survive(tmp_path: Path) -> None:
    found = massive.detect(massive.layer_stats(planted_bridge(tmp_path, write=-20.0), planted_tokens()))
    assert len(found) == 12
    assert all(each.value < -1000 < 0 < each.ratio for each in found)


def test_a_full_list_says_so(planted: Any) -> None:
    tokens = planted_tokens()
    tokens[2, 10] = TOKEN
    assert massive.detect(massive.layer_stats(planted, tokens)).truncated
    more = massive.detect(massive.layer_stats(planted, tokens, top=5))
    assert not more.truncated
    assert len({(each.sequence, each.position) for each in more}) == 5


def test_the_last_layer_is_before_the_final_norm(planted: Any, hidden: list[np.ndarray]) -> None:
    stats = massive.layer_stats(planted, planted_tokens())
    with torch.no_grad():
        normed = planted_model()(planted_tokens(), output_hidden_states=True).hidden_states[-1]
    assert stats.values[-1, 0, 0] == pytest.approx(np.abs(hidden[-1][0]).max(), rel=1e-4)
    assert normed[0].abs().max() < 20 < 1000 < stats.values[-1, 0, 0]


def test_padding_is_left_out(planted: Any) -> None:
    tokens = planted_tokens()
    mask = torch.ones_like(tokens, dtype=torch.bool)
    mask[:, 10:] = False  # padding on the right
    padded = massive.layer_stats(planted, tokens, mask=mask)
    short = massive.layer_stats(planted, tokens[:, :10])
    assert torch.allclose(padded.medians, short.medians, rtol=1e-5)
    assert torch.equal(padded.positions, short.positions)
    mask[:, 0] = False
    assert (massive.layer_stats(planted, tokens, mask=mask).positions > 0).all()
    with pytest.raises(ValueError, match="leave every sequence at least one position"):
        massive.layer_stats(planted, tokens, mask=torch.zeros_like(mask))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_of_models(family: str, tmp_path: Path) -> None:
    tiny_model(family).save_pretrained(tmp_path)
    model, tokens = load_model(tmp_path), torch.arange(24).reshape(2, 12)
    stats = massive.layer_stats(model, tokens)
    cache = capture(model, tokens, stats.sites)
    for layer, tensor in enumerate(cache.values()):
        assert torch.equal(tensor.abs().flatten(1).max(1).values, stats.values[layer, :, 0].abs())


def test_the_floor_of_gaussian_noise() -> None:
    """At initialisation the ratio is that of a Gaussian: about 7.1 for 2.6e5 entries, 8.1 for 1e7; nothing massive."""
    generator = torch.Generator().manual_seed(0)
    for shape, expected in (((1, 2048, 128), 7.1), ((1, 2048, 4883), 8.1)):
        noise = torch.randn(shape, generator=generator)
        value, *_, median, deviation = extremes(noise, torch.ones(shape[:2], dtype=torch.bool), 1)[0].tolist()
        assert deviation == pytest.approx(0.39906, rel=0.01)  # where erf((0.67449 ± it) / √2) differ by a half
        assert median == pytest.approx(0.67449, rel=0.01)
        assert abs(value) / median == pytest.approx(expected, abs=1)


def test_a_random_model_has_none(tmp_path: Path) -> None:
    tiny_model("gpt_neox").save_pretrained(tmp_path)
    found = massive.detect(massive.layer_stats(load_model(tmp_path), torch.arange(60).reshape(2, 30)))
    assert len(found) == 0
    assert (found.first_layer, found.last_layer, found.fixed_dims) == (None, None, ())


def test_processed_weights_are_refused(tmp_path: Path) -> None:
    planted_model().save_pretrained(tmp_path)
    model = load_model(tmp_path, process_weights=True)
    for measure in (massive.layer_stats, massive.attention_sinks, massive.find_super_weights):
        with pytest.raises(ValueError, match=r"on a model with processed weights.*process_weights=False"):
            measure(model, planted_tokens())


def test_half_precision(tmp_path: Path, planted: Any) -> None:
    exact = massive.layer_stats(planted, planted_tokens())
    half = massive.layer_stats(load_model(_saved(tmp_path / "half"), dtype="float16"), planted_tokens())
    assert torch.allclose(half.values[LAYER:, :, 0], exact.values[LAYER:, :, 0], rtol=0.01)
    overflowing = planted_bridge(tmp_path / "overflow", dtype="float16", write=2000.0)
    with pytest.raises(ValueError, match=r"blocks\.1\.hook_resid_post holds .* above 65504: load .* dtype='float32'"):
        massive.layer_stats(overflowing, planted_tokens())
    assert len(massive.detect(massive.layer_stats(load_model(tmp_path / "overflow"), planted_tokens()))) == 12


def _saved(folder: Path) -> Path:
    planted_model().save_pretrained(folder)
    return folder


def test_thresholds(planted: Any) -> None:
    stats = massive.layer_stats(planted, planted_tokens())
    largest = max(each.ratio for each in massive.detect(stats))
    assert len(massive.detect(stats, relative=largest)) == 1, "at least"
    assert len(massive.detect(stats, absolute=1e6)) == 0
    with pytest.raises(ValueError, match=r"criteria must be positive .* not absolute=-1.0, relative=1000.0"):
        massive.detect(stats, absolute=-1.0)


def test_median_absolute_deviations(planted: Any, hidden: list[np.ndarray]) -> None:
    """The criterion by hand, at the very number of deviations that the smallest massive entry has."""
    stats = massive.layer_stats(planted, planted_tokens())
    for layer, of_layer in enumerate(hidden):
        rows = np.abs(of_layer.reshape(3, -1))
        half = (rows.shape[1] - 1) // 2  # the lower middle, as torch has it
        middle = np.sort(rows)[:, half, None]
        assert stats.mads[layer].numpy() == pytest.approx(np.sort(np.abs(rows - middle))[:, half], rel=1e-4)
    deviations = sorted(
        float((abs(each.value) - stats.medians[each.layer, each.sequence]) / stats.mads[each.layer, each.sequence])
        for each in massive.detect(stats)
    )
    assert len(massive.detect(stats, mad=deviations[0] * 0.999)) == 12
    assert len(massive.detect(stats, mad=deviations[3] * 1.001)) == 8
    stored = _plain(stats)
    assert torch.equal(_stats(stored).mads, stats.mads)
    before = _stats({name: value for name, value in stored.items() if name != "mads"})  # a line of an earlier sweep
    assert len(massive.detect(before)) == 12
    with pytest.raises(ValueError, match="stored without median absolute deviations"):
        massive.detect(before, mad=10.0)


def test_persistence_is_a_share_of_the_blocks(planted: Any) -> None:
    """The planted entries are massive after three of the four blocks."""
    stats = massive.layer_stats(planted, planted_tokens())
    assert massive.detect(stats, persistence=0.75).found == massive.detect(stats).found
    assert len(massive.detect(stats, persistence=0.76)) == 0
    values = stats.values.clone()
    values[2, 0] = 0  # of the first sequence, in one block less
    kept = massive.detect(replace(stats, values=values), persistence=0.75)
    assert {each.sequence for each in kept} == {1, 2}
    with pytest.raises(ValueError, match=r"persistence at most 1, not .*persistence=2\.0"):
        massive.detect(stats, persistence=2.0)


# Attention


def test_sinks_of_known_patterns() -> None:
    uniform = torch.ones(64, 64).tril() / torch.arange(1, 65)[:, None]
    to_first = torch.zeros(64, 64)
    to_first[:, 0] = 1
    harmonic = sum(1 / i for i in range(1, 65)) / 64
    assert importance(uniform)[0] == pytest.approx(harmonic)
    assert harmonic == pytest.approx(0.0741, abs=5e-5)
    received = importance(torch.stack([uniform, to_first]))[None, None].expand(2, 3, -1, -1)
    stats = massive.SinkStats(sites=("a", "b"), importance=received)
    assert stats.sink_rate().value == 0.5
    assert stats.sink_rate(eps=0.07).value == 1
    assert stats.sink_rate(position=1).value == 0
    assert [e.value for e in stats.received()] == pytest.approx([(harmonic + 1) / 2] * 2)


def test_attention_is_that_of_the_plain_model(planted: Any) -> None:
    tokens = planted_tokens()
    model = planted_model()
    model.set_attn_implementation("eager")
    with torch.no_grad():
        patterns = model(tokens, output_attentions=True).attentions
    stats = massive.attention_sinks(planted, tokens, window=None)
    for layer, pattern in enumerate(patterns):
        for key in (0, 9, 31):
            assert torch.allclose(stats.importance[layer, :, :, key], pattern[:, :, key:, key].mean(2), atol=1e-5)
    found = massive.detect(massive.layer_stats(planted, tokens))
    expected = torch.stack([patterns[2][s, :, p:, p].mean() for s, p in PLACES])
    assert stats.received(found)[2].value == pytest.approx(float(expected.mean()), rel=1e-4)
    assert stats.received(found)[2].n == 4
    with pytest.raises(ValueError, match="none of 4 massive tokens is within the 3 positions measured"):
        massive.attention_sinks(planted, tokens, window=3).received(found)


# Super weights


def test_the_planted_super_weight_is_found(planted: Any) -> None:
    before = {name: tensor.clone() for name, tensor in planted.state_dict().items()}
    (found,) = massive.find_super_weights(planted, planted_tokens())
    assert (found.layer, found.row, found.column) == (LAYER, DIM, NEURON)
    assert found.weight == 20
    assert found.share == pytest.approx(1, abs=1e-3)
    assert all(torch.equal(before[name], tensor) for name, tensor in planted.state_dict().items())
    with massive.zeroed(planted, found):
        assert len(massive.detect(massive.layer_stats(planted, planted_tokens()))) == 0
    assert len(massive.detect(massive.layer_stats(planted, planted_tokens()))) == 12


@pytest.mark.parametrize("family", FAMILIES)
def test_super_weights_of_every_family(family: str, tmp_path: Path) -> None:
    """Of the first layer: row, column and weight by torch's own hooks on the plain model."""
    model, tokens, seen = tiny_model(family), torch.arange(24).reshape(2, 12), []
    (projection,) = [module for name, module in model.named_modules() if name.endswith(_LAST[family])]
    projection.register_forward_hook(lambda _m, args, output: seen.append((args[0], output)))
    with torch.no_grad():
        model(tokens)
    column, row = (int(tensor.flatten(0, 1).abs().max(0).values.argmax()) for tensor in seen[0])
    model.save_pretrained(tmp_path)
    (found,) = massive.find_super_weights(load_model(tmp_path), tokens, threshold=1e-6, limit=1)
    assert (found.layer, found.row, found.column) == (0, row, column)
    weight = projection.weight.detach().T if family == "gpt2" else projection.weight.detach()
    assert found.weight == float(weight[row, column])
    assert abs(found.output) == pytest.approx(float(seen[0][1].abs().max()), rel=1e-5)


_LAST = {
    "gpt2": "0.mlp.c_proj",
    "gpt_neox": "0.mlp.dense_4h_to_h",
    "llama": "0.mlp.down_proj",
    "gemma2": "0.mlp.down_proj",
    "gemma3": "0.mlp.down_proj",
}


# The command


def test_the_command_prints_what_is_massive(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    planted_model().save_pretrained(tmp_path / "model")
    np.save(tmp_path / "ids.npy", planted_tokens().numpy().ravel().astype(np.uint16))
    with pytest.raises(SystemExit) as exit_:
        main(["massive", str(tmp_path / "model"), "--data", str(tmp_path / "ids.npy"), "--context", "32"])
    assert exit_.value.code == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "Massive: blocks 1 to 3; dimensions in every sequence (37,)" in output
    assert "0 at the start of a sequence, 4 elsewhere; token ids {7: 4}" in output
    assert "Super weight: block 1 down_proj[37, 0] = 20" in output


def test_a_text_that_ends_early_is_masked(planted: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "ids.npy", np.full(40, 9, dtype=np.uint16))
    tokens, mask = text_rows(planted, tmp_path / "ids.npy", sequences=10, context=32)
    assert mask.sum(1).tolist() == [32, 8]
    assert tokens.shape == (2, 32)
    with pytest.raises(ValueError, match=r"has 2 rows of 32 tokens; skip=5 leaves none"):
        text_rows(planted, tmp_path / "ids.npy", sequences=10, context=32, skip=5)
