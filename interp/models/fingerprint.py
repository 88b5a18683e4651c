"""Which weights are these: training revisions on disk, and a fingerprint of what a model holds.

Published checkpoints are not always what their name says (86 of the 154 revisions of Pythia-2.8b serve the final
weights, EleutherAI/pythia issue 205), so everything measured "at a step" carries the fingerprint of what was loaded.
"""

import hashlib
from collections.abc import Iterator

import torch

from interp.files.tensor_files import bytes_of
from interp.models.source import require_raw_weights

_BLOCK_BYTES = 1 << 26


def weights_fingerprint(model: torch.nn.Module) -> str:
    """``"sha256:…"`` of a model's names, dtypes, shapes and bytes: those its Hugging Face state dict has.

    That is every parameter and every persistent buffer (some families keep trained values there, such as routing
    biases). A bridge and the plain model it wraps agree, as do tied and untied weights of equal value. The bytes are
    read in blocks as the model holds them, so another dtype is another fingerprint and the model is never copied.

    Raises:
        ValueError: the weights were processed, and no longer are those of any published model.

    Example:
        >>> import interp
        >>> model = interp.load_model("embedded")
        >>> interp.models.weights_fingerprint(model) == interp.models.weights_fingerprint(model)
        True
    """
    require_raw_weights(model, purpose="fingerprint weights")
    digests: dict[int, str] = {}
    lines = []
    for name, tensor in _state(getattr(model, "original_model", model)):
        if id(tensor) not in digests:  # tied weights are read once, and named twice
            digests[id(tensor)] = _digest(tensor)
        lines.append(f"{name} {tensor.dtype} {tuple(tensor.shape)} {digests[id(tensor)]}\n")
    return "sha256:" + hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def _state(module: torch.nn.Module, prefix: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """What ``state_dict`` of the unwrapped model would list. The bridge puts wrappers between modules (each keeps the
    module it wraps as ``_original_component``, beside aliases and split copies) and gives the unembedding a zero bias.
    """
    while (wrapped := module._modules.get("_original_component")) is not None:
        module = wrapped
    yield from ((prefix + name, tensor) for name, tensor in module._parameters.items() if tensor is not None)
    for name, buffer in module._buffers.items():
        added_by_bridge = isinstance(module, torch.nn.Linear) and name == "bias"
        if buffer is not None and name not in module._non_persistent_buffers_set and not added_by_bridge:
            yield prefix + name, buffer
    for name, child in module._modules.items():
        if child is not None:
            yield from _state(child, f"{prefix}{name}.")


def _digest(tensor: torch.Tensor) -> str:
    digest = hashlib.sha256()
    rows = torch.atleast_1d(tensor.detach())
    row_bytes = max(1, rows[:1].numel() * rows.element_size())
    for block in rows.split(max(1, _BLOCK_BYTES // row_bytes)):
        digest.update(bytes_of(block))
    return digest.hexdigest()
