"""Curves over training as tables on the terminal."""

from collections import defaultdict
from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from interp.checkpoints.curves import Curves, CurvesRun, Measurement, Quantity

_COLUMNS = 5


def print_run(console: Console, run: CurvesRun) -> None:
    """The curves, and what the run did."""
    for curves in run.curves.values():
        print_curves(console, curves)
    console.print(", ".join(f"{count} {what}" for what, count in run.done.items()) or "nothing to do")


def print_curves(console: Console, curves: Curves) -> None:
    """A line a checkpoint; of each quantity the largest value over its parts, and at which."""
    names = curves.names
    for start in range(0, len(names), _COLUMNS):
        shown = names[start : start + _COLUMNS]
        table = Table("step", *(name.replace("_", " ") for name in shown), "note", show_edge=False)
        for point, said in zip(curves.points, curves.flags, strict=True):
            notes = [f"same weights as {', '.join(map(str, said.identical_to))}"] if said.identical_to else []
            notes += ["left out of fits"] if said.suspect else []
            cells = []
            for name in shown:
                each = point.quantities[name]
                found = [(v, label) for v, label in zip(each.values, each.labels, strict=True) if v is not None]
                value, label = max(found) if found else (None, "")
                where = f" at {label}" if len(each.labels) > 1 else ""
                cells.append("-" if value is None else f"{value:.4g}{where}")
            table.add_row(str(point.step), *cells, "; ".join(notes))
        console.print(table)
    if curves.missing:
        console.print(f"Missing: {', '.join(map(str, sorted(curves.missing)))}")


def print_quantities(console: Console, what: Measurement, quantities: Mapping[str, Quantity]) -> None:
    """Of one model: a line a part, a column a quantity, those with the same parts in one table."""
    groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name in what.titles:
        if name in quantities:
            groups[quantities[name].labels].append(name)
    for labels, names in groups.items():
        if len(labels) == 1:
            for name in names:
                console.print(f"{what.titles[name]}: {cell(quantities[name], 0)}")
            continue
        for start in range(0, len(names), _COLUMNS):
            shown = names[start : start + _COLUMNS]
            table = Table("", *(name.replace("_", " ") for name in shown), show_edge=False)
            for i, label in enumerate(labels):
                table.add_row(label, *(cell(quantities[name], i) for name in shown))
            console.print(table)


def cell(found: Quantity, part: int) -> str:
    """A value with its standard error."""
    value, error = found.values[part], found.standard_errors[part]
    if value is None:
        return "-"
    return f"{value:.4g}" if error is None else f"{value:.4g} ± {error:.2g}"
