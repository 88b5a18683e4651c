"""Every notebook runs from top to bottom in an empty folder, in under two minutes, and its own assertions hold."""

import time
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
SECONDS = 120


def test_there_are_notebooks() -> None:
    assert len(NOTEBOOKS) >= 5


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processor seconds of the kernel are asserted, which other work on the machine changes little."""
    monkeypatch.setenv("PLOTLY_RENDERER", "json")
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    notebook.cells.append(nbformat.v4.new_code_cell("import time; print(time.process_time())"))
    began = time.perf_counter()
    ran = NotebookClient(notebook, timeout=10 * SECONDS, resources={"metadata": {"path": str(tmp_path)}}).execute()
    used = float(ran.cells[-1].outputs[0].text)
    print(f"{path.stem}: {time.perf_counter() - began:.0f} s, {used:.0f} s of processor time")
    assert used < SECONDS
    assert path.stat().st_size < 300_000
