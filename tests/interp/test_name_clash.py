"""PyPI's ``circuits`` and ``saes`` claim our import names: recognised, and mended by the line that is printed."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from interp.name_clash import clashes, fix, warn_of_name_clash
from tests.patience import PATIENCE

ROOT = Path(__file__).parent.parent.parent


def install(folder: Path, name: str, *, record: str | None = None, top_level: str | None = None) -> None:
    """The metadata that an installer leaves."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    for file, content in (("RECORD", record), ("top_level.txt", top_level)):
        if content is not None:
            (info / file).write_text(content)


def test_this_environment_is_sound(capsys: pytest.CaptureFixture[str]) -> None:
    assert clashes() == {}
    warn_of_name_clash()
    assert capsys.readouterr().err == ""


def test_who_claims_what(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    install(tmp_path, "saes", record="SAES/__init__.py,sha256=x,1\nSAES/a.py,,\n")  # one folder on macOS and Windows
    install(tmp_path, "circuits", top_level="circuits\n")
    install(tmp_path, "old", record="interp.py,,\n")
    install(tmp_path, "harmless", record="circuits_tracer/__init__.py,,\nlib/saes/a.py,,\n", top_level="interpret\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = clashes()
    assert found == {"circuits": ["circuits"], "interp": ["old"], "saes": ["saes"]}
    assert f"{sys.executable} -m pip uninstall -y circuits old saes" in fix(found)
    warn_of_name_clash()
    line = capsys.readouterr().err
    assert line.startswith("warning: 'circuits' is also installed by circuits; 'interp' is also installed by old; ")
    assert line.endswith(f"Fix: {fix(found)}\n")
    assert line.count("\n") == 1


@pytest.mark.parametrize(
    ("origin", "reinstall"),
    [
        (None, " && {} -m pip install --force-reinstall --no-deps deepfield==1.0"),
        ({"url": "file:///a%20b", "dir_info": {}}, " && {} -m pip install --force-reinstall --no-deps file:///a%20b"),
        (
            {"url": "https://host/repo", "vcs_info": {"vcs": "git", "commit_id": "abc"}},
            " && {} -m pip install --force-reinstall --no-deps git+https://host/repo@abc",
        ),
        ({"url": "file:///a", "dir_info": {"editable": True}}, ""),
    ],
)
def test_what_was_overwritten_comes_back_from_where_it_came(
    origin: dict[str, object] | None, reinstall: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "deepfield")
    if origin:
        (tmp_path / "deepfield-1.0.dist-info" / "direct_url.json").write_text(json.dumps(origin))
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    expected = f"{sys.executable} -m pip uninstall -y circuits" + reinstall.format(sys.executable)
    assert fix({"circuits": ["circuits"]}) == expected


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the sources, so that nothing is left among them."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for package in ("interp", "saes", "circuits"):
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr or done.stdout
    return next(out.glob("deepfield-*.whl"))


def test_the_wheel_holds_every_file_of_the_packages(wheel: Path) -> None:
    """But for the embedded model's earlier checkpoints, which stay in the repository."""
    inside = set(zipfile.ZipFile(wheel).namelist())
    source = {
        path.relative_to(ROOT).as_posix()
        for package in ("interp", "saes", "circuits")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")
    }
    earlier = {name for name in source if re.match(r"interp/embedded/model/step(?!5792/)", name)}
    assert len(earlier) == 15 * 2
    assert source - inside == earlier
    embedded = [name for name in inside if name.startswith("interp/embedded/")]
    for ending in ("model.safetensors", "tokenizer.json", "train.jsonl", "heldout.jsonl", "MODEL_CARD.md"):
        assert any(name.endswith(ending) for name in embedded), f"the wheel has no {ending}"
    assert not any(name.startswith(("tests/", "benchmarks/")) for name in inside)


@pytest.mark.slow
def test_installed_beside_the_circuits_of_pypi(wheel: Path, tmp_path: Path) -> None:
    """The guard fires, and the line that it prints puts our files back."""
    home = tmp_path / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
    python = home / "bin" / "python"
    ask = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = Path(subprocess.run(ask, check=True, capture_output=True, text=True).stdout.strip())
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))  # what this environment has, ours has too
    # Not from the source tree, which would be found before what is installed.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*command: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            list(command), cwd=tmp_path, env=environment | more, capture_output=True, text=True, timeout=PATIENCE
        )

    pip = [str(python), "-m", "pip"]
    installed = run(*pip, "install", "--no-index", "--no-deps", "--ignore-installed", str(wheel))
    assert installed.returncode == 0, installed.stderr
    interp = str(home / "bin" / "interp")
    sound = run(interp, "--version")
    assert (sound.returncode, sound.stderr) == (0, "")
    ours = (site / "circuits" / "__init__.py").read_bytes()
    assert ours == (ROOT / "circuits" / "__init__.py").read_bytes()

    other = run(*pip, "install", "--no-deps", "--retries", "1", "circuits==3.2.5")
    if other.returncode:
        pytest.skip(f"circuits could not be fetched from the package registry: {other.stderr.strip()}")
    assert (site / "circuits" / "__init__.py").read_bytes() != ours, "it does overwrite ours"

    clash = run(interp, "--version")
    assert clash.stderr.startswith("warning: 'circuits' is also installed by circuits. Files of deepfield may be over")
    doctor = run(interp, "doctor", "--json", HF_HUB_OFFLINE="1")
    assert doctor.returncode == 1, doctor.stderr
    found = json.loads(doctor.stdout)
    assert found["clashes"] == {"circuits": ["circuits"]}
    assert found["fix"] in clash.stderr

    mended = run("bash", "-c", found["fix"], PIP_NO_INDEX="1")
    assert mended.returncode == 0, mended.stderr
    assert (site / "circuits" / "__init__.py").read_bytes() == ours
    assert run(interp, "--version").stderr == ""
