"""Pretrained dictionaries of several tools beside each other, the most nearly orthogonal first, as table and page."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from interp.metrics import Estimate
from interp.pages.html_page import Page
from saes.evaluation.page import zf_figure
from saes.evaluation.report import plain
from saes.orthogonality.decoder_rows import RowOverlap
from saes.orthogonality.measuring import NormFigures

COLUMNS = (
    "dictionary",
    "tool",
    "latents",
    "ε_LBO median",
    "ε (h - 1)",
    "‖f‖ / ‖z‖",
    "‖D f‖ / ‖f‖",
    "at random",
    "coherence",
    "rms cosine (least)",
    "L0",
    "tokens",
)
_IN_TERMINAL = ("dictionary", "latents", "ε_LBO median", "ε (h - 1)", "‖f‖ / ‖z‖", "coherence")
"""As many as fit."""
LEGEND = (
    "ε_LBO (arXiv 2503.24277): the least ε with |‖z‖² - ‖f‖²| ≤ ε (h - 1) ‖f‖² for a token, z the activation, f the"
    " latents times their decoder norms with b_dec as one more. It is divided by the number of latents less one, so"
    " that of equal gaps the wider dictionary comes first; ε (h - 1), its mean, is not. ‖D f‖ / ‖f‖, without b_dec, is"
    " 1 where active rows are orthogonal; “at random” is its closed form for the same values on random latents."
    " Coherence is the largest cosine of two decoder rows, beside the root mean square the least that so many rows can"
    " have (Welch). ± is one standard error over documents, or blocks of text where they are few."
)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One dictionary."""

    name: str
    """What it was asked for by."""
    tool: str
    """Format of its files: deepfield, or the tool that wrote them."""
    model: str | None
    """The model that it was measured on; None where only its decoder was looked at."""
    d_sae: int
    """How many latents it has."""
    overlap: RowOverlap
    """Cosines between its decoder rows."""
    norms: NormFigures | None
    """Figures on text; None where only its decoder was looked at."""

    def to_json(self) -> dict[str, Any]:
        """Plain data; a standard error that is not known becomes None."""
        found: dict[str, Any] = plain(asdict(self))
        found["overlap"]["welch"] = self.overlap.welch
        return found


def ranked(entries: Sequence[Entry]) -> list[Entry]:
    """By median ε_LBO, those without one last, and by the root mean square of cosines where no text was read."""

    def key(entry: Entry) -> tuple[float, float]:
        afa = None if entry.norms is None else entry.norms.afa
        return (math.inf if afa is None else afa.epsilon_lbo_median.value, entry.overlap.rms)

    return sorted(entries, key=key)


def verdict(entries: Sequence[Entry]) -> str:
    """Of ranked entries, which is first, and whether by more than noise."""
    first = entries[0]
    if first.norms is None or first.norms.afa is None:
        which = "the least root mean square" if len(entries) > 1 else "a root mean square"
        return f"{first.name} has {which} of decoder cosines, {first.overlap.rms:.4g}."
    best = first.norms.afa.epsilon_lbo_median
    others = [entry for entry in entries[1:] if entry.norms is not None and entry.norms.afa is not None]
    if not others:
        return f"{first.name} has ε_LBO {best}."
    said = f"{first.name} has the least ε_LBO, {best}"
    second = others[0].norms.afa.epsilon_lbo_median  # type: ignore[union-attr]
    error = math.hypot(best.standard_error, second.standard_error)
    if math.isnan(error):
        how = "n = 1 does not say whether that is more than noise"
    else:
        how = f"{'beyond' if second.value - best.value > 2 * error else 'within'} two standard errors of the difference"
    said += f", before {others[0].name} with {second}: {how}."
    if len({entry.d_sae for entry in entries}) > 1:
        gaps = [entry for entry in (first, *others) if entry.norms is not None and entry.norms.gap is not None]
        least = min(gaps, key=lambda entry: entry.norms.gap.value)  # type: ignore[union-attr]
        said += f" They have different numbers of latents; by ε (h - 1) the first is {least.name}."
    return said


def rows(entries: Sequence[Entry]) -> list[tuple[str, ...]]:
    """``COLUMNS`` of every entry."""
    return [_row(entry) for entry in entries]


def _row(entry: Entry) -> tuple[str, ...]:
    its, overlap = entry.norms, entry.overlap
    afa = None if its is None else its.afa
    figures: tuple[Estimate | None, ...] = (
        None if afa is None else afa.epsilon_lbo_median,
        None if its is None else its.gap,
        None if afa is None else afa.norm_ratio,
        None if its is None else its.written_ratio,
        None if its is None else its.random_ratio,
    )
    where = "" if its is None else f" at {its.site} of {entry.model}"
    return (
        f"{entry.name}{where}",
        entry.tool,
        f"{entry.d_sae:,}",
        *("-" if figure is None else str(figure) for figure in figures),
        f"{overlap.coherence:.4f}",
        f"{overlap.rms:.4f} ({overlap.welch:.4f})",
        "-" if its is None else str(its.l0),
        "0" if its is None else f"{its.tokens:,}",
    )


def table(entries: Sequence[Entry]) -> Table:
    """For the terminal."""
    shown = Table(show_edge=False)
    for name in _IN_TERMINAL:
        shown.add_column(name, overflow="fold")
    for entry, row in zip(entries, rows(entries), strict=True):
        shown.add_row(entry.name, *(row[COLUMNS.index(name)] for name in _IN_TERMINAL[1:]))
    return shown


def build_page(entries: Sequence[Entry], *, data: str | None) -> Page:
    """The verdict, the table, and the ZF plot of every dictionary that was measured on text."""
    text = "no text, decoders alone" if data is None else f"text: {data}"
    page = Page(
        "How nearly orthogonal dictionaries are",
        subtitle=f"{len(entries)} dictionar{'y' if len(entries) == 1 else 'ies'} · {text}",
    )
    page.text(verdict(entries)).table(COLUMNS, rows(entries)).text(LEGEND)
    measured = [entry for entry in entries if entry.norms is not None and entry.norms.afa is not None]
    if measured:
        page.heading("ZF plots").text(
            "A point a token. Within the lines of a band |‖z‖² - ‖f‖²| ≤ ε (h - 1) ‖f‖² for its ε (h - 1)."
        )
        page.figures(
            *(
                zf_figure(entry.norms.afa, entry.norms.tokens, title=entry.name)  # type: ignore[union-attr, arg-type]
                for entry in measured
            )
        )
    return page.data("entries", [entry.to_json() for entry in entries])
