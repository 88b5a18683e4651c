"""Name a place in a model: one :class:`Site`, whatever spelling it came in.

What each kind of site holds, in every family (``tests/interp/sites/test_capturing.py`` recomputes all of them by hand):

- ``resid_pre``, ``resid_mid``, ``resid_post``: the residual stream before attention, before the MLP and after the
  block; the last ``resid_post`` is before the final norm. A block with attention and MLP in parallel has no
  ``resid_mid``.
- ``attn_out``, ``mlp_out``: what is added to the residual stream, hence after Gemma's post-norms.
- ``mlp_in``: what enters the MLP, after the norm before it. TransformerLens calls this ``mlp.hook_in``; its
  ``hook_mlp_in`` lies before the norm and is read as ``resid_mid``.
- ``mlp_post``: what enters the last projection of the MLP, in a gated one the product of activated gate and input.
- ``q``, ``k``, ``v``: [batch, position, head, d_head], right after their projections: before rotary embedding, before
  Gemma-3's norms of queries and keys, and before grouped keys and values are repeated.
- ``scores``: [batch, head, query, key] as they enter the softmax: scaled, soft-capped where the model does so, with
  masked entries at (or near) the dtype's lowest number. ``pattern``: after the softmax.
- ``z``: [batch, position, head, d_head], the heads' outputs before the output projection.
- ``ln1_scale``, ``ln2_scale``, ``ln_final_scale``: [batch, position, 1], what the norm divides by: the root of variance
  (LayerNorm) or mean square (RMSNorm) plus epsilon.
- a path site: the output of the module at that path of the Hugging Face model, or of any torch model; the first tensor
  where it returns several.
"""

import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PretrainedConfig

from interp.models.bridge import is_bridge, module_at
from interp.models.families.table import declared, reason
from interp.sites.hooks import hook_of, why_absent
from interp.sites.kinds import HF_MODULES, KINDS
from interp.sites.parts import Parts, parts_of

_TEMPLATES = {name: kind for kind, row in KINDS.items() for name in (row.name, *row.synonyms)} | HF_MODULES
_UNDECLARED = (
    "the family {name!r} is not declared in interp.models.families{why}, so no test compared this site; of such a model"
    " there are the residual stream around its blocks and its modules, as Site('path', path='…')"
)
_KINDS_WILDCARD = re.compile(r"(blocks\.(?:\*|\d+|\d+-\d+)\.)([^\[]*\*[^\[]*)(\[\d+\])?")
_WILDCARD = re.compile(r"(?<![^.])(\*|\d+-\d+)(?![^.\[])")


@dataclass(frozen=True)
class Site:
    """A place in a model, prints as TransformerLens writes it; :meth:`parse` reads every spelling.

    Attributes:
        kind: One of ``interp.sites.kinds.KINDS``, or ``path``.
        layer: Number of the block, from 0; None for ``ln_final_scale`` and path sites.
        head: One head of ``q, k, v, z, pattern, scores``; None for all. Of ``k`` and ``v`` a key-value head.
        path: For kind ``path``, the module's path from the root of the model.

    Example:
        >>> import interp
        >>> site = interp.Site.parse("gpt_neox.layers.3.mlp")
        >>> site.layer, str(interp.Site("resid_post", 3))
        (3, 'blocks.3.hook_resid_post')
    """

    kind: str
    layer: int | None = None
    head: int | None = None
    path: str | None = None

    @classmethod
    def parse(cls, text: "str | Site") -> "Site":
        """Read a TransformerLens name, with ``[5]`` behind it for head 5, or a module path.

        A path of Hugging Face whose output is a named site in every family becomes that site, so
        ``gpt_neox.layers.3.mlp`` is ``blocks.3.hook_mlp_out``. Others stay paths: where ``model.layers.3.mlp`` is
        Gemma's, a norm follows before its output is added to the residual stream.

        Raises:
            ValueError: naming what a site can look like.
        """
        if isinstance(text, Site):
            return text
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"a site is a name such as 'blocks.3.hook_resid_post' or a module path, not {text!r}")
        text = text.strip()
        if "*" in text or _WILDCARD.search(text):
            raise ValueError(f"{text!r} names many sites; interp.sites.expand_sites(model, {text!r}) lists them")
        if text in KINDS and text not in _TEMPLATES:
            raise ValueError(f"{text!r} is a kind of site; its layer is missing: {KINDS[text].name.format(layer=3)}")
        name, head = _split_head(text)
        number = re.search(r"(?<=\.)\d+", name)
        template = name if number is None else f"{name[: number.start()]}{{layer}}{name[number.end() :]}"
        if kind := _TEMPLATES.get(template):
            site = cls(kind, None if number is None else int(number[0]), head)
        elif "hook" in name or name.startswith("blocks.") or not re.fullmatch(r"\w+(\.\w+)*", name):
            raise ValueError(
                f"{text!r} is not the name of a site. Names are {', '.join(row.name for row in KINDS.values())};"
                " any module of the Hugging Face model can be named by its path, such as transformer.h.3.ln_1"
            )
        else:
            site = cls("path", None, head, name)
        _check_has_heads(site)
        return site

    def __str__(self) -> str:
        name = str(self.path) if self.kind == "path" else KINDS[self.kind].name.format(layer=self.layer)
        return name if self.head is None else f"{name}[{self.head}]"


Presence = Callable[[Site], str | None]
"""The reason why a model lacks a site; None where it has it."""


def available_sites(model: nn.Module) -> tuple[Site, ...]:
    """Every named site of a TransformerBridge; of another model its named sites and the path of every module.

    Of a family that is not declared in ``interp.models.families`` these are the residual stream around each block, and
    paths.

    Example:
        >>> import interp
        >>> model = interp.load_model("embedded")
        >>> "blocks.3.hook_mlp_out" in map(str, interp.available_sites(model))
        True
    """
    layers = range(layer_count(model))
    named = [
        Site(kind, layer)
        for layer in (None, *layers)
        for kind, row in KINDS.items()
        if ("{layer}" in row.name) is (layer is not None)
    ]
    present = _presence(model)
    found = tuple(sorted((site for site in named if present(site) is None), key=_place_in_order))
    if is_bridge(model):
        return found
    return found + tuple(Site("path", path=path) for path, _ in model.named_modules() if path)


def expand_sites(model: nn.Module, patterns: str | Site | Iterable[str | Site]) -> tuple[Site, ...]:
    """The sites meant by names and patterns, in layer order, each once, and each checked to be in the model.

    In place of a layer number, ``*`` means every layer that has the site, and ``2-5`` layers 2 to 5. Behind it ``*``
    stands for any letters between two dots: ``blocks.3.hook_*_out`` is every kind that the model has of that name.

    Raises:
        ValueError: a site the model lacks, with those it has; a layer or head out of range; nothing asked for.

    Example:
        >>> import interp
        >>> model = interp.load_model("embedded")
        >>> [str(site) for site in interp.expand_sites(model, "blocks.1-2.hook_resid_post")]
        ['blocks.1.hook_resid_post', 'blocks.2.hook_resid_post']
    """
    given = [patterns] if isinstance(patterns, str | Site) else list(patterns)
    if not given:
        raise ValueError("no site was asked for; name at least one, such as 'blocks.*.hook_resid_post'")
    found: dict[Site, None] = {}
    why = _presence(model)
    for pattern in given:
        found |= dict.fromkeys(_expand(model, pattern, why))
    return tuple(sorted(found, key=_place_in_order))


def layer_count(model: Any) -> int:
    """Number of blocks; 0 for a model that is not a transformer whose blocks can be found.

    Example:
        >>> import interp
        >>> model = interp.load_model("embedded")
        >>> interp.sites.layer_count(model)
        4
    """
    if is_bridge(model):
        return len(model.blocks) if hasattr(model, "blocks") else 0
    if (parts := declared_parts(model)) is not None:
        return len(parts.blocks)
    blocks = _layer_list(model)
    return 0 if blocks is None else len(blocks)


def find_module(model: Any, site: Site) -> nn.Module | None:
    """The module whose output the site is: a bridge's hook point, or the module itself; None where there is none.

    Many sites are no module's output; :mod:`interp.sites.hooks` says where they are.

    Example:
        >>> import interp
        >>> model = interp.load_model("embedded")
        >>> module = interp.sites.find_module(model, interp.Site.parse("blocks.1.hook_mlp_out"))
        >>> module is not None
        True
    """
    if site.kind == "path":
        return module_at(model, str(site.path))
    if is_bridge(model):
        return _hook_point(model, site)
    names = (template.format(layer=site.layer) for template, kind in HF_MODULES.items() if kind == site.kind)
    return next((module for name in names if (module := module_at(model, name)) is not None), None)


def declared_parts(model: Any) -> Parts | None:
    """The parts of a whole causal language model of a declared family; None of any other."""
    family = declared(getattr(getattr(model, "original_model", model), "config", None))
    return None if family is None or module_at(model, family.embedding) is None else parts_of(model)


def check_site(model: nn.Module, site: Site) -> None:
    """Raise an error that names the fix where the model lacks the site, its layer or its head.

    Example:
        >>> import interp
        >>> model = interp.load_model("embedded")
        >>> interp.sites.check_site(model, interp.Site("resid_post", 9))
        Traceback (most recent call last):
        ValueError: layer 9 of blocks.9.hook_resid_post is out of range: embedded has layers 0 to 3
    """
    _check(model, site, _presence(model))


def _check(model: nn.Module, site: Site, why: Presence) -> None:
    if site.kind not in KINDS and site.kind != "path":
        raise ValueError(f"{site.kind!r} is not a kind of site; kinds are {', '.join(KINDS)} and path")
    layers = layer_count(model)
    if site.layer is not None and layers and not 0 <= site.layer < layers:
        raise ValueError(f"layer {site.layer} of {site} is out of range: {_title(model)} has layers 0 to {layers - 1}")
    if (reason := why(site)) is not None:
        raise ValueError(f"{_title(model)} has no {site} ({reason}). It has {_summary(model)}")
    if site.head is not None:
        _check_has_heads(site)
        heads = head_count(model, site.kind)
        if not 0 <= site.head < heads:
            raise ValueError(f"head {site.head} of {site} is out of range: there are heads 0 to {heads - 1} there")


def head_count(model: Any, kind: str) -> int:
    """Heads of a bridge at a kind of site; keys and values may have fewer.

    Example:
        >>> import interp
        >>> model = interp.load_model("embedded")
        >>> interp.sites.head_count(model, "z")
        3
    """
    parts = declared_parts(model)
    assert parts is not None
    return parts.key_value_heads if kind in ("k", "k_normed", "v") else parts.heads


def _presence(model: Any) -> Presence:
    parts = declared_parts(model)

    def why(site: Site) -> str | None:
        if site.kind == "path":
            return None if find_module(model, site) is not None else "no module has this path"
        if parts is not None:
            found = hook_of(parts, site.kind, site.layer, batch=1)
            return None if found is not None else why_absent(parts, site.kind, site.layer)
        config = getattr(getattr(model, "original_model", model), "config", None)
        if isinstance(config, PretrainedConfig) and (is_bridge(model) or declared(config) is None):
            around = site.kind == "resid_post" or (site.kind == "resid_pre" and is_bridge(model))
            if not around or not layer_count(model):
                return _UNDECLARED.format(name=config.model_type, why=reason(config.model_type))
        return None if find_module(model, site) is not None else "no module of this model has it as its output"

    return why


def _check_has_heads(site: Site) -> None:
    if site.head is not None and not (site.kind in KINDS and KINDS[site.kind].heads):
        with_heads = ", ".join(kind for kind, row in KINDS.items() if row.heads)
        raise ValueError(f"{site} asks for head {site.head}, but only {with_heads} have heads: leave out [{site.head}]")


def _split_head(text: str) -> tuple[str, int | None]:
    match = re.fullmatch(r"(.*)\[(\d+)\]", text)
    return (text, None) if match is None else (match[1], int(match[2]))


def _expand(model: nn.Module, pattern: str | Site, why: Presence) -> Iterable[Site]:
    if isinstance(pattern, str) and (kinds := _KINDS_WILDCARD.fullmatch(pattern.strip())):
        return _expand_kinds(model, pattern, *kinds.groups(default=""), why=why)
    wildcard = None if isinstance(pattern, Site) else _WILDCARD.search(pattern)
    if wildcard is None:
        site = Site.parse(pattern)
        _check(model, site, why)
        return [site]
    assert isinstance(pattern, str)
    before, after = pattern[: wildcard.start()], pattern[wildcard.end() :]
    if _WILDCARD.search(after):
        raise ValueError(f"{pattern!r} has more than one wildcard; one can stand for the number of the layer")
    if wildcard[0] == "*":
        sites = [Site.parse(f"{before}{layer}{after}") for layer in range(_numbered(model, before))]
        present = [site for site in sites if why(site) is None]
        for site in present or sites[:1]:  # of none, the first says why
            _check(model, site, why)
        if not present:
            raise ValueError(f"{pattern!r} matches nothing in {_title(model)}. It has {_summary(model)}")
        return present
    first, last = map(int, wildcard[0].split("-"))
    if first > last:
        raise ValueError(f"layers {wildcard[0]} of {pattern!r} run backwards; write {last}-{first}")
    sites = [Site.parse(f"{before}{layer}{after}") for layer in range(first, last + 1)]
    for site in sites:
        _check(model, site, why)
    return sites


def _expand_kinds(model: nn.Module, pattern: str, block: str, name: str, head: str, *, why: Presence) -> list[Site]:
    """Of the names that match, those that this model has."""
    names = [name.removeprefix("blocks.{layer}.") for name in _TEMPLATES if name.startswith("blocks.{layer}.")]
    regex = re.compile(re.escape(name).replace(r"\*", "[^.]*"))
    if not (matching := [each for each in names if regex.fullmatch(each)]):
        raise ValueError(f"{pattern!r} matches no name of a site; behind {block!r} there can be {', '.join(names)}")
    found: list[Site] = []
    refused: list[ValueError] = []
    for each in matching:
        try:
            found += _expand(model, f"{block}{each}{head}", why)
        except ValueError as error:
            refused.append(error)
    if not found:
        raise ValueError(f"{pattern!r} matches {', '.join(matching)}, and none is there: {refused[0]}")
    return found


def _numbered(model: nn.Module, before: str) -> int:
    """How many values a wildcard behind ``before`` has."""
    if is_bridge(model) or before == "blocks.":
        return layer_count(model)
    parent = module_at(model, before.rstrip(".")) if before else model
    return 0 if parent is None else sum(name.isdigit() for name in parent._modules)


def _hook_point(model: Any, site: Site) -> nn.Module | None:
    *path, name = KINDS[site.kind].name.format(layer=site.layer).split(".")
    place = model
    for part in path:
        place = getattr(place, "_modules", {}).get(part)
    # Aliases such as hook_resid_mid are attributes that lead to a hook point elsewhere in the block.
    hook = None if place is None else getattr(place, name, None)
    return hook if isinstance(hook, nn.Module) else None


def _layer_list(model: nn.Module) -> nn.ModuleList | None:
    for template, kind in HF_MODULES.items():
        if kind == "resid_post" and isinstance(found := module_at(model, template.rsplit(".", 1)[0]), nn.ModuleList):
            return found
    return None


def _place_in_order(site: Site) -> tuple[int, int, int]:
    """Layer, then order in the block; paths, whose place is not known, come last as they were given."""
    if site.kind == "path":
        return (sys.maxsize, len(KINDS), 0)
    first, order = site.kind in ("embed", "pos_embed"), list(KINDS).index(site.kind)
    layer = (-1 if first else sys.maxsize) if site.layer is None else site.layer
    return (layer, order, -1 if site.head is None else site.head)


def _title(model: Any) -> str:
    return str(getattr(model.cfg, "model_name", "the model")) if is_bridge(model) else f"the {type(model).__name__}"


def _summary(model: nn.Module) -> str:
    """The sites of a model in few words: one name for all layers."""
    names = (KINDS[s.kind].name.format(layer="*") if s.kind in KINDS else str(s) for s in available_sites(model))
    shown = list(dict.fromkeys(names))
    return ", ".join(shown[:40]) + (f" and {len(shown) - 40} more" if len(shown) > 40 else "")
