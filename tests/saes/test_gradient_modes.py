"""Training does not depend on the caller's gradient mode; inference mode, which it cannot undo, is refused by name."""

from pathlib import Path

import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

from interp.embedded import TEXT_FOLDER
from interp.sites.capturing import capture
from interp.tokens.token_rows import write_token_rows
from interp.vla.policy.training import Recipe
from interp.vla.policy.training import train as train_policy
from saes import SAE, TopK, TrainConfig, train
from saes.training.finetune_config import FinetuneConfig
from saes.training.finetuning import finetune
from tests.saes.sources import MemorySource, planted

SITE = "blocks.1.hook_resid_post"
REFUSED = r"takes gradients, which torch\.inference_mode\(\) rules out"


def weights(sae: SAE) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in sae.state_dict().items()}


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert all(torch.equal(one[name], other[name]) for name in one | other)


def test_training(tmp_path: Path) -> None:
    source = MemorySource(planted(300, d=16, features=24)[0])

    def config(name: str) -> TrainConfig:
        return TrainConfig(site="s", out=tmp_path / name, k=4, d_sae=32, tokens=5 * 64, batch_size=64)

    expected = weights(train(config("expected"), source))
    with torch.no_grad():
        assert_same(weights(train(config("found"), source)), expected)
    with torch.inference_mode(), pytest.raises(ValueError, match=f"training an SAE {REFUSED}"):
        train(config("refused"), source)
    assert not (tmp_path / "refused").exists()


def test_fine_tuning(embedded: TransformerBridge, tmp_path: Path) -> None:
    text = TEXT_FOLDER / "heldout.jsonl"
    rows = write_token_rows(text, embedded.tokenizer, tmp_path / "rows", tokens=512, context=64, bos="never")
    sae = SAE(96, 128, TopK(8), site=SITE).initialise(seed=0, mean=torch.zeros(96))

    def config(name: str) -> FinetuneConfig:
        return FinetuneConfig(out=tmp_path / name, tokens=64 * 2 * 2, batch_rows=2)

    expected = weights(finetune(sae, embedded, rows, config("expected")))
    with torch.no_grad():
        assert_same(weights(finetune(sae, embedded, rows, config("found"))), expected)
    with torch.inference_mode(), pytest.raises(ValueError, match=f"fine-tuning an SAE {REFUSED}"):
        finetune(sae, embedded, rows, config("refused"))
    with torch.inference_mode():
        made_there = SAE(96, 128, TopK(8), site=SITE).initialise(seed=0, mean=torch.zeros(96))
    with pytest.raises(ValueError, match=r"\w+ of SAE was made under torch\.inference_mode"):
        finetune(made_there, embedded, rows, config("refused"))


def test_capture_and_policies(embedded: TransformerBridge, tmp_path: Path) -> None:
    with torch.no_grad():
        kept = capture(embedded, [[1, 2, 3]], [SITE], gradients=True)[SITE]
    assert kept.requires_grad
    with torch.inference_mode(), pytest.raises(ValueError, match=f"capture with gradients=True {REFUSED}"):
        capture(embedded, [[1, 2, 3]], [SITE], gradients=True)
    with torch.inference_mode(), pytest.raises(ValueError, match=f"training a policy {REFUSED}"):
        train_policy(Recipe(), tmp_path / "policy")
