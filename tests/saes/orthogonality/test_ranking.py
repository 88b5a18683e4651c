"""Which of several dictionaries is first, and whether the figures say so."""

import math
from dataclasses import replace

import pytest
import torch

from interp.metrics import Estimate
from saes.evaluation.afa_quality import afa_quality
from saes.evaluation.token_table import NormTable
from saes.orthogonality import row_overlap
from saes.orthogonality.measuring import NormFigures
from saes.orthogonality.ranking import Entry, ranked, verdict


def entry(name: str, value: float, error: float, d_sae: int = 16) -> Entry:
    ones = torch.ones(4)
    table = NormTable(documents=torch.arange(4), l0=ones, z_squared=ones, z_hat_squared=ones, f_squared=ones)
    found = afa_quality(table, d_sae=d_sae)
    assert found is not None
    median = Estimate(value, error, 1 if math.isnan(error) else 9)
    norms = NormFigures(
        site="blocks.0.hook_resid_post",
        tokens=4,
        documents=4,
        l0=Estimate(1.0, 0.1, 4),
        afa=replace(found, epsilon_lbo_median=median),
        gap=Estimate(value * (d_sae - 1), error, median.n),
        written_ratio=None,
        random_ratio=None,
    )
    return Entry(
        name=name, tool="deepfield", model="m", d_sae=d_sae, overlap=row_overlap(torch.eye(d_sae)), norms=norms
    )


@pytest.mark.parametrize(
    ("errors", "said"),
    [
        ((0.01, 0.01), "beyond two standard errors of the difference."),
        ((0.3, 0.4), "within two standard errors of the difference."),  # 2 x 0.5 is the difference
        ((0.3, 0.39), "beyond two standard errors of the difference."),
        ((math.nan, 0.01), "n = 1 does not say whether that is more than noise."),
        ((math.nan, math.nan), "n = 1 does not say whether that is more than noise."),
        ((math.inf, 0.01), "within two standard errors of the difference."),
    ],
)
def test_a_difference_is_held_against_its_error(errors: tuple[float, float], said: str) -> None:
    found = verdict(ranked([entry("far", 2.0, errors[1]), entry("near", 1.0, errors[0])]))
    assert found.startswith("near has the least ε_LBO, 1 ")
    assert ", before far with 2 " in found
    assert found.endswith(said)


def test_of_different_widths_both_rankings_are_named() -> None:
    wide, narrow = entry("wide", 1.0, 0.01, d_sae=32), entry("narrow", 1.5, 0.01)
    assert verdict(ranked([narrow, wide])).endswith("by ε (h - 1) the first is narrow.")


def test_one_alone_is_not_the_least() -> None:
    assert verdict([entry("alone", 1.0, 0.01)]) == "alone has ε_LBO 1 ± 0.01."
    bare = [replace(entry(name, 1.0, 0.01), norms=None) for name in ("a", "b")]
    assert verdict(bare[:1]) == "a has a root mean square of decoder cosines, 0."
    assert verdict(ranked(bare)) == "a has the least root mean square of decoder cosines, 0."
