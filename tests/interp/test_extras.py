"""Packages that only extras install may be missing: faces and commands work without, and say what to install."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from interp.arguments.extras import EXTRAS, MissingExtra, extra

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DISTRIBUTIONS = {"sklearn": "scikit-learn"}

# What cannot be imported without them.
CLOSED = {
    "interp.codes.probing": "learn",
    "interp.concepts.layer_scores": "learn",
    "interp.concepts.vectors": "learn",
    "interp.facets.clustering": "learn",
    "interp.trajectory.prediction": "learn",
    "interp.gguf_header": "gguf",
    "saes.features.facets": "learn",
}

WITHOUT = """
import contextlib, importlib, io, json, pkgutil, sys
sys.modules.update(dict.fromkeys(json.loads(sys.argv[1])))
from interp.cli import main
from interp.arguments.extras import MissingExtra

def says(*line):
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            main(list(line))
            code = 0
        except SystemExit as ended:
            code = ended.code
    return code, said.getvalue()

commands = {line: says(*line.split()) for line in sys.argv[2:]}
import circuits, interp, saes
closed = {}
for package in (interp, saes, circuits):
    for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if found.name.rpartition(".")[2] == "__main__" or ".triton_" in found.name:
            continue
        try:
            importlib.import_module(found.name)
        except MissingExtra as error:
            closed[found.name] = str(error)
print(json.dumps([commands, closed]))
"""


def test_every_extra_is_declared_and_the_default_one_has_the_whole_stack() -> None:
    declared = PROJECT["optional-dependencies"]
    for package, name in EXTRAS.items():
        assert any(re.match(rf"{DISTRIBUTIONS.get(package, package)}\b", each) for each in declared[name]), name
        assert not any(re.match(rf"{DISTRIBUTIONS.get(package, package)}\b", each) for each in PROJECT["dependencies"])
    (whole,) = declared["default"]
    inside = re.fullmatch(r"deepfield\[(.*)\]", whole)
    assert inside is not None
    assert set(inside[1].split(",")) == set(EXTRAS.values()) - {"vla"}
    assert "'.[default]'" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_other_errors_pass() -> None:
    with pytest.raises(ValueError, match="other"), extra("gguf", "a file"):
        raise ValueError("other")
    with (
        pytest.raises(MissingExtra, match=r"a file needs gguf: pip install 'deepfield\[gguf\]'"),
        extra("gguf", "a file"),
    ):
        raise ImportError("No module named 'gguf'")


@pytest.mark.slow
def test_without_them_the_faces_open_and_commands_say_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    (tmp_path / "p.txt").write_text("one\ntwo\n")
    needs = {
        f"concept embedded --positive {tmp_path}/p.txt --negative {tmp_path}/p.txt --target x": "learn",
        "eval nowhere --data x --suite scr": "learn",
        "facets embedded --unit blocks.1.mlp.hook_post:3 --data x": "learn",
        f"massive predict {tmp_path}": "learn",
        f"circuit embedded --prompts 2 --size 20 --html {tmp_path}/c.html": "",
        f"graph embedded --prompt Once --max-nodes 32 --html {tmp_path}/g.html": "",
        f"doctor {tmp_path}/m.gguf": "gguf",
        "vla train --out x": "vla",
        "patch embedded --prompts 1 --nodes resid_pre": "",
    }
    ended = subprocess.run(
        [sys.executable, "-c", WITHOUT, json.dumps(list(EXTRAS)), *needs],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert ended.returncode == 0, ended.stderr
    said, closed = json.loads(ended.stdout.splitlines()[-1])
    for line, name in needs.items():
        code, text = said[line]
        assert code == (2 if name else 0), (line, text)
        assert (f"pip install 'deepfield[{name}]'" in text) == bool(name), (line, text)
    assert {
        module: re.findall(r"deepfield.(\w+)", text)[0] for module, text in closed.items() if ".vla" not in module
    } == CLOSED
    assert "interp.vla.simulator" in closed
