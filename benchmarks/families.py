"""Which sites every declared family of models has, and what can be done there, as the table in docs/families.md.

    python benchmarks/families.py

Read off the tiny models of the tests, in which each of these sites is compared with the Hugging Face modules.
"""

import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from circuits.anatomy.anatomy import anatomy_of
from circuits.anatomy.wiring import Wiring
from circuits.rules import relevance
from interp.models.families.table import family_of
from interp.sites.kinds import KINDS
from interp.sites.site import available_sites
from tests.tiny_models import CONFIGS, IN_A_BRIDGE, tiny_model


def marks(case: str, model: Any) -> dict[str, str]:
    """By kind of site or method: ``e``, ``b``, ``c`` or nothing, as the page explains."""
    family = family_of(model.config)
    in_bridge = family.bridge if case in IN_A_BRIDGE else frozenset()
    found: dict[str, str] = {}
    for kind in {site.kind for site in available_sites(model)} - {"path"}:
        edited = kind in in_bridge - family.unread and not kind.endswith("_scale")
        found[kind] = "e" if edited else "b" if kind in in_bridge else "c"
    anatomy = anatomy_of(model)
    for name, method in (
        ("edges", lambda: Wiring(anatomy)),
        ("relp", lambda: relevance(anatomy, rules="no_ah").__enter__()),
    ):
        try:
            method()
            found[name] = "yes"
        except ValueError:
            pass
    return found


def table() -> str:
    """Markdown: a row for each layout, a column for each kind of site in which layouts differ."""
    found: dict[str, dict[str, str]] = {}
    for case in CONFIGS:
        found[f"{CONFIGS[case].model_type} ({case})" if case != CONFIGS[case].model_type else case] = marks(
            case, tiny_model(case)
        )
    columns = [*KINDS, "edges", "relp"]
    same: dict[str, list[str]] = defaultdict(list)
    for column in columns:
        values = {row.get(column, "") for row in found.values()}
        if len(values) == 1:
            same[values.pop()].append(column)
    differing = [column for column in columns if not any(column in names for names in same.values())]
    lines = [f"In every family, as `{mark}`: {', '.join(names)}." for mark, names in same.items()]
    lines += ["", f"| model type (layout) | {' | '.join(differing)} |", f"|---{'|---' * len(differing)}|"]
    lines += [f"| {name} | {' | '.join(row.get(c, '') for c in differing)} |" for name, row in found.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
