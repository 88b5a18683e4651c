"""Captured tensors have the right values: against a computation by hand, other engines and plain forward hooks."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint
from transformers import AutoModelForCausalLM, PreTrainedModel

from interp.models.loading import load_model
from interp.sites.capturing import ActivationCache, capture
from interp.sites.site import Site, available_sites
from tests.interp.sites.oracle import recompute
from tests.tiny_models import CONFIGS, CONTEXT, FAMILIES, LAYERS, VOCAB, tiny_model

TOKENS = torch.randint(VOCAB, (3, 20), generator=torch.Generator().manual_seed(0))
MIDDLE = "blocks.1.hook_resid_post"


def _variant(name: str, family: str, **changes: Any) -> None:
    """A configuration whose branch the usual tiny ones do not reach."""
    CONFIGS[name] = copy.deepcopy(CONFIGS[family])
    for key, value in changes.items():
        setattr(CONFIGS[name], key, value)


_variant("gpt_neox_sequential", "gpt_neox", use_parallel_residual=False)
_variant("gemma3_mixed", "gemma3", layer_types=["sliding_attention", "full_attention", "sliding_attention"])
CASES = (*FAMILIES, "gpt_neox_sequential", "gemma3_mixed")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[PreTrainedModel, Any]]:
    """The same weights as a plain Hugging Face model and as a loaded bridge."""
    made: dict[str, tuple[PreTrainedModel, Any]] = {}

    def get(case: str) -> tuple[PreTrainedModel, Any]:
        if case not in made:
            folder = tmp_path_factory.mktemp(case)
            plain = tiny_model(case)
            plain.save_pretrained(folder)
            made[case] = plain, load_model(folder, device="cpu")
        return made[case]

    return get


@pytest.fixture
def gpt2(models: Callable[[str], tuple[PreTrainedModel, Any]]) -> Any:
    return models("gpt2")[1]


def _assert_equal(cache: ActivationCache, expected: dict[str, Tensor], *, relative: bool = False) -> None:
    for site, found in cache.items():
        wanted = expected[str(site)]
        assert found.shape == wanted.shape, site
        if site.kind == "scores":
            masked = wanted < -1e30
            assert torch.equal(masked, found < -1e30), site
            found, wanted = found.masked_fill(masked, 0), wanted.masked_fill(masked, 0)
        difference = (found - wanted).abs().max().item()
        scale = max(1.0, wanted.abs().max().item()) if relative else 1.0
        assert difference <= 1e-5 * scale, (str(site), difference, scale)


@pytest.mark.parametrize("case", CASES)
def test_every_site_equals_the_computation_by_hand(models: Any, case: str) -> None:
    plain, bridge = models(case)
    with torch.no_grad():
        expected, logits = recompute(plain, TOKENS)
        torch.testing.assert_close(logits, plain(TOKENS).logits, atol=1e-4, rtol=1e-4)
    assert {str(site) for site in available_sites(bridge)} == set(expected)
    together = capture(bridge, TOKENS, available_sites(bridge))
    _assert_equal(together, expected)
    # One kind at a time takes the plain modules wherever it can.
    for kind in {site.kind for site in together}:
        _assert_equal(capture(bridge, TOKENS, [site for site in together if site.kind == kind]), expected)


@pytest.mark.parametrize("case", CASES)
def test_the_engines_agree_to_the_bit(models: Any, case: str) -> None:
    bridge = models(case)[1]
    for sites in (
        available_sites(bridge),
        "blocks.*.hook_resid_post",
        ["blocks.1.hook_attn_out", "blocks.0.hook_mlp_out"],
    ):
        hooks, nnsight = (capture(bridge, TOKENS, sites, engine=engine) for engine in ("hooks", "nnsight"))
        assert list(hooks) == list(nnsight)
        assert all(torch.equal(hooks[site], nnsight[site]) for site in hooks)


@pytest.mark.parametrize("case", CASES)
def test_bridge_hooks_and_plain_hooks_agree(models: Any, case: str) -> None:
    plain, bridge = models(case)
    names = [f"blocks.{layer}.hook_out" for layer in range(LAYERS)]
    _, by_bridge = bridge.run_with_cache(TOKENS, names_filter=names)
    inside = capture(bridge, TOKENS, "blocks.*.hook_resid_post", gradients=True)  # runs the bridge
    assert all(torch.equal(inside[name], by_bridge[name]) for name in names)

    sdpa = copy.deepcopy(plain)
    sdpa.set_attn_implementation("eager" if case == "gemma2" else "sdpa")
    blocks = sdpa.base_model.h if case == "gpt2" else sdpa.base_model.layers
    outputs: list[Any] = []
    for block in blocks:
        block.register_forward_hook(lambda _m, _i, output: outputs.append(output))
    with torch.no_grad():
        sdpa(TOKENS)
    outside = capture(bridge, TOKENS, "blocks.*.hook_resid_post")  # runs the plain modules
    for tensor, output in zip(outside.values(), outputs, strict=True):
        assert torch.equal(tensor, output if isinstance(output, Tensor) else output[0])


@pytest.mark.smollm2
def test_smollm2_equals_the_computation_by_hand(smollm2: Any) -> None:
    plain = AutoModelForCausalLM.from_config(smollm2.original_model.config).eval()
    weights = {
        name.replace("_original_component.", ""): tensor for name, tensor in smollm2.original_model.state_dict().items()
    }
    assert plain.load_state_dict(weights, strict=False).missing_keys == []
    tokens = torch.randint(49152, (3, 16), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, logits = recompute(plain, tokens)
        torch.testing.assert_close(logits, plain(tokens).logits, atol=1e-3, rtol=1e-4)
    # Its residual stream has entries in the thousands, where float32 steps by 1e-4: relative to the largest entry.
    _assert_equal(capture(smollm2, tokens, available_sites(smollm2)), expected, relative=True)
    _assert_equal(capture(smollm2, tokens, "blocks.*.hook_resid_post"), expected, relative=True)


def test_heads_and_positions_select_what_they_name(models: Any) -> None:
    bridge = models("llama")[1]
    whole = capture(bridge, TOKENS, ["blocks.1.attn.hook_k", "blocks.1.attn.hook_pattern", MIDDLE])
    part = capture(
        bridge, TOKENS, ["blocks.1.attn.hook_k[1]", "blocks.1.attn.hook_pattern[3]", MIDDLE], positions=[-1, 4]
    )
    assert torch.equal(part["blocks.1.attn.hook_k[1]"], whole["blocks.1.attn.hook_k"][:, [-1, 4], 1])
    assert torch.equal(part["blocks.1.attn.hook_pattern[3]"], whole["blocks.1.attn.hook_pattern"][:, 3, [-1, 4]])
    assert torch.equal(part[MIDDLE], whole[MIDDLE][:, [-1, 4]])
    patterns = capture(bridge, TOKENS, "blocks.1.attn.hook_pattern", positions=slice(2, 9, 3))
    expected = whole["blocks.1.attn.hook_pattern"][:, :, 2:9:3]
    assert torch.equal(patterns["blocks.1.attn.hook_pattern"], expected)


@pytest.mark.parametrize("engine", ["hooks", "nnsight"])
def test_only_what_is_asked_for_stays_in_memory(gpt2: Any, engine: str) -> None:
    cache = capture(gpt2, TOKENS, [MIDDLE, "blocks.0.attn.hook_z[2]"], positions=slice(-1, None), engine=engine)
    assert len(cache) == 2
    assert [tensor.untyped_storage().nbytes() for tensor in cache.values()] == [3 * 8 * 4, 3 * 32 * 4]
    reduced = capture(gpt2, TOKENS, "blocks.*.hook_resid_post", reduce=lambda hidden: hidden[0, 0, :2], engine=engine)
    assert {tensor.untyped_storage().nbytes() for tensor in reduced.values()} == {2 * 4}


@pytest.mark.parametrize("engine", ["hooks", "nnsight"])
def test_reduce_runs_inside_the_forward_pass(gpt2: Any, engine: str) -> None:
    whole = capture(gpt2, TOKENS, "blocks.*.hook_resid_post")
    norms = capture(gpt2, TOKENS, "blocks.*.hook_resid_post", reduce=lambda hidden: hidden.norm(dim=-1), engine=engine)
    assert all(torch.equal(norms[site], whole[site].norm(dim=-1)) for site in whole)


class _Chain(nn.Module):
    """Runs its modules in another order than it lists them, writes over tensors in place, and counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(4, 3)
        self.first = nn.Linear(4, 4)
        self.relu = nn.ReLU(inplace=True)
        self.both = nn.Identity()
        self.calls = 0

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        hidden, _ = self.both((self.relu(self.first(x)), x))
        self.calls += 1
        return {"out": self.last(hidden)}


@pytest.mark.parametrize("engine", ["hooks", "nnsight"])
def test_path_sites_of_any_torch_model(engine: str) -> None:
    torch.manual_seed(0)
    model, x = _Chain(), torch.randn(5, 4)
    attributes = {name: set(vars(module)) for name, module in model.named_modules()}
    cache = capture(model, x, ["last", "both", "first"], engine=engine)
    first = x @ model.first.weight.T + model.first.bias
    torch.testing.assert_close(cache["first"], first)  # not what the ReLU wrote over it
    torch.testing.assert_close(cache["both"], first.relu())
    torch.testing.assert_close(cache["last"], first.relu() @ model.last.weight.T + model.last.bias)
    assert model.calls == 1
    capture(model, x, "first", engine=engine)
    assert model.calls == 1, "the forward pass went on after the last site"
    capture(model, x, "first", stop=False, engine=engine)
    assert model.calls == 2
    assert {name: set(vars(module)) for name, module in model.named_modules()} == attributes


def test_path_sites_inside_a_bridge(models: Any) -> None:
    for case, path in (
        ("gpt2", "transformer.h.1.attn.c_attn"),
        ("llama", "model.layers.1.self_attn"),
        ("gemma2", "lm_head"),
    ):
        plain, bridge = models(case)
        seen: list[Any] = []
        handle = plain.get_submodule(path).register_forward_hook(lambda _m, _i, output: seen.append(output))  # noqa: B023
        with torch.no_grad():
            plain(TOKENS)
        handle.remove()
        expected = seen[0] if isinstance(seen[0], Tensor) else seen[0][0]
        torch.testing.assert_close(capture(bridge, TOKENS, path)[path], expected, atol=1e-5, rtol=0)


def test_named_sites_of_a_plain_model(models: Any) -> None:
    plain, bridge = models("gpt2")
    assert [site for site in available_sites(plain) if site.kind != "path"] == list(available_sites(bridge))
    theirs, ours = capture(plain, TOKENS, "h.1"), capture(bridge, TOKENS, MIDDLE)
    torch.testing.assert_close(theirs[MIDDLE], ours["transformer.h.1"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("case", ["gpt2", "llama"])
def test_later_modules_do_not_run(models: Any, case: str) -> None:
    bridge = models(case)[1]
    ran: list[str] = []
    handles = [
        module.register_forward_hook(lambda *_, name=name: ran.append(name))
        for name, module in {
            "block 1": bridge.blocks[1],
            "block 2": bridge.blocks[2],
            "unembed": bridge.unembed,
        }.items()
    ]
    capture(bridge, TOKENS, MIDDLE)
    assert ran in ([], ["block 1"])
    capture(bridge, TOKENS, MIDDLE, stop=False)
    assert ran[-3:] == ["block 1", "block 2", "unembed"]
    for handle in handles:
        handle.remove()


def _state(model: nn.Module) -> dict[str, Any]:
    hooks = {
        name: (len(m._forward_hooks), len(m._forward_pre_hooks), len(getattr(m, "fwd_hooks", ())), sorted(vars(m)))
        for name, m in model.named_modules()
    }
    return {"hooks": hooks, "config": model.original_model.config.to_dict(), "weights": _checksum(model)}


def _checksum(model: nn.Module) -> float:
    return sum(parameter.double().sum().item() for parameter in model.parameters())


@pytest.mark.parametrize("engine", ["hooks", "nnsight"])
@pytest.mark.parametrize("site", [MIDDLE, "blocks.1.attn.hook_pattern"])
@pytest.mark.parametrize("gradients", [False, True])
def test_the_model_is_left_as_it_was(gpt2: Any, engine: str, site: str, gradients: bool) -> None:
    gpt2(TOKENS)  # a bridge wires its own hooks when it first runs
    logits, before, grad = gpt2(TOKENS), _state(gpt2), torch.is_grad_enabled()
    seed = torch.get_rng_state()
    capture(gpt2, TOKENS, site, engine=engine, gradients=gradients)

    def fail(_tensor: Tensor) -> Tensor:
        raise ZeroDivisionError("in reduce")

    with pytest.raises(ZeroDivisionError, match="in reduce"):
        capture(gpt2, TOKENS, site, engine=engine, gradients=gradients, reduce=fail)
    assert _state(gpt2) == before
    assert torch.is_grad_enabled() == grad
    assert torch.equal(torch.get_rng_state(), seed)
    assert torch.equal(gpt2(TOKENS), logits)


@pytest.mark.parametrize("engine", ["hooks", "nnsight"])
def test_gradients_are_those_of_autograd_by_hand(models: Any, engine: str) -> None:
    plain, bridge = models("llama")
    sites = [MIDDLE, "blocks.2.ln1.hook_scale", "blocks.2.attn.hook_pattern"]
    cache = capture(bridge, TOKENS, sites, gradients=True, engine=engine)
    sum(tensor.square().sum() for tensor in cache.values()).backward()
    expected, _ = recompute(plain, TOKENS)
    sum(expected[site].square().sum() for site in sites).backward()
    for name in ("layers.0.mlp.up_proj", "layers.2.self_attn.q_proj", "layers.2.input_layernorm"):
        ours = bridge.original_model.model
        for part in name.split("."):
            ours = getattr(ours, part)
        theirs = plain.model.get_submodule(name).weight
        assert theirs.grad.abs().max() > 1e-2
        torch.testing.assert_close(ours.weight.grad, theirs.grad, atol=1e-4, rtol=1e-4)
        ours.weight.grad = None
    bridge.zero_grad(set_to_none=True)
    plain.zero_grad(set_to_none=True)
    assert not capture(bridge, TOKENS, MIDDLE)[MIDDLE].requires_grad


@pytest.mark.parametrize("case", ["gpt2", "gpt_neox"])
def test_hooks_and_edited_weights_of_others_are_seen(models: Any, case: str) -> None:
    bridge = models(case)[1]
    usual = capture(bridge, TOKENS, MIDDLE)[MIDDLE]
    with bridge.hooks(fwd_hooks=[("blocks.0.hook_out", lambda value, hook: value * 0)]):
        edited = capture(bridge, TOKENS, ["blocks.0.hook_resid_post", MIDDLE])
    assert edited["blocks.0.hook_resid_post"].abs().max() == 0
    assert not torch.allclose(edited[MIDDLE], usual)
    weight = bridge.blocks[0].attn.v.original_component.weight
    kept = weight.data.clone()
    weight.data.zero_()
    values = capture(bridge, TOKENS, ["blocks.0.attn.hook_v", MIDDLE])
    alone = capture(bridge, TOKENS, MIDDLE)[MIDDLE]
    torch.testing.assert_close(alone, values[MIDDLE], atol=1e-5, rtol=0)
    assert not torch.allclose(alone, usual)
    weight.data.copy_(kept)
    assert torch.equal(capture(bridge, TOKENS, MIDDLE)[MIDDLE], usual)


def test_tokens_of_any_integer_type(gpt2: Any) -> None:
    expected = capture(gpt2, TOKENS, MIDDLE)[MIDDLE]
    for tokens in (TOKENS.int(), TOKENS.numpy().astype(np.uint16), TOKENS.to(torch.uint8), TOKENS.tolist()):
        assert torch.equal(capture(gpt2, tokens, MIDDLE)[MIDDLE], expected)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (TOKENS.float(), "tokens must be integers, not torch.float32"),
        (TOKENS > 3, "not torch.bool"),
        (TOKENS[0], r"tokens must be \[batch, position\], not of shape \[20\]; tokens\[None\]"),
        (torch.zeros(2, 0, dtype=torch.long), r"no tokens in shape \[2, 0\]"),
        (
            TOKENS + VOCAB - 1,
            f"token {int(TOKENS.max()) + VOCAB - 1} is not in the vocabulary: the model has tokens 0 to 63",
        ),
        (TOKENS - 1, "token -1 is not in the vocabulary"),
        (TOKENS.repeat(1, 2), f"rows of 40 tokens are longer than the model's context of {CONTEXT}"),
        ([[1, 2], [3]], "in rows of one length"),
        ("hello", "'hello' is text, and this model has no tokenizer"),
    ],
)
def test_bad_tokens(gpt2: Any, tokens: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        capture(gpt2, tokens, MIDDLE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"positions": [20]}, r"positions=\[20\] choose nothing or go beyond a sequence of 20 tokens"),
        ({"positions": slice(5, 5)}, "choose nothing"),
        ({"positions": "last"}, "positions must be a slice or a list of ints"),
        ({"positions": 3}, r"positions must be a slice or a list of ints such as \[-1\], not 3"),
        ({"engine": "jax"}, "engine 'jax' is not known; choose hooks or nnsight"),
    ],
)
def test_bad_options(gpt2: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        capture(gpt2, TOKENS, MIDDLE, **options)


def test_modules_that_do_not_run_or_return_no_tensor(gpt2: Any) -> None:
    with pytest.raises(ValueError, match=r"transformer\.h\.1\.attn\.c_attn did not run.*computes attention itself"):
        capture(gpt2, TOKENS, ["transformer.h.1.attn.c_attn", "blocks.2.attn.hook_pattern"], gradients=True)
    model = nn.Sequential(nn.Linear(2, 2), nn.Identity())
    model[1].forward = lambda x: None
    with pytest.raises(ValueError, match="the module at 1 returns NoneType without a tensor in front"):
        capture(model, torch.ones(1, 2), "1")


def test_the_cache_is_a_mapping_that_reads_any_spelling(gpt2: Any) -> None:
    cache = capture(gpt2, TOKENS, ["blocks.1.hook_out", "transformer.h.0.mlp"])
    assert list(cache) == [Site("mlp_out", 0), Site("resid_post", 1)]
    assert cache["transformer.h.1"] is cache[Site("resid_post", 1)]
    with pytest.raises(
        KeyError, match=r"blocks\.2\.hook_resid_post was not captured; this cache holds blocks\.0\.hook_mlp_out"
    ):
        cache["h.2"]


def test_processed_weights_are_captured_as_the_bridge_computes_them(models: Any, tmp_path: Path) -> None:
    plain, _ = models("gpt2")
    plain.save_pretrained(tmp_path)
    bridge = load_model(tmp_path, device="cpu", process_weights=True)
    _, expected = bridge.run_with_cache(TOKENS)
    assert torch.equal(capture(bridge, TOKENS, MIDDLE)[MIDDLE], expected[MIDDLE])
    assert isinstance(bridge.blocks[1].hook_out, HookPoint)
