"""What enters the last projection of every MLP, seen or changed while the model runs."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp import metrics
from interp.models.bridge import Model
from interp.models.feed_forward import projection

Edit = Callable[[Float[Tensor, "*tokens d_mlp"]], Float[Tensor, "*tokens d_mlp"]]


@contextmanager
def edited(model: Model, edits: Sequence[Edit]) -> Iterator[None]:
    """Edit what enters every layer's last projection; the hooks are gone afterwards, also after an error."""

    def hook(edit: Edit) -> Any:
        return lambda _module, args: (edit(args[0]), *args[1:])

    with ExitStack() as hooks:
        for layer, edit in enumerate(edits):
            module: nn.Module = projection(model, layer)
            hooks.callback(module.register_forward_pre_hook(hook(edit)).remove)
        yield


@torch.no_grad()
def mean_loss(model: Model, tokens: Int[Tensor, "sequences position"]) -> float:
    """Nats a token of the model as it stands, sequence by sequence."""
    losses = [metrics.cross_entropy(model(rows), rows).mean() for rows in tokens.split(1)]
    return float(torch.stack(losses).double().mean())
