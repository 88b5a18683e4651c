"""What a run carries from step to step."""

from dataclasses import dataclass, field

from jaxtyping import Int
from torch import Tensor

from saes.places.dictionary import Dictionary
from saes.sae import SAE
from saes.training.optimiser.together import Together


@dataclass
class TrainState:
    """Everything that a checkpoint holds."""

    sae: SAE | Dictionary
    """What is trained, with its weights."""
    optimizer: Together
    """What moves the weights, with its moments of each."""
    scales: tuple[float, ...]
    """What the activations at every place that is read are multiplied with."""
    target_scales: tuple[float, ...]
    """So are those at every place written; of an SAE equal to ``scales``."""
    silent: Int[Tensor, "*parts d_sae"]
    """Tokens since the last step in which each latent was active; of a dictionary over places a row a part."""
    sparsity: tuple[float, ...] = (1.0,)
    """What every part's weights of sparsity losses are multiplied with before the last error counts
    (``TrainConfig.l0``)."""
    step: int = 0
    """How many steps are done."""
    finished: bool = False
    """The SAE is written, and nothing is left to do."""
    metrics: dict[str, float | None] = field(default_factory=dict)
    """Figures of a step that is logged, by name; empty on others."""

    @property
    def alone(self) -> SAE:
        """The SAE, where it is one."""
        assert isinstance(self.sae, SAE)
        return self.sae

    @property
    def scale(self) -> float:
        """Of an SAE's only input."""
        return self.scales[0]
