"""Cosines of decoder rows against closed forms: bases, frames, copies, and all pairs at once."""

import math

import pytest
import torch

from saes.orthogonality import row_overlap


def random_rows(count: int, dimensions: int, *, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, dimensions, generator=torch.Generator().manual_seed(seed))


def test_orthonormal_basis() -> None:
    basis = torch.linalg.qr(random_rows(12, 12).double()).Q
    found = row_overlap(3.0 * basis)
    assert found.coherence < 1e-14
    assert found.rms < 1e-14
    assert abs(found.mean) < 1e-14
    assert found.welch == 0


@pytest.mark.parametrize("dimensions", [2, 5, 9])
def test_equiangular_frame_meets_welchs_bound(dimensions: int) -> None:
    """The corners of a simplex: d + 1 rows in d dimensions, every cosine -1/d."""
    corners = torch.eye(dimensions + 1, dtype=torch.float64) - 1 / (dimensions + 1)
    basis = torch.linalg.svd(corners).Vh[:dimensions]
    found = row_overlap(corners @ basis.T)
    assert found.coherence == pytest.approx(1 / dimensions, rel=1e-12)
    assert found.rms == pytest.approx(1 / dimensions, rel=1e-12)
    assert found.mean == pytest.approx(-1 / dimensions, rel=1e-12)
    assert found.welch == pytest.approx(1 / dimensions, rel=1e-12)


@pytest.mark.parametrize("factor", [2.5, -1.0, 1e-25])
def test_a_copied_row_is_found(factor: float) -> None:
    rows = random_rows(40, 16)
    rows[31] = factor * rows[7]
    found = row_overlap(rows)
    assert found.coherence == pytest.approx(1.0, abs=1e-6)
    assert found.coherence <= 1
    assert found.pair == (7, 31)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against all pairs at once, with zero rows between them; a block holds 3 rows, and the last pair crosses two."""
    rows = random_rows(50, 6)
    rows[[4, 20]] = 0
    unit = rows[rows.any(1)].double()
    unit = unit / unit.norm(dim=1, keepdim=True)
    cosines = (unit @ unit.T)[~torch.eye(48, dtype=torch.bool)]
    whole = row_overlap(rows)
    monkeypatch.setattr("saes.orthogonality.decoder_rows._ENTRIES", 150)
    for found in (whole, row_overlap(rows)):
        assert found.rows == 48
        assert found.coherence == pytest.approx(float(cosines.abs().max()), abs=1e-6)
        assert found.rms == pytest.approx(math.sqrt(float(cosines.square().mean())), rel=1e-6)
        assert found.mean == pytest.approx(float(cosines.mean()), abs=1e-7)


def test_bad_decoders() -> None:
    with pytest.raises(ValueError, match=r"1 of 3 decoder rows are not zero"):
        row_overlap(torch.tensor([[0.0, 0], [1, 2], [0, 0]]))
    with pytest.raises(ValueError, match="not finite"):
        row_overlap(torch.tensor([[1.0, math.nan], [1, 2]]))
