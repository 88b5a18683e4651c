"""What ``interp sae publish`` writes is read by its readers, says what was measured, and reaches a hub played here."""

import base64
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import constants

from saes import SAE, BatchTopK, Gated, JumpReLU, Matryoshka, ReLU, TopAFA, TopK
from saes.activations import Activation
from saes.publishing import identity_of, publish
from tests.patience import PATIENCE
from tests.saes.evaluation.evaluated import DOCUMENTS, SITE, WIDTH, run, sae_at_site
from tests.saes.variants import random_sae

TEXT = "".join(f'{{"text": "{text}"}}\n' for text in DOCUMENTS)


def figures(sae: SAE) -> dict[str, Any]:
    """A report of it, as far as a card needs one."""
    numbers = {"fvu": 0.25, "l0": 8.0, "dead_fraction": 0.5, "ce_recovered_zero": 0.875}
    estimates = {name: {"value": value, "standard_error": 0.0125, "n": 7} for name, value in numbers.items()}
    return estimates | {"tokens": 1234, "documents": 56, "data": "held_out.jsonl", "sae": identity_of(sae)}


def of_variant(variant: Activation, **options: Any) -> SAE:
    sae = random_sae(variant, dtype=torch.float32)
    if options:
        weights, sae = sae.state_dict(), SAE(8, 24, variant, **options)
        sae.load_state_dict(weights, strict=False)
        with torch.no_grad():
            for parameter in (sae.W_skip,) if sae.skip else ():
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(4)))
    sae.site = "blocks.2.hook_resid_post"
    sae.provenance = {"source": {"model": "EleutherAI/pythia-70m", "context": 128, "store": "/home/me/store"}}
    return sae


@pytest.mark.parametrize(
    "variant", [ReLU(), TopK(4), JumpReLU(), Gated(), BatchTopK(4), Matryoshka(4, (0.25, 1.0))], ids=lambda v: v.name
)
@torch.no_grad()
def test_it_is_read_as_it_was(variant: Activation, tmp_path: Path) -> None:
    sae = of_variant(variant)
    before = dict(sae.provenance)
    inside = publish(sae, tmp_path / "out", evaluation=figures(sae), license="mit", repo="me/mine")
    assert sae.provenance == before
    assert inside == tmp_path / "out" / "blocks.2.hook_resid_post"
    x = torch.randn(16, sae.d_in, generator=torch.Generator().manual_seed(1))
    for place in (inside, tmp_path / "out"):
        again = SAE.load(place)
        torch.testing.assert_close(again(x), sae(x))
        assert again.site == sae.site
    config = json.loads((inside / "cfg.json").read_text())
    assert config["metadata"]["hook_name"] == "blocks.2.hook_resid_post"
    assert "/home/me" not in "".join(
        path.read_text(encoding="utf-8") for path in (tmp_path / "out").rglob("*") if path.suffix in (".json", ".md")
    )
    assert json.loads((inside / "evaluation.json").read_text())["fvu"]["value"] == 0.25


def test_the_card_says_what_it_is(tmp_path: Path) -> None:
    sae = of_variant(TopK(4))
    publish(sae, tmp_path, evaluation=figures(sae), license="cc-by-4.0", repo="me/mine")
    _, head, body = (tmp_path / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    fields = yaml.safe_load(head)
    assert (fields["license"], fields["base_model"], fields["library_name"]) == (
        "cc-by-4.0",
        "EleutherAI/pythia-70m",
        "saelens",
    )
    for said in (
        "A topk sparse autoencoder (8 inputs, 24 latents, k = 4, float32) of `blocks.2.hook_resid_post`",
        "| Fraction of variance unexplained (FVU) | 0.25 | 0.013 | 7 |",
        "| CE recovered, zero ablation as 0 | 0.875 | 0.013 | 7 |",
        "1,234 tokens of 56 documents of `held_out.jsonl`",
        'SAE.load("me/mine/blocks.2.hook_resid_post")',
        'SAE.from_pretrained(release="me/mine", sae_id="blocks.2.hook_resid_post")',
        "context: `128`",
    ):
        assert said in body


def hub_copy(folder: Path, cache: Path) -> None:
    """A folder as the repository ``me/mine`` of a hub's cache."""
    place = cache / "models--me--mine"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("a" * 40)
    (place / "snapshots").mkdir()
    folder.rename(place / "snapshots" / ("a" * 40))


@pytest.mark.parametrize(
    ("variant", "options"),
    [
        (ReLU(), {}),
        (TopK(4), {}),
        (JumpReLU(), {"subtract_b_dec": False}),
        (BatchTopK(4), {}),
        (ReLU(), {"subtract_b_dec": False, "skip": True}),
    ],
)
@torch.no_grad()
def test_its_lines_of_python_load_it(
    variant: Activation, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each block but SAELens's, from a hub's cache; theirs is run by `make test-peers`."""
    sae = of_variant(variant, **options)
    if sae.skip:
        sae.target_site = "blocks.2.hook_mlp_out"
    publish(sae, tmp_path / "out", evaluation=figures(sae), license="mit", repo="me/mine")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    hub_copy(tmp_path / "out", tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    ours, theirs, alone = re.findall(r"```python\n(.*?)```", card, flags=re.S)
    assert "sae_lens" in theirs
    x = torch.randn(16, sae.d_in, generator=torch.Generator().manual_seed(1)) * 2
    found: dict[str, Any] = {"x": x}
    exec(ours, found)
    torch.testing.assert_close(found["sae"](x), sae(x))
    exec(alone, found)
    torch.testing.assert_close(found["x_hat"], sae(x))


def test_what_is_not_published(tmp_path: Path) -> None:
    sae, other = of_variant(TopK(4)), of_variant(TopK(3))
    for change, message in (
        ({"evaluation": figures(other)}, r"of another SAE: its kind is 'TopK\(k=3\)', this one's 'TopK\(k=4\)'"),
        ({"evaluation": {"fvu": 1}}, "does not say which SAE it is of; write it again"),
        ({"evaluation": {"sae": identity_of(sae)}}, "the evaluation lacks fvu"),
        ({"license": " "}, "give a license"),
        ({"form": "onnx"}, "there are saelens and deepfield"),
    ):
        with pytest.raises(ValueError, match=message):
            publish(sae, tmp_path / "out", **{"evaluation": figures(sae), "license": "mit"} | change)
        assert not (tmp_path / "out").exists()
    with torch.no_grad():
        other = of_variant(TopK(4))
        other.b_dec[0] += 1e-3
    with pytest.raises(ValueError, match="of another SAE: its weights"):
        publish(sae, tmp_path / "out", evaluation=figures(other), license="mit")
    uncentred = of_variant(TopK(4))
    uncentred.subtract_b_dec = not sae.subtract_b_dec
    with pytest.raises(ValueError, match="of another SAE: its subtract_b_dec"):
        publish(sae, tmp_path / "out", evaluation=figures(uncentred), license="mit")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_text("")
    with pytest.raises(ValueError, match="is not empty"):
        publish(sae, tmp_path / "there", evaluation=figures(sae), license="mit")
    sae.site = None
    with pytest.raises(ValueError, match="does not say which site"):
        publish(sae, tmp_path / "out", evaluation=figures(sae), license="mit")


def test_what_saelens_cannot_hold_is_published_as_ours(tmp_path: Path) -> None:
    sae = of_variant(TopAFA())
    with pytest.raises(ValueError, match=r"SAELens cannot hold afa.*publish it with --format deepfield"):
        publish(sae, tmp_path / "theirs", evaluation=figures(sae), license="mit")
    inside = publish(sae, tmp_path / "ours", evaluation=figures(sae), license="mit", form="deepfield")
    assert SAE.load(inside).activation == TopAFA()
    card = (tmp_path / "ours" / "README.md").read_text(encoding="utf-8")
    assert "sae_lens" not in card
    assert "saelens" not in card


def test_the_command_measures_or_takes_what_was_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sae = sae_at_site(TopK(8))
    sae.provenance = {"source": {"model": "embedded", "bos": "never", "packing": "document", "context": 24}}
    sae.save(tmp_path / "sae")
    (tmp_path / "text.jsonl").write_text(TEXT)
    data = ["--data", str(tmp_path / "text.jsonl")]
    report = tmp_path / "report.json"
    assert run("eval", str(tmp_path / "sae"), *data, "--save", str(report)) == 0
    line = ["sae", "publish", str(tmp_path / "sae"), "--license", "mit"]
    assert run(*line, "--to", str(tmp_path / "a"), "--evaluation", str(report)) == 0
    assert run(*line, "--to", str(tmp_path / "b"), *data) == 0
    said = [json.loads((tmp_path / name / SITE / "evaluation.json").read_text()) for name in "ab"]
    assert said[0] == said[1] == json.loads(report.read_text())
    fvu = f"{said[0]['fvu']['value']:.4g}"
    assert f"FVU {fvu}" in capsys.readouterr().out
    assert f"| {fvu} |" in (tmp_path / "b" / "README.md").read_text(encoding="utf-8")
    assert SAE.load(tmp_path / "b").d_in == WIDTH
    assert run(*line, "--to", str(tmp_path / "c"), *data, "--push", "nobody") != 0
    assert "'nobody' is no repository; give owner/name" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "c").exists()
    for options in ([], [*data, "--evaluation", str(report)]):
        assert run(*line, "--to", str(tmp_path / "c"), *options) != 0
        assert "give --evaluation" in " ".join(capsys.readouterr().err.split())


@pytest.fixture
def played_hub() -> Iterator[tuple[str, dict[str, bytes], list[str]]]:
    """A server that takes a commit as the hub does; the files that it got, and the tokens that it was shown."""
    got: dict[str, bytes] = {}
    tokens: list[str] = []

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer({"id": "me/mine", "sha": "a" * 40, "siblings": []})

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            tokens.append(str(self.headers.get("Authorization")))
            address = f"http://127.0.0.1:{self.server.server_port}"  # type: ignore[attr-defined]
            if self.path == "/api/repos/create":
                self.answer({"url": f"{address}/me/mine", "id": "me/mine"})
            elif "/preupload/" in self.path:
                asked = json.loads(content)["files"]
                modes = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked]
                self.answer({"files": modes})
            elif "/commit/" in self.path:
                for line in map(json.loads, content.splitlines()):
                    if line["key"] == "file":
                        got[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                self.answer({"commitUrl": f"{address}/me/mine/commit/{'a' * 40}", "commitOid": "a" * 40})
            else:
                self.answer({"errors": [], "warnings": []})

        def answer(self, value: dict[str, Any]) -> None:
            content = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", got, tokens
    server.shutdown()
    server.server_close()


def pushed(folder: Path, repo: str, home: Path, network: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """In another process, as the client reads its environment once."""
    code = f"from saes.publishing import push; print(push({str(folder)!r}, {repo!r}))"
    return subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"HF_HUB_OFFLINE": "0", "HF_HOME": str(home)} | network,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


def test_a_push_sends_every_file_and_keeps_no_token(
    played_hub: tuple[str, dict[str, bytes], list[str]], tmp_path: Path
) -> None:
    address, got, tokens = played_hub
    sae = of_variant(TopK(4))
    publish(sae, tmp_path / "out", evaluation=figures(sae), license="mit", repo="me/mine")
    token = "hf_a-secret-of-the-test"
    ran = pushed(tmp_path / "out", "me/mine", tmp_path / "home", {"HF_ENDPOINT": address, "HF_TOKEN": token})
    assert f"{address}/me/mine/commit/{'a' * 40}" in ran.stdout, ran.stderr
    files = [path for path in (tmp_path / "out").rglob("*.*") if path.is_file()]
    written = {path.relative_to(tmp_path / "out").as_posix(): path.read_bytes() for path in files}
    assert {name: content for name, content in got.items() if name != ".gitattributes"} == written
    assert set(tokens) == {f"Bearer {token}"}
    assert not any(token.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_a_push_that_fails_leaves_the_folder_and_says_how_to_go_on(tmp_path: Path) -> None:
    sae = of_variant(TopK(4))
    publish(sae, tmp_path / "out", evaluation=figures(sae), license="mit")
    network = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_TOKEN": "hf_x"}
    ran = pushed(tmp_path / "out", "me/mine", tmp_path / "home", network)
    assert ran.returncode != 0
    assert "is complete here, and could not be uploaded to me/mine" in ran.stderr
    assert "hf upload me/mine" in ran.stderr
    for name in ("mine", "a/b/c", "../x"):
        assert "ValueError" in pushed(tmp_path / "out", name, tmp_path / "home", network).stderr
