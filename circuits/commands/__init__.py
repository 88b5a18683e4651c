"""Subcommands of ``interp`` for circuits; each module imports torch only inside its functions."""
