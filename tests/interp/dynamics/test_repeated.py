"""Attention to what followed, and copying, of patterns and logits written by hand, and of the embedded model."""

from typing import Any

import pytest
import torch
from torch.nn.functional import one_hot

import interp
from interp.clamping import induction_strength, repeated_rows
from interp.clamping.induction import earlier_occurrences
from interp.dynamics.repeated import _copying, _looks_back, repeated_steps
from interp.passes.together import alone

ROWS = torch.tensor([[0, 5, 6, 7, 5, 6, 7]])


def test_a_perfect_head_and_one_that_looks_at_the_token_before() -> None:
    perfect = torch.zeros(7, 7)
    perfect[range(7), [0, 0, 0, 0, 2, 3, 4]] = 1  # of 5, 6, 7 the tokens after their first occurrence
    before = torch.eye(7).roll(-1, 1)  # position i looks at i - 1
    before[0] = torch.eye(7)[0]
    before = torch.cat([before[:1], torch.eye(7)[:-1]])
    found = _looks_back(torch.stack([perfect, before])[None], earlier_occurrences(ROWS))
    assert found[0, 0, 0] == 1
    assert found[0, 1].tolist() == [0, 1]


def test_copying_by_hand() -> None:
    """Predicts every second-half token with certainty but the last; of the first half nothing."""
    copied = torch.tensor([[False, False, False, False, True, True]])
    logits = torch.zeros(1, 7, 8)
    logits[0, 4] = 50 * one_hot(torch.tensor(6), 8)
    logits[0, 5, 6] = 50.0  # the next is 7
    loss, first, right = _copying(logits, ROWS, copied)[0].tolist()
    assert loss == pytest.approx(25, abs=1e-3)
    assert first == pytest.approx(torch.tensor(8.0).log().item())
    assert right == 0.5


def test_the_embedded_model_copies_at_the_end() -> None:
    model: Any = interp.load_model("embedded")
    rows = repeated_rows(4000, sequences=4, half=50)
    found = alone(model, repeated_steps(model, rows))
    strength = induction_strength(model, rows)
    top = max(range(len(found["induction"].labels)), key=lambda i: found["induction"].values[i] or 0.0)
    assert found["induction"].labels[top] == "2.1"
    value = found["induction"].values[top]
    assert value is not None
    assert 2 * value - 1 == pytest.approx(strength[2, 1].value, abs=0.01)
    before = dict(zip(found["previous_token"].labels, found["previous_token"].values, strict=True))
    assert max(before, key=lambda name: before[name] or 0.0) == "1.1"
    (accuracy,), (loss,), (gain,) = (found[name].values for name in ("copy_accuracy", "copy_loss", "copy_gain"))
    assert accuracy is not None
    assert accuracy > 0.8
    assert loss is not None
    assert loss < 1
    assert gain is not None
    assert gain > 6
