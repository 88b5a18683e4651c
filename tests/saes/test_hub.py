"""SAEs by hub id: from a cache, from a hub that is played here, and without either."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch
from huggingface_hub import constants

from saes import SAE, BatchTopK, ReLU, TopK, hub
from saes.convert import write
from saes.places import Dictionary, Layout, write_circuit_tracer
from tests.patience import PATIENCE
from tests.saes.variants import random_sae

MAIN, EARLY = "a" * 40, "b" * 40
SPARSIFY, SAELENS, OURS = TopK(4), ReLU(), BatchTopK(3)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache: a repository with two SAEs in folders, at two revisions, and one with an SAE at its root."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    many = tmp_path / "models--some--saes"
    write(random_sae(SPARSIFY, dtype=torch.float32), "sparsify", many / "snapshots" / MAIN / "layers.3")
    write(random_sae(SAELENS, dtype=torch.float32), "saelens", many / "snapshots" / MAIN / "sub/layers.4")
    write(random_sae(TopK(2), dtype=torch.float32), "sparsify", many / "snapshots" / EARLY / "layers.3")
    (many / "snapshots" / MAIN / "config.json").write_text("{}")
    places = [tuple(f"blocks.{i}.{hook}" for i in range(2)) for hook in ("mlp.hook_in", "hook_mlp_out")]
    clt = Dictionary(Layout("clt", *places), ((4, 4), (4, 4)), d_sae=6, activation=ReLU())
    write_circuit_tracer(clt, many / "snapshots" / MAIN / "sub" / "clt")
    random_sae(OURS).save(tmp_path / "models--some--one" / "snapshots" / MAIN)
    for repo, refs in (("some--saes", {"main": MAIN, "step/1": EARLY}), ("some--one", {"main": MAIN})):
        for name, commit in refs.items():
            ref = tmp_path / f"models--{repo}" / "refs" / name
            ref.parent.mkdir(parents=True, exist_ok=True)
            ref.write_text(commit)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "revision", "activation"),
    [
        ("some/saes/layers.3", None, SPARSIFY),
        ("some/saes/layers.3", "main", SPARSIFY),
        ("some/saes/layers.3", "step/1", TopK(2)),
        ("some/saes/layers.3", EARLY, TopK(2)),
        ("some/saes/sub/layers.4", None, SAELENS),
        ("some/one", None, OURS),
    ],
)
def test_what_is_in_the_cache_needs_no_network(
    cache: Path, name: str, revision: str | None, activation: object
) -> None:
    assert SAE.load(name, revision=revision).activation == activation
    assert SAE.load(Path(name), revision=revision).activation == activation


def test_what_is_not_is_refused_with_what_is(cache: Path) -> None:
    here = "some/one (main), some/saes/layers.3 (main, step/1), some/saes/sub/layers.4 (main)"
    for name, revision in (("some/saes/layers.5", None), ("some/saes", None), ("some/saes/sub/layers.4", "step/1")):
        what = re.escape(name + (f" at {revision}" if revision else ""))
        with pytest.raises(ValueError, match=rf"^{what} is neither a folder here nor .* cache: {re.escape(here)}$"):
            SAE.load(name, revision=revision)


def test_a_folder_here_comes_first(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(cache)
    random_sae(TopK(1)).save("some/one")
    assert SAE.load("some/one").activation == TopK(1)
    with pytest.raises(ValueError, match=r"some/one is no hub id .* it has no revision 'main'"):
        SAE.load("some/one", revision="main")


@pytest.mark.parametrize(
    "name",
    [
        "../some/one",
        "some/one/../one",
        "some/one/..",
        "/some/one",
        "some//one",
        "some/*",
        "some/one/lay*",
        "some",
        "~/one/x",
    ],
)
def test_tricks_with_paths_ask_nobody(cache: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "HfApi", lambda: pytest.fail("asked the hub"))
    with pytest.raises(ValueError, match="holds no SAE of a known format"):
        SAE.load(name)
    for revision in ("../main", "/etc/passwd", "a/../b", ""):
        with pytest.raises(ValueError, match="is no revision"):
            SAE.load("some/one", revision=revision)
    with pytest.raises(ValueError, match="some--one"):
        SAE.load("some/some--one")


def test_nothing_is_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "none"))
    with pytest.raises(ValueError, match=r"SAEs in the cache: none$"):
        SAE.load("some/one")
    long = hub._list(map(str, range(25)))
    assert long.endswith("19 and 5 more")


@pytest.fixture
def played_hub(cache: Path) -> Iterator[tuple[str, list[str]]]:
    """A server that answers as the hub does, for the repository ``some/saes``; and what was fetched."""
    root = cache / "models--some--saes" / "snapshots" / MAIN
    (root / "layers.3" / "huge.bin").write_bytes(b"not wanted")
    files = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    fetched: list[str] = []

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            content, headers = b"", {}
            if self.path.startswith("/api/models/some/saes/tree/"):
                tree = [
                    {"type": "file", "path": name, "size": (root / name).stat().st_size, "oid": name} for name in files
                ]
                content = json.dumps(tree).encode()
            elif self.path.startswith("/api/models/some/saes"):
                siblings = [{"rfilename": name} for name in files]
                content = json.dumps({"id": "some/saes", "sha": MAIN, "siblings": siblings}).encode()
            elif self.path.startswith(f"/some/saes/resolve/{MAIN}/"):
                name = self.path.split(MAIN + "/")[1]
                content = (root / name).read_bytes()
                headers = {"X-Repo-Commit": MAIN, "ETag": f'"{name}"'}
                if body:
                    fetched.append(name)
            self.send_response(200 if content else 404)
            for key, value in (headers | {"Content-Length": str(len(content))}).items():
                self.send_header(key, value)
            self.end_headers()
            if body:
                self.wfile.write(content)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", fetched
    server.shutdown()
    server.server_close()


def load_elsewhere(name: str, home: Path, network: dict[str, str], load: str = "SAE.load") -> subprocess.Popen[str]:
    """Another process, as the client reads its environment once; it prints the SAE's activation, and the seconds that
    loading or refusing it took."""
    code = (
        "import time; from saes import SAE; from saes.places import load_any; began = time.monotonic()\n"
        f"try: print({load}({name!r}).activation)\n"
        "finally: print(time.monotonic() - began)"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | network | {"HF_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_dictionary_over_several_places_is_fetched_whole(played_hub: tuple[str, list[str]], tmp_path: Path) -> None:
    address, fetched = played_hub
    network = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": address}
    _, errors = load_elsewhere("some/saes/sub/clt", tmp_path / "home", network).communicate(timeout=PATIENCE)
    assert "some/saes/sub/clt is a dictionary over several places; load it with saes.places.load_any" in errors
    assert fetched == []
    output, errors = load_elsewhere("some/saes/sub/clt", tmp_path / "home", network, "load_any").communicate(
        timeout=PATIENCE
    )
    assert output.splitlines()[0] == "ReLU()", errors
    wanted = [f"sub/clt/W_{side}_{i}.safetensors" for side in ("dec", "enc") for i in range(2)]
    assert sorted(fetched) == [*wanted, "sub/clt/config.yaml"]
    offline = load_elsewhere("some/saes/sub/clt", tmp_path / "home", {"HF_HUB_OFFLINE": "1"}, "load_any")
    assert offline.communicate(timeout=PATIENCE)[0].splitlines()[0] == "ReLU()"


def test_only_the_files_of_the_sae_are_fetched(played_hub: tuple[str, list[str]], tmp_path: Path) -> None:
    address, fetched = played_hub
    network = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": address}
    output, errors = load_elsewhere("some/saes/layers.3", tmp_path / "home", network).communicate(timeout=PATIENCE)
    assert output.splitlines()[0] == str(SPARSIFY), errors
    assert sorted(fetched) == ["config.json", "layers.3/cfg.json", "layers.3/sae.safetensors"]
    # Now it is in the cache, and the hub is not asked again.
    offline = load_elsewhere("some/saes/layers.3", tmp_path / "home", {"HF_HUB_OFFLINE": "1"})
    _, errors = load_elsewhere("some/saes/layers.9", tmp_path / "home", network).communicate(timeout=PATIENCE)
    assert (
        "some/saes/layers.9 holds no SAE of a known format; in that repository there are: some/saes/layers.3," in errors
    )
    assert offline.communicate(timeout=PATIENCE)[0].splitlines()[0] == str(SPARSIFY)
    assert len(fetched) == 3


def test_no_network_is_told_in_seconds(tmp_path: Path) -> None:
    refused = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"}
    taken, errors = load_elsewhere("nobody/nothing", tmp_path, refused).communicate(timeout=PATIENCE)
    last = errors.strip().splitlines()[-1]
    assert last.startswith(
        "ValueError: nobody/nothing is neither a folder here nor in the hub's cache, and cannot be had"
    )
    assert last.endswith("SAEs in the cache: none")
    assert float(taken) < 45
