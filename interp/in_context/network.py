"""The paper's network: two layers of attention with one head each, and a classifier of the last token."""

from collections.abc import Collection
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize, one_hot

from interp.in_context.sequences import generator_of
from interp.in_context.setting import Setting, check_clamps

LAYERS = 2
_FORBIDDEN = -1e9


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

    A clamp (Singh et al. 2024, arXiv 2404.07129) holds a part of the circuit perfect in every forward pass; gradients
    flow through all the rest, and what makes a clamped value gets none:

    - ``previous``: in layer 0 every token looks at the one before, the first at itself.
    - ``first``: layer 1 looks with what it should get from layer 0, the inputs with each label replaced by its item,
      and reads the inputs as they are.
    - ``match``: in layer 1 the query looks at the label of the item that is nearest to it (by cosine).
    - ``copy``: the logit of each label in the context is the score of layer 1 at it, before the softmax; others -10⁹.

    Args:
        setting: of the sequences, which says the widths.
        hidden: neurons in each hidden layer of the classifier.
        seed: of the weights.
        clamped: which of these, together where they can be.
        labels: vectors of the labels, which ``copy`` tells them by.

    Raises:
        ValueError: clamps that cannot be, or not together; ``copy`` without the labels' vectors.

    Example:
        >>> import torch
        >>> from interp.in_context import AttentionClassifier, Setting
        >>> AttentionClassifier(Setting())(torch.zeros(2, 9, 25)).logits.shape
        torch.Size([2, 8])
    """

    def __init__(
        self,
        setting: Setting,
        *,
        hidden: int = 128,
        seed: int = 0,
        clamped: Collection[str] = (),
        labels: Float[Tensor, "labels width"] | None = None,
    ) -> None:
        super().__init__()
        check_clamps(clamped)
        if "copy" in clamped and labels is None:
            raise ValueError("clamped=copy needs the labels' vectors: pass labels=classes.labels")
        self._clamped, self._labels, self._vector = frozenset(clamped), labels, setting.positions
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
        given = self._clamped & {"previous", "first"}
        first = _previous(inputs) if given else self._scores(inputs, 0).softmax(-1)
        if "first" in self._clamped:
            stream, looks = inputs, torch.cat([inputs[:, :1], inputs[:, :-2], inputs[:, -1:]], 1)
        else:
            stream = looks = inputs + first @ (inputs @ self.values[0])
        scores = self._scores(looks, 1)
        second = self._match(inputs, scores.softmax(-1)) if "match" in self._clamped else scores.softmax(-1)
        if "copy" in self._clamped:
            return Output(self._copied(inputs, scores[:, -1, 1::2]), (first, second))
        stream = stream + second @ (stream @ self.values[1])
        return Output(self.classifier(stream[:, -1]), (first, second))

    def _scores(self, stream: Tensor, layer: int) -> Float[Tensor, "sequences query key"]:
        length, width = stream.shape[1:]
        later = torch.ones(length, length, dtype=torch.bool, device=stream.device).triu(1)
        scores = (stream @ self.queries[layer]) @ (stream @ self.keys[layer]).mT / width**0.5
        return scores.masked_fill(later, -torch.inf)

    def _match(self, inputs: Tensor, pattern: Tensor) -> Float[Tensor, "sequences query key"]:
        items = normalize(inputs[:, 0::2, self._vector :], dim=-1)
        nearest = (items[:, :-1] * items[:, -1:]).sum(-1).argmax(-1)
        wanted = one_hot(2 * nearest + 1, inputs.shape[1]).to(pattern)
        return torch.cat([pattern[:, :-1], wanted[:, None]], 1)

    def _copied(self, inputs: Tensor, scores: Float[Tensor, "sequences pairs"]) -> Float[Tensor, "sequences labels"]:
        """A label that stands in the context twice has the scores of both, added as the softmax would."""
        assert self._labels is not None
        which = one_hot(torch.cdist(inputs[:, 1::2, self._vector :], self._labels).argmin(-1), len(self._labels))
        return torch.where(which.bool(), scores[..., None], _FORBIDDEN).logsumexp(1)


def _previous(inputs: Tensor) -> Float[Tensor, "sequences query key"]:
    """Every token looks at the one before, the first at itself."""
    length = inputs.shape[1]
    before = (torch.arange(length, device=inputs.device) - 1).clamp(min=0)
    return one_hot(before, length).to(inputs).expand(len(inputs), -1, -1)
