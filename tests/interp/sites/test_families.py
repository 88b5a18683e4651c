"""Every site that is listed of every family has the value of the Hugging Face modules."""

import functools
import re
from contextlib import ExitStack, nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import BloomConfig, MambaConfig, OpenAIGPTConfig, Qwen3NextConfig
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from interp.models.families.table import FAMILIES, NOT_DECLARED, family_of
from interp.models.loading import load_hf_model, load_model
from interp.sites.capturing import capture
from interp.sites.site import Site, available_sites, check_site
from tests.interp.sites.edits_by_hand import added, hooked
from tests.interp.sites.family_oracle import FACTS, recompute
from tests.tiny_models import CONFIGS, IN_A_BRIDGE, VOCAB, cases, tiny_model

TOKENS = torch.randint(2, VOCAB, (3, 12), generator=torch.Generator().manual_seed(0))


@functools.cache
def plain(case: str) -> Any:
    return tiny_model(case)


@functools.cache
def expected(case: str) -> dict[str, Tensor]:
    return recompute(case, plain(case), TOKENS)


def assert_equal(site: Site, found: Tensor, wanted: Tensor) -> None:
    assert found.shape == wanted.shape, (str(site), found.shape, wanted.shape)
    if site.kind == "scores":
        masked = wanted < -1e30
        assert torch.equal(masked, found < -1e30), str(site)
        found, wanted = found.masked_fill(masked, 0), wanted.masked_fill(masked, 0)
    difference = (found - wanted).flatten(1).abs().amax(1)
    assert (difference <= 1e-4 * wanted.flatten(1).abs().amax(1)).all(), (str(site), difference)


def named(model: Any) -> list[Site]:
    return [site for site in available_sites(model) if site.kind != "path"]


def test_every_family_has_a_tiny_model_and_an_oracle() -> None:
    assert {config.model_type for config in CONFIGS.values()} == set(FAMILIES)
    assert set(FACTS) == set(CONFIGS)


@pytest.mark.parametrize("case", CONFIGS)
def test_every_site_of_a_plain_model(case: str) -> None:
    model, wanted = plain(case), expected(case)
    sites = named(model)
    assert {str(site) for site in sites} == set(wanted)
    attributes = {name: sorted(vars(module)) for name, module in model.named_modules()}
    cache = capture(model, TOKENS, sites)
    assert {name: sorted(vars(module)) for name, module in model.named_modules()} == attributes
    for site in sites:
        assert_equal(site, cache[site], wanted[str(site)])


@pytest.mark.parametrize("case", IN_A_BRIDGE)
def test_every_site_of_a_bridge(bridges: Any, case: str) -> None:
    bridge, wanted = bridges(case), expected(case)
    sites = named(bridge)
    assert {str(site) for site in sites} == set(wanted)
    without_softmax = [site for site in sites if site.kind not in ("scores", "pattern")]  # fused attention runs
    for asked in (sites, without_softmax):
        for site, value in capture(bridge, TOKENS, asked).items():
            assert_equal(site, value, wanted[str(site)])


@pytest.mark.parametrize("case", cases(IN_A_BRIDGE))
def test_what_the_bridge_itself_shows_where_hooks_edit_it(bridges: Any, case: str) -> None:
    """A hook that changes nothing makes the bridge run; sites that it shows otherwise are refused by name."""
    bridge, wanted = bridges(case), expected(case)
    by_bridge = family_of(bridge.original_model.config).bridge
    shown = [site for site in named(bridge) if site.kind in by_bridge]
    refused = [site for site in named(bridge) if site.kind not in by_bridge]
    with bridge.hooks(fwd_hooks=[("blocks.0.hook_out", lambda value, hook: value)]):
        for site, value in capture(bridge, TOKENS, shown).items() if shown else ():
            assert_equal(site, value, wanted[str(site)])
        for site in refused[:2]:
            with pytest.raises(ValueError, match="cannot be taken while hooks"):
                capture(bridge, TOKENS, site)


@pytest.mark.parametrize("case", sorted(set(CONFIGS) - set(IN_A_BRIDGE)))
def test_a_layout_without_a_bridge_is_refused_with_the_way_out(case: str, tmp_path: Any) -> None:
    plain(case).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"cannot wrap .*interp\.load_hf_model loads it"):
        load_model(tmp_path, device="cpu")
    model = load_hf_model(tmp_path, device="cpu")
    site = Site.parse("blocks.1.attn.hook_pattern")
    assert_equal(site, capture(model, TOKENS, site)[site], expected(case)[str(site)])


def test_attention_that_transformers_computes_wrongly_is_refused() -> None:
    model = tiny_model("falcon_1b")
    model.config._attn_implementation = "eager"
    with pytest.raises(ValueError, match="linear biases count twice"):
        capture(model, TOKENS, "blocks.0.hook_resid_post")
    with torch.no_grad():
        eager = model(TOKENS).logits
        assert (eager - plain("falcon_1b")(TOKENS).logits).abs().max() > 0.01


UNDECLARED = {
    "openai-gpt": OpenAIGPTConfig(vocab_size=VOCAB, n_positions=32, n_embd=32, n_layer=2, n_head=4),
    "bloom": BloomConfig(vocab_size=VOCAB, hidden_size=32, n_layer=2, n_head=4),
    "qwen3_next": Qwen3NextConfig(
        vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
        intermediate_size=48, linear_num_value_heads=4, linear_num_key_heads=2, linear_key_head_dim=8,
        linear_value_head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24,
        shared_expert_intermediate_size=16, layer_types=["linear_attention", "full_attention"],
    ),
    "mamba": MambaConfig(vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, state_size=4),
}  # fmt: skip


@pytest.mark.parametrize("name", UNDECLARED)
def test_of_other_families_there_is_the_stream_around_blocks_and_nothing_else(name: str, tmp_path: Path) -> None:
    """Bloom's MLP module adds the residual stream, GPT-1's blocks return lists, and Mamba has neither MLP nor heads."""
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(UNDECLARED[name]).save_pretrained(tmp_path)
    model, hf_model = load_model(tmp_path, device="cpu"), load_hf_model(tmp_path, device="cpu")
    assert {site.kind for site in named(model)} == {"resid_pre", "resid_post"}
    assert {site.kind for site in named(hf_model)} <= {"resid_post"}
    entering: list[Tensor] = []
    blocks = next(module for module in hf_model.modules() if isinstance(module, nn.ModuleList))
    for block in blocks:
        block.register_forward_pre_hook(lambda _module, args: entering.append(args[0]))
    hf_model(TOKENS)
    found = capture(model, TOKENS, named(model))
    for layer in range(2):
        assert_equal(Site("resid_pre", layer), found[Site("resid_pre", layer)], entering[layer])
    assert torch.equal(found[Site("resid_post", 0)], found[Site("resid_pre", 1)])
    for site in (Site("mlp_out", 1), Site("resid_mid", 1)):
        for either in (model, hf_model):
            why = re.escape(NOT_DECLARED[name])
            with pytest.raises(ValueError, match=rf"the family '{name}' is not declared in .* \({why}\)"):
                capture(either, TOKENS, site)


@pytest.mark.parametrize("case", ["gpt2", "gemma2", "olmo", "olmo2", "olmo3", "mixtral"])
def test_a_bridge_runs_in_half_precision(case: str, tmp_path: Path) -> None:
    """With hooks and gradients, which make it run itself, near what the plain modules give."""
    tiny_model(case, dtype=torch.bfloat16).save_pretrained(tmp_path)
    model, sites = load_model(tmp_path, device="cpu", dtype=torch.bfloat16), "blocks.*.hook_resid_post"
    wanted, found = capture(model, TOKENS, sites), capture(model, TOKENS, sites, gradients=True)
    for site, value in wanted.items():
        assert found[site].dtype == torch.bfloat16
        torch.testing.assert_close(found[site], value, rtol=0, atol=0.05 * float(value.abs().max()))


@pytest.mark.parametrize(
    ("case", "site", "why"),
    [
        ("cohere", "blocks.0.hook_resid_mid", "in parallel"),
        ("gptj", "blocks.0.ln2.hook_scale", "attention and MLP share one norm, which is ln1"),
        ("olmo2", "blocks.0.ln1.hook_scale", "its norms stand between attention or MLP and the residual stream"),
        ("opt_post_norm", "blocks.0.ln1.hook_scale", "its norms stand in the residual stream"),
        ("mixtral", "blocks.0.mlp.hook_post", "neurons in every expert; see mlp.hook_expert_out"),
        ("qwen2_moe", "blocks.1.mlp.hook_expert_out", "the MLP of this layer is no mixture of experts"),
        ("gpt_oss", "blocks.0.attn.hook_attn_scores", "its softmax has a learned entry beside the keys"),
        ("llama", "hook_pos_embed", "this architecture does not compute it"),
    ],
)
def test_sites_that_a_family_lacks_are_refused_with_the_reason(case: str, site: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        check_site(plain(case), Site.parse(site))


@pytest.mark.filterwarnings("ignore:A forward hook edited hook_scale")
@pytest.mark.parametrize("case", cases(IN_A_BRIDGE))
def test_gradients_at_a_bridges_sites_are_those_of_an_addition_to_the_modules(bridges: Any, case: str) -> None:
    bridge, model = bridges(case), plain(case)
    last = Site("resid_post", model.config.num_hidden_layers - 1)
    family = family_of(model.config)
    sites = [
        site
        for site in named(bridge)
        if site.layer == 0 and site.kind in family.editable and not site.kind.endswith("_scale")
    ]
    cache = capture(bridge, TOKENS, [*sites, last], gradients=True)
    wanted = {site: torch.zeros_like(cache[site], requires_grad=True) for site in sites}
    with ExitStack() as hooks:
        for site, addend in wanted.items():
            hooks.enter_context(added(case, model, site, addend))
        stream: list[Tensor] = []
        block = model.get_submodule(f"{FACTS[case]['at']}.{last.layer}")
        hooks.enter_context(hooked(block, False, lambda value: stream.append(value) or value))
        model(TOKENS)
    along = torch.randn(stream[0].shape, generator=torch.Generator().manual_seed(0))
    (stream[0] * along).sum().backward()
    for site, addend in wanted.items():
        assert addend.grad is not None
        # Some norms of a bridge show it and go on from their own; then there is no gradient there.
        with suppress(ValueError) if site.kind.endswith("_normalized") else nullcontext():
            found = cache.gradient((cache[last] * along).sum(), site)
            assert_equal(Site("path", path=str(site)), found, addend.grad)
