"""How a command's help reads: options as running text, and at its end examples and what every command takes."""

from typing import TYPE_CHECKING

from cyclopts.help import DefaultFormatter

if TYPE_CHECKING:
    from cyclopts.help import HelpPanel
    from rich.console import Console, ConsoleOptions

OF_EVERY_COMMAND = (
    "Of every command: --json prints what it found as JSON on stdout, and everything else on stderr; --quiet shows no"
    " plan and no progress."
)


def examples(*lines: str) -> str:
    """What stands at the end of a command's help."""
    return "\n".join(["Examples:", "", *(f"  {line}" for line in lines), "", OF_EVERY_COMMAND])


class RunningText(DefaultFormatter):
    """Options as running text: the line ends of docstrings, and what indents them, would break columns."""

    def __call__(self, console: "Console", options: "ConsoleOptions", panel: "HelpPanel") -> None:
        """Print a panel of options or commands."""
        for entry in panel.entries:
            text = getattr(entry.description, "primary_renderable", None)
            if text is not None and hasattr(text, "plain"):
                text.plain = " ".join(text.plain.split())
        super().__call__(console, options, panel)
