"""The script that checks everything on a card, here through Triton's interpreter: what it prints, and that it fails."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "benchmarks" / "gpu_checks.py"
BROKEN = f"""
import os, runpy, sys
os.environ["TRITON_INTERPRET"] = "1"
sys.path[:0] = [{str(ROOT)!r}, {str(SCRIPT.parent)!r}]
from saes.kernels import gpu
right = gpu.gather_sum
gpu.gather_sum = lambda indices, weights, table: right(indices, weights, table) * 1.001
import interleave
from pathlib import Path
interleave.RESULTS = Path(sys.argv.pop(1))
runpy.run_path({str(SCRIPT)!r}, run_name="__main__")
"""

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("triton") is None, reason="Triton is not installed: pip install 'deepfield[gpu]'"
    ),
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="it switches the interpreter on itself"),
]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)


def test_a_step_equals_the_reference_and_holds_no_dense_matrix() -> None:
    done = run(str(SCRIPT), "--device", "cpu", "--only", "(step|resumed|memory|waits) (of )?topk: float32")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 of 4 cases passed" in done.stdout
    for group in ("step of topk", "resumed topk", "memory of topk", "waits of topk"):
        assert f"| {group} | 1 | passed |" in done.stdout
    assert "no GPU, Triton's interpreter" in done.stdout


def test_a_kernel_that_is_off_by_a_thousandth_fails(tmp_path: Path) -> None:
    only = "top with ties|gather_(sum|dot) 5x17x40x3 float32"
    done = run("-c", BROKEN, str(tmp_path), "--device", "cpu", "--save", "--only", only)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "| kernel gather_sum | 1 | **1 FAILED** |" in done.stdout
    assert "2 of 3 cases passed" in done.stdout
    written = json.loads((tmp_path / "gpu_checks-cpu.json").read_text())
    assert [(one["name"], one["passed"]) for one in written["cases"] if not one["passed"]] == [
        ("kernel gather_sum: gather_sum 5x17x40x3 float32", False)
    ]
    assert written["versions"]["torch"]
    assert written["machine"]["date"]


def test_a_pattern_that_names_nothing_is_refused() -> None:
    done = run(str(SCRIPT), "--device", "cpu", "--only", "no such case")
    assert done.returncode == 2
    assert "no case has 'no such case' in its name" in done.stderr
