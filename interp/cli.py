"""The ``interp`` command: finds its subcommands through the entry points ``deepfield.commands``.

Every package of the distribution registers its own commands there, so this module imports none of them by name.
"""

import faulthandler
import io
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from importlib.metadata import entry_points

from cyclopts import App, CycloptsError, Parameter

from interp import __version__
from interp.arguments.as_typed import as_typed
from interp.arguments.extras import MissingExtra
from interp.arguments.renamed import with_new_names
from interp.name_clash import warn_of_name_clash
from interp.terminal.answers import answering
from interp.terminal.help_text import OF_EVERY_COMMAND, RunningText
from interp.terminal.mode import in_command

COMMANDS = "deepfield.commands"


class Terminated(KeyboardInterrupt):
    """SIGTERM, as an exception: what is half-written or temporary is removed on the way out."""


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Inside, the first SIGTERM raises ``Terminated``; a second one ends the process at once."""
    if threading.current_thread() is not threading.main_thread():  # which alone may handle signals
        yield
        return

    def raising(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise Terminated("ended by SIGTERM")

    before = signal.signal(signal.SIGTERM, raising)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _OnStderr(logging.Handler):
    """A line a record, through ``sys.stderr``: while rich shows a bar it has taken that over, and puts lines above."""

    def emit(self, record: logging.LogRecord) -> None:
        print(record.getMessage(), file=sys.stderr, flush=True)


@contextmanager
def _log_shown(level: int) -> Iterator[None]:
    """Inside, what the packages that have commands log, from ``level`` upwards, is shown."""
    packages = {entry.module.split(".")[0] for entry in entry_points(group=COMMANDS)}
    loggers, handler = [logging.getLogger(name) for name in packages], _OnStderr()
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(level)
    try:
        yield
    finally:
        for logger, before in zip(loggers, levels, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(before)


FLAGS = ("--json", "--quiet")
"""Every command takes them."""


def build_app() -> App:
    """The command with every registered subcommand."""
    app = App(
        name="interp",
        help="Mechanistic interpretability of transformer activations.",
        version=__version__,
        help_format="plaintext",
        help_formatter=RunningText(),
        help_epilogue=OF_EVERY_COMMAND,
        default_parameter=Parameter(negative_iterable=()),  # an empty list is no option that anybody wants
        suppress_keyboard_interrupt=False,  # main has more to say than nothing
    )
    app.register_install_completion_command(help="Complete commands and options in this shell from now on.")
    for entry in sorted(entry_points(group=COMMANDS), key=lambda e: e.name):
        try:
            app.command(entry.load(), name=entry.name)
        except ImportError as error:  # in a damaged installation `interp doctor` must still run
            print(f"warning: the command {entry.name!r} is missing: {error}", file=sys.stderr)
    return app


def _without_flags(arguments: list[str]) -> tuple[list[str], set[str]]:
    """The command line without the flags that every command takes, and these."""
    return [each for each in arguments if each not in FLAGS], set(FLAGS) & set(arguments)


def _options_of(app: App, arguments: list[str]) -> list[str]:
    """Names of the options of the command that was asked for."""
    _, apps, _ = app.parse_commands(arguments)
    return [name for argument in apps[-1].assemble_argument_collection() for name in argument.names]


def main(argv: list[str] | None = None) -> None:
    """Run a command line. What a user can mend ends in one line on stderr and exit status 2, not in a traceback."""
    if sys.__stderr__ is not None and not faulthandler.is_enabled():
        faulthandler.enable(sys.__stderr__)  # a file that is cut while it is mapped ends the process: say where
    warn_of_name_clash()
    arguments, flags = _without_flags(sys.argv[1:] if argv is None else argv)
    quiet = "--quiet" in flags
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # a log that is followed
    app = build_app()
    try:
        with ExitStack() as stack:
            stack.enter_context(_sigterm_raises())
            stack.enter_context(answering() if "--json" in flags else nullcontext())
            stack.enter_context(in_command(quiet=quiet))
            stack.enter_context(_log_shown(logging.WARNING if quiet else logging.INFO))
            arguments, notes = with_new_names(app.parse_commands(arguments)[0], arguments)
            for note in notes:
                print(note, file=sys.stderr)
            app(arguments, print_error=False, exit_on_error=False)
    except CycloptsError as error:  # of the command line itself; in the library's box paths would be broken
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except (ValueError, OSError, FloatingPointError, MissingExtra) as error:
        if os.environ.get("DEEPFIELD_TRACEBACK"):
            raise
        print(f"error: {as_typed(str(error), _options_of(app, arguments))}", file=sys.stderr)
        print("(DEEPFIELD_TRACEBACK=1 shows where it was raised)", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt as stop:
        terminated = isinstance(stop, Terminated)
        said = "ended by SIGTERM" if terminated else "interrupted"
        print("; ".join([said, *dict.fromkeys(getattr(stop, "__notes__", ()))]), file=sys.stderr)
        sys.exit(128 + (signal.SIGTERM if terminated else signal.SIGINT))
