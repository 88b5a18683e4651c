"""What a release is made of fits together: version, changelog, workflows."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from interp import __version__

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def release_notes(version: str) -> subprocess.CompletedProcess[str]:
    script = ROOT / ".ci" / "release_notes.py"
    return subprocess.run([sys.executable, script, version], capture_output=True, text=True)


def test_the_changelog_has_a_dated_section_of_this_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## \[{re.escape(__version__)}\] - \d{{4}}-\d\d-\d\d$", changelog, re.MULTILINE)
    printed = release_notes(__version__)
    assert printed.returncode == 0, printed.stderr
    assert "### Added" in printed.stdout
    assert "## [" not in printed.stdout


def test_a_tag_of_another_version_makes_no_release() -> None:
    done = release_notes("9.9.9")
    assert done.returncode != 0
    assert f"interp/__init__.py says {__version__}" in done.stderr


def test_the_citation_is_of_this_version() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert str(cited["version"]) == __version__


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_pinned_by_commit(path: Path) -> None:
    jobs = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]
    used = [step["uses"] for job in jobs.values() for step in job["steps"] if "uses" in step]
    assert used
    assert [name for name in used if not re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", name)] == []
