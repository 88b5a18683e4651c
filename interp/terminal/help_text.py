"""What stands at the end of a command's help: examples, and what every command takes."""

OF_EVERY_COMMAND = (
    "Of every command: --json prints what it found as JSON on stdout, and everything else on stderr; --quiet shows no"
    " plan and no progress."
)


def examples(*lines: str) -> str:
    """What stands at the end of a command's help."""
    return "\n".join(["Examples:", "", *(f"  {line}" for line in lines), "", OF_EVERY_COMMAND])
