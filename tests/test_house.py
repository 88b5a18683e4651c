"""Rules of the house that no reviewer should have to check by hand."""

import ast
import importlib
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# A package may import itself and what stands before it.
ORDER = ("interp", "saes", "circuits")
PEERS = {"sae_lens", "sparsify", "dictionary_learning", "circuit_tracer", "sae_bench", "delphi"}
ONLY_INTERP = {"transformer_lens", "nnsight"}


def imports_of(file: Path) -> set[str]:
    """Top-level names of everything a file imports, wherever the import stands."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


def forbidden_imports(package: str, names: set[str]) -> set[str]:
    """What a file of ``package`` must not import among ``names``."""
    later = set(ORDER[ORDER.index(package) + 1 :])
    return names & (later | PEERS | {"benchmarks", "pickle"} | (set() if package == "interp" else ONLY_INTERP))


@pytest.mark.parametrize("package", ORDER)
def test_imports_point_one_way(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    wrong = {
        str(file.relative_to(ROOT)): bad for file in files if (bad := forbidden_imports(package, imports_of(file)))
    }
    assert wrong == {}


def test_the_import_rule_can_fail() -> None:
    assert forbidden_imports("interp", {"saes", "torch"}) == {"saes"}
    assert forbidden_imports("saes", {"interp", "nnsight", "sae_lens"}) == {"nnsight", "sae_lens"}


def test_no_pickle_is_read_or_written() -> None:
    """``torch.load`` and ``np.load`` appear only with their safe arguments; ``torch.save`` only where a tool that we
    write for reads nothing else."""
    wrong = []
    for package in ORDER:
        for file in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                    continue
                call = ast.unparse(node.func)
                keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
                unsafe = (
                    (call == "torch.save" and file.name != "dictionary_learning.py")
                    or (call == "torch.load" and keywords.get("weights_only") != "True")
                    or (call in {"np.load", "numpy.load"} and keywords.get("allow_pickle") != "False")
                )
                if unsafe:
                    wrong.append(f"{file.relative_to(ROOT)}:{node.lineno} {call}")
    assert wrong == []


def test_public_names_stay_what_they_are() -> None:
    """A submodule of the same name would take the place of a function once it is imported."""
    for package in map(importlib.import_module, ("interp", "saes")):
        for name in package.__all__:
            first = getattr(package, name)
            importlib.import_module(first.__module__)
            assert getattr(package, name) is first
            assert callable(first)


def test_help_answers_at_once_and_lists_every_command() -> None:
    """Half a second is the rule on an idle machine; the import check is what cannot be blamed on the machine's load."""
    code = "import sys, interp.cli as c; c.build_app(); print({'torch', 'transformers', 'numpy'} & set(sys.modules))"
    begin = time.monotonic()
    heavy = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert heavy.strip() == "set()", f"the command line imports {heavy} at start"
    assert time.monotonic() - begin < 5
    page = subprocess.run([sys.executable, "-m", "interp", "--help"], capture_output=True, text=True, check=True).stdout
    for command in ("cache", "demo", "doctor", "eval", "sae", "train"):
        assert command in page


def test_everything_public_is_documented() -> None:
    """Public modules, classes and functions of the packages carry a docstring."""
    bare = []
    for package in ORDER:
        for file in (ROOT / package).rglob("*.py"):
            tree = ast.parse(file.read_text(encoding="utf-8"))
            if tree.body and ast.get_docstring(tree) is None:
                bare.append(str(file.relative_to(ROOT)))
            for node in tree.body:
                public = isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
                if public and ast.get_docstring(node) is None and node.name != "main":
                    bare.append(f"{file.relative_to(ROOT)}:{node.lineno} {node.name}")
    assert bare == []
