"""An edit at a site does what the same change of the Hugging Face module does, and composes with everything."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import interp
from interp.models.families import table as families
from interp.models.families.table import family_of
from interp.models.loading import load_model
from interp.sites.capturing import capture
from interp.sites.site import available_sites
from interp.steering.edits import steer_residual
from interp.steering.site_edits import intervene
from tests.tiny_models import FAMILIES, LAYERS, VOCAB, WIDTH, tiny_model

TOKENS = torch.randint(1, VOCAB, (2, 7), generator=torch.Generator().manual_seed(0))
END = f"blocks.{LAYERS - 1}.hook_resid_post"


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("llama")
    tiny_model("llama").save_pretrained(folder)
    return load_model(folder, device="cpu")


@pytest.mark.parametrize("family", FAMILIES)
def test_zeroing_a_block_is_zeroing_it_in_hugging_face(family: str, tmp_path: Path) -> None:
    plain = tiny_model(family)
    plain.save_pretrained(tmp_path)
    model = load_model(tmp_path, device="cpu")
    blocks = plain.base_model.h if family == "gpt2" else plain.base_model.layers
    zero = blocks[1].register_forward_hook(
        lambda _m, _a, out: (out[0] * 0, *out[1:]) if isinstance(out, tuple) else out * 0
    )
    with torch.no_grad():
        expected = plain(TOKENS).logits
        zero.remove()
        before = plain(TOKENS).logits
        with intervene(model, {"blocks.1.hook_resid_post": 0.0}):
            torch.testing.assert_close(model.original_model(TOKENS).logits, expected, rtol=0, atol=1e-4)
            for engine in ("hooks", "nnsight"):
                logits = capture(model, TOKENS, "logits", engine=engine)["logits"]
                torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4)
        torch.testing.assert_close(model.original_model(TOKENS).logits, before, rtol=0, atol=1e-4)


def test_putting_back_what_is_there_changes_nothing_at_any_site(llama: Any) -> None:
    clean = capture(llama, TOKENS, END, gradients=True)[END].detach()  # gradients: computed by the bridge, as below
    for site in available_sites(llama):
        if site.kind.endswith("_scale"):
            with pytest.raises(ValueError, match="can be read, not set"), intervene(llama, {site: 1.0}):
                pass
            continue
        if site.kind not in family_of(llama.original_model.config).editable:
            with pytest.raises(ValueError, match="cannot be edited: no test compared"), intervene(llama, {site: 1.0}):
                pass
            continue
        with intervene(llama, {site: lambda value: value.clone()}):
            torch.testing.assert_close(capture(llama, TOKENS, END)[END], clean, rtol=0, atol=1e-5, msg=str(site))
        with intervene(llama, {site: lambda value: value * 0.5}):
            changed = capture(llama, TOKENS, [site, END])
        if site.layer is not None and str(site) != END:
            assert (changed[END] - clean).abs().max() > 1e-4, f"{site} is not read by anything"


def test_capture_inside_sees_the_edit(llama: Any) -> None:
    site, sums = "blocks.1.hook_mlp_out", ["blocks.1.hook_resid_mid", "blocks.1.hook_resid_post"]
    vector = torch.arange(WIDTH).float()
    with intervene(llama, {site: vector}):
        cache = capture(llama, TOKENS, [site, *sums])
        traced = capture(llama, TOKENS, sums, engine="nnsight")
        with pytest.raises(ValueError, match=r"hooks edit blocks\.1\.hook_mlp_out, and nnsight reads"):
            capture(llama, TOKENS, site, engine="nnsight")
    torch.testing.assert_close(cache[site], vector.expand(2, 7, WIDTH))
    torch.testing.assert_close(cache[sums[1]], cache[sums[0]] + vector, rtol=0, atol=1e-5)
    assert all(torch.equal(cache[name], traced[name]) for name in sums)


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "gpt_neox"])
def test_the_stream_between_attention_and_mlp_goes_on_as_edited(family: str, tmp_path: Path) -> None:
    """Adding there is adding to what attention writes; a bridge's own hook changes the MLP's branch alone."""
    tiny_model(family).save_pretrained(tmp_path)
    model = load_model(tmp_path, device="cpu")
    vector = torch.randn(WIDTH, generator=torch.Generator().manual_seed(1))
    ends = []
    for site in ("blocks.1.hook_resid_mid", "blocks.1.hook_attn_out"):
        with intervene(model, {site: lambda x: x + vector}):
            ends.append(capture(model, TOKENS, END)[END])
    torch.testing.assert_close(*ends, rtol=1e-4, atol=1e-4)
    with intervene(model, {"blocks.1.hook_resid_mid": 0.0}):
        cache = capture(model, TOKENS, ["blocks.1.hook_mlp_out", "blocks.1.hook_resid_post"])
    torch.testing.assert_close(*cache.values(), rtol=1e-5, atol=1e-5)


def test_one_head_and_no_other(llama: Any) -> None:
    site = "blocks.1.attn.hook_z"
    clean = capture(llama, TOKENS, site)[site]
    with intervene(llama, {f"{site}[2]": 0.0}):
        edited = capture(llama, TOKENS, site)[site]
    assert (edited[:, :, 2] == 0).all()
    kept = [0, 1, 3]
    torch.testing.assert_close(edited[:, :, kept], clean[:, :, kept], rtol=0, atol=1e-5)


def test_a_pattern_of_one_head_is_put_in(llama: Any) -> None:
    uniform = torch.ones(7, 7).tril()
    uniform = uniform / uniform.sum(-1, keepdim=True)
    sites = ["blocks.0.attn.hook_z[1]", "blocks.0.attn.hook_v"]
    with intervene(llama, {"blocks.0.attn.hook_pattern[1]": uniform}):
        cache = capture(llama, TOKENS, sites)
    expected = torch.einsum("qk,bkd->bqd", uniform, cache[sites[1]][:, :, 0])  # two queries share a key-value head
    torch.testing.assert_close(cache[sites[0]], expected, rtol=0, atol=1e-5)


def test_positions(llama: Any) -> None:
    site, mask = "blocks.1.hook_resid_post", torch.tensor([False, True, False, False, True])
    clean = capture(llama, TOKENS, site)[site]
    with intervene(llama, {site: 0.0}, scope=mask):
        edited = capture(llama, TOKENS, site)[site]
    assert (edited[:, [1, 4]] == 0).all()
    rest = [0, 2, 3, 5, 6]
    torch.testing.assert_close(edited[:, rest], clean[:, rest], rtol=0, atol=1e-5)
    pattern = "blocks.1.attn.hook_pattern"
    with intervene(llama, {pattern: 0.0}, scope=mask):
        zeroed = capture(llama, TOKENS, pattern)[pattern].sum(-1)
    assert (zeroed[:, :, [1, 4]] == 0).all()
    torch.testing.assert_close(zeroed[:, :, rest], torch.ones(2, 4, 5))


def test_contexts_apply_in_order_and_compose_with_steering(llama: Any) -> None:
    site = "blocks.0.hook_resid_post"
    one, vector = torch.ones(WIDTH), torch.full((WIDTH,), 3.0)
    with intervene(llama, {site: one}), intervene(llama, {site: lambda x: 2 * x}):
        torch.testing.assert_close(capture(llama, TOKENS, site)[site], torch.full((2, 7, WIDTH), 2.0))
    with steer_residual(llama, {0: vector}):
        steered = capture(llama, TOKENS, END)[END]
    with intervene(llama, {site: lambda x: x + vector}):
        torch.testing.assert_close(capture(llama, TOKENS, END)[END], steered, rtol=0, atol=1e-4)


def test_generation_with_a_cache_is_generation_without(llama: Any) -> None:
    site, vector = "blocks.1.hook_resid_post", 2 * torch.randn(WIDTH, generator=torch.Generator().manual_seed(1))
    for scope in ("all", "decode", "prefill"):
        with intervene(llama, {site: lambda x: x + vector}, scope=scope, prompt_length=7):
            cached, plain = (
                llama.original_model.generate(TOKENS, max_new_tokens=6, do_sample=False, use_cache=use)
                for use in (True, False)
            )
        assert torch.equal(cached, plain)


def test_gradients_flow_into_what_is_put_in(llama: Any) -> None:
    vector = torch.zeros(WIDTH, requires_grad=True)
    site = "blocks.0.hook_resid_post"
    with intervene(llama, {site: lambda x: x.detach() + vector}):
        capture(llama, TOKENS, END, gradients=True)[END].sum().backward()
    assert vector.grad is not None
    step = 1e-2 * torch.eye(WIDTH)[3]

    def total(shift: Tensor) -> float:
        with intervene(llama, {site: lambda x: x + shift}):
            return capture(llama, TOKENS, END)[END].double().sum().item()

    assert vector.grad[3].item() == pytest.approx((total(step) - total(-step)) / 2e-2, rel=2e-2)


def test_any_torch_model(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    x = torch.randn(4, 3)
    with intervene(model, {"1": 0.0}):
        torch.testing.assert_close(model(x), model[2].bias.expand(4, 2))


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ({}, "no edit was given"),
        ({"blocks.9.hook_mlp_out": 0.0}, "layer 9 .* is out of range"),
        ({"blocks.1.hook_mlp_out": torch.zeros(5)}, r"has shape \[5\], which does not broadcast to \[2, 7, 32\]"),
        ({"blocks.1.hook_nothing": 0.0}, "is not the name of a site"),
    ],
)
def test_bad_edits(llama: Any, edits: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message), intervene(llama, edits):
        capture(llama, TOKENS, END)
    assert not any(module._forward_hooks for module in llama.modules() if type(module).__name__ == "HookPoint")


def test_a_family_that_is_not_declared_is_refused(monkeypatch: pytest.MonkeyPatch, llama: Any) -> None:
    monkeypatch.delitem(families.FAMILIES, "llama")
    with pytest.raises(
        ValueError, match=r"hook_resid_post of a 'llama' model cannot be edited: .* are none; .* by its"
    ):
        intervene(llama, {"blocks.1.hook_resid_post": 0.0}).__enter__()


def test_what_is_no_output_of_a_plain_models_module_is_refused() -> None:
    with pytest.raises(ValueError, match="can be read, not set"):
        intervene(tiny_model("llama"), {"blocks.1.attn.hook_z": 0.0}).__enter__()


def test_the_face_has_it() -> None:
    assert interp.intervene is intervene
