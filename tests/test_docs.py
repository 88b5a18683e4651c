"""What the documents tell a newcomer to type, typed in an empty folder, at small size."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from interp.cli import main
from interp.embedded import TEXT_FOLDER

pytestmark = pytest.mark.slow

DOCS = Path(__file__).parents[1] / "docs"
SMALLER = {
    r"(--tokens |tokens=)[\dkM_]+": r"\g<1>4_000",
    r"(--prompts) \d+": r"\1 2",
    r"(--d-sae |d_sae=)\d+": r"\g<1>64",
    r"(--batch-size) \d+": r"\1 512",
}


@pytest.fixture(autouse=True)
def folder_with_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    texts = [json.loads(line)["text"] for line in (TEXT_FOLDER / "heldout.jsonl").read_text("utf-8").splitlines()]
    Path("my_text").mkdir()
    for number, text in enumerate(texts[:-6]):
        Path("my_text", f"{number}.txt").write_text(text, encoding="utf-8")
    Path("held_out.txt").write_text("\n".join(texts[-6:]), encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    text = (DOCS / page).read_text(encoding="utf-8")
    found = re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
    for large, small in SMALLER.items():
        found = [re.sub(large, small, block) for block in found]
    return found


def test_from_own_text_to_explained_features_and_the_heads_of_a_task(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line for block in blocks("how-to/own-text.md", "sh") for line in block.splitlines()]
    assert len(lines) == 6
    for line in lines:
        command, *arguments = shlex.split(line)
        assert command == "interp"
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    assert "heads: layer " in printed
    assert "Strongest edges: " in printed
    for page in ("features", "figures", "heads", "circuit"):
        assert Path("runs/own", f"{page}.html").stat().st_size > 10_000


def test_the_readme_shows_the_python_of_the_start_page() -> None:
    assert blocks("../README.md", "python")[0] == blocks("index.md", "python")[0]


def test_the_python_of_the_start_page() -> None:
    """In a process of its own, where types are not checked, as at a user's: a path may be a string."""
    (code,) = blocks("index.md", "python")
    environment = os.environ | {"PYTHONPATH": str(DOCS.parent)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 3


def test_attribution_graphs_from_prompt_to_pairs(capsys: pytest.CaptureFixture[str]) -> None:
    code = "\n".join(blocks("attribution-graphs.md", "python"))
    exec(compile(code, "attribution-graphs.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "on 11 other prompts (live):" in printed
    assert "frozen_attention [(" in printed
    assert "  x  " in printed
    assert Path("graph.html").stat().st_size > 10_000
