"""SmolLM2-135M as a known answer: figures measured with another implementation, to within 10 %."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from interp import massive
from interp.embedded import TEXT_FOLDER
from interp.tokens.sequences import text_rows

pytestmark = [pytest.mark.smollm2, pytest.mark.slow]

LICENCE = Path("/usr/share/common-licenses/GPL-3")
"""The text that the reference was measured on, which is on every Debian; elsewhere another has to show the same."""


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not LICENCE.exists():
        return TEXT_FOLDER / "heldout.jsonl"
    path = tmp_path_factory.mktemp("text") / "gpl-3.txt"
    path.write_bytes(LICENCE.read_bytes())
    return path


@pytest.fixture(scope="module")
def tokens(smollm2: Any, text: Path) -> torch.Tensor:
    return text_rows(smollm2, text, sequences=8, context=256)[0]


def test_where_they_are(smollm2: Any, tokens: torch.Tensor) -> None:
    stats = massive.layer_stats(smollm2, tokens)
    found = massive.detect(stats)
    assert (found.first_layer, found.last_layer) == (11, 27)
    assert found.fixed_positions == (0,)
    assert found.fixed_dims == (507,)
    assert stats.top1[11].value == pytest.approx(23_587, rel=0.1)
    assert stats.ratio[11].value == pytest.approx(13_950, rel=0.1)
    assert stats.mean_of_ratios[11].value == pytest.approx(13_987, rel=0.1)
    if LICENCE.exists():
        other = [stats.top1[layer].value for layer in (1, 2, 10, 28, 29)]
        assert other == pytest.approx([175, 733, 106, 8957, 3516], 0.1)


def test_attention_turns_to_them_one_block_later(smollm2: Any, tokens: torch.Tensor) -> None:
    received = massive.attention_sinks(smollm2, tokens[:2], window=None).received()
    assert received[11].value < 0.05
    assert received[12].value == pytest.approx(0.39, abs=0.05 if LICENCE.exists() else 0.15)
    assert max(estimate.value for estimate in received) > 0.6


def test_one_scalar_breaks_the_model_and_its_mean_mends_it(smollm2: Any, text: Path, tokens: torch.Tensor) -> None:
    heldout = text_rows(smollm2, text, sequences=8, context=256, skip=8)[0]
    entry = massive.Entry(layer=11, position=0, dim=507)
    zero = massive.intervene(smollm2, tokens, entries=[entry])
    if LICENCE.exists():
        assert zero.loss_before.value == pytest.approx(3.3448, rel=0.01)
        assert zero.effect.loss.value == pytest.approx(14.09, rel=0.1)
    assert zero.effect.change.value > 5
    assert abs(zero.random_dim.change.value) < 0.005
    mean = massive.intervene(smollm2, tokens, entries=[entry], to="mean", heldout=heldout)
    assert abs(mean.effect.change.value) < 0.02


def test_the_super_weight(smollm2: Any, tokens: torch.Tensor) -> None:
    found = massive.find_super_weights(smollm2, tokens[:1])
    (weight,) = itertools.islice((w for w in found if w.layer == 11), 1)
    assert (weight.row, weight.column) == (507, 1229)
    assert weight.weight == pytest.approx(5.876, rel=0.01)
