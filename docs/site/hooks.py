"""What the site takes from the repository: notebooks as tutorials, and each face's public names from its stub.

Where GitHub builds the site, it says whose repository that is: notebooks then have a button that opens them in Colab.
"""

import ast
import os
import re
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]


@event_priority(100)  # before the plugin that renders them
def on_files(files: Files, config: Any) -> Files:
    """Add the notebooks, which lie beside the documents."""
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        where = notebook.relative_to(ROOT).as_posix()
        files.append(File(where, str(ROOT), config.site_dir, config.use_directory_urls))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """``{{ face of interp }}`` becomes its names; links out of the documents lead to pages of the site, or nowhere."""
    markdown = re.sub(r"{{ face of (\w+) }}", lambda face: "\n\n".join(names_of(face[1])), markdown)
    markdown = markdown.replace("](../notebooks/", "](notebooks/")
    return re.sub(
        r"\[([^\]]+)\]\(\.\./(?:interp/|saes/|circuits/|benchmarks/|CONTRIBUTING|README)[^)]*\)", r"\1", markdown
    )


def on_page_content(html: str, page: Any, **_: Any) -> str:
    """A notebook's page begins with the way into Colab, where the repository is known."""
    where, repository = page.file.src_uri, os.environ.get("GITHUB_REPOSITORY")
    if not repository or not where.endswith(".ipynb"):
        return html
    branch = os.environ.get("GITHUB_REF_NAME") or "main"
    if re.fullmatch(r"\d+/merge", branch):  # of a pull request, which is no branch
        branch = "main"
    # A link in place of Colab's picture: nothing is fetched.
    address = f"https://colab.research.google.com/github/{quote(repository)}/blob/{quote(branch)}/{quote(where)}"
    extras = "default,vla" if "interp.vla" in (ROOT / where).read_text(encoding="utf-8") else "default"
    lines = f"""!git clone --depth 1 --branch {branch} https://github.com/{repository} deepfield
%cd deepfield
%pip install --quiet '.[{extras}]'"""
    return f"""<p><a class="md-button" href="{escape(address)}">Open in Colab</a></p>
<details><summary>What to run there first</summary><pre><code>{escape(lines, quote=False)}</code></pre></details>
{html}"""


def names_of(package: str) -> list[str]:
    """A line of mkdocstrings for each function and class on a face, by the module that defines it; then its rooms."""
    lines, rooms = [], []
    for node in ast.parse((ROOT / package.replace(".", "/") / "__init__.pyi").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            lines += [f"::: {package}.{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            rooms += [f"{package}.{alias.name}" for alias in node.names]
    for room in rooms:
        place = ROOT / room.replace(".", "/")
        if (place / "__init__.pyi").is_file():
            inside = [line for line in names_of(room) if line not in lines]
            lines += [f"## {room}", *inside] if inside else []
    return lines
