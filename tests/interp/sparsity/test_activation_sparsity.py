"""Activation sparsity: random ReLU networks, planted small neurons, brute force, and hooks that go away."""

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from interp import metrics
from interp.cli import main
from interp.embedded import TEXT_FOLDER
from interp.embedded import steps as embedded_steps
from interp.models.loading import load_model
from interp.sites.capturing import capture
from interp.sparsity.activation_sparsity import first_crossing, nonzeros, ppl_sparsity, pruned, sparsity_at, topk_mlps
from interp.sparsity.over_training import sparsity_over_training
from interp.sparsity.truncation_error import ErrorCurve, cett
from interp.tokens.sequences import text_rows
from tests.tiny_models import tiny_model

WIDTH, NEURONS, LAYERS = 32, 256, 2


@pytest.fixture(scope="module")
def relu(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A random model."""
    folder = tmp_path_factory.mktemp("relu")
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=64,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        intermediate_size=NEURONS,
        max_position_embeddings=64,
        hidden_act="relu",
        initializer_range=0.3,
    )
    GPTNeoXForCausalLM(config).save_pretrained(folder)
    return load_model(folder)


@pytest.fixture(scope="module")
def gelu() -> Any:
    """The embedded model, which is trained; the first neurons of every layer write next to nothing."""
    model = load_model("embedded")
    with torch.no_grad():
        for block in model.blocks:
            block.mlp.out.original_component.weight[:, :SMALL] *= 1e-6
    return model


@pytest.fixture(scope="module")
def text(gelu: Any) -> torch.Tensor:
    return text_rows(gelu, TEXT_FOLDER / "heldout.jsonl", sequences=4, context=64)[0]


SMALL = 100
TOKENS = torch.randint(0, 64, (4, 32), generator=torch.Generator().manual_seed(0))


def loss(model: Any, tokens: torch.Tensor) -> float:
    with torch.no_grad():
        return float(metrics.cross_entropy(model(tokens), tokens).mean())


def test_half_of_a_random_relu_network_is_active(relu: Any) -> None:
    found = nonzeros(relu, TOKENS)
    assert found.share.value == pytest.approx(0.5, abs=0.03)
    assert found.share.n == 4
    a = capture(relu, TOKENS, ["blocks.1.mlp.hook_post"])["blocks.1.mlp.hook_post"]
    assert found.layers[1].value == pytest.approx(float((a != 0).double().mean()))
    assert torch.allclose(found.frequency[1], (a != 0).float().mean((0, 1)))


def test_gelu_has_no_zeros(gelu: Any, text: torch.Tensor) -> None:
    assert nonzeros(gelu, text).share.value > 0.99
    assert nonzeros(gelu, text, eps=0.1).share.value < 0.9


def test_topk(relu: Any) -> None:
    before = relu(TOKENS)
    with topk_mlps(relu, NEURONS):
        assert torch.equal(relu(TOKENS), before), "all of them"
    seen: list[torch.Tensor] = []
    module = relu.blocks[1].mlp.out.original_component
    with topk_mlps(relu, 5):
        handle = module.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
        changed = relu(TOKENS)
        handle.remove()
    assert int((seen[0] != 0).sum(-1).max()) == 5
    assert not torch.equal(changed, before)
    assert torch.equal(relu(TOKENS), before), "gone"
    for wrong in (0, NEURONS + 1):
        with pytest.raises(ValueError, match=rf"k={wrong} is not from 1 to 256"), topk_mlps(relu, wrong):
            pass


def test_topk_keeps_the_first_of_equal_ones_and_their_gradients(relu: Any) -> None:
    module = relu.blocks[0].mlp.out.original_component
    a = torch.tensor([[1.0, -3.0, 2.0, 2.0] + [0.5] * (NEURONS - 4)], requires_grad=True)
    with topk_mlps(relu, 2):
        out = module(a)
    expected = torch.zeros_like(a)
    expected[0, 1], expected[0, 2] = -3.0, 2.0
    assert torch.allclose(out, module(expected))
    out.sum().backward()
    assert a.grad is not None
    assert a.grad[0].nonzero().flatten().tolist() == [1, 2]


def test_cett_by_hand() -> None:
    a, weights = torch.tensor([[3.0, 0.1, -1.0]]), torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 1.0]])
    # Contributions (3, 0), (0, 0.2), (0, -1) with norms 3, 0.2 and 1; together (3, -0.8).
    whole = (9 + 0.64) ** 0.5
    found = cett(a, weights, [0.0, 0.5, 2.0, 4.0])
    assert found.tolist() == pytest.approx([0, 0.2 / whole, 0.8 / whole, 1])


def test_planted_small_neurons_are_found(gelu: Any, text: torch.Tensor) -> None:
    share = SMALL / gelu.cfg.d_mlp
    found = ppl_sparsity(gelu, text, p=0.1)
    assert found.share.value >= share
    assert found.perplexity_ratio == pytest.approx(1.001, abs=1e-3)
    for each in found.layers:
        assert each.value >= share


def test_thresholds_keep_to_the_error_and_the_share_is_theirs(gelu: Any, text: torch.Tensor) -> None:
    found = sparsity_at(gelu, text, cett=0.3)
    for layer, threshold in enumerate(found.thresholds):
        name = f"blocks.{layer}.mlp.hook_post"
        a = capture(gelu, text, [name])[name].flatten(0, 1)
        weights = gelu.blocks[layer].mlp.out.original_component.weight.detach()
        assert float(cett(a, weights, [threshold])[0]) == pytest.approx(0.3, abs=0.005)
        below = (a.abs() * weights.norm(dim=0) <= threshold).double().mean()
        assert found.layers[layer].value == pytest.approx(float(below))
    with pruned(gelu, found.thresholds):
        after = loss(gelu, text)
    assert found.perplexity_ratio == pytest.approx(math.exp(after - loss(gelu, text)), rel=1e-4)


@pytest.mark.parametrize(
    ("points", "first", "rises"),
    [
        ([(0, 1), (1, 2)], 0.01, True),
        ([(0, 1), (0.5, 1.005), (1, 2)], 0.5 + 0.5 * 0.005 / 0.995, True),
        ([(0, 1), (1, 1.009)], 1.0, True),  # never
        ([(0, 1), (0.1, 1.02), (0.2, 1), (1, 1.02)], 0.05, False),  # a hump below the last crossing, at 0.6
        ([(0, 1), (0.1, 1.02), (0.2, 1), (1, 1)], 0.05, False),  # and one that comes back for good
        ([(0, 1), (0.01, 1.02), (0.02, 1), (0.1, 1.02), (0.2, 1), (1, 1.02)], 0.005, False),  # two humps
    ],
)
def test_the_first_crossing_is_found(points: list[tuple[float, float]], first: float, rises: bool) -> None:
    """Of piecewise linear functions, to 1e-4 of their values."""
    found = first_crossing(lambda level: float(np.interp(level, *zip(*points, strict=True))), 1.01)
    assert found == (pytest.approx(first, abs=6e-4), rises)


def test_nothing_is_dropped_at_zero_and_more_with_p(relu: Any, gelu: Any, text: torch.Tensor) -> None:
    before = gelu(text)
    nothing = sparsity_at(gelu, text, cett=0.0)
    assert nothing.perplexity_ratio == 1.0
    # Where GELU's input is far below zero, float32 has no number for what is written.
    assert 1 - nonzeros(gelu, text).share.value <= nothing.share.value < 0.01
    shares = [ppl_sparsity(gelu, text, p=p).share.value for p in (0.1, 1.0, 10.0)]
    assert shares[0] < shares[1] < shares[2]
    assert torch.equal(gelu(text), before), "hooks are gone"
    zeros = 1 - nonzeros(relu, TOKENS).share.value
    assert sparsity_at(relu, TOKENS, cett=1e-6).share.value >= zeros, "exact zeros cost nothing"


@pytest.mark.parametrize("zeros", [0.0, 0.84, 0.987])
def test_the_error_asked_for_is_the_error_reached(relu: Any, zeros: float) -> None:
    """Of MLPs with a planted share of exact zeros, by a computation of its own in float64: the error at the threshold
    and at the next contribution above it have the one asked for between them."""
    model = copy.deepcopy(relu)
    for layer, block in enumerate(model.blocks):
        bias = block.mlp.get_submodule("in").original_component.bias
        with torch.no_grad():
            bias.fill_(1e3)  # all are active
            z = capture(model, TOKENS, [f"blocks.{layer}.mlp.hook_post"])[f"blocks.{layer}.mlp.hook_post"] - 1e3
            bias.fill_(-float(z.flatten().quantile(zeros)) + (1e-3 if zeros == 0 else 0.0))
    share = 1 - nonzeros(model, TOKENS).share.value
    assert share == pytest.approx(zeros, abs=0.002)
    assert sparsity_at(model, TOKENS, cett=0.0).share.value == pytest.approx(share, abs=1e-12)
    for asked in (0.02, 0.1, 0.3, 0.7):
        found = sparsity_at(model, TOKENS, cett=asked)
        assert found.share.value >= share
        for layer, threshold in enumerate(found.thresholds):
            name = f"blocks.{layer}.mlp.hook_post"
            a = capture(model, TOKENS, [name])[name].flatten(0, 1).double()
            weights = model.blocks[layer].mlp.out.original_component.weight.detach().double()
            contributions = a[:, :, None] * weights.T  # [tokens, neurons, width]
            norms = contributions.norm(dim=-1)
            whole = contributions.sum(1).norm(dim=-1)
            above = float(norms[norms > threshold * (1 + 1e-6)].min())
            errors = [
                ((contributions * (norms <= t * (1 + 1e-6))[:, :, None]).sum(1).norm(dim=-1) / whole)[whole > 0].mean()
                for t in (threshold, above)
            ]
            assert found.reached[layer] == pytest.approx(float(errors[0]), abs=1e-5)
            assert float(errors[0]) - 0.005 <= asked <= float(errors[1]) + 0.005
            assert asked - 0.012 < found.reached[layer] < asked + 0.005  # of 128 tokens, one with one neuron is .008


def test_a_curve_with_jumps_and_one_of_a_layer_that_writes_nothing() -> None:
    """Levels between two steps give a threshold between them, whatever was asked for before."""

    def error(t: float) -> float:
        return 0.0 if t < 1e-3 else 0.25 if t < 0.7 else 0.6 if t < 5.0 else 1.0

    def settled(curve: ErrorCurve, level: float) -> float:
        looks = 0
        while wanted := curve.wanted(level):
            assert len(wanted) <= 7
            curve.learn({point: error(t) for point, t in wanted.items()})
            looks += 1
        assert looks <= 7
        return curve.threshold(level)

    used = ErrorCurve(5.0)
    for level, step in ((0.1, 1e-3), (0.3, 0.7), (0.59, 0.7), (0.9, 5.0)):
        assert settled(used, level) == pytest.approx(step, rel=2e-5)
        assert settled(used, level) == settled(ErrorCurve(5.0), level)
    assert (settled(used, 0.0), settled(used, 1.0)) == (0.0, 5.0)
    assert settled(ErrorCurve(0.0), 0.5) == 0.0


def test_tokens_on_which_nothing_is_written_have_no_error() -> None:
    a, weights = torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.eye(2)
    assert cett(a, weights, [0.0, 3.0, 4.0]).tolist() == pytest.approx([0.0, 0.6, 1.0])
    assert cett(torch.zeros(2, 2), weights, [1.0]).tolist() == [0.0]


def test_memory_does_not_grow_with_layers_or_sequences(tmp_path: Path) -> None:
    """Most bytes that a measurement holds at once beyond what was there before it."""

    def most(layers: int, sequences: int) -> int:
        config = GPTNeoXConfig(
            vocab_size=16,
            hidden_size=16,
            num_hidden_layers=layers,
            num_attention_heads=2,
            intermediate_size=4096,
            max_position_embeddings=64,
        )
        GPTNeoXForCausalLM(config).save_pretrained(tmp_path / f"{layers}")
        model, tokens = load_model(tmp_path / f"{layers}"), torch.arange(sequences * 64).reshape(-1, 64) % 16
        held = largest = 0
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            sparsity_at(model, tokens, cett=0.3)
        for event in profiler.profiler.kineto_results.events():
            if event.name() == "[memory]":
                held += event.nbytes()
                largest = max(largest, held)
        return largest

    one = most(1, 1)
    assert one > 64 * 4096 * 4, "one layer's activations of one sequence"
    assert max(most(8, 1), most(1, 8)) < 1.2 * one


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_gated_and_transposed_mlps(family: str, tmp_path: Path) -> None:
    tiny_model(family).save_pretrained(tmp_path)
    model, tokens = load_model(tmp_path), torch.arange(60).reshape(2, 30)
    found = sparsity_at(model, tokens, cett=0.2)
    name = "blocks.2.mlp.hook_post"
    a = capture(model, tokens, [name])[name].flatten(0, 1)
    weights = model.blocks[2].mlp.out.original_component.weight.detach()
    weights = weights.T if family == "gpt2" else weights
    assert float(cett(a, weights, [found.thresholds[2]])[0]) == pytest.approx(0.2, abs=0.005)
    assert 0 < found.share.value < 1


def test_over_training_all_checkpoints_share_one_cett(text: torch.Tensor, tmp_path: Path) -> None:
    steps = embedded_steps()
    early, last = steps[len(steps) // 2], steps[-1]
    found = sparsity_over_training("embedded", text, tmp_path, steps=f"{last},{early},7777777")
    assert list(found) == [early, last]
    assert found[early].cett == found[last].cett
    assert found[last].perplexity_ratio == pytest.approx(1.01, abs=1e-3)
    alone = sparsity_at(load_model("embedded", revision=f"step{early}"), text, cett=found[last].cett)
    assert found[early] == alone
    said: list[str] = []
    middle = steps[len(steps) // 2 + 1]
    again = sparsity_over_training("embedded", text, tmp_path, steps=f"{early},{middle},{last}", tell=said.append)
    assert {step: again[step] for step in found} == found
    assert [line.split(":")[0] for line in said] == [f"step {middle}"]  # the others are read from the file
    with pytest.raises(ValueError, match="embedded has none of the steps 7777777"):
        sparsity_over_training("embedded", text, tmp_path, steps="7777777")
    with pytest.raises(ValueError, match="1 rows of tokens; the errors are over rows"):
        sparsity_over_training("embedded", text[:1], tmp_path)


def test_the_command_prints_what_the_function_finds(capsys: pytest.CaptureFixture[str]) -> None:
    line = ["embedded", "--data", str(TEXT_FOLDER / "heldout.jsonl"), "--sequences", "2", "--context", "32"]
    tokens, _ = text_rows(load_model("embedded"), TEXT_FOLDER / "heldout.jsonl", sequences=2, context=32)
    found = ppl_sparsity(load_model("embedded"), tokens)
    with pytest.raises(SystemExit, match="0"):
        main(["sparsity", *line])
    printed = capsys.readouterr().out
    assert f"{found.share} of the neurons can go at CETT {found.cett:.4f}" in printed
    assert f" 3     │ {found.layers[3]}" in printed
    with pytest.raises(SystemExit, match="2"):
        main(["sparsity", *line, "--ppl", "0"])
    assert "p=0.0 must be a positive percentage" in capsys.readouterr().err


def test_refusals(gelu: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"p=0\.0 must be a positive percentage"):
        ppl_sparsity(gelu, TOKENS, p=0.0)
    with pytest.raises(ValueError, match=r"cett=2\.0 is a share"):
        sparsity_at(gelu, TOKENS, cett=2.0)
    tiny_model("gpt2").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="processed weights"):
        nonzeros(load_model(tmp_path, process_weights=True), TOKENS)
    with pytest.raises(ValueError, match="1 thresholds for 4 layers"), pruned(gelu, [0.1]):
        pass


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--ppl", "nan"], "p=nan must be"), (["--tokens-per-step", "5"], "it is for laws")],
)
def test_the_command_refuses_before_it_loads_anything(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["sparsity", "no/such/model", "--data", "none.txt", *options])
    assert message in capsys.readouterr().err
