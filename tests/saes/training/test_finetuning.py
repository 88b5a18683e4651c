"""Fine-tuning end to end: its gradient, what it improves, exact resume, and that the model stays as it was."""

import re
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from torch.nn import functional
from transformer_lens.model_bridge import TransformerBridge

from interp import capture
from interp.embedded import TEXT_FOLDER
from interp.models.fingerprint import weights_fingerprint
from interp.tokens.token_rows import TokenRows, write_token_rows
from saes import SAE, BatchTopK, JumpReLU, ReLU, TopK
from saes.evaluation.report import evaluate
from saes.training import finetuning
from saes.training.finetune_config import FinetuneConfig
from saes.training.finetuning import finetune as run
from saes.training.finishing import SPARSITY_FACTOR
from saes.training.stepping.weights import update

SITE = "blocks.1.hook_resid_post"


def text(embedded: TransformerBridge, folder: Path, split: str, tokens: int) -> TokenRows:
    source = TEXT_FOLDER / f"{split}.jsonl"
    return write_token_rows(source, embedded.tokenizer, folder, tokens=tokens, context=64, bos="never")


@pytest.fixture(scope="module")
def rows(embedded: TransformerBridge, tmp_path_factory: pytest.TempPathFactory) -> TokenRows:
    return text(embedded, tmp_path_factory.mktemp("rows"), "train", 20_000)


@pytest.fixture
def sae() -> SAE:
    """A poor one: random, but near the activations' mean."""
    made = SAE(96, 256, TopK(24), site=SITE)
    return made.initialise(seed=0, mean=torch.zeros(96))


@pytest.fixture
def config(tmp_path: Path) -> FinetuneConfig:
    return FinetuneConfig(
        out=tmp_path / "out", tokens=64 * 4 * 12, batch_rows=4, lr=2e-3, log_every=1, checkpoint_every=5
    )


def test_the_models_loss_falls_on_other_text(
    embedded: TransformerBridge, rows: TokenRows, sae: SAE, config: FinetuneConfig, tmp_path: Path
) -> None:
    heldout = text(embedded, tmp_path / "heldout", "heldout", 4_000)
    before = evaluate(sae, embedded, heldout)
    weights = weights_fingerprint(embedded)
    tuned = run(sae, embedded, rows, replace(config, tokens=64 * 4 * 60))
    after = evaluate(tuned, embedded, heldout)
    assert after.kl.value < 0.7 * before.kl.value
    assert after.ce_spliced.value < before.ce_spliced.value
    assert after.fvu.value < before.fvu.value
    assert after.l0.value <= 24
    assert weights_fingerprint(embedded) == weights
    assert all(parameter.requires_grad for parameter in embedded.parameters())
    assert torch.equal(run(sae, embedded, rows, replace(config, tokens=64 * 4 * 60)).W_enc, tuned.W_enc)


def test_the_threshold_is_that_of_the_final_weights(
    embedded: TransformerBridge, rows: TokenRows, config: FinetuneConfig
) -> None:
    sae = SAE(96, 256, BatchTopK(8), site=SITE).initialise(seed=0, mean=torch.zeros(96))
    with torch.no_grad():
        sae.threshold.fill_(10.0)
    tuned = run(sae, embedded, rows, replace(config, decoder="free"))
    assert evaluate(tuned, embedded, rows, max_tokens=10_000).l0.value == pytest.approx(8, rel=0.05)


@pytest.mark.parametrize("loss", ["kl", "ce"])
def test_the_gradient_is_that_of_the_plain_model(
    loss: Any,
    embedded: TransformerBridge,
    rows: TokenRows,
    sae: SAE,
    config: FinetuneConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Against Hugging Face's modules with a forward hook, on the SAE's own scale."""
    seen: dict[str, torch.Tensor] = {}

    def update(state: Any, value: torch.Tensor, latents: Any, **_: Any) -> torch.Tensor:
        state.optimizer.zero_grad()
        value.backward()
        # The copy runs on inputs times scale: W_enc is divided by it, W_dec multiplied.
        seen["W_enc"] = state.sae.W_enc.grad / state.scale
        seen["W_dec"] = state.sae.W_dec.grad * state.scale
        state.step += 1
        return torch.zeros(())

    monkeypatch.setattr(finetuning, "update", update)
    one = replace(config, loss=loss, reconstruction=0.0, tokens=64 * 4, first_position=2)
    run(sae, embedded, rows, one)
    ids, _ = finetuning._batch(rows, one, 0)
    plain = embedded.original_model

    def splice(_module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        return torch.cat([output[:, :2], sae(output[:, 2:])], dim=1)

    clean = plain(ids).logits.detach()
    block = plain.gpt_neox.layers[1]
    handle = block.register_forward_hook(splice)
    logits = plain(ids).logits
    handle.remove()
    if loss == "ce":
        expected = functional.cross_entropy(logits[:, 2:-1].flatten(0, 1), ids[:, 3:].flatten())
    else:
        expected = functional.kl_div(
            logits[:, 2:-1].log_softmax(-1).flatten(0, 1),
            clean[:, 2:-1].log_softmax(-1).flatten(0, 1),
            log_target=True,
            reduction="batchmean",
        )
    W_enc, W_dec = torch.autograd.grad(expected, [sae.W_enc, sae.W_dec])
    for name, wanted in (("W_enc", W_enc), ("W_dec", W_dec)):
        assert (seen[name] - wanted).norm() < 1e-3 * wanted.norm(), name


@pytest.mark.parametrize("asked", [False, True], ids=["dies in a step", "is asked to stop"])
def test_a_stopped_run_continues_to_the_same_bits(
    asked: bool,
    embedded: TransformerBridge,
    rows: TokenRows,
    sae: SAE,
    config: FinetuneConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    straight = run(sae, embedded, rows, replace(config, out=tmp_path / "straight"))
    steps = 0

    def dying(*arguments: Any, **options: Any) -> torch.Tensor:
        nonlocal steps
        steps += 1
        if steps > 8 and not asked:
            raise KeyboardInterrupt
        if steps == 8 and asked:
            signal.raise_signal(signal.SIGINT)
        return update(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(finetuning, "update", dying)
        before = signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background ignores
        with pytest.raises(KeyboardInterrupt):
            run(sae, embedded, rows, config)
        signal.signal(signal.SIGINT, before)
    assert steps == (8 if asked else 9)
    assert (config.out / "checkpoints" / "step000000008.safetensors").is_file() == asked
    again = run(sae, embedded, rows, config)
    for name, parameter in straight.named_parameters():
        assert torch.equal(again.get_parameter(name), parameter), name
    assert (config.out / "log.jsonl").read_text() == (tmp_path / "straight" / "log.jsonl").read_text()


def test_two_processes_do_not_fine_tune_in_one_folder(
    embedded: TransformerBridge, rows: TokenRows, sae: SAE, config: FinetuneConfig
) -> None:
    config.out.mkdir()
    with FileLock(config.out / ".lock"), pytest.raises(ValueError, match="another run is writing"):
        run(sae, embedded, rows, config)


def test_sparsity_terms_stay(embedded: TransformerBridge, rows: TokenRows, config: FinetuneConfig) -> None:
    made = SAE(96, 128, JumpReLU(), site=SITE).initialise(seed=0, mean=torch.zeros(96))
    run(made, embedded, rows, replace(config, tokens=64 * 4))
    assert '"l0"' in (config.out / "log.jsonl").read_text()


def test_an_l0_that_was_asked_for_is_kept(embedded: TransformerBridge, rows: TokenRows, config: FinetuneConfig) -> None:
    """The one that the SAE has on this text, by the control of training and its shift at the end."""
    x = capture(embedded, rows.tensor_of("ids"), [SITE])[SITE].flatten(0, 1)
    made = SAE(96, 128, ReLU(), site=SITE).initialise(seed=0, mean=x.mean(0))
    made.b_enc.data -= made.pre_activations(x[:1000]).detach().flatten().sort().values[-6000]
    for train, kept in (({"l0": 6.0}, True), ({}, False)):
        made.provenance = {"train": train, SPARSITY_FACTOR: 0.1}
        out = config.out / str(kept)
        tuned = run(made, embedded, rows, replace(config, out=out, tokens=64 * 64, lr=5e-3))
        before, after = (float(sae.encode(x).l0.float().mean()) for sae in (made, tuned))
        assert (abs(after / before - 1) < 0.12) == kept, (before, after)


def test_weights_are_those_of_its_training(
    embedded: TransformerBridge, rows: TokenRows, config: FinetuneConfig
) -> None:
    made = SAE(96, 128, ReLU(), site=SITE, provenance={"train": {"loss_weights": {"l1": 0.0}}})
    run(made.initialise(seed=0, mean=torch.zeros(96)), embedded, rows, replace(config, tokens=64 * 4))
    assert '"l1"' not in (config.out / "log.jsonl").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": 0.0}, "lr is 0.0; it must be above 0"),
        ({"tokens": 0}, "tokens is 0"),
        ({"reconstruction": -1.0}, "reconstruction is -1.0; it must be 0 or more"),
        ({"first_position": 63}, "first_position is 63; rows have 64 tokens"),
    ],
)
def test_impossible_settings(
    embedded: TransformerBridge,
    rows: TokenRows,
    sae: SAE,
    config: FinetuneConfig,
    changes: dict[str, Any],
    message: str,
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        run(sae, embedded, rows, replace(config, **changes))
    assert not config.out.exists()


def test_saes_that_cannot_be_spliced(embedded: TransformerBridge, rows: TokenRows, config: FinetuneConfig) -> None:
    for made, message in (
        (SAE(96, 32, TopK(2)), "does not say which site"),
        (SAE(96, 32, TopK(2), site=SITE, target_site=SITE, subtract_b_dec=False), "a transcoder's output"),
        (SAE(96, 32, TopK(2), site=SITE).initialise(seed=0, mean=torch.zeros(96)), "pass decoder='free'"),
        (SAE(48, 32, TopK(2), site=SITE), "activations at blocks.1.hook_resid_post have width 96, the SAE takes 48"),
    ):
        with torch.no_grad():
            made.W_dec[0] *= 2
        with pytest.raises(ValueError, match=message):
            run(made, embedded, rows, replace(config, out=config.out / message[:6]))


def test_command_line(
    embedded: TransformerBridge, sae: SAE, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from interp.cli import main

    sae.provenance = {"source": {"model": "embedded", "context": 64, "bos": "never"}}
    sae.save(tmp_path / "sae")
    line = ["finetune", str(tmp_path / "sae"), "--data", str(TEXT_FOLDER / "heldout.jsonl"), "--tokens", "1k"]
    for _ in range(2):  # the second time it is there already
        with pytest.raises(SystemExit) as ended:
            main([*line, "--loss", "ce", "--out", str(tmp_path / "tuned")])
        assert not ended.value.code
    assert f"SAE in {tmp_path / 'tuned'}" in capsys.readouterr().out
    tuned = SAE.load(tmp_path / "tuned")
    assert tuned.provenance["finetune"]["loss"] == "ce"
    assert not torch.equal(tuned.W_dec, sae.W_dec)
