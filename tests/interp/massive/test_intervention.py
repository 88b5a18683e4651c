"""Interventions: against the plain model with the same entry overwritten by hand; controls, means and refusals."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from interp import massive, metrics
from interp.cli import main
from interp.massive import Entry, intervene
from tests.interp.massive.planted import DIM, LAYER, PLACES, TOKEN, planted_bridge, planted_model, planted_tokens


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return planted_bridge(tmp_path_factory.mktemp("planted"))


def by_hand(places: tuple[tuple[int, int], ...], dim: int, value: float) -> tuple[float, float, float]:
    """Clean loss, loss and KL of the plain model with entries after the block overwritten."""
    model, tokens = planted_model(), planted_tokens()

    def overwrite(_module: Any, _args: Any, output: torch.Tensor) -> torch.Tensor:
        output = output.clone()
        for sequence, position in places:
            output[sequence, position, dim] = value
        return output

    with torch.no_grad():
        clean = model(tokens).logits
        handle = model.gpt_neox.layers[LAYER].register_forward_hook(overwrite)
        changed = model(tokens).logits
        handle.remove()
    losses = [float(metrics.cross_entropy(logits, tokens).mean()) for logits in (clean, changed)]
    return losses[0], losses[1], float(metrics.kl(clean, changed).mean())


@pytest.mark.parametrize("to", ["zero", -300.0])
@pytest.mark.parametrize("batch", [1, 2])
def test_the_effect_is_that_of_the_plain_model(planted: Any, to: Any, batch: int) -> None:
    found = intervene(planted, planted_tokens(), to=to, batch=batch)
    before, after, kl = by_hand(PLACES, DIM, 0.0 if to == "zero" else to)
    assert found.layers == (LAYER,)
    assert found.effect.entries == len(PLACES)
    assert found.loss_before.value == pytest.approx(before, rel=1e-5)
    assert found.effect.loss.value == pytest.approx(after, rel=1e-5)
    assert found.effect.change.value == pytest.approx(after - before, abs=1e-5)
    assert found.effect.kl.value == pytest.approx(kl, rel=1e-3)
    assert found.effect.perplexity == pytest.approx(torch.tensor(after).exp().item(), rel=1e-4)
    assert (found.effect.loss.n, found.to) == (3, str(to))


@pytest.mark.parametrize("to", ["zero", "mean"])
def test_several_layers_at_once(planted: Any, to: Any) -> None:
    """The loss is that of the plain model with hooks on both blocks, in one pass."""
    tokens, heldout = planted_tokens(), planted_tokens().roll(7, dims=1)
    entries = [Entry(layer=1, sequence=0, position=3, dim=DIM), Entry(layer=3, sequence=1, position=0, dim=11)]
    found = intervene(planted, tokens, entries=entries, to=to, heldout=heldout)
    assert found.layers == (1, 3)
    assert found.effect.entries == 2
    values = [0.0, 0.0]
    if to == "mean":
        of_token = massive_hidden(planted, heldout, "blocks.1.hook_resid_post")[heldout == TOKEN][:, DIM].mean()
        of_start = massive_hidden(planted, heldout, "blocks.3.hook_resid_post")[:, 0, 11].mean()
        values = [float(of_token), float(of_start)]
    model = planted_model()
    for entry, value in zip(entries, values, strict=True):

        def overwrite(_m: Any, _a: Any, output: torch.Tensor, e: Entry = entry, value: float = value) -> torch.Tensor:
            output = output.clone()
            output[e.sequence, e.position, e.dim] = value
            return output

        model.gpt_neox.layers[entry.layer].register_forward_hook(overwrite)
    with torch.no_grad():
        expected = float(metrics.cross_entropy(model(tokens).logits, tokens).mean())
    assert found.effect.loss.value == pytest.approx(expected, rel=1e-5)
    alone = [intervene(planted, tokens, entries=[entry], to=to, heldout=heldout).effect.loss.value for entry in entries]
    if to == "zero":
        assert all(abs(each - expected) > 1e-6 for each in alone)


def test_massive_activations_of_all_layers(planted: Any) -> None:
    """Zeroed after the last block too, nothing of them reaches the head."""
    tokens = planted_tokens()
    found = intervene(planted, tokens, entries=massive.detect(massive.layer_stats(planted, tokens)))
    assert found.layers == (1, 2, 3)
    assert found.effect.entries == found.random_dim.entries == found.random_token.entries == 12
    assert found.effect.kl.value > 100 * found.random_dim.kl.value


def test_controls_leave_the_massive_entries_alone(planted: Any) -> None:
    found = intervene(planted, planted_tokens())
    assert found.random_dim.entries == found.random_token.entries == 4
    assert found.effect.kl.value > 100 * found.random_dim.kl.value
    assert found.effect.kl.value > 100 * found.random_token.kl.value
    assert intervene(planted, planted_tokens()) == found, "drawn from a seed"
    assert intervene(planted, planted_tokens(), seed=1).random_dim != found.random_dim


def test_the_mean_of_the_token_class_changes_next_to_nothing(planted: Any) -> None:
    heldout = planted_tokens().flip(0).roll(5, dims=1)
    found = intervene(planted, planted_tokens(), to="mean", heldout=heldout)
    zero = intervene(planted, planted_tokens())
    assert found.effect.kl.value < zero.effect.kl.value / 1e4


def test_means_are_signed_and_by_class(planted: Any) -> None:
    """First position, massive token, any other token: three means, each checked against brute force."""
    heldout = planted_tokens().roll(7, dims=1)
    site = f"blocks.{LAYER}.hook_resid_post"
    hidden = massive_hidden(planted, heldout, site)
    is_token = heldout == TOKEN
    tokens = planted_tokens()
    expected = {
        0: hidden[:, 0, DIM].mean(),
        9: hidden[is_token][:, DIM].mean(),  # token 7 in the second sequence
        12: hidden[:, 1:, DIM].mean(),
    }
    for position, value in expected.items():
        entry = Entry(layer=LAYER, sequence=1, position=position, dim=DIM)
        by_mean = intervene(planted, tokens, entries=[entry], to="mean", heldout=heldout)
        by_value = intervene(planted, tokens, entries=[entry], to=float(value))
        assert by_mean.effect.loss.value == pytest.approx(by_value.effect.loss.value, abs=1e-6)


def massive_hidden(model: Any, tokens: torch.Tensor, site: str) -> torch.Tensor:
    from interp.sites.capturing import capture

    return capture(model, tokens, [site])[site].double()


def test_no_effect_is_a_result(planted: Any) -> None:
    """An entry set to what it is."""
    tokens = planted_tokens()
    value = massive_hidden(planted, tokens, "blocks.3.hook_resid_post")[0, 5, 2]
    entry = Entry(layer=3, sequence=0, position=5, dim=2)
    found = intervene(planted, tokens, entries=[entry], to=float(value))
    assert found.effect.change.value == pytest.approx(0, abs=1e-6)


def test_hooks_are_gone_afterwards_also_after_an_error(planted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = planted_tokens()
    before = planted(tokens)
    intervene(planted, tokens)
    assert torch.equal(planted(tokens), before)
    monkeypatch.setattr("interp.massive.intervention.metrics.kl", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        intervene(planted, tokens)
    assert torch.equal(planted(tokens), before)


def test_an_entry_without_sequence_is_in_all(planted: Any) -> None:
    assert intervene(planted, planted_tokens(), entries=[Entry(layer=2, position=0, dim=DIM)]).effect.entries == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"entries": []}, "there is no entry to overwrite; give at least one"),
        ({"entries": [Entry(layer=9, position=0, dim=0)]}, "layers 0 to 3"),
        ({"entries": [Entry(layer=1, position=0, dim=128)]}, "outside 3 sequences of 32 tokens in 128 dimensions"),
        ({"entries": [Entry(layer=1, position=-1, dim=0)]}, "outside 3 sequences"),
        ({"to": "mean"}, r"to='mean' needs heldout="),
    ],
)
def test_nonsense_is_refused(planted: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        intervene(planted, planted_tokens(), **options)


def test_refusals_of_models(tmp_path: Path) -> None:
    from interp.models.loading import load_model

    planted_model().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="cannot intervene on massive activations on a model with processed weights"):
        intervene(load_model(tmp_path, process_weights=True), planted_tokens())
    with pytest.raises(ValueError, match="no activation is massive by the default thresholds"):
        intervene(load_model(tmp_path), torch.arange(8, 40)[None])


def test_a_zeroed_super_weight_acts_like_a_zeroed_activation(planted: Any) -> None:
    tokens = planted_tokens()
    (weight,) = massive.find_super_weights(planted, tokens)
    with torch.no_grad(), massive.zeroed(planted, weight):
        loss = metrics.mean(metrics.cross_entropy(planted(tokens), tokens).mean(1))
    assert loss.value == pytest.approx(intervene(planted, tokens).effect.loss.value, abs=0.01)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    planted_model().save_pretrained(tmp_path / "model")
    np.save(tmp_path / "ids.npy", planted_tokens().numpy().ravel().astype(np.uint16))
    ids = str(tmp_path / "ids.npy")
    arguments = ["massive", "intervene", str(tmp_path / "model"), "--data", ids, "--context", "32"]
    for more, expected in (
        ([], "after block 1 set to zero"),
        (["--all-layers"], "after blocks 1, 2, 3 set to zero"),
        (
            ["--to", "mean", "--heldout", ids, "--layer", "2", "--position", "0", "--dim", "37"],
            "after block 2 set to mean",
        ),
    ):
        with pytest.raises(SystemExit) as exit_:
            main([*arguments, *more])
        assert exit_.value.code == 0
        assert expected in " ".join(capsys.readouterr().out.split())
    with pytest.raises(SystemExit) as exit_:
        main([*arguments, "--layer", "1"])
    assert exit_.value.code == 2
    assert "--layer, --position and --dim" in capsys.readouterr().err
