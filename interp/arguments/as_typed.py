"""Messages of the library in the words of the command line: ``d_sae=4`` is ``--d-sae 4`` there."""

import re
from collections.abc import Iterable


def as_typed(message: str, options: Iterable[str]) -> str:
    """``message`` with the names of Python arguments replaced by the options that stand for them.

    A name is taken for an argument where a value follows behind ``=``, where it has an underscore, or where the message
    begins with it. What is part of a path or of a file's contents (``train.lr``) stays.

    Args:
        message: What an error says.
        options: Of the command, as ``--d-sae``; others are not looked for.

    Example:
        >>> from interp.arguments.as_typed import as_typed
        >>> as_typed("d_sae is 0: pass normalise='variance'", ["--d-sae", "--normalise"])
        '--d-sae is 0: pass --normalise variance'
    """
    names = {option.removeprefix("--").replace("-", "_"): option for option in options if option.startswith("--")}
    if not names:
        return message
    listed = "|".join(sorted(map(re.escape, names), key=len, reverse=True))
    apart = r"(?<![\w./,\-'\"=])"

    def with_value(found: re.Match[str]) -> str:
        name, quoted, bare = found.groups()
        if (quoted or bare) in ("True", "False"):
            return names[name] if bare == "True" else "--no-" + names[name].removeprefix("--")
        return f"{names[name]} {quoted or bare}"

    message = re.sub(rf"{apart}({listed})=(?:'([^']*)'|([\w.]+))", with_value, message)
    return re.sub(
        rf"{apart}({listed})(?![\w./=])",
        lambda found: names[found[1]] if "_" in found[1] or found.start() == 0 else found[1],
        message,
    )
