"""How much the demo does, and what it finds."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp.massive import SweepTable
from interp.store.activation_store import ActivationStore
from interp.trajectory.fitting import Trajectory
from saes.dark_matter import Decomposition
from saes.evaluation.report import Report


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much of everything; the defaults take about two minutes on two cores."""

    cached_tokens: int = 200_000
    """Tokens whose activations are stored."""
    trained_tokens: int = 1_600_000
    """Tokens that each SAE is trained on, passes counted."""
    d_sae: int = 768
    """How many latents each SAE has."""
    k: int = 16
    """Latents that are active on a token."""
    batch_size: int = 2048
    """How many tokens a training step sees."""
    heldout_tokens: int = 40_000
    """Tokens of held-out text for the evaluation."""
    sequences: int = 10
    """For the massive activations."""


@dataclass(frozen=True, kw_only=True)
class SAEResult:
    """One trained SAE with everything measured on it."""

    name: str
    """What the SAE is called on the page."""
    folder: Path
    """Where the trained SAE is."""
    report: Report
    """Its evaluation on held-out text."""
    dark_matter: Decomposition
    """Its error in a linear and a nonlinear part."""
    curve: list[dict[str, Any]]
    """Lines of its training log."""


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """All that the page shows.

    Example:
        >>> import interp, saes
        >>> from saes.demo.result import Sizes
        >>> model, site = interp.load_model("embedded"), "blocks.2.hook_resid_post"
        >>> rows = interp.rows_for(model, interp.embedded.TEXT_FOLDER / "heldout.jsonl", "rows", tokens=1_000)
        >>> what = {
        ...     "sizes": Sizes(cached_tokens=1_000),
        ...     "site": site,
        ...     "store": interp.cache_activations(model, rows, site, "acts"),
        ...     "massive": interp.massive.SweepTable(model="embedded", measured=(), missing={}),
        ... }
        >>> found = saes.demo.DemoResult(**what, saes=(), massive_fits=[], seconds={"Cache activations": 0.5})
        >>> found.store.width(found.site), found.sizes.k
        (96, 16)
    """

    sizes: Sizes
    """How much of everything there was."""
    site: str
    """Site that the SAEs reconstruct."""
    store: ActivationStore
    """The activations that they were trained on."""
    saes: tuple[SAEResult, ...]
    """Each SAE with its figures."""
    massive: SweepTable
    """Over the model's checkpoints."""
    massive_fits: list[Trajectory]
    """Of the ratio, a layer."""
    seconds: dict[str, float]
    """Wall time of each step, by its name."""
