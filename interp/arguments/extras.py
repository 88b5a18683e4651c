"""Packages that few need, and the extra of deepfield that installs each."""

from collections.abc import Iterator
from contextlib import contextmanager

EXTRAS = {"nnsight": "nnsight", "sklearn": "learn", "anywidget": "widget", "gguf": "gguf", "metaworld": "vla"}
"""Import name -> extra. ``deepfield[default]`` has the first four."""


class MissingExtra(ImportError):
    """A package is missing that an extra installs; the message has the line that does."""


@contextmanager
def extra(package: str, purpose: str) -> Iterator[None]:
    """Around imports: where ``package`` is missing, say what needs it and how it is installed.

    Raises:
        MissingExtra: it is.

    Example:
        >>> from interp.arguments.extras import extra
        >>> with extra("sklearn", "clustering"):
        ...     raise ImportError("not found")
        Traceback (most recent call last):
        interp.arguments.extras.MissingExtra: clustering needs sklearn: pip install 'deepfield[learn]' (not found)
    """
    try:
        yield
    except ImportError as error:
        raise MissingExtra(f"{purpose} needs {package}: pip install 'deepfield[{EXTRAS[package]}]' ({error})") from None
