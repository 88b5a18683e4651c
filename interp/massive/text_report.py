"""The measurement as it is printed on a terminal."""

from rich.console import Console
from rich.table import Table

from interp.massive.attention import SinkStats
from interp.massive.detection import Detection
from interp.massive.intervention import Intervention
from interp.massive.stats import LayerStats
from interp.massive.super_weights import SuperWeight


def print_stats(console: Console, stats: LayerStats, found: Detection, sinks: SinkStats, received: SinkStats) -> None:
    """One line a layer, then what is massive."""
    table = Table("block", "largest", "median", "ratio ± s.e.", "mean of ratios", show_edge=False)
    table.add_column("at (position, dim)")
    table.add_column("attention to 0")
    to_first = received.received()
    for layer in range(len(stats.sites)):
        place = int(stats.positions[layer, 0, 0]), int(stats.dims[layer, 0, 0])
        numbers = (stats.top1, stats.median, stats.mean_of_ratios, to_first)
        largest, median, mean_of_ratios, attention = (f"{each[layer].value:.4g}" for each in numbers)
        table.add_row(str(layer), largest, median, str(stats.ratio[layer]), mean_of_ratios, str(place), attention)
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
    console.print(f"Entries after block {found.layer} set to {found.to}. Losses in nats a token, KL a position.")
    console.print(f"Loss before: {found.loss_before}, perplexity {found.perplexity_before:.4g}")
    table = Table("entries", "n", "loss", "change", "perplexity", "KL", show_edge=False)
    rows = {"the chosen ones": found.effect, "random dimensions": found.random_dim, "random tokens": found.random_token}
    for name, effect in rows.items():
        figures = (str(effect.loss), str(effect.change), f"{effect.perplexity:.4g}", str(effect.kl))
        table.add_row(name, str(effect.entries), *figures)
    console.print(table)
