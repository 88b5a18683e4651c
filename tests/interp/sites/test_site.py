"""Every spelling of a site, patterns over layers, and what is said of sites that a model lacks."""

from pathlib import Path
from typing import Any

import pytest
from torch import nn

from interp.models.loading import load_model
from interp.sites.kinds import KINDS
from interp.sites.site import Site, available_sites, expand_sites
from tests.tiny_models import tiny_model

WITH_HEADS = "q, k, v, q_normed, k_normed, scores, pattern, z, result have heads"


@pytest.fixture(scope="module")
def bridges(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    made = {}
    for family in ("gpt_neox", "llama"):
        folder: Path = tmp_path_factory.mktemp(family)
        tiny_model(family).save_pretrained(folder)
        made[family] = load_model(folder, device="cpu")
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_names_are_read_and_printed_alike(kind: str) -> None:
    row = KINDS[kind]
    site = Site(kind, 3 if "{layer}" in row.name else None)
    assert str(site) == row.name.format(layer=3)
    for name in (row.name, *row.synonyms):
        assert Site.parse(name.format(layer=3)) == site
    assert Site.parse(site) is site
    if row.heads:
        assert Site.parse(f"{site}[5]") == Site(kind, 3, 5)
        assert str(Site(kind, 3, 5)) == f"{site}[5]"


@pytest.mark.parametrize(
    ("path", "site"),
    [
        ("gpt_neox.layers.3", Site("resid_post", 3)),
        ("gpt_neox.layers.3.mlp", Site("mlp_out", 3)),
        ("gpt_neox.layers.3.attention", Site("attn_out", 3)),
        ("transformer.h.11", Site("resid_post", 11)),
        ("transformer.h.3.attn", Site("attn_out", 3)),
        ("model.layers.3", Site("resid_post", 3)),
        ("layers.3", Site("resid_post", 3)),
        ("h.0", Site("resid_post", 0)),
        # In Gemma a norm follows before these are added to the residual stream.
        ("model.layers.3.self_attn", Site("path", path="model.layers.3.self_attn")),
        ("model.layers.3.mlp", Site("path", path="model.layers.3.mlp")),
        ("transformer.h.3.ln_1", Site("path", path="transformer.h.3.ln_1")),
        ("0", Site("path", path="0")),
    ],
)
def test_module_paths(path: str, site: Site) -> None:
    assert Site.parse(path) == site
    if site.kind == "path":
        assert str(site) == path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a site is a name such as 'blocks.3.hook_resid_post' or a module path, not ''"),
        (3, "not 3"),
        ("resid_post", "'resid_post' is a kind of site; its layer is missing: blocks.3.hook_resid_post"),
        ("blocks.3.hook_residpost", "'blocks.3.hook_residpost' is not the name of a site. Names are hook_embed, "),
        ("blocks.3.attn.hook_rot_q", "is not the name of a site"),
        ("blocks.-1.hook_resid_post", "is not the name of a site"),
        ("layers/3", "is not the name of a site"),
        ("blocks.*.hook_z", "names many sites; interp.sites.expand_sites"),
        (
            "blocks.3.hook_resid_post[2]",
            rf"asks for head 2, but only {WITH_HEADS}: leave out \[2\]",
        ),
        ("transformer.h.3.ln_1[2]", "asks for head 2"),
    ],
)
def test_text_that_names_no_site(text: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Site.parse(text)


def test_patterns(bridges: dict[str, Any]) -> None:
    model = bridges["llama"]
    every = [Site("resid_post", layer) for layer in range(3)]
    assert list(expand_sites(model, "blocks.*.hook_resid_post")) == every
    assert list(expand_sites(model, "blocks.1-2.hook_resid_post")) == every[1:]
    assert list(expand_sites(model, Site("resid_post", 1))) == every[1:2]
    assert list(expand_sites(model, ["blocks.2.hook_out", "model.layers.*", "layers.0", every[1]])) == every
    assert expand_sites(model, "blocks.*.attn.hook_z[1]")[2] == Site("z", 2, 1)
    mixed = expand_sites(
        model, ["model.norm", "ln_final.hook_scale", "blocks.1.hook_resid_post", "blocks.*.attn.hook_q"]
    )
    assert [str(site) for site in mixed] == [
        *(f"blocks.{layer}.attn.hook_q" for layer in (0, 1)), "blocks.1.hook_resid_post", "blocks.2.attn.hook_q",
        "ln_final.hook_scale", "model.norm",
    ]  # fmt: skip
    assert [str(s) for s in expand_sites(model, "model.layers.*.mlp.act_fn")][2] == "model.layers.2.mlp.act_fn"


@pytest.mark.parametrize(
    ("family", "pattern", "expected"),
    [
        ("llama", "blocks.1.hook_*_out", ["blocks.1.hook_attn_out", "blocks.1.hook_mlp_out"]),
        ("gpt_neox", "blocks.2.hook_resid_*", ["blocks.2.hook_resid_pre", "blocks.2.hook_resid_post"]),
        ("llama", "blocks.1-2.mlp.*_in", ["blocks.1.mlp.hook_in", "blocks.2.mlp.hook_in"]),
        ("llama", "blocks.*.ln?.hook_scale", None),
        ("llama", "blocks.*.ln*.hook_scale", [f"blocks.{i}.ln{n}.hook_scale" for i in range(3) for n in (1, 2)]),
        ("llama", "blocks.0.attn.*tt*[1]", ["blocks.0.attn.hook_attn_scores[1]", "blocks.0.attn.hook_pattern[1]"]),
    ],
)
def test_patterns_of_kinds(bridges: dict[str, Any], family: str, pattern: str, expected: list[str] | None) -> None:
    if expected is None:
        with pytest.raises(ValueError, match="is not the name of a site"):
            expand_sites(bridges[family], pattern)
    else:
        assert [str(site) for site in expand_sites(bridges[family], pattern)] == expected


def test_patterns_of_any_torch_model() -> None:
    model = nn.Sequential(nn.Linear(1, 1), nn.Sequential(nn.Linear(1, 1), nn.ReLU()))
    assert [str(site) for site in available_sites(model)] == ["0", "1", "1.0", "1.1"]
    assert [str(site) for site in expand_sites(model, "1.*")] == ["1.0", "1.1"]
    with pytest.raises(ValueError, match=r"the Sequential has no blocks.0.hook_resid_post .* It has 0, 1, 1.0, 1.1"):
        expand_sites(model, "blocks.0.hook_resid_post")


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (
            "blocks.1.hook_resid_mid",
            r"has no blocks.1.hook_resid_mid \(.*in parallel.*\). It has hook_embed, blocks.\*.hook_resid_pre, ",
        ),
        ("blocks.*.hook_resid_mid", "in parallel"),
        ("blocks.*.hook_mlp_in", "the MLP's input before its norm is resid_pre"),
        ("blocks.3.hook_resid_post", "layer 3 of blocks.3.hook_resid_post is out of range: .* has layers 0 to 2"),
        ("blocks.1-7.hook_resid_post", "layer 3 of blocks.3.hook_resid_post is out of range"),
        ("blocks.2-1.hook_resid_post", "layers 2-1 of .* run backwards; write 1-2"),
        ("gpt_neox.layers.*.attention.*", "more than one wildcard"),
        ("blocks.0.hook_*_mid", "matches hook_resid_mid, and none is there: .*in parallel"),
        ("blocks.7.hook_*_out", "matches hook_attn_out, hook_mlp_out, and none is there: layer 7"),
        ("blocks.*.hook_*_off", r"matches no name of a site; behind 'blocks.\*.' there can be hook_resid_pre, "),
        ("blocks.*.hook_*_out[1]", "matches hook_attn_out, hook_mlp_out, and none is there: .*have heads"),
        ("blocks.0.attn.hook_z[4]", r"head 4 of blocks.0.attn.hook_z\[4\] is out of range: there are heads 0 to 3"),
        ("gpt_neox.layers.0.mlp.up_proj", r"has no gpt_neox.layers.0.mlp.up_proj \(no module has this path\)"),
        (
            Site("resid_post", 1, head=0),
            f"asks for head 0, but only {WITH_HEADS}",
        ),
        (Site("residual", 1), "'residual' is not a kind of site; kinds are embed, pos_embed, resid_pre, "),
        ([], "no site was asked for"),
    ],
)
def test_sites_that_the_model_lacks(bridges: dict[str, Any], pattern: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        expand_sites(bridges["gpt_neox"], pattern)


def test_keys_of_grouped_queries_have_fewer_heads(bridges: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="there are heads 0 to 1 there"):
        expand_sites(bridges["llama"], "blocks.0.attn.hook_k[2]")
    assert expand_sites(bridges["llama"], "blocks.0.attn.hook_q[2]")
