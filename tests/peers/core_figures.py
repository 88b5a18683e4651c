"""Figures that SAELens and SAEBench define as we do, and those that they define otherwise by a known factor."""

from collections.abc import Mapping

import pytest

from saes.evaluation.report import Report


def assert_core_is(theirs: Mapping[str, float], ours: Report) -> None:
    """Losses, CE recovered, L0 and cosine are equal; their KL has one more position in every row."""
    same = {
        "ce_loss_without_sae": ours.ce_clean,
        "ce_loss_with_sae": ours.ce_spliced,
        "ce_loss_with_ablation": ours.ce_zero,
        "ce_loss_score": ours.ce_recovered_zero,
        "l0": ours.l0,
        "cossim": ours.cosine,
    }
    for name, estimate in same.items():
        assert estimate.value == pytest.approx(theirs[name], rel=1e-4, abs=1e-5), name
    # Theirs includes the last position of every row, whose next token is not in the text.
    assert ours.kl.value == pytest.approx(theirs["kl_div_with_sae"], rel=0.05)
