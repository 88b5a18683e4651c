"""The way from the site's notebooks into Colab: there where GitHub says whose repository it builds, else not."""

import importlib.util
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

ROOT = Path(__file__).parents[1]
pytest.importorskip("mkdocs")


@pytest.fixture
def hooks(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    for name in ("GITHUB_REPOSITORY", "GITHUB_REF_NAME"):
        monkeypatch.delenv(name, raising=False)
    spec = importlib.util.spec_from_file_location("site_hooks", ROOT / "docs/site/hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def shown(hooks: ModuleType, where: str) -> str:
    from mkdocs.structure.files import File

    return hooks.on_page_content("<h1>Title</h1>", page=SimpleNamespace(file=File(where, str(ROOT), "site", False)))


def test_without_a_repository_there_is_no_way_to_colab(hooks: ModuleType) -> None:
    assert shown(hooks, "notebooks/01_activations.ipynb") == "<h1>Title</h1>"


@pytest.mark.parametrize(
    ("said", "branch"),
    [(None, "main"), ("main", "main"), ("new/a b", "new/a%20b"), ("v1.0", "v1.0"), ("12/merge", "main")],
)
def test_notebooks_open_in_colab(
    hooks: ModuleType, said: str | None, branch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_REPOSITORY", "someone/their-fork")
    if said is not None:
        monkeypatch.setenv("GITHUB_REF_NAME", said)
    found = shown(hooks, "notebooks/01_activations.ipynb")
    address = (
        f"https://colab.research.google.com/github/someone/their-fork/blob/{branch}/notebooks/01_activations.ipynb"
    )
    assert f'href="{address}"' in found
    assert "https://github.com/someone/their-fork deepfield\n%cd deepfield\n%pip install --quiet '.[default]'" in found
    assert found.endswith("<h1>Title</h1>")


def test_the_robot_needs_its_simulator(hooks: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_REPOSITORY", "someone/their-fork")
    assert "'.[default,vla]'" in shown(hooks, "notebooks/06_vla_steering.ipynb")


def test_other_pages_stay_as_they_are(hooks: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_REPOSITORY", "someone/their-fork")
    assert shown(hooks, "index.md") == "<h1>Title</h1>"
