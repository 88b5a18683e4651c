"""A few tokens that hold the variance are named before a run, with what leaves them out."""

import inspect
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from interp.commands.cache import cache
from saes import SAE, TrainConfig, train, train_many
from saes.training.figures.site_statistics import SiteStatistics
from tests.saes.commands.test_train import LIVE, SIZE, run
from tests.saes.sources import MemorySource, planted


def massive(rows: int = 2000, tokens: int = 4, *, value: float = 3e5) -> torch.Tensor:
    """Rows of about norm 2, of which a few have one huge dimension."""
    data = planted(rows, d=32)[0]
    data[:: rows // tokens, 7] += value
    return data


def test_the_share_of_a_few_tokens_is_that_of_their_squared_distances() -> None:
    data = massive(value=300.0)
    found = SiteStatistics.of(data, site="s")
    distances = (data - data.mean(0)).double().square().sum(1)
    assert (found.rows, found.massive) == (2000, 4)
    assert found.massive_share == pytest.approx(float(distances[::500].sum() / distances.sum()), rel=1e-5)
    assert 0.9 < found.massive_share < 1
    share = f"{found.massive_share:.1%}"
    start = "s: of the first 2,000 activations 4 (0.20%) have more than 10 times the median norm, and"
    assert str(found).startswith(f"{start} {share} of the variance")


def test_far_out_the_share_is_one_less_that_of_the_tokens() -> None:
    """k of n rows at v have k (v (1 - k / n))^2, the others (n - k) (v k / n)^2 of the squared distances."""
    assert SiteStatistics.of(massive(), site="s").massive_share == pytest.approx(1 - 4 / 2000, abs=1e-6)


def test_nothing_is_massive_in_ordinary_data() -> None:
    found = SiteStatistics.of(planted(2000, d=32)[0], site="s")
    assert (found.massive, found.massive_share) == (0, 0.0)
    assert str(found) == "s: of the first 2,000 activations none has more than 10 times the median norm"
    constant = SiteStatistics.of(torch.ones(9, 4), site="s")
    assert constant.massive_share == 0.0


def test_a_run_says_it_once_a_site_before_it_starts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = MemorySource(massive())
    configs = [
        TrainConfig(site="s", out=tmp_path / str(k), k=k, d_sae=32, tokens=200, batch_size=100, lr=1e-6) for k in (2, 3)
    ]
    train_many(configs, source)
    (said,) = caplog.records
    assert said.levelname == "WARNING"
    assert "and 99.8% of the variance" in said.getMessage()
    assert "--drop-norm-above 10 of interp cache" in said.getMessage()
    assert "--drop-first 1" in said.getMessage()
    caplog.set_level("INFO")
    train(replace(configs[0], out=tmp_path / "ordinary"), MemorySource(planted(2000, d=32)[0]))
    assert [(one.levelname, one.getMessage()) for one in caplog.records[1:2]] == [
        ("INFO", "s: of the first 2,000 activations none has more than 10 times the median norm")
    ]


def test_the_options_that_are_named_exist() -> None:
    assert {"drop_norm_above", "drop_first"} <= set(inspect.signature(cache).parameters)


def test_live_activations_leave_first_positions_out(tmp_path: Path) -> None:
    for drop in ("0", "1"):
        assert run(*LIVE, *SIZE, "--k", "4", "--drop-first", drop, "--out", str(tmp_path / drop)) == 0
    saes = [SAE.load(tmp_path / drop) for drop in ("0", "1")]
    assert [sae.provenance["source"]["drop_first"] for sae in saes] == [0, 1]
    assert not torch.equal(saes[0].W_dec, saes[1].W_dec)
