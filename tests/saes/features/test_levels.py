"""Histograms and passages by level, against brute force over dense activations; near-copies are counted, not shown."""

from pathlib import Path
from typing import Any

import pytest
import torch

from interp.sites.site import Site
from interp.tokens.token_rows import TokenRows
from saes import TopK
from saes.features.examples import Example, Text, merged
from saes.features.levels import BINS, MIDDLE, WEAK, levels
from tests.saes.evaluation.evaluated import SITE, sae_at_site, text_rows
from tests.saes.features.test_examples import dense_activations


@pytest.fixture
def rows(embedded: Any, tmp_path: Path) -> TokenRows:
    return text_rows(embedded.tokenizer, tmp_path)


def test_levels_are_those_of_all_activations(embedded: Any, rows: TokenRows) -> None:
    sae = sae_at_site(TopK(20))
    dense, _ = dense_activations(sae, embedded, rows)
    chosen = dense.amax((0, 1)).topk(6).indices.tolist()
    maximum = dense.amax((0, 1))[chosen]
    text = Text(model=embedded, rows=rows, site=Site.parse(SITE), batch_rows=3)
    found = levels(sae, text, chosen, maximum.tolist(), k=3, before=5, after=5)
    again = levels(sae, text, chosen, maximum.tolist(), k=3, before=5, after=5)
    assert again.middle == found.middle
    share = dense[..., chosen] / maximum
    for i, latent in enumerate(chosen):
        active = dense[..., latent][dense[..., latent] > 0]
        expected = torch.histc(active, bins=BINS, min=0, max=float(maximum[i]))
        assert int(found.histograms[i].sum()) == len(active)
        # A value on the edge of two bins may be rounded into either.
        assert (found.histograms[i].cumsum(0) - expected.cumsum(0)).abs().max() <= 1
        for examples, (low, high) in ((found.middle[i], MIDDLE), (found.weak[i], WEAK)):
            there = ((share[..., i] >= low) & (share[..., i] < high)).any(1)
            assert len(examples) == min(3, int(there.sum()))
            assert len({example.row for example in examples}) == len(examples)
            for example in examples:
                value = float(dense[example.row, example.position, latent])
                assert example.activation == pytest.approx(value, rel=1e-4)
                assert low * 0.999 <= value / float(maximum[i]) <= high * 1.001
                assert example.ids[example.position - example.first] == rows.ids[example.row, example.position]


def test_copies_are_counted_and_make_room() -> None:
    def example(row: int, *ids: int) -> Example:
        return Example(row=row, position=9, activation=1.0, first=6, ids=ids, activations=(0.0,) * len(ids))

    one, copy, other = example(0, 1, 2, 3, 4, 5, 6), example(1, 1, 2, 3, 4, 5, 9), example(2, 1, 2, 7, 4, 5, 6)
    assert merged([one, copy, other], k=2) == ((one, other), (2, 1))
    assert merged([one, copy, other], k=1) == ((one,), (2,))
    assert merged([], k=2) == ((), ())
