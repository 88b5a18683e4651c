"""Several SAEs or transcoders, at several layers or sites, loaded, listed and measured as one."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from interp.files.outside import reason
from interp.model_identity import relation
from interp.models.bridge import Model
from interp.sites.site import Site
from interp.tokens.token_rows import TokenRows
from saes.conditions import Conditions, conditions_of
from saes.evaluation.set_report import SetReport, evaluate_set
from saes.sae import SAE
from saes.same_model import said_model
from saes.sets.members import members_in

_LISTED = 20


class DictionarySet:
    """SAEs in the order of their layers; iterate over them, or take one by site, name or number.

    Args:
        members: The SAEs.
        names: What they are called in messages, one each and all different; by default their sites, or numbers.

    Raises:
        ValueError: no member, or names that are not one each.

    Example:
        >>> from saes import SAE, DictionarySet, TopK
        >>> saes = [SAE(8, 16, TopK(2), site=f"blocks.{layer}.hook_resid_post") for layer in (3, 0, 1)]
        >>> layers = DictionarySet(saes)
        >>> layers.sites
        ('blocks.0.hook_resid_post', 'blocks.1.hook_resid_post', 'blocks.3.hook_resid_post')
        >>> layers["blocks.1.hook_resid_post"] is saes[2]
        True
        >>> layers.missing_layers
        (2,)
    """

    def __init__(self, members: Sequence[SAE], names: Sequence[str] | None = None) -> None:
        if names is None:
            sites = [sae.site for sae in members]
            unique = None not in sites and len(set(sites)) == len(sites)
            names = [str(site) for site in sites] if unique else [str(number) for number in range(len(members))]
        if not members:
            raise ValueError("a set of dictionaries needs one member at least")
        if len(names) != len(members) or len(set(names)) != len(names):
            raise ValueError(f"{len(members)} members need as many different names, not {', '.join(names) or 'none'}")
        order = sorted(range(len(members)), key=lambda number: (*_place(members[number]), number))
        self._members = tuple(members[number] for number in order)
        self.names = tuple(names[number] for number in order)

    @classmethod
    def load(cls, where: str | Path | Sequence[str | Path], *, device: str | torch.device = "cpu") -> "DictionarySet":
        """The SAEs below a folder (``members_in``), or those of a list of folders, hub ids and ``release/id`` names.

        Raises:
            ValueError: there is none, or some cannot be loaded: each is named, with its reason.
        """
        if isinstance(where, str | Path):
            folder = Path(where)
            paths: list[str | Path] = list(members_in(folder))
            if not paths:
                raise ValueError(f"{folder} holds no folders or files that are a dictionary each")
            names = [Path(path).relative_to(folder).as_posix() for path in paths]
        else:
            paths = list(where)
            names = [str(path) for path in paths]
        members, faults = [], []
        for path, name in zip(paths, names, strict=True):
            try:
                members.append(SAE.load(path, device=device))
            except ValueError as error:
                faults.append(f"{name} ({reason(error)})")
        if faults:
            more = f" and {len(faults) - _LISTED} more" if len(faults) > _LISTED else ""
            raise ValueError(
                f"{len(faults)} of the {len(paths)} dictionaries of {where} cannot be loaded; take them out, or fetch"
                f" them again: {'; '.join(faults[:_LISTED])}{more}"
            )
        return cls(members, names)

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[SAE]:
        return iter(self._members)

    def __getitem__(self, which: int | str | Site) -> SAE:
        """By number in the order of layers, by name, or by the site that it reads.

        Raises:
            ValueError: there is none, or several read that site.
        """
        if isinstance(which, int):
            if not -len(self) <= which < len(self):
                raise ValueError(f"there is no member {which}; there are {len(self)}, numbered from 0")
            return self._members[which]
        if which in self.names:
            return self._members[self.names.index(str(which))]
        site = str(Site.parse(str(which)))
        found = [number for number, member in enumerate(self._members) if member.site == site]
        if len(found) != 1:
            what = "several members read" if found else "no member reads"
            shown = [self.names[number] for number in found] if found else list(dict.fromkeys(map(str, self.sites)))
            raise ValueError(f"{what} {site}; take one of {', '.join(shown[:_LISTED])}")
        return self._members[found[0]]

    @property
    def sites(self) -> tuple[str | None, ...]:
        """Where each member reads, as far as its files say."""
        return tuple(member.site for member in self._members)

    @property
    def missing_layers(self) -> tuple[int, ...]:
        """Layers that are left out of a regular row of members of one kind of site: 2 of 0, 1, 3, none of 5, 12, 20."""
        sites = [Site.parse(site) for site in self.sites if site is not None]
        layers = sorted({site.layer for site in sites if site.layer is not None})
        steps = {after - before for before, after in pairwise(layers)}
        if len({site.kind for site in sites}) != 1 or not steps or any(step % min(steps) for step in steps):
            return ()
        return tuple(sorted(set(range(layers[0], layers[-1], min(steps))) - set(layers)))

    @property
    def model(self) -> str | None:
        """The model that the members say they are of, in the first one's words; None where none says one.

        Raises ValueError where they say different ones.
        """
        by_name = {name: said_model(sae) for name, sae in zip(self.names, self, strict=True)}
        said = {name: model for name, model in by_name.items() if model is not None}
        if any(relation(next(iter(said.values())), model) == "different" for model in said.values()):
            raise ValueError(f"the members are of different models: {_listed(said)}")
        return next(iter(said.values()), None)

    def conditions(self, given: frozenset[str] = frozenset()) -> Conditions:
        """How the model was run where they were trained.

        Raises ValueError where members say different things of what is not among ``given``.
        """
        all_said = [conditions_of(member.provenance) for member in self._members]
        agreed: dict[str, Any] = {}
        for field in fields(Conditions):
            said = {name: getattr(its, field.name) for name, its in zip(self.names, all_said, strict=True)}
            if field.name == "notes":
                agreed["notes"] = tuple(dict.fromkeys(note for notes in said.values() for note in notes))
            elif len(set(said.values())) == 1:
                agreed[field.name] = getattr(all_said[0], field.name)
            elif field.name not in given | {"dtype"}:
                option = "drop-special" if field.name == "drop_tokens" else field.name.replace("_", "-")
                raise ValueError(
                    f"the members were not trained on the same tokens: {field.name} is {_listed(said)}; pass --{option}"
                )
        return Conditions(**agreed)

    def to(self, device: str | torch.device) -> "DictionarySet":
        """All members there."""
        for member in self._members:
            member.to(device)
        return self

    def eval(self, model: Model, rows: TokenRows, **which: Any) -> SetReport:
        """Figures of every member from one pass of the model over the text, as ``saes.evaluate`` has them of one.

        ``which``: ``max_tokens``, ``first_position``, ``drop_tokens`` and ``batch_rows`` of :func:`saes.evaluate`.
        """
        return evaluate_set(self._members, self.names, model, rows, **which)

    def __repr__(self) -> str:
        return f"DictionarySet({len(self)} members: {', '.join(self.names[:_LISTED])})"


def _place(sae: SAE) -> tuple[float, str]:
    """To order by: layer, and the site; what says none comes last."""
    if sae.site is None:
        return math.inf, ""
    layer = Site.parse(sae.site).layer
    return -1.0 if layer is None else float(layer), sae.site


def _listed(said: dict[str, Any]) -> str:
    """Each value with one of those that say it."""
    first: dict[Any, str] = {}
    for name, value in said.items():
        first.setdefault(value, name)
    return ", ".join(f"{value} ({name})" for value, name in list(first.items())[:_LISTED])
