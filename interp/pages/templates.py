"""HTML from jinja2 templates, which lie with their CSS and JavaScript beside the module that fills them in.

Whatever a template is given is escaped; only :class:`markupsafe.Markup` stands as it is. Inside a template,
``file(name)`` is the text of a style sheet or script of ours, and ``value | tojson`` is JSON that cannot end the script
that it stands in.
"""

from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from interp.files.writing import atomic_path

_HERE = Path(__file__).parent


def render(folder: Path, template: str, **values: object) -> Markup:
    """A template of ``folder``, which may extend or include those beside this module."""
    return Markup(_environment(folder).get_template(template).render(values))


def write_html(path: str | Path, html: Markup) -> Path:
    """Write atomically; returns the absolute path."""
    target = Path(path).resolve()
    with atomic_path(target) as partial:
        partial.write_text(html, encoding="utf-8")
    return target


@cache
def _environment(folder: Path) -> Environment:
    loader = FileSystemLoader([folder, _HERE])
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    environment.globals["file"] = lambda name: Markup(loader.get_source(environment, name)[0])
    return environment
