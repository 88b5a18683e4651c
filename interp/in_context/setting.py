"""What sequences are drawn from, and how a network is trained on them: numbers alone, without torch."""

from collections.abc import Collection
from dataclasses import dataclass

_FIRST = 10
_MOST = 1000
_FEWEST_SEQUENCES = 10  # whose bootstrap says how sure a curve is

CLAMPS = ("previous", "first", "match", "copy")
"""Parts of the circuit that :class:`interp.in_context.AttentionClassifier` can be given perfect."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A distribution of sequences; names of the paper stand behind.

    Raises:
        ValueError: a number that cannot be.

    Example:
        >>> from interp.in_context import Setting
        >>> Setting(pairs=8, burstiness=4).input_width
        33
    """

    classes: int = 64
    """Classes that the weights can learn (K)."""
    labels: int = 8
    """Labels (L); class c has label c mod L, so that they must divide the classes."""
    width: int = 16
    """Dimensions of an item and of a label (D)."""
    pairs: int = 4
    """Pairs of an item and its label before the query (N)."""
    longest: int | None = None
    """Pairs for which there are positions, where contexts begin at a random one (Nmax); None for as many as pairs."""
    burstiness: int = 2
    """How often each class of a bursty context stands in it (B)."""
    bursty: float = 1.0
    """Share of sequences with a bursty context, which holds the query's class (p_B); others are drawn at random."""
    novel: float = 0.5
    """Share of sequences whose classes are new, so that only the context tells (p_C); these are always bursty."""
    noise: float = 0.1
    """Spread of the items of a class around their mean, in units of the means' own (epsilon)."""
    zipf: float = 0.0
    """Exponent of the classes' frequencies by rank (alpha); 0 for equal ones."""

    def __post_init__(self) -> None:
        for name in ("classes", "labels", "width", "pairs", "burstiness"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 1 or more")
        for name in ("bursty", "novel"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it is a share, from 0 to 1")
        if not 0 <= self.noise <= _MOST:
            raise ValueError(f"noise is {self.noise}; it must be from 0 to {_MOST}, where a class can hardly be seen")
        if not 0 <= self.zipf < float("inf"):
            raise ValueError(f"zipf is {self.zipf}; it must be finite, 0 or more")
        if self.labels < 2 or self.classes < 2 or self.classes % self.labels:
            raise ValueError(
                f"{self.classes} classes cannot be shared out to {self.labels} labels; give 2 labels or more, and a"
                " multiple of them as classes"
            )
        if self.pairs % self.burstiness or self.burstiness >= self.pairs:
            raise ValueError(
                f"burstiness {self.burstiness} does not fit into {self.pairs} pairs: it must divide them, and be below"
            )
        if self.longest is not None and self.longest < self.pairs:
            raise ValueError(f"longest is {self.longest}; there must be positions for all {self.pairs} pairs")

    @property
    def positions(self) -> int:
        """Positions that a token can be at: 2 Nmax + 1."""
        return 2 * (self.longest or self.pairs) + 1

    @property
    def input_width(self) -> int:
        """Of a token: its position as one number of many, then its item or label."""
        return self.positions + self.width


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Setting):
    """A training of :class:`interp.in_context.AttentionClassifier` on sequences of a setting.

    Raises:
        ValueError: a number that cannot be.

    Example:
        >>> from interp.in_context import TrainConfig
        >>> TrainConfig(steps=100, checkpoints=3).schedule
        (0, 10, 32, 100)
    """

    steps: int = 6000
    """Steps of the optimiser in all."""
    learning_rate: float = 1e-3
    """Learning rate, the same at every step."""
    optimizer: str = "adam"
    """What updates the weights, adam or sgd; the paper's runs are sgd at 0.01, and take longer."""
    weight_decay: float = 1e-6
    """Added to each gradient, times the weight."""
    batch: int = 128
    """Sequences a step, all new."""
    hidden: int = 128
    """Neurons in each hidden layer of the classifier."""
    checkpoints: int = 60
    """Checkpoints after step 0, evenly spread over the logarithm of the step from 10 on."""
    sequences: int = 1000
    """Sequences of each evaluation, the same at every checkpoint."""
    clamped: tuple[str, ...] = ()
    """Parts that are held perfect in every forward pass: previous, first, match or copy."""
    seed: int = 0
    """Of the classes, the weights and every batch."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("batch", 1), ("hidden", 1), ("sequences", _FEWEST_SEQUENCES), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be {least} or more")
        if self.steps < 2 * _FIRST or not 2 <= self.checkpoints <= _MOST:
            raise ValueError(
                f"steps={self.steps}, checkpoints={self.checkpoints}: give {2 * _FIRST} steps or more, and 2 to {_MOST}"
                " checkpoints"
            )
        if not 0 < self.learning_rate < float("inf") or not 0 <= self.weight_decay < float("inf"):
            raise ValueError(
                f"learning_rate={self.learning_rate}, weight_decay={self.weight_decay}: the first must be above 0, the"
                " second 0 or more, both finite"
            )
        check_clamps(self.clamped)
        if self.optimizer not in ("adam", "sgd"):
            raise ValueError(f"optimizer is {self.optimizer!r}; it must be adam or sgd")

    @property
    def schedule(self) -> tuple[int, ...]:
        """Steps at which there is a checkpoint."""
        ratio = (self.steps / _FIRST) ** (1 / (self.checkpoints - 1))
        return (0, *sorted({round(_FIRST * ratio**i) for i in range(self.checkpoints)}))


def check_clamps(clamped: Collection[str]) -> None:
    """Raises ValueError for clamps that are none, or that leave each other without effect."""
    if unknown := sorted(set(clamped) - set(CLAMPS)):
        raise ValueError(f"clamped has {', '.join(unknown)}; there are {', '.join(CLAMPS)}")
    for one, other, why in (
        ("previous", "first", "first replaces layer 0"),
        ("match", "copy", "copy needs no pattern"),
    ):
        if {one, other} <= set(clamped):
            raise ValueError(f"{one} and {other} cannot both be clamped: {why}; give one of them")
