"""Reports of a model and of a training run: written in one file, with the numbers that were measured."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from interp import massive
from interp.massive import figures
from interp.massive.pages import model_page, training_page
from interp.massive.sweep_table import Measured, SweepTable
from interp.trajectory.fitting import fit_all
from tests.interp.massive.planted import DIM, planted_bridge, planted_tokens

STEPS = (0, 1, 2, 8, 64, 512, 4096, 32_768)


def table(*, model: str = "<b>run</b>") -> SweepTable:
    """Two layers over eight steps, of which the last two have the same weights."""
    measured = []
    for i, step in enumerate(STEPS):
        top = torch.tensor([[[10.0 + i, 9.0, 8.0]], [[20.0 + 5 * i, 9.0, 8.0]]])
        indices = torch.zeros_like(top, dtype=torch.int64)
        stats = massive.LayerStats(
            sites=("a", "b"), values=top, positions=indices, dims=indices, tokens=indices, medians=torch.ones(2, 1)
        )
        weights = f"sha256:{min(i, 6)}"
        measured.append(
            Measured(
                model=model,
                step=step,
                revision=f"step{step}",
                identity="",
                weights=weights,
                blocks=(weights, weights + "b"),
                data="",
                dtype="float32",
                code=1,
                sink_rate=0.0,
                stats=stats,
            )
        )
    return SweepTable(model=model, measured=tuple(measured), missing={99: "no such revision"})


def test_heat_map_shows_every_checkpoint_and_stars_suspects() -> None:
    figure, caption = figures.training_heatmap(table())
    assert list(figure.data[0].x) == [*map(str, STEPS[:6]), "4096 *", "32768"]
    assert 10 ** figure.data[0].z[1, 3] == pytest.approx(35)
    assert caption.startswith("8 checkpoints")
    assert "* marks a step" in caption


def test_fits_show_points_and_curves() -> None:
    run = table()
    steps, values = run.series()
    fits = fit_all(steps, values)
    figure, caption = figures.fits_figure(run, fits)
    points, curve = figure.data[2], figure.data[3]
    assert list(points.x) == [0.5, 1, 2, 8, 64, 512, 32_768]
    assert list(points.y) == [20, 25, 30, 35, 40, 45, 55]
    assert curve.y[-1] == pytest.approx(fits[1].final_value)
    assert "7 checkpoints" in caption


def test_surface_keeps_the_largest_dimensions() -> None:
    hidden = torch.rand(40, 500)
    hidden[3, 321] = 50.0
    figure, caption = figures.surface_figure(hidden, ["<i>"] * 40, layer=2, positions=10, dims=30)
    assert figure.data[0].z.shape[0] == 10
    assert figure.data[0].z.max() == 50
    assert "321" in figure.layout.scene.xaxis.ticktext
    assert "<i>" not in str(figure.layout.scene.yaxis.ticktext)
    assert "of 500 dimensions" in caption


def test_a_training_page(tmp_path: Path) -> None:
    run = table()
    fits = fit_all(*run.series())
    html = training_page(run, fits).write(tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<b>run</b>" not in html
    assert "8 checkpoints, 1 of them suspect, 1 missing" in html
    assert "no such revision" in html
    assert fits[1].layer_class.replace("_", " ") in html
    assert training_page(run, []).write(tmp_path / "other.html").stat().st_size > 1_000_000


def test_a_model_page(tmp_path: Path) -> None:
    model, tokens = planted_bridge(tmp_path / "model"), planted_tokens()
    measured: dict[str, Any] = {
        "stats": massive.layer_stats(model, tokens),
        "sinks": massive.attention_sinks(model, tokens),
        "super_weights": massive.find_super_weights(model, tokens),
    }
    page = model_page(model, tokens, name="planted", found=massive.detect(measured["stats"]), **measured)
    html = page.write(tmp_path / "page.html").read_text(encoding="utf-8")
    assert "|activation| after block 1" in html
    assert "Attention of block 2, mean of heads" in html
    assert f'class="number">{DIM}</td>' in html
    nothing = massive.detect(measured["stats"], absolute=1e9)
    page = model_page(model, tokens, name="planted", found=nothing, **measured | {"super_weights": ()})
    assert "Super weights</h2>" not in page.write(tmp_path / "page.html").read_text(encoding="utf-8")


def test_colour_ticks_of_a_narrow_range() -> None:
    figure, _ = figures.training_heatmap(table(), "median")
    assert np.isfinite(figure.data[0].z).all()
