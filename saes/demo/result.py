"""How much the demo does, and what it finds."""

from dataclasses import dataclass
from pathlib import Path

from interp.massive import SweepTable
from interp.store.activation_store import ActivationStore
from interp.trajectory.fitting import Trajectory
from saes.dark_matter import Decomposition
from saes.evaluation.report import Report


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much of everything; the defaults take about two minutes on two cores."""

    cached_tokens: int = 200_000
    trained_tokens: int = 1_600_000
    d_sae: int = 768
    k: int = 16
    batch_size: int = 2048
    heldout_tokens: int = 40_000
    sequences: int = 10
    """For the massive activations."""


@dataclass(frozen=True, kw_only=True)
class SAEResult:
    """One trained SAE with everything measured on it."""

    name: str
    folder: Path
    report: Report
    dark_matter: Decomposition
    curve: list[dict[str, float]]
    """Lines of its training log."""


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """All that the page shows."""

    sizes: Sizes
    site: str
    store: ActivationStore
    saes: tuple[SAEResult, ...]
    massive: SweepTable
    """Over the model's checkpoints."""
    massive_fits: list[Trajectory]
    """Of the ratio, a layer."""
    seconds: dict[str, float]
