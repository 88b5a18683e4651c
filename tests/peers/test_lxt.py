"""Our rules against lxt's, an independent implementation of layer-wise relevance propagation by other authors."""

import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.peers import made_python
from circuits.rules import relevance
from tests.circuits.pairs import model_of, random_task

pytestmark = pytest.mark.peers

FAMILIES = ("gpt2", "llama", "qwen2")
SAME = "attnLRP, constant patterns"


@pytest.fixture(scope="module")
def in_lxt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which lxt has left its gradients."""
    python = made_python("lxt")
    if python is None:
        pytest.skip("make peers first: `make test-peers` (there is no environment of lxt)")
    work = tmp_path_factory.mktemp("lxt")
    save_file({"tokens": random_task().clean}, work / "tokens.safetensors")
    for family in FAMILIES:
        model_of(family).save_pretrained(work / family)
    command = [str(python), str(Path(__file__).with_name("worker_lxt.py")), str(work)]
    worker = subprocess.run(command, capture_output=True, text=True)
    assert worker.returncode == 0, worker.stderr
    return work


@pytest.mark.parametrize("family", FAMILIES)
def test_all_four_rules_are_lxts_with_constant_patterns(family: str, in_lxt: Path) -> None:
    """Its own defaults are other rules: AttnLRP divides queries, keys and values, and on gated MLPs ``cp_LRP`` stops
    the gate. Ours must not be those."""
    model = model_of(family)
    embedded = model.get_input_embeddings()(random_task().clean).detach().requires_grad_()
    with relevance(model, rules="paper"):
        logits = model(inputs_embeds=embedded).logits
        (ours,) = torch.autograd.grad((logits[:, -1, 3] - logits[:, -1, 11]).sum(), [embedded])

    def difference(name: str) -> float:
        theirs: Tensor = load_file(in_lxt / f"{family}, {name}.safetensors")["gradient"]
        return float((ours - theirs).abs().max() / ours.abs().max())

    assert difference(SAME) < 2e-6
    assert difference("attnLRP") > 0.1
    assert difference("cp_LRP") < 2e-6 if family == "gpt2" else difference("cp_LRP") > 0.1
