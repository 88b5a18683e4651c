"""Print a version's section of the changelog; fail where there is none, or the packages say another version."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def notes(version: str) -> str:
    """The section without its heading.

    Raises ValueError where it is missing or empty, or ``interp.__version__`` is another.
    """
    source = (ROOT / "interp" / "__init__.py").read_text(encoding="utf-8")
    said = re.search(r'^__version__ = "(.+)"$', source, re.MULTILINE)
    if said is None or said[1] != version:
        raise ValueError(f"the tag is of {version}, interp/__init__.py says {said and said[1]}; change one of them")
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    section = re.search(rf"^## \[{re.escape(version)}\][^\n]*\n(.*?)(?=^## \[|\Z)", changelog, re.MULTILINE | re.DOTALL)
    if section is None or not section[1].strip():
        raise ValueError(f"CHANGELOG.md has no section [{version}]: name what is unreleased so, with the date")
    return section[1].strip()


if __name__ == "__main__":
    print(notes(sys.argv[1]))
