"""Recognise other distributions that install a package under one of our import names.

PyPI's ``circuits`` (an event framework) and ``saes`` overwrite files of ours when installed into the same environment.
"""

import json
import re
import shlex
import sys
from importlib.metadata import distributions, version

PACKAGES = ("interp", "saes", "circuits")
DISTRIBUTION = "deepfield"
# At the start of a line of a distribution's list of files (or of top-level names, where it has no list of files).
_OURS = re.compile(rf"^({'|'.join(PACKAGES)})(?=[/.\n]|$)", re.MULTILINE | re.IGNORECASE)


def clashes() -> dict[str, list[str]]:
    """Import name of ours -> other distributions that claim it (case-insensitively, as some file systems do).

    Says what ``importlib.metadata.packages_distributions`` would, in a third of its time: every command waits for it.
    """
    found: dict[str, set[str]] = {}
    for installed in distributions():
        files = installed.read_text("RECORD") or installed.read_text("top_level.txt") or ""
        for name in {match.lower() for match in _OURS.findall(files)}:
            found.setdefault(name, set()).add(installed.metadata["Name"])
    others = {name: sorted(owners - {DISTRIBUTION}) for name, owners in sorted(found.items())}
    return {name: owners for name, owners in others.items() if owners}


def fix(found: dict[str, list[str]]) -> str:
    """The one line that mends this environment: remove the others, then put back what they overwrote, from where
    deepfield was installed. An editable installation has its files elsewhere, so nothing of it was overwritten.
    """
    pip = [sys.executable, "-m", "pip"]
    others = sorted({other for claimed in found.values() for other in claimed})
    remove = shlex.join([*pip, "uninstall", "-y", *others])
    # Inside a source tree its metadata, which records no origin, may be found before the installation's.
    origins = [text for ours in distributions(name=DISTRIBUTION) if (text := ours.read_text("direct_url.json"))]
    origin = json.loads(origins[0]) if origins else {}
    if origin.get("dir_info", {}).get("editable"):
        return remove
    source = origin.get("url", f"{DISTRIBUTION}=={version(DISTRIBUTION)}")
    if vcs := origin.get("vcs_info"):
        source = f"{vcs['vcs']}+{source}@{vcs['commit_id']}"
    return f"{remove} && {shlex.join([*pip, 'install', '--force-reinstall', '--no-deps', source])}"


def warn_of_name_clash() -> None:
    """Print a warning with the fix to stderr where another distribution claims one of our names."""
    if found := clashes():
        claims = "; ".join(f"{name!r} is also installed by {', '.join(others)}" for name, others in found.items())
        print(f"warning: {claims}. Files of {DISTRIBUTION} may be overwritten. Fix: {fix(found)}", file=sys.stderr)
