"""Options that had another name: a name means the same in every command now."""

from collections.abc import Sequence

# 29 November 2026: --out names folders alone, pages are --html, other files --save. To be dropped in version 0.4.
RENAMED = {
    ("cache", "--dtype"): "--store-dtype",
    ("circuit", "--out"): "--save",
    ("clamp", "--report"): "--html",
    ("codes", "--report"): "--html",
    ("concept", "--report"): "--html",
    ("eval", "--out"): "--save",
    ("facets", "--report"): "--html",
    ("gains", "--report"): "--html",
    ("kernel", "--report"): "--html",
    ("massive", "--report"): "--html",
    ("monitor", "--report"): "--html",
    ("patch", "--out"): "--save",
    ("sae features", "--out"): "--html",
    ("sparsity", "--scratch"): "--out",
    ("vectors find", "--out"): "--save",
    ("vla render", "--out"): "--save",
}
"""(command, old option) -> option."""


def with_new_names(command: Sequence[str], arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments with the options of today, and what to tell of those that were not.

    Example:
        >>> from interp.arguments.renamed import with_new_names
        >>> with_new_names(["eval"], ["eval", "sae", "--out=a.json"])[0]
        ['eval', 'sae', '--save=a.json']
    """
    name, changed, notes = " ".join(command), [], []
    for argument in arguments:
        option, equals, value = argument.partition("=")
        new = RENAMED.get((name, option))
        if new is not None:
            notes.append(f"note: {option} of interp {name} is {new} now")
        changed.append(argument if new is None else new + equals + value)
    return changed, notes
