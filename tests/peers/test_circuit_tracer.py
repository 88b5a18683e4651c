"""Cross-layer transcoders and sets against circuit-tracer itself, in both directions (``make test-peers``)."""

import json
import subprocess
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from benchmarks.peers import made_python
from saes import ReLU
from saes.places import Dictionary, Layout, load_any, write_circuit_tracer
from tests.saes.convert.by_hand import save_json
from tests.saes.places.by_hand import IN, OUT, SEVERAL
from tests.saes.places.kinds import randomised

pytestmark = pytest.mark.peers

GEMMA = ("gemma_scope 2, clt", "gemma_scope 2, clt with affine skip")
OURS = "llamascopium, clt, jumprelu, by decoder norms"


@pytest.fixture(scope="module")
def computed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which circuit-tracer has computed everything."""
    python = made_python("circuit_tracer")
    if python is None:
        pytest.skip("make peers first: `make test-peers` (there is no environment of circuit_tracer)")
    work, jobs = tmp_path_factory.mktemp("circuit_tracer"), {}
    for number, name in enumerate((*GEMMA, OURS, "set")):
        x = torch.randn(3, 50, 32, generator=torch.Generator().manual_seed(number))
        if name == "set":
            layout = Layout("transcoders", tuple(IN), tuple(OUT))
            dictionary = Dictionary(layout, ((32,) * 3, (32,) * 3), d_sae=40, activation=ReLU(), skip=True)
            path = work / name
            write_circuit_tracer(randomised(dictionary, seed=1), path)
        else:
            path = SEVERAL[name].write(work / str(number), SEVERAL[name].weights())
        if name == OURS:
            written = load_any(path)
            assert isinstance(written, Dictionary)
            path = work / "ours"
            write_circuit_tracer(written, path)
        kind = "gemma" if name in GEMMA else "set" if name == "set" else "clt"
        save_file({"x": x}, work / f"{number}.x.safetensors")
        jobs[name] = {"kind": kind, "path": str(path), "number": number}
    save_json(work / "jobs.json", jobs)
    command = [str(python), str(Path(__file__).with_name("worker_circuit_tracer.py")), str(work)]
    worker = subprocess.run(command, capture_output=True, text=True)
    assert worker.returncode == 0, worker.stderr
    return work


@torch.no_grad()
def compare(path: Path, x: torch.Tensor, theirs: dict[str, torch.Tensor]) -> None:
    dictionary = load_any(path)
    assert isinstance(dictionary, Dictionary)
    for ours, its in zip(dictionary.encode(list(x)), theirs["latents"], strict=True):
        torch.testing.assert_close(ours.to_dense(), its, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.stack(dictionary(list(x))), theirs["outputs"], rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("name", [*GEMMA, OURS, "set"])
def test_circuit_tracer_reads_the_same(name: str, computed: Path) -> None:
    job = json.loads((computed / "jobs.json").read_text())[name]
    x = load_file(computed / f"{job['number']}.x.safetensors")["x"]
    compare(Path(job["path"]), x, load_file(computed / f"{job['number']}.safetensors"))


def test_what_it_wrote_is_read(computed: Path) -> None:
    """Its files of a CLT come without a configuration, which has the hooks."""
    found = load_file(computed / "written.safetensors")
    config = {"model_kind": "cross_layer_transcoder", "model_name": "gpt2"}
    hooks = {"feature_input_hook": "hook_resid_mid", "feature_output_hook": "hook_mlp_out"}
    (computed / "written" / "config.yaml").write_text(yaml.safe_dump(config | hooks))
    compare(computed / "written", found.pop("x"), found)
