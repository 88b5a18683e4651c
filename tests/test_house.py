"""Rules of the house that no reviewer should have to check by hand."""

import ast
import dataclasses
import importlib
import inspect
import itertools
import json
import os
import re
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path

import networkx as nx
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


def module_name(file: Path, root: Path) -> str:
    """``interp/sites/site.py`` is ``interp.sites.site``, ``interp/sites/__init__.py`` is ``interp.sites``."""
    return ".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def arrows_of(root: Path) -> tuple[nx.DiGraph, nx.DiGraph]:
    """Who imports whom, module by module, and room by room; a module at the top of a package is a room of its own."""
    files = {module_name(file, root): file for package in ORDER for file in (root / package).rglob("*.py")}
    modules, rooms = nx.DiGraph(), nx.DiGraph()

    def room(name: str) -> str:
        inside = files[name].name != "__init__.py" and name.count(".") > 1
        return name.rpartition(".")[0] if inside else name

    for name, file in files.items():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in ORDER):
                continue
            for alias in node.names:
                target = f"{node.module}.{alias.name}"
                target = target if target in files else node.module
                if target != name:
                    modules.add_edge(name, target)
                if room(target) != room(name):
                    rooms.add_edge(room(name), room(target))
    return modules, rooms


def circles(graph: nx.DiGraph) -> list[list[str]]:
    """Names that reach each other."""
    return [sorted(names) for names in nx.strongly_connected_components(graph) if len(names) > 1]


def test_no_module_and_no_room_is_in_a_circle() -> None:
    """So every package can be read from the bottom up: nothing imports what stands above it."""
    modules, rooms = arrows_of(ROOT)
    assert circles(modules) == []
    assert circles(rooms) == []
    assert ("interp.sites", "interp.models") in rooms.edges


def test_a_circle_is_seen(tmp_path: Path) -> None:
    for package in ORDER:
        (tmp_path / package / "a").mkdir(parents=True)
    (tmp_path / "saes/a/x.py").write_text("from saes.b import y")
    (tmp_path / "saes/b.py").write_text("def f():\n    from saes.a import z")
    (tmp_path / "saes/a/z.py").write_text("")
    modules, rooms = arrows_of(tmp_path)
    assert circles(modules) == []
    assert circles(rooms) == [["saes.a", "saes.b"]]


def test_every_room_is_small() -> None:
    """At most twelve modules a folder, so that a newcomer takes one in at a glance; and commands are the top floor."""
    for package in ORDER:
        folders = {file.parent for file in (ROOT / package).rglob("*.py")}
        for folder in folders:
            names = [file.name for file in folder.glob("*.py") if file.name != "__init__.py"]
            assert len(names) <= 12, f"{folder.relative_to(ROOT)} has {len(names)} modules: {sorted(names)}"
    modules, _ = arrows_of(ROOT)
    below = {(a, b) for a, b in modules.edges if ".commands" in b and ".commands" not in a}
    assert below == set()


def code_in_the_docs() -> Iterator[tuple[str, str]]:
    """Every piece of Python that a reader may copy: README, docs and notebooks."""
    for file in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        for block in re.findall(r"```python\n(.*?)```", file.read_text(encoding="utf-8"), re.DOTALL):
            yield file.name, block
    for file in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for cell in json.loads(file.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "code":
                yield file.name, "".join(line for line in cell["source"] if not line.lstrip().startswith(("%", "!")))


def names_used(code: str) -> set[str]:
    """``interp.massive.detect`` for each chain of dots that begins with one of our packages, however it is imported."""
    names = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in ORDER:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Attribute):
            chain = ast.unparse(node)
            if re.fullmatch(rf"({'|'.join(ORDER)})(\.\w+)+", chain):
                names.add(chain)
    return names


def test_whatever_the_docs_use_opens_by_dot() -> None:
    """After ``import interp, saes, circuits`` alone, in a fresh process, where no other import has opened the way."""
    used = {name for where, code in code_in_the_docs() for name in names_used(code)}
    assert {"interp.load_model", "saes.SAE.load"} <= used
    code = "import functools, interp, saes, circuits\n" + "\n".join(sorted(used))
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_only_commands_print() -> None:
    """The library logs, so that whoever imports it decides what is shown; ``main`` is the command of a module."""
    wrong = []
    for file in (file for package in ORDER for file in (ROOT / package).rglob("*.py")):
        if "commands" in file.parts or file.name in ("cli.py", "name_clash.py"):
            continue
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            calls = () if getattr(node, "name", None) == "main" else ast.walk(node)
            wrong += [
                f"{file.name}:{c.lineno}" for c in calls if isinstance(c, ast.Call) and ast.unparse(c.func) == "print"
            ]
    assert wrong == []


def strings_in(file: Path) -> Iterator[str]:
    """Every string of a file but docstrings."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    loose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in loose:
            yield node.value


def test_html_is_written_by_templates_alone() -> None:
    """And templates, style sheets and scripts are part of what is installed."""
    files = [file for package in ORDER for file in (ROOT / package).rglob("*.py")]
    tag = re.compile(r"</?(html|body|div|span|p|table|t[drh]|h\d|script|style|figure)\b[^<]*>")
    assert {file.name for file in files for text in strings_in(file) if tag.search(text)} == set()
    data = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["package-data"]
    kinds = {file.suffix for package in ORDER for file in (ROOT / package).rglob("*") if file.is_file()}
    assert {f"*{kind}" for kind in kinds & {".jinja", ".css", ".js"}} <= set(data["*"])


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


LAZY = sorted({module_name(stub.with_suffix(".py"), ROOT) for p in ORDER for stub in (ROOT / p).rglob("*.pyi")})


@pytest.mark.parametrize("package", LAZY)
def test_public_names_stay_what_they_are(package: str) -> None:
    """A submodule of the same name would take the place of a function once it is imported."""
    face = importlib.import_module(package)
    assert face.__all__
    for name in face.__all__:
        first = getattr(face, name)
        importlib.import_module(getattr(first, "__module__", None) or package)
        assert getattr(face, name) is first


def test_every_face_says_its_version() -> None:
    assert len({importlib.import_module(package).__version__ for package in ORDER}) == 1


def _processor_seconds() -> float:
    """Of the processes that this one has waited for, which other work on the machine changes little."""
    times = os.times()
    return times.children_user + times.children_system


def test_help_answers_at_once_and_lists_every_command() -> None:
    """Half a second is the rule on an idle machine; the import check is what cannot be blamed on the machine's load."""
    code = "import sys, interp.cli as c; c.build_app(); print({'torch', 'transformers', 'numpy'} & set(sys.modules))"
    begin = _processor_seconds()
    heavy = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert heavy.strip() == "set()", f"the command line imports {heavy} at start"
    assert _processor_seconds() - begin < 5
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


def field_docs(kind: type) -> dict[str, str | None]:
    """What the source says behind each field of a dataclass, or of those it inherits from; ``Attributes:`` counts."""
    docs: dict[str, str | None] = {}
    for one in reversed([one for one in kind.__mro__ if dataclasses.is_dataclass(one)]):
        body = ast.parse(textwrap.dedent(inspect.getsource(one))).body[0].body  # type: ignore[attr-defined]
        for statement, after in itertools.zip_longest(body, body[1:]):
            if isinstance(statement, ast.AnnAssign):
                doc = after.value if isinstance(after, ast.Expr) else None
                said = doc.value if isinstance(doc, ast.Constant) else None
                docs[ast.unparse(statement.target)] = said if isinstance(said, str) else None
        docs |= dict(re.findall(r"^ +(\w+): (.+)$", one.__doc__ or "", re.MULTILINE))
    return docs


def public_dataclasses() -> Iterator[type]:
    """Of every module, not only those on the faces; the source says where, so that few modules are loaded."""
    for file in (file for package in ORDER for file in sorted((ROOT / package).rglob("*.py"))):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if not isinstance(node, ast.ClassDef) or node.name.startswith("_"):
                continue
            if any("dataclass" in ast.unparse(mark) for mark in node.decorator_list):
                yield getattr(importlib.import_module(module_name(file, ROOT)), node.name)


def test_every_field_of_a_public_dataclass_is_a_sentence() -> None:
    """Of at least four words, since some become ``--help``: what it is, its unit and its shape."""
    kinds = list(public_dataclasses())
    assert len(kinds) > 200
    bare = []
    for kind in kinds:
        docs = field_docs(kind)
        for field in dataclasses.fields(kind):
            said = docs.get(field.name) or ""
            if not field.name.startswith("_") and (len(said.split()) < 4 or not said.strip().endswith(".")):
                bare.append(f"{kind.__name__}.{field.name}: {said!r}")
    assert bare == []
