"""Which activations are massive, by the rule of Sun et al. 2024 (arXiv 2402.17762), and what they have in common."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, overload

from interp.arguments.kinds import require
from interp.massive.stats import LayerStats


@dataclass(frozen=True, kw_only=True)
class MassiveActivation:
    """One entry of a hidden state; layer, sequence, position and dimension count from 0.

    Example:
        >>> import interp, torch
        >>> model = interp.load_model("embedded")
        >>> stats = interp.massive.layer_stats(model, torch.arange(1, 65).view(2, 32))
        >>> first = interp.massive.detect(stats, absolute=1.0, relative=2.0).found[0]
        >>> first.ratio >= 2
        True
    """

    layer: int
    """Block after which it is, from 0."""
    sequence: int
    """Sequence of the batch that it is in."""
    position: int
    """Position of its token in the sequence."""
    dim: int
    """Dimension of the residual stream."""
    token: int
    """Id of the token at that position."""
    value: float
    """The activation itself, with its sign."""
    ratio: float
    """Magnitude over the median magnitude of its layer and sequence."""


@dataclass(frozen=True)
class Detection(Sequence[MassiveActivation]):
    """The massive activations found, by layer, sequence and magnitude; none is a result too.

    Example:
        >>> import interp, torch
        >>> model = interp.load_model("embedded")
        >>> stats = interp.massive.layer_stats(model, torch.arange(1, 65).view(2, 32))
        >>> interp.massive.detect(stats, absolute=1e9).truncated
        False
    """

    found: tuple[MassiveActivation, ...]
    """All of them, by layer, sequence and magnitude."""
    truncated: bool
    """Some layer's whole top list is massive, so there may be more: measure with a larger ``top``."""

    @overload
    def __getitem__(self, index: int) -> MassiveActivation: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[MassiveActivation, ...]: ...
    def __getitem__(self, index: int | slice) -> Any:
        return self.found[index]

    def __len__(self) -> int:
        return len(self.found)

    @property
    def first_layer(self) -> int | None:
        """Where they emerge."""
        return min((each.layer for each in self.found), default=None)

    @property
    def last_layer(self) -> int | None:
        """The last block after which there are any."""
        return max((each.layer for each in self.found), default=None)

    @property
    def fixed_dims(self) -> tuple[int, ...]:
        """Dimensions that are massive in every sequence that has any massive activation."""
        return self._in_all("dim")

    @property
    def fixed_positions(self) -> tuple[int, ...]:
        """Positions that are massive in every sequence that has any."""
        return self._in_all("position")

    @property
    def tokens(self) -> dict[int, int]:
        """Token id -> sites (sequence and position) where it is massive in at least one layer, most frequent first."""
        return dict(Counter(token for *_, token in self._places()).most_common())

    @property
    def starting(self) -> int:
        """Massive sites at the first position of their sequence."""
        return sum(position == 0 for _, position, _ in self._places())

    @property
    def not_starting(self) -> int:
        """Massive sites elsewhere, such as at the first delimiter."""
        return len(self._places()) - self.starting

    def _places(self) -> set[tuple[int, int, int]]:
        return {(each.sequence, each.position, each.token) for each in self.found}

    def _in_all(self, name: str) -> tuple[int, ...]:
        by_sequence: dict[int, set[int]] = {}
        for each in self.found:
            by_sequence.setdefault(each.sequence, set()).add(getattr(each, name))
        return tuple(sorted(set.intersection(*by_sequence.values()))) if by_sequence else ()


def detect(
    stats: LayerStats,
    *,
    absolute: float = 100.0,
    relative: float = 1000.0,
    mad: float | None = None,
    persistence: float | None = None,
) -> Detection:
    """Entries that meet every criterion; the defaults are Sun et al.'s, who call them "a loose but broad definition".

    Only the largest entries that ``stats`` kept can be found.

    Args:
        stats: of a model.
        absolute: a magnitude above it,
        relative: and at least that many times the median magnitude of the layer and sequence;
        mad: where given, at least that many median absolute deviations above that median too, which does not ask that
            the median be near 0. With Gaussian activations the largest of a million entries has 10;
        persistence: where given, an entry (sequence, position and dimension) that all this holds for after at least
            that share of the blocks. Massive activations stay from where they emerge to the last few blocks.

    Raises:
        ValueError: criteria that are not positive, or a share above 1; ``mad`` for stats that were stored without.

    Example:
        >>> import interp, torch
        >>> model = interp.load_model("embedded")
        >>> stats = interp.massive.layer_stats(model, torch.arange(1, 65).view(2, 32))
        >>> len(interp.massive.detect(stats, absolute=1e9).found)
        0
    """
    require(
        stats, LayerStats, what="statistics of layers", fix="what interp.massive.layer_stats(model, tokens) returns"
    )
    criteria = {"absolute": absolute, "relative": relative, "mad": mad, "persistence": persistence}
    given = {name: value for name, value in criteria.items() if value is not None}
    if not all(value > 0 for value in given.values()) or given.get("persistence", 1) > 1:
        listed = ", ".join(f"{name}={value}" for name, value in given.items())
        raise ValueError(
            f"criteria must be positive and persistence at most 1, not {listed}; Sun et al. took 100 and 1000"
        )
    magnitudes = stats.values.abs()
    ratios = magnitudes / stats.medians[..., None]
    massive = (magnitudes > absolute) & (ratios >= relative)
    if mad is not None:
        if stats.mads is None:
            raise ValueError("these stats were stored without median absolute deviations; measure again for mad=…")
        massive &= magnitudes - stats.medians[..., None] >= mad * stats.mads[..., None]
    found = tuple(
        MassiveActivation(
            layer=layer,
            sequence=sequence,
            position=int(stats.positions[layer, sequence, rank]),
            dim=int(stats.dims[layer, sequence, rank]),
            token=int(stats.tokens[layer, sequence, rank]),
            value=float(stats.values[layer, sequence, rank]),
            ratio=float(ratios[layer, sequence, rank]),
        )
        for layer, sequence, rank in massive.nonzero().tolist()
    )
    if persistence is not None:
        layers = Counter((each.sequence, each.position, each.dim) for each in found)
        least = persistence * len(stats.sites)
        found = tuple(each for each in found if layers[each.sequence, each.position, each.dim] >= least)
    return Detection(found, truncated=bool(massive.all(2).any()))
