"""What ``interp doctor`` says is so, without the network, and whatever is missing."""

import json
import os
import platform
import socket
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from interp import embedded, load_model
from interp.cli import main
from interp.doctor import diagnose


def test_the_facts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("doctor asked the network")

    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "a").write_bytes(bytes(1000))
    (tmp_path / "deep" / "er" / "b").write_bytes(bytes(234))
    (tmp_path / "deep" / "link").symlink_to("a")
    snapshot = tmp_path / "hub" / "models--EleutherAI--pythia-70m" / "snapshots" / "1234"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (snapshot / "model.safetensors").write_bytes(bytes(8))
    monkeypatch.setenv("DEEPFIELD_CACHE", str(tmp_path / "deep"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    found = diagnose()
    assert found.problems == []
    assert found.python == platform.python_version()
    assert found.packages["torch"] == version("torch")
    assert found.packages["transformer-lens"] == version("transformer-lens")
    assert found.devices[0].name == "cpu"
    assert f"{torch.get_num_threads()} threads" in found.devices[0].description
    assert len([device for device in found.devices if device.name.startswith("cuda")]) == torch.cuda.device_count()
    assert [(folder.path, folder.used_bytes) for folder in found.caches] == [
        (str(tmp_path / "deep"), 1234),
        (str(tmp_path / "hub"), 10),
    ]
    assert all(folder.free_bytes > 0 for folder in found.caches)
    assert found.hub_offline is True
    steps = [f"step{step}" for step in embedded.steps()]
    assert found.loadable_offline == {"embedded": steps, "EleutherAI/pythia-70m": ["1234"]}


def test_the_page_shows_every_part(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["doctor"])
    assert caught.value.code == 0
    page = capsys.readouterr().out
    for part in ("Versions", version("torch"), "Devices", "cpu", "Cache folders", "embedded", "name clashes: none"):
        assert part in page
    assert "HF_HUB_OFFLINE is set" in page


def test_broken_and_missing_packages_are_findings(tmp_path: Path) -> None:
    """A torch that cannot find its library, and a clash, seen by the command in a process of its own."""
    (tmp_path / "torch.py").write_text("raise OSError('libcudart.so: cannot open shared object file')\n")
    info = tmp_path / "circuits-3.2.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: circuits\nVersion: 3.2.5\n")
    (info / "RECORD").write_text("circuits/__init__.py,,\n")
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "interp", "doctor", "--json"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 1, "a clash is not well"
    found = json.loads(done.stdout)
    assert found["clashes"] == {"circuits": ["circuits"]}
    assert "pip uninstall -y circuits" in found["fix"]
    assert found["devices"] == []
    assert "devices: OSError: libcudart.so: cannot open shared object file" in found["problems"]
    assert len(found["caches"]) == 2, "what needs no torch is still told"
    assert found["hub_offline"] is True


def test_a_model_is_told_with_its_bos(capsys: pytest.CaptureFixture[str]) -> None:
    model = load_model("embedded")
    with pytest.raises(SystemExit, match="0"):
        main(["doctor", "embedded"])
    told = capsys.readouterr().out
    assert told.startswith(f"embedded at step5792 is a GPTNeoXForCausalLM of {model.cfg.n_layers} blocks")
    assert "A text begins with '<|endoftext|>' (token 0)" in told
    assert model.to_tokens("Emma")[0, 0] == 0
    with pytest.raises(SystemExit, match="2"):
        main(["doctor", "--revision", "step1"])
    assert "of which model?" in capsys.readouterr().err
