"""What gradients need of the mode that the caller is in: anything but ``torch.inference_mode``.

``torch.no_grad`` and ``set_grad_enabled(False)`` are undone where gradients are taken. Inference mode cannot be: what
is computed under it never gets a graph, and tensors that were made under it cannot be saved for a backward pass.
"""

from itertools import chain

import torch
from torch import nn


def refuse_inference_mode(what: str, *modules: nn.Module) -> None:
    """Stop before ``what`` (a phrase such as "training an SAE") fails inside autograd.

    Raises:
        ValueError: inference mode is on, or made weights or buffers of ``modules``.
    """
    if torch.is_inference_mode_enabled():
        raise ValueError(
            f"{what} takes gradients, which torch.inference_mode() rules out: leave that block (torch.no_grad() and"
            " torch.set_grad_enabled(False) are fine)"
        )
    for module in modules:
        for name, tensor in chain(module.named_parameters(), module.named_buffers()):
            if tensor.is_inference():
                raise ValueError(
                    f"{what} takes gradients, but {name} of {type(module).__name__} was made under"
                    " torch.inference_mode(), and can have no part in them: load or build it outside of that block"
                )
