"""Latents of dictionaries over several places: the same passages as of an SAE that reads them, clamps written out."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import interp
from interp.sites.site import Site
from saes import SAE, ReLU
from saes.commands.saved.explain import _one_part
from saes.explanations import Settings, prepare
from saes.explanations.effects import Clamping
from saes.explanations.explained import explained_in
from saes.features.examples import Text
from saes.places import Dictionary, Layout, save_dictionary
from tests.saes.evaluation.evaluated import run
from tests.saes.explanations.planted import SITE, Judging, knows, named, planted_answer, planted_sae
from tests.saes.explanations.served import Server
from tests.saes.features.test_page import content_of
from tests.saes.places.test_evaluation import dictionary_of

BOTH = Settings(scores=("detection", "fuzzing"), items=12)
LATER = "blocks.2.hook_resid_post"
OUT = "blocks.0.hook_mlp_out", "blocks.2.hook_mlp_out"


@torch.no_grad()
def planted(kind: str, model: Any) -> Dictionary:
    """The latents of ``planted_sae``, active on one word each, where the embeddings are read; the other part is silent.

    A crosscoder reads two places and looks at the first alone.
    """
    sae = planted_sae(model)
    layout = Layout(kind, (SITE, LATER), (SITE, LATER) if kind == "crosscoder" else OUT)
    dictionary = Dictionary(
        layout, ((96, 96), (96, 96)), d_sae=sae.d_sae, activation=ReLU(), subtract_b_dec=False,
        provenance={"source": {"model": "embedded"}},
    )  # fmt: skip
    for number, (part, _) in enumerate(dictionary.placed()):
        part.W_enc[:96].copy_(sae.W_enc if number == 0 else torch.zeros_like(sae.W_enc))
        part.b_enc.copy_(sae.b_enc if number == 0 else torch.full_like(sae.b_enc, -1.0))
    first, _ = dictionary.placed()[0]
    first.W_dec.copy_(torch.randn(first.W_dec.shape, generator=torch.Generator().manual_seed(0)))
    return dictionary


@pytest.mark.parametrize("kind", ["transcoders", "clt", "crosscoder"])
def test_a_part_is_asked_about_as_an_sae_is(kind: str, embedded: Any, text: Text, tmp_path: Path) -> None:
    """The same latents at the same place: the same passages and items, and who knows them is always right."""
    text = replace(text, max_tokens=6_000)
    alone = prepare(planted_sae(embedded), text, max_latents=2, settings=BOTH)
    part = None if kind == "crosscoder" else 0
    study = prepare(planted(kind, embedded), text, part=part, max_latents=2, settings=BOTH)
    assert study.companions == alone.companions
    assert {n: one.text() for n, one in study.explanations.items()} == {
        n: one.text() for n, one in alone.explanations.items()
    }
    assert study.items == alone.items
    found = study.run(Judging(named(study), knows), tmp_path)
    assert all(each.accuracy == 1.0 for each in found.summary.values())
    its = found.about["sae"]
    assert (its["dictionary"], its["part"], its["reads"][0]) == (kind, 0, SITE)


@torch.no_grad()
@pytest.mark.parametrize(("kind", "number"), [("transcoders", 2), ("clt", 1), ("clt", 3)])
def test_a_clamp_adds_a_row_at_every_place_that_is_written(embedded: Any, text: Text, kind: str, number: int) -> None:
    """Its part of the decoder row times what is missing, at each; read once, where the part reads."""
    dictionary = dictionary_of(kind)
    part, places = dictionary.placed()[number]
    ids = embedded.to_tokens("Emma was not at all sorry to see him go.")
    read = dictionary.layout.reads[number]
    x = interp.capture(embedded, ids, read)[read]
    latent = int(part.encode(x).indices[0, 4, 0])
    f = part.encode(x).to_dense()[..., latent]
    assert (f != 0).any()
    assert (f == 0).any()
    where = torch.arange(ids.shape[1]) >= 2
    delta = (5.0 - f) * where
    edits = {
        dictionary.layout.writes[place]: lambda y, i=i: y + delta[..., None] * part.at_place(i)[latent]
        for i, place in enumerate(places.writes)
    }
    assert len(edits) == (1 if kind == "transcoders" else 4 - number)
    with interp.intervene(embedded, edits):
        expected = embedded(ids)
    whose = explained_in(dictionary, text, part=number)
    clamping = Clamping(part, embedded, whose.text.sites[0], whose.writes, ids, where[None])
    torch.testing.assert_close(clamping.logits(latent, 5.0), expected, rtol=1e-4, atol=2e-4)
    assert (expected - embedded(ids)).abs().max() > 0.1
    first = next(iter(edits))
    with interp.intervene(embedded, {first: edits[first]}):
        assert len(edits) == 1 or (embedded(ids) - expected).abs().max() > 0.01


@pytest.mark.slow
@torch.no_grad()
def test_effects_of_a_part_are_those_of_its_transcoder(embedded: Any, text: Text) -> None:
    """Of a CLT whose later row is 0, and of a set; with it they are others."""
    clt, one = planted("clt", embedded), planted("transcoders", embedded)
    settings = Settings(scores=("effects",), items=12, pairs=2, rows=1)
    part, _ = clt.placed()[0]
    sae = SAE(96, part.d_sae, ReLU(), subtract_b_dec=False, site=SITE, target_site=OUT[0])
    for of, its in ((sae.W_enc, part.W_enc), (sae.b_enc, part.b_enc), (sae.W_dec, part.W_dec[:, :96])):
        of.copy_(its)
    one.placed()[0][0].W_dec.copy_(sae.W_dec)
    written = part.W_dec[:, 96:].clone()
    part.W_dec[:, 96:] = 0
    expected = prepare(sae, text, max_latents=2, settings=settings)
    assert expected.kl
    for dictionary in (one, clt):
        study = prepare(dictionary, text, part=0, max_latents=2, settings=settings)
        assert (study.kl, study.items) == (expected.kl, expected.items)
    part.W_dec[:, 96:] = written
    assert prepare(clt, text, part=0, max_latents=2, settings=settings).kl != expected.kl


def test_what_is_not_defined_is_refused_by_name(embedded: Any, text: Text) -> None:
    clt, crosscoder = planted("clt", embedded), planted("crosscoder", embedded)
    with pytest.raises(ValueError, match=r"this dictionary has 2 parts, 0 to 1: say which \(--part 0\)"):
        prepare(clt, text)
    with pytest.raises(ValueError, match="there is no part 2: this dictionary has parts 0 to 1"):
        prepare(clt, text, part=2)
    with pytest.raises(ValueError, match="there is no part 0: an SAE has no parts, leave it out"):
        prepare(planted_sae(embedded), text, part=0)
    with pytest.raises(ValueError, match=r"they read 2 places \(.*leave effects out \(--scores detection,fuzzing\)"):
        prepare(crosscoder, text)
    stream = Layout("clt", (SITE, LATER), (SITE, LATER))
    weakly = Dictionary(stream, ((96, 96), (96, 96)), d_sae=4, activation=ReLU(), subtract_b_dec=False)
    with pytest.raises(ValueError, match=r"the residual stream carries on what is written to it; leave effects out"):
        prepare(weakly, text, part=0)
    other = planted("clt", embedded)
    other.provenance["source"]["model"] = "gpt2"
    with pytest.raises(ValueError, match="this dictionary is of the model gpt2"):
        prepare(other, text, part=0)
    backwards = SAE(96, 4, ReLU(), site=LATER, target_site=OUT[0])
    with pytest.raises(ValueError, match=f"the model computes {OUT[0]} before {LATER}, which writes there"):
        Clamping(
            backwards, embedded, Site.parse(LATER), [Site.parse(OUT[0])], torch.ones(1, 4).long(), torch.ones(1, 4) > 0
        ).logits(0, 1.0)


def test_a_latent_without_its_part_is_not_taken_for_one_of_another_latents_part() -> None:
    assert _one_part("0,2/5", 2) == ([0, 5], 2)
    assert _one_part("2/0,2/5", None) == ([0, 5], 2)
    assert _one_part("0,5", None) == ([0, 5], None)
    with pytest.raises(ValueError, match="--latents 2,1/3: some are of a part, and some of none"):
        _one_part("2,1/3", None)


@pytest.mark.slow
def test_command_and_page(embedded: Any, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_dictionary(planted("clt", embedded), tmp_path / "clt")
    data = ["--data", str(interp.embedded.TEXT_FOLDER / "heldout.jsonl"), "--tokens", "10k"]
    judge = ["--judge", "endpoint", "--endpoint", server.url, "--judge-model", "m"]
    server.judge = planted_answer
    line = ["sae", "explain", str(tmp_path / "clt"), *data, *judge, "--scores", "detection", "--items", "8"]
    out = ["--out", str(tmp_path / "out")]
    assert run(*line, *out, "--latents", "0/2,1/3") == 2
    assert "latents of the parts 0, 1: explain one part at a time" in capsys.readouterr().err
    assert run(*line, *out, "--latents", "0/2") == 0
    found = json.loads((tmp_path / "out/explanations.json").read_text())
    assert (found["about"]["sae"]["part"], found["explained"]) == (0, 2)
    page = ["sae", "features", str(tmp_path / "clt"), *data, "--html", str(tmp_path / "p.html")]
    assert run(*page, "--explanations", str(tmp_path / "out")) == 0
    (entry,) = content_of((tmp_path / "p.html").read_text(encoding="utf-8"))["latents"]
    assert entry["id"] == "0/2"
    assert entry["said"]["scores"][0].startswith("detection 1.00 ± ")
    planted_sae(embedded).save(tmp_path / "sae")
    page[2] = str(tmp_path / "sae")
    assert run(*page, "--explanations", str(tmp_path / "out"), "--model", "embedded") == 2
    assert "holds another run (" in capsys.readouterr().err
