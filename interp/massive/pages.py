"""The two reports: of one model, and of a training run. One HTML file each, which opens offline."""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from interp.checkpoints.pages import add_missing, add_suspects
from interp.massive import figures
from interp.massive.attention import SinkStats
from interp.massive.detection import Detection
from interp.massive.stats import LayerStats
from interp.massive.super_weights import SuperWeight
from interp.massive.sweep_table import SweepTable
from interp.models.bridge import Model
from interp.pages.html_page import Page
from interp.sites.capturing import capture
from interp.trajectory.fitting import Trajectory


@torch.no_grad()
def model_page(
    model: Model,
    tokens: Int[Tensor, "sequences position"],
    *,
    name: str,
    stats: LayerStats,
    found: Detection,
    sinks: SinkStats,
    super_weights: Sequence[SuperWeight],
) -> Page:
    """Everything about one model; two more captures of the first sequence give the surface and the attention map."""
    ratios = [estimate.value for estimate in stats.ratio]
    peak = max(range(len(ratios)), key=ratios.__getitem__)
    emergence = peak if found.first_layer is None else found.first_layer
    after = min(emergence + 1, len(ratios) - 1)
    first = tokens[:1]
    hidden = capture(model, first, [stats.sites[emergence]])[stats.sites[emergence]][0]
    pattern = capture(model, first, [f"blocks.{after}.attn.hook_pattern"])[f"blocks.{after}.attn.hook_pattern"][0]
    words = [_word(model, token) for token in first[0].tolist()]
    page = Page(f"Massive activations of {name}", subtitle=f"{len(tokens)} sequences of {tokens.shape[1]} tokens")
    emerges = "none" if found.first_layer is None else f"block {found.first_layer}"
    page.cards(
        [
            ("Largest ratio", f"{ratios[peak]:,.0f}", f"largest magnitude / median, after block {peak}"),
            ("Emerge after", emerges, "magnitude above the threshold and 1,000 medians, by default (Sun et al.)"),
            ("Dimensions", ", ".join(map(str, found.fixed_dims)) or "none", "massive in every sequence that has any"),
            ("Sink metric", f"{sinks.sink_rate().value:.1%}", "heads with importance of position 0 above 0.3"),
            ("Super weights", str(len(super_weights)), "input and output of down_proj above 50"),
        ]
    )
    page.figures(figures.layers_figure(stats), figures.ratio_figure(stats.ratio))
    page.figures(figures.surface_figure(hidden, words, layer=emergence), figures.pattern_figure(pattern, layer=after))
    page.figures(figures.heads_figure(sinks))
    if found:
        page.heading("The largest").table(
            ["block", "sequence", "position", "token", "dimension", "value", "ratio"],
            [
                [
                    e.layer,
                    e.sequence,
                    e.position,
                    repr(_word(model, e.token)),
                    e.dim,
                    f"{e.value:.1f}",
                    f"{e.ratio:.0f}",
                ]
                for e in sorted(found, key=lambda each: -each.ratio)[:20]
            ],
        )
    if super_weights:
        page.heading("Super weights").table(
            ["block", "row", "column", "weight", "input", "output", "share of the output"],
            [
                [w.layer, w.row, w.column, f"{w.weight:.3f}", f"{w.input:.1f}", f"{w.output:.1f}", f"{w.share:.0%}"]
                for w in super_weights
            ],
        )
    return page


def training_page(table: SweepTable, fits: Sequence[Trajectory]) -> Page:
    """A training run: the heat map, the fits of the ratio, and what is wrong with checkpoints."""
    page = Page(
        f"Massive activations over the training of {table.model}",
        subtitle=f"{len(table.measured)} checkpoints, {sum(row.suspect for row in table.rows)} of them suspect,"
        f" {len(table.missing)} missing",
    )
    page.figures(figures.training_heatmap(table), figures.training_heatmap(table, "top1"))
    if fits:
        add_fits(page, table, fits)
    add_suspects(page, [(row.step, row) for row in table.rows])
    add_missing(page, table.missing)
    return page


def add_fits(page: Page, table: SweepTable, fits: Sequence[Trajectory]) -> Page:
    """The fits of the ratio, as a figure and a table."""
    page.figures(figures.fits_figure(table, fits))
    page.table(
        [
            "block",
            "class",
            "R²",
            "best form by AIC",
            "peak step (95 %)",
            "value at the last step (95 %)",
            "identifiable",
        ],
        [
            [
                layer,
                fit.layer_class.replace("_", " ") + ("" if fit.class_agrees else " (the data peak elsewhere)"),
                f"{fit.r2:.3f}",
                fit.best_form.replace("_", " "),
                _interval(fit, "peak_step", fit.peak_step) if fit.layer_class == "early_peak" else "none in the window",
                _interval(fit, "final_value", fit.final_value),
                "yes" if fit.identifiable else "no",
            ]
            for layer, fit in enumerate(fits)
        ],
    )
    return page.text(
        "Where a fit is not identifiable, very different parameters draw the same curve: only the curve itself, its"
        " value at the last step, R² and the class mean something. A lower AIC of a rival says that the simpler form"
        " does as well."
    )


def _interval(fit: Trajectory, name: str, value: float) -> str:
    if name not in fit.intervals:
        return f"{value:,.4g}"
    low, high = fit.intervals[name]
    return f"{value:,.4g} ({low:,.4g} to {high:,.4g})"


def _word(model: Model, token: int) -> str:
    return str(token) if model.tokenizer is None else str(model.tokenizer.decode([token]))
