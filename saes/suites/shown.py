"""Evaluations as a table in a terminal, and as parts of a page."""

from itertools import groupby

from rich.table import Table

from interp.pages.html_page import Page
from saes.suites.running import Suites
from saes.suites.texts.built_in import BUILT_IN

MEANINGS = {
    "probing": "Held-out accuracy of linear probes of k latents, of k dimensions of the activation, and of all of it.",
    "absorption": "Share of a concept, and of its examples, that narrower latents carry in place of its own.",
    "scr": "Of the accuracy that a spurious property cost a probe, the share that ablating its latents brings back.",
    "tpp": "Fall of a class's accuracy with its latents ablated, less the fall of the others'; 0.5 is the most.",
    "ravel": "Exchanged latents change one attribute (cause) and no other (isolation); a mean of 0.5 is nothing.",
}
COLUMNS = ("set", "figure", "value ± standard error", "n")


def rows_of(found: Suites, suite: str) -> list[tuple[str, str, str, str]]:
    """:data:`COLUMNS` of one evaluation; where it was refused, the reason."""
    rows = [(one.of, one.figure, str(one.value), f"{one.value.n:,}") for one in found.figures if one.suite == suite]
    return rows + [(one.of, "not measured", one.reason, "") for one in found.refused if one.suite == suite]


def names_of(found: Suites) -> list[str]:
    """Evaluations that were asked for, in order."""
    return list(dict.fromkeys([one.suite for one in found.figures] + [one.suite for one in found.refused]))


def table(found: Suites, *, title: str) -> Table:
    """All evaluations, for a terminal; n is how many groups of texts, or entities, stand behind a figure."""
    whole = Table("evaluation", *COLUMNS, title=title, caption="n: groups of held-out texts, or base entities")
    for suite in names_of(found):
        for of, rows in groupby(rows_of(found, suite), key=lambda row: row[0]):
            for number, row in enumerate(rows):
                whole.add_row(*((suite, of) if number == 0 else ("", "")), *row[1:])
    return whole


def add_to(page: Page, found: Suites) -> Page:
    """A section of the page for each evaluation, and in it a table for each set, so that it fits a narrow screen."""
    for suite in names_of(found):
        units = "entities that are asked about" if suite == "ravel" else "held-out groups of texts (words, documents)"
        page.heading(f"Evaluation: {suite}").text(f"{MEANINGS[suite]} Errors are over n {units}.")
        for of, rows in groupby((one for one in found.figures if one.suite == suite), key=lambda one: one.of):
            if of in BUILT_IN:
                page.text(f"{of}: {(BUILT_IN[of].__doc__ or '').splitlines()[0]}")
            page.table((of, *COLUMNS[2:]), [(one.figure, str(one.value), f"{one.value.n:,}") for one in rows])
        for refused in (one for one in found.refused if one.suite == suite):
            page.text(f"Not measured on {refused.of}: {refused.reason.removeprefix(f'{refused.of}: ')}")
    return page
