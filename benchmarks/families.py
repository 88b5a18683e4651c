"""Which sites each declared family of models has, and what can be done there: the table in docs/families.md.

    python benchmarks/families.py

Read off the tiny models of the tests, in which every site is compared with the Hugging Face modules.
"""

import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from circuits.anatomy.anatomy import anatomy_of
from circuits.anatomy.wiring import Wiring
from circuits.rules import relevance
from interp.models.families.table import NOT_DECLARED, family_of
from interp.sites.kinds import KINDS
from interp.sites.site import available_sites
from tests.tiny_models import CONFIGS, IN_A_BRIDGE, tiny_model

COLUMNS = (*KINDS, "edges", "relp")


def marks(case: str) -> Mapping[str, str]:
    """Column -> mark of one tiny model; columns that it lacks are left out."""
    model = tiny_model(case)
    family, found = family_of(model.config), {}
    shown = family.bridge if case in IN_A_BRIDGE else frozenset()
    for kind in {site.kind for site in available_sites(model)} & set(KINDS):
        edited = kind in shown & family.editable and not kind.endswith("_scale")
        found[kind] = "e" if edited else "b" if kind in shown else "r"
    anatomy = anatomy_of(model)
    with suppress(ValueError):
        Wiring(anatomy)
        found["edges"] = "x"
    with suppress(ValueError), relevance(anatomy, rules="no_ah"):
        found["relp"] = "x"
    return found


def table() -> str:
    """Markdown: a row for each layout of each family, a column for each kind of site and for edges and RelP."""
    lines = [f"| family | {' | '.join(COLUMNS)} |", f"|---{'|---' * len(COLUMNS)}|"]
    for case, config in CONFIGS.items():
        name = config.model_type if case == config.model_type else f"{config.model_type}: {case}"
        row = marks(case)
        lines.append(f"| {name} | {' | '.join(row.get(column, '') for column in COLUMNS)} |")
    return "\n".join(lines)


def not_declared() -> str:
    """Markdown: families that were looked at and have no declaration, with the reason."""
    rows = [f"| {name} | {why} |" for name, why in NOT_DECLARED.items()]
    return "\n".join(["| family | why it is not declared |", "|---|---|", *rows])


if __name__ == "__main__":
    print(table(), not_declared(), sep="\n\n")
