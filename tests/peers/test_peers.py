"""SAE files exchanged with the real packages, each in an environment of its own (``make test-peers`` makes them)."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.peers import made_python
from saes import SAE
from saes.convert import FORMATS, write
from tests.peers.matrix import NEAR, OURS, READ, WRITTEN, Refused, Same, our_sae, read_table, written_table
from tests.peers.worker_io import D_IN

pytestmark = pytest.mark.usefixtures("one_thread")  # as in the workers
HERE = Path(__file__).parent
DOCUMENT = HERE.parents[1] / "docs" / "formats.md"
# sparsify sums the decoder rows of active latents, as we do where they are few; the others multiply dense matrices.
GATHERS = {"saelens": 0.0, "dictionary_learning": 0.0, "sparsify": 1.0}


def inputs() -> Tensor:
    return torch.randn(256, D_IN, generator=torch.Generator().manual_seed(100))


@pytest.fixture(scope="module")
def exchanged(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder in which a peer has read our SAEs and written its own; its worker runs once."""
    done: dict[str, Path] = {}

    def run(form: str) -> Path:
        python = made_python(form)
        if python is None:
            pytest.skip(f"make peers first: `make test-peers` (there is no environment of {form})")
        if form not in done:
            work = tmp_path_factory.mktemp(form)
            save_file({"x": inputs()}, work / "x.safetensors")
            for name, cell in WRITTEN[form].items():
                if isinstance(cell, Same):
                    write(our_sae(name), form, work / "ours" / name)
            command = [str(python), str(HERE / f"worker_{form}.py"), str(work)]
            worker = subprocess.run(command, capture_output=True, text=True)
            assert worker.returncode == 0, worker.stderr
            done[form] = work
        return done[form]

    return run


def difference(ours: Tensor, theirs: Tensor) -> float:
    """Largest, as a share of the largest value; 0 is bit for bit."""
    assert theirs.abs().max() > 0
    return float((ours - theirs).abs().max() / theirs.abs().max())


@torch.no_grad()
def check(sae: SAE, cell: Same, form: str, theirs: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    x = inputs()
    assert difference(sae(x), theirs["output"]) <= NEAR, "in the order of sums that is fastest here"
    monkeypatch.setattr("saes.sae.GATHER_UP_TO", GATHERS[form])
    assert difference(sae.encode(x).to_dense(), theirs["latents"]) <= cell.latents
    assert difference(sae(x), theirs["output"]) <= cell.output


@pytest.mark.peers
@pytest.mark.parametrize(
    ("form", "name"),
    [(form, name) for form, cells in WRITTEN.items() for name, cell in cells.items() if isinstance(cell, Same)],
)
def test_the_peer_computes_the_same_with_our_file(
    form: str, name: str, exchanged: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = WRITTEN[form][name]
    assert isinstance(cell, Same)
    check(our_sae(name), cell, form, load_file(exchanged(form) / "ours" / f"{name}.safetensors"), monkeypatch)


@pytest.mark.peers
@pytest.mark.parametrize(("form", "name"), [(form, name) for form, cells in READ.items() for name in cells])
def test_we_compute_the_same_with_the_peers_file(
    form: str, name: str, exchanged: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    cell, folder = READ[form][name], exchanged(form) / "theirs" / name
    if isinstance(cell, Refused):
        with pytest.raises(ValueError, match=re.escape(cell.why)):
            SAE.load(folder)
        return
    sae = SAE.load(folder)
    assert sae.activation.name == cell.as_
    check(sae, cell, form, load_file(folder.with_name(f"{name}.safetensors")), monkeypatch)


@pytest.mark.peers
@pytest.mark.parametrize("form", READ)
def test_nothing_that_the_peer_wrote_is_left_out(form: str, exchanged: Callable[[str], Path]) -> None:
    assert {folder.name for folder in (exchanged(form) / "theirs").iterdir() if folder.is_dir()} == set(READ[form])


@pytest.mark.parametrize(
    ("form", "name"),
    [(form, name) for form, cells in WRITTEN.items() for name, cell in cells.items() if isinstance(cell, Refused)],
)
def test_what_a_peer_cannot_hold_is_refused(form: str, name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(str(WRITTEN[form][name]).removeprefix("refused: "))):
        write(our_sae(name), form, tmp_path / "sae")
    assert not (tmp_path / "sae").exists()


def test_the_document_shows_these_tables() -> None:
    assert set(WRITTEN) == {form for form, its in FORMATS.items() if its.write}
    assert all(set(cells) == set(OURS) for cells in WRITTEN.values())
    text = DOCUMENT.read_text(encoding="utf-8")
    for table in (written_table(), read_table()):
        assert table in text, f"run `python -m tests.peers.matrix` and put into {DOCUMENT}:\n{table}"


@torch.no_grad()
def test_the_comparison_can_fail() -> None:
    sae, other = our_sae("relu"), our_sae("relu, b_dec not subtracted")
    assert difference(sae(inputs()), other(inputs())) > NEAR
