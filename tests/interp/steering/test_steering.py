"""Steering against the authors' formula, by hand-written hooks, and under a key-value cache."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from interp import capture, metrics
from interp.models.feed_forward import stack_of, value_vectors
from interp.steering.contrast_vectors import contrast
from interp.steering.edits import steer, steer_residual
from interp.steering.effects import side_effects
from interp.value_vectors.clusters import matched_random_sets
from interp.value_vectors.projection import find
from tests import tiny_vla_models as vla
from tests.interp.massive import planted
from tests.tiny_models import tiny_model

NEURONS = [(1, 3), (0, 7), (1, 9)]
TOKENS = torch.tensor([[5, 9, 20, 33, 41, 8], [7, 7, 30, 12, 2, 50]])


@pytest.fixture(scope="module")
def llama() -> Any:
    return tiny_model("llama")


@pytest.fixture(scope="module")
def pi0() -> Any:
    return vla.pi0()


def down(model: Any, layer: int) -> nn.Module:
    return stack_of(model).down[layer]


@contextmanager
def recorded(module: nn.Module) -> Iterator[list[Tensor]]:
    """What enters a module, call after call."""
    seen: list[Tensor] = []
    handle = module.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    try:
        yield seen
    finally:
        handle.remove()


def hooks(model: nn.Module) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


def logits_of(model: Any, tokens: Tensor = TOKENS, **options: Any) -> Tensor:
    with torch.no_grad():
        return model(tokens, **options).logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_set_is_the_authors_formula_to_the_bit(dtype: torch.dtype) -> None:
    model = tiny_model("llama", dtype=dtype)

    def authors(module: nn.Module, args: Any, _output: Tensor) -> Tensor:
        """Eq. 2 and 3 of the paper, as a forward hook that computes the projection again."""
        x = args[0].clone()
        x[..., [3, 9]] = 6.0
        return functional.linear(x, module.weight, module.bias)

    handle = down(model, 1).register_forward_hook(authors)
    expected = logits_of(model)
    handle.remove()
    with steer(model, neurons=[(1, 3), (1, 9)], value=6.0):
        assert torch.equal(logits_of(model), expected)
    assert not torch.equal(logits_of(model), expected)


def test_only_chosen_neurons_at_chosen_positions_change(llama: Any) -> None:
    mask = torch.zeros(2, 6, dtype=torch.bool)
    mask[0, 2] = mask[1, 4] = True
    with recorded(down(llama, 1)) as before:
        logits_of(llama)
    value = torch.tensor([6.0, 2.0, -1.5])
    with steer(llama, neurons=NEURONS, value=value, scope=mask), recorded(down(llama, 1)) as after:
        logits_of(llama)
    chosen = torch.zeros(2, 6, 80, dtype=torch.bool)
    chosen[0, 2, [3, 9]] = chosen[1, 4, [3, 9]] = True
    assert torch.equal(after[0][mask][:, [3, 9]], torch.tensor([[6.0, -1.5]] * 2))
    moved_by_layer_0 = torch.zeros(2, 6, dtype=torch.bool)
    moved_by_layer_0[0, 2:] = moved_by_layer_0[1, 4:] = True
    assert torch.equal(after[0][~moved_by_layer_0], before[0][~moved_by_layer_0])
    with steer(llama, neurons=NEURONS[::2], value=value[::2], scope=mask), recorded(down(llama, 1)) as alone:
        logits_of(llama)
    assert torch.equal(alone[0][~chosen], before[0][~chosen])


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "gpt_neox", "openvla", "embedded"])
def test_what_changes_nothing_and_what_does(family: str, embedded: Any) -> None:
    if family == "openvla":
        model, run = vla.openvla(), lambda: model(**vla.openvla_observation()).logits
    elif family == "embedded":
        model, run = embedded, lambda: embedded(TOKENS)
    else:
        model, run = tiny_model(family), lambda: logits_of(model)
    with torch.no_grad():
        before = run()
        for options in (
            {"neurons": [], "value": 9.0},
            {"neurons": NEURONS, "mode": "add", "value": 0.0},
            {"neurons": NEURONS, "mode": "scale", "value": 1.0},
        ):
            with steer(model, **options):
                assert torch.equal(run(), before)
        with steer(model, neurons=NEURONS, value=0.0):
            ablated = run()
        assert not torch.equal(ablated, before), "0 is an ablation, not a no-op"
        with steer(model, neurons=NEURONS, mode="scale", value=0.0):
            assert torch.equal(run(), ablated)
        assert torch.equal(run(), before)


def test_hooks_are_gone_however_the_block_ends(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    count, before = hooks(llama), logits_of(llama)
    options: dict[str, Any] = {"neurons": NEURONS, "value": 6.0, "scope": "last"}
    with pytest.raises(KeyError, match="body"), steer(llama, **options):
        raise KeyError("body")
    assert hooks(llama) == count
    with steer(llama, **options), pytest.raises(IndexError):
        llama(torch.tensor([[999]]))  # fails inside the model

    def fail(_hook: Any) -> None:
        raise RuntimeError("registration")

    with monkeypatch.context() as patch:
        patch.setattr(down(llama, 1), "register_forward_pre_hook", fail)
        with pytest.raises(RuntimeError, match="registration"), steer(llama, **options):
            pass
    assert hooks(llama) == count
    assert torch.equal(logits_of(llama), before)


def test_earlier_captures_stay_what_they_were(llama: Any) -> None:
    with recorded(down(llama, 1)) as seen, steer(llama, neurons=NEURONS, value=6.0):
        logits_of(llama)
        logits_of(llama)
    with recorded(down(llama, 1)) as plain, steer(llama, neurons=[(0, 7)], value=6.0):
        logits_of(llama)
    assert torch.equal(seen[0], plain[0])


def test_contexts_apply_in_order(llama: Any) -> None:
    def activation(*contexts: Any) -> float:
        with contexts[0], contexts[1], recorded(down(llama, 1)) as seen:
            logits_of(llama)
        return float(seen[0][0, 2, 3])

    def change(mode: str, value: float) -> Any:
        return steer(llama, neurons=[(1, 3)], mode=mode, value=value)

    assert activation(change("set", 5.0), change("scale", 2.0)) == 10
    assert activation(change("scale", 2.0), change("set", 5.0)) == 5
    assert activation(change("set", 5.0), change("add", 1.0)) == 6


def test_gradients_reach_the_value() -> None:
    model = tiny_model("gpt2", dtype=torch.float64)  # others compute norms or attention in float32
    values = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64, requires_grad=True)

    def loss(values: Tensor, mode: str) -> Tensor:
        with steer(model, neurons=NEURONS, mode=mode, value=values, scope="last"):
            return model(TOKENS).logits.square().mean()

    for mode in ("set", "add", "scale"):
        assert torch.autograd.gradcheck(lambda v, mode=mode: loss(v, mode), (values,))
    loss(values, "set").backward()
    assert model.get_input_embeddings().weight.grad.abs().sum() > 0


@torch.no_grad()
def test_scopes_of_generate(llama: Any) -> None:
    options: dict[str, Any] = {"max_new_tokens": 7, "min_new_tokens": 7, "do_sample": False}
    prompt = TOKENS[:1]

    def run(scope: Any, **steering: Any) -> tuple[list[Tensor], Tensor]:
        """What entered layer 1 in each call, and the tokens."""
        with steer(llama, neurons=[(1, 3)], value=6.0, scope=scope, **steering), recorded(down(llama, 1)) as seen:
            tokens = llama.generate(prompt, **options)
        return seen, tokens

    def touched(scope: Any) -> list[list[bool]]:
        return [(x[0, :, 3] == 6).tolist() for x in run(scope)[0]]

    everywhere, none, step = [True] * 6, [False] * 6, [[True]] * 6
    assert [x.shape[1] for x in run("all")[0]] == [6, 1, 1, 1, 1, 1, 1]
    assert touched("all") == [everywhere, *step]
    assert touched("text") == [everywhere, *step]
    assert touched("prefill") == [everywhere, *[[False]] * 6]
    assert touched("decode") == [none, *step]
    assert touched("last") == [[*none[:5], True], *step]
    absolute = torch.arange(12) == 3
    assert touched(absolute) == [[False, False, False, True, False, False], *[[False]] * 6]
    assert touched(torch.arange(12) == 8) == [none, [False], [False], [True], *[[False]] * 3]

    for scope in ("all", "decode", "last", absolute):
        cached = run(scope, prompt_length=6)[1]
        options["use_cache"] = False
        assert torch.equal(run(scope, prompt_length=6)[1], cached)
        del options["use_cache"]
    with (
        steer(llama, neurons=[(1, 3)], value=6.0, scope="prefill"),
        steer(llama, neurons=[(1, 3)], value=6.0, scope="decode"),
    ):
        assert torch.equal(llama.generate(prompt, **options), run("all")[1])
    assert not torch.equal(llama.generate(prompt, **options), run("all")[1])


@torch.no_grad()
def test_left_padding_moves_no_position(llama: Any) -> None:
    """A short row beside a long one is steered as it is alone."""
    short, padded = TOKENS[1:, :4], TOKENS.clone()
    padded[1] = torch.tensor([0, 0, 7, 7, 30, 12])
    real = torch.ones_like(padded)
    real[1, :2] = 0
    for scope in (torch.arange(12) == 1, torch.arange(12) == 5, "last", "text"):
        with steer(llama, neurons=[(1, 3)], value=6.0, scope=scope):
            both = llama.generate(padded, attention_mask=real, max_new_tokens=3, min_new_tokens=3, do_sample=False)
            alone = llama.generate(short, max_new_tokens=3, min_new_tokens=3, do_sample=False)
            with recorded(down(llama, 1)) as seen:
                llama(padded, attention_mask=real)
        assert torch.equal(both[1, 6:], alone[0, 4:])
        assert not (seen[0][1, :2, 3] == 6).any(), "padding is left alone"
    with steer(llama, neurons=[(1, 3)], value=6.0, scope="last"), recorded(down(llama, 1)) as seen:
        llama(TOKENS, attention_mask=real.flip(1))  # padding behind the second row
    assert (seen[0][..., 3] == 6).nonzero().tolist() == [[0, 5], [1, 3]]
    mask = torch.zeros(2, 6, dtype=torch.bool)
    mask[0, 2] = True
    with steer(llama, neurons=[(1, 3)], value=6.0, scope=mask), recorded(down(llama, 1)) as seen:
        llama.generate(TOKENS, num_beams=2, max_new_tokens=2, min_new_tokens=2)
    assert (seen[0][..., 3] == 6).nonzero().tolist() == [[0, 2], [1, 2]], "both beams of the first row"


@torch.no_grad()
def test_image_and_text_positions() -> None:
    pixels = torch.randn(1, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    with_image = torch.tensor([[vla.IMAGE_TOKEN] * 4 + [1, 16, 17]])
    openvla, paligemma, smolvlm = vla.openvla(), vla.paligemma(), vla.smolvlm()
    cases: list[tuple[Any, Callable[[], Any], list[int]]] = [
        (paligemma, lambda: paligemma(input_ids=with_image, pixel_values=pixels), [0, 1, 2, 3]),
        (smolvlm, lambda: smolvlm(input_ids=with_image[:, 3:], pixel_values=pixels[None]), [0]),
        (openvla, lambda: openvla(**vla.openvla_observation()), [1, 2, 3, 4]),
    ]
    for model, run, image in cases:
        for scope in ("image", "text"):
            with steer(model, neurons=[(1, 3)], value=6.0, scope=scope), recorded(down(model, 1)) as seen:
                run()
            inside = (seen[0][0, :, 3] == 6).nonzero().flatten().tolist()
            assert inside == (image if scope == "image" else [i for i in range(seen[0].shape[1]) if i not in image])
    with steer(openvla, neurons=[(1, 3)], value=6.0, scope="image"), recorded(down(openvla, 1)) as seen:
        openvla.act(**vla.openvla_observation())
    assert [int((x[..., 3] == 6).sum()) for x in seen] == [4, 0, 0, 0, 0, 0, 0]


@torch.no_grad()
def test_pi0(pi0: Any) -> None:
    observation = vla.pi0_observation(pi0)
    plain = pi0.sample_actions(**observation)
    assert torch.equal(pi0.sample_actions(**observation), plain)
    with steer(pi0, neurons=[(0, 5)], value=6.0), recorded(down(pi0, 0)) as seen_by_vlm:
        assert (pi0.sample_actions(**observation) - plain).abs().max() > 0
    with (
        pytest.warns(UserWarning, match="layer 2 is the last of 'model.vlm.language_model.layers'.*changes no action"),
        steer(pi0, neurons=[(2, i) for i in range(48)], value=6.0),
        recorded(down(pi0, 2)) as seen,
    ):
        assert torch.equal(pi0.sample_actions(**observation), plain)
    assert (seen[0] == 6).all()
    expert = stack_of(pi0, "model.dit.layers")
    with (
        pytest.warns(UserWarning, match="stack at 'model.dit.layers' has no vocabulary"),
        steer(pi0, neurons=[(2, 5)], value=6.0, stack=expert.path),
        recorded(expert.down[2]) as seen_by_expert,
    ):
        assert not torch.equal(pi0.sample_actions(**observation), plain)
    assert (len(seen_by_vlm), len(seen_by_expert)) == (1, pi0.config.num_inference_steps)

    image = observation["input_ids"] == vla.IMAGE_TOKEN
    for scope, expected in (("image", image), ("text", ~image), ("prefill", image | True)):
        with steer(pi0, neurons=[(0, 5)], value=6.0, scope=scope, image_mask=image), recorded(down(pi0, 0)) as seen:
            pi0.sample_actions(**observation)
        assert torch.equal(seen[0][..., 5] == 6, expected)
    with steer(pi0, neurons=[(0, 5)], value=6.0, scope="image"), pytest.raises(ValueError, match="pass image_mask="):
        pi0.sample_actions(**observation)
    with (
        pytest.warns(UserWarning, match="scope selected none of the positions"),
        steer(pi0, neurons=[(0, 5)], value=6.0, scope="decode"),
    ):
        pi0.sample_actions(**observation)


@torch.no_grad()
def test_residual_vectors(embedded: Any) -> None:
    tokens = embedded.to_tokens("When Mary and John went to the store")
    vector = value_vectors(stack_of(embedded), 1)[5]
    site = "blocks.1.hook_resid_post"
    before = capture(embedded, tokens, site)[site]
    with steer_residual(embedded, {1: vector}, value=2.0, scope="last"):
        after = capture(embedded, tokens, site, stop=False)[site]
    assert (after[0, -1] - before[0, -1] - 2 * vector).abs().max() < 1e-5
    assert (after[0, :-1] - before[0, :-1]).abs().max() < 1e-5
    # A neuron with twice the activation adds its value vector once more.
    neuron = float(capture(embedded, tokens, "blocks.1.mlp.hook_post")["blocks.1.mlp.hook_post"][0, -1, 5])
    logits = {}
    with steer_residual(embedded, {1: vector}, value=neuron, scope="last"):
        logits["vector"] = embedded(tokens)
    with steer(embedded, neurons=[(1, 5)], mode="scale", value=2.0, scope="last"):
        logits["neuron"] = embedded(tokens)
    assert (logits["vector"] - logits["neuron"])[0, -1].abs().max() < 1e-4

    for layer in (-1, 4):
        with pytest.raises(ValueError, match=f"layer {layer} is not there: .* has layers 0 to 3"):
            contrast(embedded, ["Mary laughed"], ["Mary wept"], layer=layer)
    found = contrast(embedded, ["Mary laughed", "John smiled"], ["Mary wept", "John died"], layer=1)
    hand = [
        capture(embedded, embedded.to_tokens(text), site)[site][0, -1]
        for text in ("Mary laughed", "John smiled", "Mary wept", "John died")
    ]
    assert (found.vector - (hand[0] + hand[1] - hand[2] - hand[3]) / 2).abs().max() < 1e-5
    spread = ((hand[0] - hand[1]).square() / 4 + (hand[2] - hand[3]).square() / 4).sqrt()
    assert (found.standard_error - spread).abs().max() < 1e-4
    assert found.n == (2, 2)
    mean = contrast(embedded, [tokens[0].tolist()], [tokens[0, :3].tolist()], layer=1, position="mean")
    assert (mean.vector - before[0].mean(0) + before[0, :3].mean(0)).abs().max() < 1e-4
    assert mean.standard_error.isnan().all()
    assert mean.left_out == (0, 0)


PLANTED_PROMPTS = ([[9, planted.TOKEN, 12], [20, 21, planted.TOKEN, 33, 40]], [[9, 11, planted.TOKEN] + [30] * 9])


@pytest.mark.parametrize("layer", [0, planted.LAYER, 3])
@torch.no_grad()
def test_a_mean_over_positions_leaves_massive_tokens_out(layer: int) -> None:
    """Else prompts of other lengths differ by the massive activation: against hooks of our own."""
    model = planted.planted_model()
    positive, negative = PLANTED_PROMPTS

    def mean(prompt: list[int], keep: bool) -> Tensor:
        states: list[Tensor] = []
        handle = model.gpt_neox.layers[layer].register_forward_hook(lambda _m, _a, output: states.append(output))
        model(torch.tensor([prompt]))
        handle.remove()
        return states[0][0, [i for i, token in enumerate(prompt) if keep or token != planted.TOKEN]].mean(0)

    def by_hand(keep: bool) -> Tensor:
        return torch.stack([mean(each, keep) for each in positive]).mean(0) - mean(negative[0], keep)

    kept = contrast(model, positive, negative, layer=layer, position="mean", drop_massive=False)
    assert kept.left_out == (0, 0)
    assert torch.allclose(kept.vector, by_hand(keep=True), rtol=1e-5, atol=1e-5)
    if layer < planted.LAYER:  # not yet massive
        found = contrast(model, positive, negative, layer=layer, position="mean")
        assert torch.equal(found.vector, kept.vector)
        return
    with pytest.warns(UserWarning, match=r"3 tokens hold massive .* dimension 37, after block \d\) and are left out"):
        found = contrast(model, positive, negative, layer=layer, position="mean")
    assert found.left_out == (2, 1)
    assert torch.allclose(found.vector, by_hand(keep=False), rtol=1e-5, atol=1e-5)
    assert kept.vector[planted.DIM] ** 2 > 0.999 * kept.vector.square().sum()
    assert found.vector[planted.DIM] ** 2 < 0.2 * found.vector.square().sum()
    strict = contrast(model, positive, negative, layer=layer, position="mean", absolute=1e6)
    assert torch.equal(strict.vector, kept.vector), "criteria are those of detect"


def test_a_prompt_whose_state_is_a_massive_activation_is_refused() -> None:
    model = planted.planted_model()
    with pytest.raises(ValueError, match=r"the last token of the prompt \[9, 7\] holds a massive activation"):
        contrast(model, [[9, 7]], [[9, 8]], layer=2)
    with pytest.raises(ValueError, match=r"every token of the prompt \[7\] holds .* drop_massive=False"):
        contrast(model, [[7]], [[9, 8]], layer=2, position="mean")
    assert contrast(model, [[9, 7]], [[9, 8]], layer=2, drop_massive=False).vector[planted.DIM] > 100


@torch.no_grad()
def test_side_effects_are_those_of_the_metrics(llama: Any) -> None:
    rows = torch.randint(64, (6, 12), generator=torch.Generator().manual_seed(0))
    before = logits_of(llama, rows)
    with steer(llama, neurons=NEURONS, value=6.0):
        after = logits_of(llama, rows)
    found = side_effects(llama, rows, lambda: steer(llama, neurons=NEURONS, value=6.0))
    expected = metrics.mean(metrics.kl(before, after).mean(1))
    assert (found.kl.value, found.kl.standard_error, found.kl.n) == pytest.approx(
        (expected.value, expected.standard_error, 6), rel=1e-4
    )
    loss = [metrics.cross_entropy(each, rows).mean() for each in (before, after)]
    assert found.loss_change.value == pytest.approx(float(loss[1] - loss[0]), abs=1e-5)
    assert 0 < found.top_changed.value <= 1
    nothing = side_effects(llama, rows, lambda: steer(llama, neurons=[], value=0.0))
    assert (nothing.kl.value, nothing.loss_change.value, nothing.top_changed.value) == (0, 0, 0)
    with pytest.raises(ValueError, match="rows of 1 tokens predict nothing"):
        side_effects(llama, rows[:, :1], lambda: steer(llama, neurons=[], value=0.0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"neurons": [(1, 80)]},
            r"neuron \(1, 80\) is outside its layer: layer 1 of model\.layers has neurons 0 to 79",
        ),
        ({"neurons": [(3, 0)]}, r"neuron \(3, 0\) is in no layer: model\.layers has layers 0 to 2"),
        ({"neurons": [83]}, r"83 is not a neuron: neurons are \(layer, index\).*from_flat\(ids, width=…\)"),
        ({"neurons": [(1, 3), (1, 3)]}, r"neuron \(1, 3\) is named twice"),
        ({"mode": "multiply"}, r"mode='multiply' is not known; choose set, add, scale"),
        ({"value": [1.0, 2.0]}, r"value has shape \[2\]; give one number, or one for each of 1 neurons"),
        ({"value": float("nan")}, r"value=nan is not finite"),
        (
            {"scope": "suffix"},
            r"scope='suffix' is not known; choose one of all, prefill, decode, text, image, last, or",
        ),
        ({"scope": [3]}, r"a mask of positions is boolean, .*not torch\.int64 of shape \[1\]"),
        (
            {"image_mask": torch.ones(6)},
            r"image_mask is boolean \[batch, position\], not torch\.float32 of shape \[6\]",
        ),
        ({"stack": "layers"}, r"no feed-forward layers at stack='layers'; this model has 'model\.layers' \(vocab"),
    ],
)
def test_what_cannot_be_steered(llama: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message), steer(llama, **{"neurons": [(1, 3)], "value": 1.0} | options):
        pass
    assert hooks(llama) == hooks(tiny_model("llama"))


def test_other_bad_input(llama: Any, embedded: Any) -> None:
    with (
        steer(llama, neurons=[(1, 3)], value=1.0, scope="image"),
        pytest.raises(ValueError, match="has no image token"),
    ):
        llama(TOKENS)
    three = torch.ones(3, 6, dtype=torch.bool)
    with (
        steer(llama, neurons=[(1, 3)], value=1.0, scope=three),
        pytest.raises(ValueError, match="mask of 3 rows does not fit a batch of 2"),
    ):
        llama(TOKENS)
    with (
        steer(llama, neurons=[(1, 3)], value=1.0, scope="last"),
        pytest.raises(ValueError, match=r"'model' is not called as a module here; only scope='all' works"),
    ):
        llama.model.layers[1].mlp(torch.randn(1, 2, 32))
    for layer, vector, message in (
        (1, torch.ones(31), r"the vector of layer 1 has shape \[31\]; the residual stream has \[32\]"),
        (3, torch.ones(32), "layer 3 is not there: model.layers has layers 0 to 2"),
    ):
        with pytest.raises(ValueError, match=message), steer_residual(llama, {layer: vector}):
            pass
    for positive, options, message in (
        ([], {}, "0 positive and 1 negative prompts: give at least one"),
        (["a"], {"position": "first"}, "position='first' is not known; choose last or mean"),
        (["a"], {}, "the prompt 'a' needs a tokenizer"),
        ([{"input_ids": TOKENS}], {}, "a prompt ran as a batch of 2"),
    ):
        with pytest.raises(ValueError, match=message):
            contrast(llama, positive, [[1]], layer=1, **options)


@pytest.mark.smollm2
@torch.no_grad()
def test_the_same_call_steers_smollm2(smollm2: Any) -> None:
    cluster = find(smollm2, ["fast", "quick", "rapid"], method="logit", norm="gain", layers=[28, 29], top=10)
    tokens = smollm2.to_tokens("The new train is")
    ids = [smollm2.tokenizer.encode(f" {word}")[-1] for word in cluster.words]

    def raised(neurons: Any) -> float:
        """Mean log-probability of the concept's words as the next token."""
        with steer(smollm2, neurons=neurons, mode="add", value=10.0, scope="last"):
            return float(smollm2(tokens)[0, -1].log_softmax(-1)[ids].mean())

    random = [raised(each) for each in matched_random_sets(smollm2, cluster.neurons, sets=8)]
    assert raised(cluster.neurons) > max(*random, raised([])) + 1
    plain = smollm2.original_model.generate(tokens, max_new_tokens=8, do_sample=False)
    with steer(smollm2, neurons=cluster.neurons, value=30.0, scope="decode"):
        steered = smollm2.original_model.generate(tokens, max_new_tokens=8, do_sample=False)
    assert torch.equal(plain[:, : tokens.shape[1] + 1], steered[:, : tokens.shape[1] + 1])
    assert not torch.equal(plain, steered)


@pytest.mark.smollm2
@pytest.mark.parametrize(("layer", "share"), [(15, 0.9), (28, 0.4)])
def test_no_contrast_of_smollm2_is_its_massive_activation(smollm2: Any, layer: int, share: float) -> None:
    """With prompts of different length; near the end the entries are below the rule, and still what a mean is."""
    sides = ["I love this", "What a wonderful day it has been"], ["I hate all of what has been said here", "No, never"]
    kept = contrast(smollm2, *sides, layer=layer, position="mean", drop_massive=False)
    with pytest.warns(UserWarning, match="4 tokens hold massive activations"):
        found = contrast(smollm2, *sides, layer=layer, position="mean")
    shares = [each.vector.square().topk(2).values.sum() / each.vector.square().sum() for each in (kept, found)]
    assert shares[0] > share
    assert shares[1] < 0.1
