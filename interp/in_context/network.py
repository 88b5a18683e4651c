"""The paper's network: two layers of attention with one head each, and a classifier of the last token."""

from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.in_context.sequences import generator_of
from interp.in_context.setting import Setting

LAYERS = 2


class Output(NamedTuple):
    """What a network says of sequences.

    Example:
        >>> from interp.in_context import AttentionClassifier, Output, Setting
        >>> import torch
        >>> isinstance(AttentionClassifier(Setting())(torch.zeros(1, 9, 25)), Output)
        True
    """

    logits: Float[Tensor, "sequences labels"]
    """Of the query's labels."""
    patterns: tuple[Float[Tensor, "sequences query key"], ...] = ()
    """Attention of each layer; empty for what has none."""


class AttentionClassifier(nn.Module):
    """Causal attention x + softmax(x Q Kᵀ xᵀ / √d) x V, twice, then an MLP of two hidden layers on the last token.

    Weights begin Gaussian: of the attention with variance 1 / d, of the classifier as torch draws them.

    Args:
        setting: of the sequences, which says the widths.
        hidden: neurons in each hidden layer of the classifier.
        seed: of the weights.

    Example:
        >>> import torch
        >>> from interp.in_context import AttentionClassifier, Setting
        >>> AttentionClassifier(Setting())(torch.zeros(2, 9, 25)).logits.shape
        torch.Size([2, 8])
    """

    def __init__(self, setting: Setting, *, hidden: int = 128, seed: int = 0) -> None:
        super().__init__()
        width, generator = setting.input_width, generator_of(seed, 1)

        def square() -> nn.Parameter:
            return nn.Parameter(torch.randn(LAYERS, width, width, generator=generator) / width**0.5)

        self.queries, self.keys, self.values = square(), square(), square()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
            sizes = (width, hidden, hidden, setting.labels)
            linear = [nn.Linear(a, b) for a, b in pairwise(sizes)]
        self.classifier = nn.Sequential(linear[0], nn.ReLU(), linear[1], nn.ReLU(), linear[2])

    def forward(self, inputs: Float[Tensor, "sequences position width"]) -> Output:
        """Logits of the last token's labels, and the patterns of both layers."""
        stream, patterns = inputs, []
        later = torch.ones(inputs.shape[1], inputs.shape[1], dtype=torch.bool, device=inputs.device).triu(1)
        for layer in range(LAYERS):
            scores = (stream @ self.queries[layer]) @ (stream @ self.keys[layer]).mT / inputs.shape[2] ** 0.5
            patterns.append(scores.masked_fill(later, -torch.inf).softmax(-1))
            stream = stream + patterns[-1] @ (stream @ self.values[layer])
        return Output(self.classifier(stream[:, -1]), tuple(patterns))
