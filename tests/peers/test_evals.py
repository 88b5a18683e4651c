"""Our evaluation beside SAELens's own, of the same SAE on the same tokens, where the definitions agree."""

import json
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformer_lens.model_bridge import TransformerBridge

from benchmarks.peers import made_python
from interp.embedded import MODEL_FOLDER, TEXT_FOLDER, steps
from interp.tokens.token_rows import write_token_rows
from saes import JumpReLU, TopK
from saes.activations import Activation
from saes.convert import write
from saes.evaluation.report import evaluate
from tests.peers.core_figures import assert_core_is
from tests.saes.evaluation.evaluated import sae_at_site

pytestmark = pytest.mark.peers

HERE = Path(__file__).parent


@pytest.mark.parametrize("variant", [TopK(8), JumpReLU()], ids=lambda variant: variant.name)
def test_core_numbers_are_saelens(variant: Activation, embedded: TransformerBridge, tmp_path: Path) -> None:
    python = made_python("saelens")
    if python is None:
        pytest.skip("make peers first: `make test-peers` (there is no environment of saelens)")
    sae, context = sae_at_site(variant), 64
    write(sae, "saelens", tmp_path / "sae")
    rows = write_token_rows(
        TEXT_FOLDER / "heldout.jsonl", embedded.tokenizer, tmp_path / "rows", tokens=32 * context, context=context
    )
    save_file({"ids": rows.tensor_of("ids", slice(0, 32))}, tmp_path / "ids.safetensors")
    worker = [python, HERE / "worker_saelens_evals.py", MODEL_FOLDER / f"step{steps()[-1]}"]
    done = subprocess.run(
        [*worker, tmp_path / "sae", tmp_path / "ids.safetensors"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    theirs = json.loads(done.stdout.splitlines()[-1])
    ours = evaluate(sae, embedded, rows)
    assert ours.tokens == 32 * context
    assert_core_is(theirs, ours)
    assert ours.explained_variance.value == pytest.approx(theirs["explained_variance"], rel=1e-4, abs=1e-5)
    # Theirs sums over dimensions, ours is the mean.
    assert ours.mse.value * sae.d_in == pytest.approx(theirs["mse"], rel=1e-4)
    assert torch.isfinite(torch.tensor(list(theirs.values()))).all()
