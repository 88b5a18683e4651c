"""Whose latents are explained: an SAE's, a transcoder's, or those of one part of a dictionary over several places."""

from dataclasses import dataclass, replace
from typing import Any

from interp.sites.site import Site, expand_sites
from saes.evaluation.replacement import sites_of
from saes.features.examples import Text
from saes.features.parts import STREAM
from saes.own_sites import own_sites
from saes.places.dictionary import Dictionary
from saes.publishing.identity import identity_of
from saes.sae import SAE
from saes.same_model import check_same_names, name_of, said_model_of


@dataclass(frozen=True, kw_only=True)
class Explained:
    """Latents, where they are read, and where they write."""

    sae: SAE
    """The SAE or transcoder, or the part."""
    text: Text
    """The text, at the places that it reads."""
    writes: tuple[Site, ...]
    """Places that it writes, one behind another in its decoder rows."""
    identity: dict[str, Any]
    """Which latents these are, as plain data."""

    def require_clamps(self) -> None:
        """Raises ValueError where setting a latent to a value is not defined."""
        several = ", ".join(map(str, self.writes))
        if len(self.text.sites) > 1:
            reason = (
                f"they read {len(self.text.sites)} places ({several}), of which a clamp at the first changes the others"
            )
        elif len(self.writes) > 1 and any(site.kind in STREAM for site in self.writes):
            reason = f"they write {several}, and the residual stream carries on what is written to it"
        else:
            return
        raise ValueError(
            f"what clamps of these latents do cannot be said: {reason}; leave effects out (--scores detection,fuzzing)"
        )


def explained_in(sae: SAE | Dictionary, text: Text, *, part: int | None = None) -> Explained:
    """The latents of ``sae``, or of a ``part`` of a dictionary, which may be left out where there is one.

    Raises:
        ValueError: a part that is not there or not said; places of several models, or of another model.
    """
    if not isinstance(sae, Dictionary):
        if part is not None:
            raise ValueError(f"there is no part {part}: an SAE has no parts, leave it out")
        _, written = own_sites(sae, text.sites[0], model=text.model)
        return Explained(sae=sae, text=text, writes=(written,), identity=identity_of(sae))
    reads, writes = sites_of(sae)
    expand_sites(text.model, (*reads, *writes))
    check_same_names(said_model_of(sae.provenance), name_of(text.model), name="this dictionary")
    number = part_number(sae, part)
    one, places = sae.placed()[number]
    return Explained(
        sae=one,
        text=replace(text, site=tuple(reads[i] for i in places.reads)),
        writes=tuple(writes[i] for i in places.writes),
        identity=part_identity(sae, number),
    )


def part_number(dictionary: Dictionary, part: int | None) -> int:
    """Which part is meant.

    Raises:
        ValueError: it is not there; or it is not said, and there are several.
    """
    count = len(dictionary.parts)
    if part is None and count > 1:
        raise ValueError(f"this dictionary has {count} parts, 0 to {count - 1}: say which (--part 0)")
    if not 0 <= (part or 0) < count:
        raise ValueError(f"there is no part {part}: this dictionary has parts 0 to {count - 1}")
    return part or 0


def part_identity(dictionary: Dictionary, part: int) -> dict[str, Any]:
    """As of an SAE, with the part's number and its places."""
    one, places = dictionary.placed()[part]
    layout = dictionary.layout
    return {
        **identity_of(one),
        "dictionary": layout.kind,
        "part": part,
        "reads": [layout.reads[i] for i in places.reads],
        "writes": [layout.writes[i] for i in places.writes],
    }
