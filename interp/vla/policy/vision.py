"""The image projector: a small convolutional network whose features are places in the image (Levine et al. 2016)."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

_CHANNELS = (16, 32, 32)


class Keypoints(nn.Module):
    """Image to soft tokens through spatial softmax: each channel answers with where it saw its pattern.

    Source: Levine, Finn, Darrell and Abbeel, End-to-end training of deep visuomotor policies, JMLR 2016.
    """

    def __init__(self, tokens: int, hidden: int) -> None:
        super().__init__()
        first, second, last = _CHANNELS
        self.convolutions = nn.Sequential(
            nn.Conv2d(3, first, 5, stride=2, padding=2),
            nn.GELU(),
            nn.Conv2d(first, second, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(second, last, 3, padding=1),
        )
        self.sharpness = nn.Parameter(torch.tensor(3.0))
        self.goal = nn.Linear(2 * last, 3)
        """Reads the goal off the places, in training only: actions alone teach seeing slowly."""
        self.projection = nn.Sequential(nn.Linear(2 * last, hidden), nn.GELU(), nn.Linear(hidden, tokens * hidden))
        self.tokens = tokens

    def forward(self, image: UInt8[Tensor, "batch size size 3"]) -> Float[Tensor, "batch tokens hidden"]:
        """Soft tokens of a batch of images."""
        return self.projection(self.places(image)).unflatten(-1, (self.tokens, -1))

    def places(self, image: UInt8[Tensor, "batch size size 3"]) -> Float[Tensor, "batch coordinates"]:
        """Where each channel saw its pattern, across and down, in [-1, 1]."""
        maps = self.convolutions(image.movedim(-1, 1) / 127.5 - 1)
        # Each map in its own standard deviations: left as they are, they start so flat that nothing is ever learned.
        maps = self.sharpness * nn.functional.instance_norm(maps)
        attention = maps.flatten(2).softmax(-1).unflatten(2, maps.shape[2:])
        line = torch.linspace(-1, 1, maps.shape[-1], device=maps.device)
        across, down = (attention.sum(2) * line).sum(-1), (attention.sum(3) * line).sum(-1)
        return torch.cat([across, down], dim=-1)
