"""Our figures beside SAEBench's own code on the same SAE, in an environment of its own (``make test-peers``)."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformer_lens.model_bridge import TransformerBridge

import interp
from benchmarks.peers import made_python
from interp.embedded import MODEL_FOLDER, TEXT_FOLDER, steps
from interp.tokens.token_rows import write_token_rows
from saes import SAE, TopK
from saes.evaluation.report import evaluate
from saes.suites import examples_from_rows, plant
from saes.suites.absorbing import absorbed
from saes.suites.combining import without
from tests.peers.core_figures import assert_core_is
from tests.saes.evaluation.evaluated import SITE

pytestmark = pytest.mark.peers

HERE = Path(__file__).parent


def test_figures_are_saebenchs(embedded: TransformerBridge, tmp_path: Path) -> None:
    python = made_python("saebench")
    if python is None:
        pytest.skip("make peers first: `make test-peers` (there is no environment of saebench)")
    context = 64
    sae = SAE(96, 200, TopK(8), site=SITE).initialise(seed=0, mean=torch.zeros(96))
    sae.save(tmp_path / "sae")
    rows = write_token_rows(
        TEXT_FOLDER / "heldout.jsonl", embedded.tokenizer, tmp_path / "rows", tokens=32 * context, context=context
    )
    ids = rows.tensor_of("ids", slice(0, 32))
    save_file({"ids": ids}, tmp_path / "ids.safetensors")
    planted = plant(roots=6, children={0: 5}, d=16, seed=0)
    absorbing = planted.absorbing_dictionary({6: 1.0, 7: 0.6, 8: 0.3})
    absorbing.place("blocks.0.hook_resid_post")
    absorbing.save(tmp_path / "planted")
    drawn = planted.rows(400, seed=1)
    x, direction = drawn.x[drawn.fires[:, 0]], planted.directions[0] + 0.1 * planted.directions[6]
    save_file({"x": x, "direction": direction, "main": torch.tensor([0])}, tmp_path / "given.safetensors")

    names = (MODEL_FOLDER / f"step{steps()[-1]}", "sae", "ids.safetensors", "planted", "given.safetensors", "out")
    done = subprocess.run(
        [python, HERE / "worker_saebench.py", *(tmp_path / name for name in names)],
        capture_output=True,
        text=True,
        timeout=900,
        env=os.environ | {"PYTHONPATH": str(HERE.parents[1])},
    )
    assert done.returncode == 0, done.stderr
    theirs = json.loads(done.stdout.splitlines()[-1])
    ours = evaluate(sae, embedded, rows)
    assert ours.tokens == 32 * context
    assert_core_is(theirs, ours)
    # Its MSE is of a token, and divided by the tokens of a batch once more.
    assert ours.mse.value * sae.d_in / (8 * context) == pytest.approx(theirs["mse"], rel=1e-4)
    # Its explained variance, from what the evaluation page says of it, is another quantity than ours.
    site = interp.Site.parse(SITE)
    z = interp.capture(embedded, ids, [site], attention_mask=torch.ones_like(ids))[site].flatten(0, 1).double()
    total = z.square().sum(1).mean() - z.square().mean() ** 2
    its = 1 - (z - sae(z.float()).detach().double()).square().sum(1).mean() / total
    assert float(its) == pytest.approx(theirs["explained_variance"], abs=1e-4)
    assert abs(ours.explained_variance.value - theirs["explained_variance"]) > 0.001

    given = load_file(tmp_path / "out")
    examples = examples_from_rows(absorbing, x)
    mine = absorbed(x.double(), examples.latents, absorbing.W_dec.detach().double(), direction.double(), (0,))
    assert torch.allclose(mine.fraction.float(), given["fraction"], atol=1e-4)
    assert torch.equal(mine.full.float(), given["full"])
    assert set(mine.full.tolist()) == {0.0, 1.0}
    assert len(mine.fraction.unique()) > 3
    kept = without(absorbing, examples, torch.tensor([0]).numpy())
    assert torch.allclose(torch.from_numpy(kept).float(), given["ablated"], atol=1e-5)
