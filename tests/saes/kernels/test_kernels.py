"""Every backend against the reference, on the same table of awkward cases.

Triton needs a GPU, or its interpreter, which must be switched on before Triton is imported: without a GPU these tests
run in a process of their own.
"""

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from saes.kernels import reference
from saes.kernels.backend import Backend, backend_for, use
from tests.saes.kernels.kernel_checks import CASES, SHAPES

ROOT = Path(__file__).parents[3]
HAS_TRITON = importlib.util.find_spec("triton") is not None
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

NEEDS_TRITON = pytest.mark.skipif(not HAS_TRITON, reason="Triton is not installed: pip install 'deepfield[gpu]'")
# Without a GPU, test_triton_in_its_interpreter runs those of Triton.
BACKENDS = ["cpu", "gpu"] if HAS_TRITON and (torch.cuda.is_available() or INTERPRETED) else ["cpu"]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """One after another; tensors are made where it computes."""
    name = request.param
    with use(name), torch.device("cuda" if name == "gpu" and not INTERPRETED else "cpu") as device:
        yield backend_for(torch.empty(0, device=device))


@pytest.mark.parametrize("case", CASES)
def test_case(backend: Backend, case: str) -> None:
    CASES[case](backend)


def test_backends_are_chosen_by_device_and_by_name() -> None:
    assert backend_for(torch.empty(0)).__name__ == "saes.kernels.cpu"  # type: ignore[attr-defined]
    assert backend_for(torch.empty(0, device="meta")) is reference
    with use("reference"):
        assert backend_for(torch.empty(0)) is reference
    with pytest.raises(ValueError, match="no backend 'cuda'; there are reference, cpu, gpu"), use("cuda"):
        pass


def test_the_reference_multiplies_in_float32_under_autocast() -> None:
    """bfloat16 has no 257."""
    indices, one = torch.zeros(1, 1, dtype=torch.int64), torch.ones(1, 1)
    row, table = torch.tensor([[256.0, 1.0]]), torch.ones(1, 2)
    with torch.autocast("cpu", torch.bfloat16):
        products = reference.gather_dot(indices, row, table), reference.top(row, table, None, 1)[0]
        sums = reference.gather_sum(indices, one, row + 1), reference.sum_by_latent(indices, one, row + 1, 1)
    for found in products:
        assert torch.equal(found, torch.tensor([[257.0]]))
    for found in sums:
        assert torch.equal(found, torch.tensor([[257.0, 2.0]]))


def test_gpu_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saes.kernels.backend._has_triton", lambda: False)
    with use("gpu"), pytest.raises(ValueError, match=r"not installed: pip install 'deepfield\[gpu\]'"):
        backend_for(torch.empty(0))


@pytest.mark.skipif(INTERPRETED, reason="this is the process that it starts")
@NEEDS_TRITON
def test_triton_in_its_interpreter() -> None:
    """On CPU tensors. It vouches for indices and sums; not for races, nor for what a GPU rounds."""
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(Path(__file__)), "-k", "gpu"],
        cwd=ROOT,
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    passed = re.search(r"(\d+) passed", run.stdout)
    assert run.returncode == 0, run.stdout[-4000:]
    assert passed is not None
    assert int(passed[1]) > 4 * len(SHAPES), run.stdout[-4000:]
