"""Scores and patterns of any attention: what enters and leaves the softmax that an attention module calls.

Attention that is computed eagerly calls torch's softmax, whatever the family does before it (scaling, soft caps, masks,
linear biases) and after it. So no family's attention needs to be written again to be seen.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

SCORES, PATTERN = "deepfield_scores", "deepfield_pattern"
_SOFTMAX = (torch.softmax, torch.nn.functional.softmax, Tensor.softmax)


def show_softmax(attention: nn.Module) -> Callable[[], None]:
    """From now on the module passes scores and pattern through two submodules, named ``SCORES`` and ``PATTERN``, until
    the function that is returned is called."""
    if SCORES in attention._modules:
        return lambda: None
    scores, pattern = nn.Identity(), nn.Identity()
    attention._modules |= {SCORES: scores, PATTERN: pattern}
    forward, own = attention.forward, vars(attention).get("forward")

    def shown(*args: Any, **kwargs: Any) -> Any:
        with _Shown(scores, pattern):
            return forward(*args, **kwargs)

    def undo() -> None:
        for name in (SCORES, PATTERN):
            del attention._modules[name]
        del vars(attention)["forward"]
        if own is not None:
            vars(attention)["forward"] = own

    vars(attention)["forward"] = shown
    return undo


class _Shown(TorchFunctionMode):
    def __init__(self, scores: nn.Module, pattern: nn.Module) -> None:
        super().__init__()
        self.scores, self.pattern = scores, pattern

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in _SOFTMAX or args[0].ndim not in (3, 4):
            return func(*args, **kwargs or {})
        return self.pattern(func(self.scores(args[0]), *args[1:], **kwargs or {}))
