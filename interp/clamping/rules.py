"""What can be clamped, and at what: one small record for each kind."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.clamping.induction import earlier_occurrences
from interp.sites.site import Site

FORBIDDEN = -1e9
"""What a score is set to that must not count."""


@dataclass(frozen=True, kw_only=True)
class Forward:
    """The forward pass that is running."""

    ids: Int[Tensor, "batch position"]
    """Token ids that the model was given."""
    clean: dict[Site, Tensor]
    """What a pass without clamps has at the sites that rules ask for."""


@dataclass(frozen=True, kw_only=True)
class Ablate:
    """A head writes nothing: its values, mixed by its pattern, are 0. Heads that share its values keep them.

    Example:
        >>> import interp, torch
        >>> from interp.clamping import Ablate, clamp
        >>> model = interp.load_model("embedded")
        >>> with clamp(model, Ablate(layer=1, head=2)):
        ...     z = interp.capture(model, torch.arange(1, 5)[None], "blocks.1.attn.hook_z[2]")
        >>> z["blocks.1.attn.hook_z[2]"].count_nonzero().item()
        0
    """

    layer: int
    """Layer of the head, from 0."""
    head: int
    """Number of the head in its layer, from 0."""

    def site(self) -> Site:
        """Where."""
        return Site("z", self.layer, self.head)

    def value(self, old: Tensor, _now: Forward) -> Tensor:
        """Of the head's mixed values."""
        return torch.zeros_like(old)


@dataclass(frozen=True, kw_only=True)
class Previous:
    """A head looks at the token before: ``strength`` there, the rest at itself; the first position at itself.

    Example:
        >>> import interp, torch
        >>> from interp.clamping import Previous, clamp
        >>> model = interp.load_model("embedded")
        >>> with clamp(model, Previous(layer=0, head=1, strength=0.5)):
        ...     found = interp.capture(model, torch.arange(1, 5)[None], "blocks.0.attn.hook_pattern[1]")
        >>> bool(found["blocks.0.attn.hook_pattern[1]"][0, 2, 1] >= 0.5)
        True
    """

    layer: int
    """Layer of the head, from 0."""
    head: int
    """Number of the head in its layer, from 0."""
    strength: float = 1.0
    """Share of attention that goes to the token before, 0 to 1."""
    rows: Literal["all", "odd"] = "all"
    """``odd``: only positions 1, 3, …, where the labels of (item, label) pairs are."""

    def site(self) -> Site:
        """Where."""
        return Site("pattern", self.layer, self.head)

    def value(self, old: Float[Tensor, "batch query key"], _now: Forward) -> Tensor:
        """Of the head's pattern."""
        length = old.shape[-1]
        wanted = torch.eye(length, dtype=old.dtype, device=old.device) * (1 - self.strength)
        wanted = wanted + torch.diag(torch.full((length - 1,), self.strength), -1).to(old)
        wanted[0, 0] = 1
        chosen = torch.ones(length, dtype=torch.bool, device=old.device)
        if self.rows == "odd":
            chosen = torch.arange(length, device=old.device) % 2 == 1
        return torch.where(chosen[:, None], wanted, old)


@dataclass(frozen=True, kw_only=True)
class Induction:
    """A head looks at what followed the earlier occurrences of each token: ``strength`` there, evenly, and the rest
    evenly over all other visible positions. Rows without an earlier occurrence are left alone.

    Example:
        >>> import interp, torch
        >>> from interp.clamping import Induction, clamp
        >>> model = interp.load_model("embedded")
        >>> tokens = torch.tensor([[5, 6, 7, 5]])
        >>> with clamp(model, Induction(layer=2, head=0)):
        ...     found = interp.capture(model, tokens, "blocks.2.attn.hook_pattern[0]")
        >>> found["blocks.2.attn.hook_pattern[0]"][0, 3].tolist()  # to the token after the first 5
        [0.0, 1.0, 0.0, 0.0]
    """

    layer: int
    """Layer of the head, from 0."""
    head: int
    """Number of the head in its layer, from 0."""
    strength: float = 1.0
    """Share of attention that goes to what followed, 0 to 1."""
    rows: Literal["all", "last"] = "all"
    """``last``: only the last position, as in the paper's task."""
    labels: bool = False
    """The rest goes to other odd positions only, where the labels of (item, label) pairs are."""

    def site(self) -> Site:
        """Where."""
        return Site("pattern", self.layer, self.head)

    def value(self, old: Float[Tensor, "batch query key"], now: Forward) -> Tensor:
        """Of the head's pattern."""
        length = old.shape[-1]
        targets = earlier_occurrences(now.ids).to(old.device)
        others = torch.ones(length, length, dtype=torch.bool, device=old.device).tril() & ~targets
        if self.labels:
            others = others & (torch.arange(length, device=old.device) % 2 == 1)
        n_targets, n_others = (mask.sum(-1, keepdim=True).clamp(min=1).to(old.dtype) for mask in (targets, others))
        wanted = (
            targets.to(old.dtype) * self.strength / n_targets + others.to(old.dtype) * (1 - self.strength) / n_others
        )
        chosen = targets.any(-1)
        if self.rows == "last":
            chosen = chosen & (torch.arange(length, device=old.device) == length - 1)
        return torch.where(chosen[..., None], wanted, old)


@dataclass(frozen=True, kw_only=True)
class NoPrevious:
    """A head cannot look at the token before: its score there is -10⁹.

    Example:
        >>> import interp, torch
        >>> from interp.clamping import NoPrevious, clamp
        >>> model = interp.load_model("embedded")
        >>> with clamp(model, NoPrevious(layer=0, head=1)):
        ...     found = interp.capture(model, torch.arange(1, 5)[None], "blocks.0.attn.hook_pattern[1]")
        >>> found["blocks.0.attn.hook_pattern[1]"][0, 2, 1].item()
        0.0
    """

    layer: int
    """Layer of the head, from 0."""
    head: int
    """Number of the head in its layer, from 0."""

    def site(self) -> Site:
        """Where."""
        return Site("scores", self.layer, self.head)

    def value(self, old: Float[Tensor, "batch query key"], _now: Forward) -> Tensor:
        """Of the head's scores."""
        length = old.shape[-1]
        before = torch.diag(torch.ones(length - 1, dtype=torch.bool, device=old.device), -1)
        return torch.where(before, torch.full_like(old, max(FORBIDDEN, torch.finfo(old.dtype).min)), old)


@dataclass(frozen=True, kw_only=True)
class Temperature:
    """A head's scores are those of a pass without clamps, divided by ``temperature``.

    Example:
        >>> import interp, torch
        >>> from interp.clamping import Temperature, clamp
        >>> model = interp.load_model("embedded")
        >>> with clamp(model, Temperature(layer=2, head=0, temperature=1e-4)):
        ...     found = interp.capture(model, torch.arange(1, 9)[None], "blocks.2.attn.hook_pattern[0]")
        >>> bool(found["blocks.2.attn.hook_pattern[0]"].amax(-1).min() > 0.99)
        True
    """

    layer: int
    """Layer of the head, from 0."""
    head: int
    """Number of the head in its layer, from 0."""
    temperature: float
    """What its scores are divided by: above 1 flattens its pattern."""

    def site(self) -> Site:
        """Where."""
        return Site("scores", self.layer, self.head)

    def needs(self) -> tuple[Site, ...]:
        """Of the pass without clamps."""
        return (self.site(),)

    def value(self, old: Float[Tensor, "batch query key"], now: Forward) -> Tensor:
        """Of the head's scores; what the mask rules out stays so."""
        clean = now.clean[self.site()]
        return torch.where(clean > torch.finfo(clean.dtype).min / 2, clean / self.temperature, clean)


@dataclass(frozen=True, kw_only=True)
class Preserve:
    """Patterns, values, queries or keys of a layer, or one head of it, are those of a pass without clamps.

    Set before all other rules, which override it. Of ``v`` and ``k`` a head is a key-value head, which a group shares.

    Example:
        >>> import interp, torch
        >>> from interp.clamping import Ablate, Preserve, clamp
        >>> model = interp.load_model("embedded")
        >>> tokens, pattern = torch.arange(1, 9)[None], interp.Site("pattern", 2)
        >>> clean = interp.capture(model, tokens, pattern)[pattern]
        >>> ablate, preserve = Ablate(layer=0, head=1), Preserve(layer=2, what="pattern")
        >>> for rules in ([ablate], [ablate, preserve]):  # does layer 2 look where it did?
        ...     with clamp(model, rules):
        ...         print(torch.equal(interp.capture(model, tokens, pattern)[pattern], clean))
        False
        True
    """

    layer: int
    """Layer that is held, from 0."""
    what: Literal["pattern", "v", "q", "k"]
    """Which of its tensors is held."""
    head: int | None = None
    """Number of the one head that is held; None for all of them."""

    def site(self) -> Site:
        """Where."""
        return Site(self.what, self.layer, self.head)

    def needs(self) -> tuple[Site, ...]:
        """Of the pass without clamps."""
        return (self.site(),)

    def value(self, _old: Tensor, now: Forward) -> Tensor:
        """What it was."""
        return now.clean[self.site()]


@dataclass(frozen=True, kw_only=True, eq=False)
class Graft:
    """The residual stream after a block is another model's, such as another checkpoint's; no gradient goes there.

    Example:
        >>> import interp, torch
        >>> from interp.clamping import Graft, clamp
        >>> early, late = (interp.load_model("embedded", revision=step) for step in ("step1024", "step5792"))
        >>> tokens, after = torch.arange(1, 9)[None], interp.Site("resid_post", 1)
        >>> with clamp(late, Graft(layer=1, model=early)):  # two early blocks under two late ones
        ...     found = interp.capture(late, tokens, after)[after]
        >>> torch.equal(found, interp.capture(early, tokens, after)[after])
        True
    """

    layer: int
    """Block after which the stream is replaced, from 0."""
    model: Any
    """The other model, run on the same tokens."""

    def site(self) -> Site:
        """Where."""
        return Site("resid_post", self.layer)

    def value(self, _old: Tensor, now: Forward) -> Tensor:
        """The other model's, on the same tokens."""
        from interp.sites.capturing import capture

        return capture(self.model, now.ids, self.site())[self.site()]


Rule = Ablate | Previous | Induction | NoPrevious | Temperature | Preserve | Graft

_PARSERS: dict[str, Callable[..., Rule]] = {
    "ablate": lambda layer, head: Ablate(layer=layer, head=head),
    "previous": lambda layer, head, s=1.0: Previous(layer=layer, head=head, strength=s),
    "induction": lambda layer, head, s=1.0: Induction(layer=layer, head=head, strength=s),
    "no-previous": lambda layer, head: NoPrevious(layer=layer, head=head),
    "temperature": lambda layer, head, t: Temperature(layer=layer, head=head, temperature=t),
}


def parse_rules(text: str) -> tuple[Rule, ...]:
    """Rules from a text such as ``previous:0.2+induction:2.1:0.7``: name, layer.head, and strength or temperature.

    Names are ablate, previous, induction, no-previous, temperature.

    Raises:
        ValueError: a name, place or number that is none of those, or that cannot be.

    Example:
        >>> from interp.clamping import parse_rules
        >>> parse_rules("ablate:0.2+induction:2.1:0.7")[1].strength
        0.7
    """
    rules = []
    for part in text.split("+"):
        name, _, rest = part.strip().partition(":")
        place, *numbers = rest.split(":")
        try:
            layer, head = map(int, place.split("."))
            rules.append(_PARSERS[name](layer, head, *map(float, numbers)))
        except (KeyError, ValueError, TypeError):
            raise ValueError(
                f"{part!r} in {text!r} is no clamp; write {', '.join(_PARSERS)}, then :layer.head, and :number for the"
                " strength or the temperature, such as previous:0.2+induction:2.1:0.7"
            ) from None
    try:
        checked(rules)
    except ValueError as error:
        raise ValueError(f"{text!r}: {error}") from None
    return tuple(rules)


def checked(rules: Any) -> tuple[Rule, ...]:
    """Rules whose numbers can be, those that come first in front.

    Raises ValueError for others.
    """
    given = (rules,) if isinstance(rules, Rule) else tuple(rules)
    if not given or not all(isinstance(rule, Rule) for rule in given):
        raise ValueError(f"{rules!r}: give one rule or more, such as interp.clamping.Previous(layer=0, head=2)")
    for rule in given:
        strength, temperature = getattr(rule, "strength", 1.0), getattr(rule, "temperature", 1.0)
        if not 0 <= strength <= 1:
            raise ValueError(f"strength={strength} of {rule}; it is a share of attention, from 0 to 1")
        if not 0 < temperature < float("inf"):
            raise ValueError(f"temperature={temperature} of {rule}; it must be above 0 (and finite)")
    return tuple(sorted(given, key=lambda rule: not isinstance(rule, Preserve)))
