"""The measurement as it is printed on a terminal."""

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Column, Table

from interp.massive.attention import SinkStats
from interp.massive.detection import Detection
from interp.massive.intervention import Intervention
from interp.massive.stats import LayerStats
from interp.massive.super_weights import SuperWeight
from interp.massive.training_sweep import SweepRun

if TYPE_CHECKING:
    from interp.trajectory.prediction import Prediction


def print_stats(console: Console, stats: LayerStats, found: Detection, sinks: SinkStats, received: SinkStats) -> None:
    """One line a layer, then what is massive."""
    headers = ("block", "largest", "median", "ratio", "± s.e.", "mean ratio", "place", "attention")
    table = Table(*(Column(header, no_wrap=True) for header in headers), show_edge=False, padding=(0, 1, 0, 0))
    to_first = received.received()
    for layer in range(len(stats.sites)):
        place = int(stats.positions[layer, 0, 0]), int(stats.dims[layer, 0, 0])
        error = _short(stats.ratio[layer].standard_error) if stats.ratio[layer].n > 1 else "n = 1"
        numbers = (stats.top1, stats.median, stats.ratio, stats.mean_of_ratios, to_first)
        largest, median, ratio, mean_ratio, attention = (_short(each[layer].value) for each in numbers)
        table.add_row(str(layer), largest, median, ratio, error, mean_ratio, "{}, {}".format(*place), attention)
    console.print(
        "Ratio of means and mean of ratios; place: position and dimension of the largest entry of the first sequence;"
        " mean attention of the block's heads to position 0."
    )
    console.print(table)
    sequences = stats.values.shape[1]
    console.print(f"Sink metric at position 0 (eps 0.3): {sinks.sink_rate()} of heads, {sequences} sequences")
    if not found:
        console.print("No massive activation by the rule (Sun et al. 2024).")
        return
    console.print(
        f"Massive: blocks {found.first_layer} to {found.last_layer}; dimensions in every sequence {found.fixed_dims},"
        f" positions in every sequence {found.fixed_positions}; {found.starting} at the start of a sequence,"
        f" {found.not_starting} elsewhere; token ids {found.tokens}"
    )
    if found.truncated:
        console.print("Every entry kept of some layer is massive: there may be more, measure with a larger --top")


def print_super_weights(console: Console, weights: tuple[SuperWeight, ...]) -> None:
    """One line a weight."""
    for each in weights:
        console.print(
            f"Super weight: block {each.layer} down_proj[{each.row}, {each.column}] = {each.weight:.4g}, input"
            f" {each.input:.4g}, output {each.output:.4g} ({each.share:.0%} from this weight)"
        )
    if not weights:
        console.print("No super weight: no layer's down_proj has both an input and an output above 50.")


def print_intervention(console: Console, found: Intervention) -> None:
    """A line for the effect and each control."""
    blocks = f"block{'s' * (len(found.layers) > 1)} {_listed(found.layers)}"
    console.print(f"Entries after {blocks} set to {found.to}. Losses in nats a token, KL a position.")
    console.print(f"Loss before: {found.loss_before}, perplexity {found.perplexity_before:.4g}")
    table = Table("entries", "n", "loss", "change", "perplexity", "KL", show_edge=False)
    rows = {"the chosen ones": found.effect, "random dimensions": found.random_dim, "random tokens": found.random_token}
    for name, effect in rows.items():
        figures = (str(effect.loss), str(effect.change), f"{effect.perplexity:.4g}", str(effect.kl))
        table.add_row(name, str(effect.entries), *figures)
    console.print(table)


def print_sweep(console: Console, run: SweepRun) -> None:
    """A line a checkpoint, with what is wrong with it, and what this run did."""
    table = Table("step", "ratio", "at block", "sinks", "weights", "note", show_edge=False)
    for row in run.table.rows:
        ratios = [estimate.value for estimate in row.measured.stats.ratio]
        notes = [f"from {row.measured.revision}"] if row.measured.revision == "main" else []
        notes += [f"same weights as {_listed(row.identical_to)}"] if row.identical_to else []
        notes += [f"shares blocks with {_listed(row.shares_blocks_with)}"] if row.shares_blocks_with else []
        notes += ["left out of fits"] if row.suspect else []
        place = str(max(range(len(ratios)), key=ratios.__getitem__))
        figures = (f"{max(ratios):.1f}", place, f"{row.measured.sink_rate:.0%}", row.measured.weights[7:15])
        table.add_row(str(row.step), *figures, "; ".join(notes))
    console.print(table)
    if run.table.missing:
        console.print(f"Missing: {_listed(tuple(run.table.missing))}")
    console.print(", ".join(f"{count} {what}" for what, count in run.done.items()) or "nothing to do")


def print_predictions(console: Console, found: "list[Prediction]") -> None:
    """A line a target and regressor."""
    headers = ("target", "regressor", "layers", "by layer", "by model", "shuffled")
    table = Table(*(Column(header, no_wrap=True) for header in headers), show_edge=False)
    for each in found:
        scores = (each.random_split, each.leave_one_model_out, each.permuted)
        table.add_row(each.target, each.regressor, str(each.layers), *(f"{score.value:.2f}" for score in scores))
    console.print(table)
    console.print(
        "R² of layers held out at random (which leaks: most features are the same for all layers of a model), of models"
        " held out whole, and with shuffled targets; 0 is as good as the mean of all layers."
    )


def _short(number: float) -> str:
    """Four digits, large numbers without an exponent."""
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.3g}"


def _listed(numbers: tuple[int, ...]) -> str:
    shown = ", ".join(map(str, numbers[:6]))
    return shown + (f" and {len(numbers) - 6} more" if len(numbers) > 6 else "")
