"""The ``interp`` command: finds its subcommands through the entry points ``deepfield.commands``.

Every package of the distribution registers its own commands there, so this module imports none of them by name.
"""

import os
import sys
from importlib.metadata import entry_points

from cyclopts import App

from interp import __version__
from interp.name_clash import warn_of_name_clash


def build_app() -> App:
    """The command with every registered subcommand."""
    app = App(
        name="interp",
        help="Mechanistic interpretability of transformer activations.",
        version=__version__,
        suppress_keyboard_interrupt=False,  # main has more to say than nothing
    )
    for entry in sorted(entry_points(group="deepfield.commands"), key=lambda e: e.name):
        try:
            app.command(entry.load(), name=entry.name)
        except ImportError as error:  # in a damaged installation `interp doctor` must still run
            print(f"warning: the command {entry.name!r} is missing: {error}", file=sys.stderr)
    return app


def main(argv: list[str] | None = None) -> None:
    """Run a command line. What a user can mend ends in one line on stderr and exit status 2, not in a traceback."""
    warn_of_name_clash()
    try:
        build_app()(argv)
    except (ValueError, OSError, FloatingPointError) as error:
        if os.environ.get("DEEPFIELD_TRACEBACK"):
            raise
        print(f"error: {error}", file=sys.stderr)
        print("(DEEPFIELD_TRACEBACK=1 shows where it was raised)", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; the same command continues where this one stopped", file=sys.stderr)
        sys.exit(130)
