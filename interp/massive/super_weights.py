"""Super weights: single weights that make a massive activation (Yu et al. 2024, arXiv 2411.07191)."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from interp.models.bridge import Model
from interp.models.feed_forward import output_weights, projection
from interp.models.loading import require_raw_weights
from interp.sites.capturing import capture
from interp.sites.site import Site, layer_count


@dataclass(frozen=True, kw_only=True)
class SuperWeight:
    """One entry of the last projection of a layer's MLP, ``down_proj[row, column]``.

    Example:
        >>> import interp
        >>> model = interp.load_model("embedded")
        >>> weight = interp.massive.SuperWeight(layer=1, row=2, column=3, weight=0.5, input=90.0, output=45.0)
        >>> weight.layer
        1
    """

    layer: int
    """Block that the projection is in, from 0."""
    row: int
    """Dimension of the residual stream that it writes."""
    column: int
    """Neuron that it reads."""
    weight: float
    """The entry itself, with its sign."""
    input: float
    """The neuron's activation where its magnitude is largest."""
    output: float
    """What the projection writes to the dimension, where its magnitude is largest."""

    @property
    def share(self) -> float:
        """Of the output that this one weight makes."""
        return self.weight * self.input / self.output


@torch.no_grad()
def find_super_weights(
    model: Model, tokens: Int[Tensor, "sequences position"], *, threshold: float = 50.0, limit: int = 10
) -> tuple[SuperWeight, ...]:
    """In each layer where both input and output of ``down_proj`` spike above ``threshold``: the weight at the dimension
    and the neuron of the two spikes. It is set to zero and the layer looked at again, until no spike is left, or one
    that names the same weight again (and so has other causes too). The model is left as it was.

    Raises ValueError for processed weights, and where a layer's MLP has no single last projection.

    Example:
        >>> import interp, torch
        >>> model = interp.load_model("embedded")
        >>> interp.massive.find_super_weights(model, torch.arange(1, 33)[None], threshold=1e6)
        ()
    """
    require_raw_weights(model, purpose="look for super weights")
    found: list[SuperWeight] = []
    for layer in sorted(_spikes(model, tokens, range(layer_count(model)), threshold)):
        here: list[SuperWeight] = []
        while len(found) < limit:
            with ExitStack() as stack:
                for weight in here:
                    stack.enter_context(zeroed(model, weight))
                spike = _spikes(model, tokens, [layer], threshold).get(layer)
            if spike is None or any(spike[:2] == (each.row, each.column) for each in here):
                break
            row, column, value, output = spike
            entry = float(_entry(model, layer, row, column))
            here.append(SuperWeight(layer=layer, row=row, column=column, weight=entry, input=value, output=output))
            found.append(here[-1])
    return tuple(found)


@contextmanager
def zeroed(model: Model, weight: SuperWeight) -> Iterator[None]:
    """Within the block the weight is zero; afterwards, also after an error, it is what it was, to the bit.

    Example:
        >>> import interp, torch
        >>> model = interp.load_model("embedded")
        >>> weight = interp.massive.SuperWeight(layer=1, row=2, column=3, weight=0.5, input=90.0, output=45.0)
        >>> ids = torch.arange(1, 9)[None]
        >>> before = model(ids)
        >>> with interp.massive.zeroed(model, weight):
        ...     changed = model(ids)
        >>> bool((changed != before).any()), bool((model(ids) == before).all())
        (True, True)
    """
    entry = _entry(model, weight.layer, weight.row, weight.column)
    before = entry.clone()
    with torch.no_grad():
        entry.zero_()
    try:
        yield
    finally:
        with torch.no_grad():
            entry.copy_(before)


def _entry(model: Model, layer: int, row: int, column: int) -> Tensor:
    return output_weights(model, layer).detach()[row, column]


def _spikes(
    model: Model, tokens: Int[Tensor, "sequences position"], layers: Sequence[int], threshold: float
) -> dict[int, tuple[int, int, float, float]]:
    """Layer -> row, column, input and output of its spike; one pass, each tensor reduced to its largest entry."""
    modules = {id(projection(model, layer)): layer for layer in layers}
    paths = {
        modules[id(module)]: ".".join(part for part in name.split(".") if part != "_original_component")
        for name, module in model.original_model.named_modules()
        if id(module) in modules
    }
    inputs = {layer: Site("mlp_post", layer) for layer in layers}
    outputs = {layer: Site("path", path=paths[layer]) for layer in layers}
    cache = capture(model, tokens, [*inputs.values(), *outputs.values()], reduce=_largest)
    found = {}
    for layer in layers:
        (value, column), (output, row) = cache[inputs[layer]].tolist(), cache[outputs[layer]].tolist()
        if abs(value) > threshold and abs(output) > threshold:
            found[layer] = (int(row), int(column), value, output)
    return found


def _largest(tensor: Tensor) -> Tensor:
    """Signed value of the largest magnitude and its channel, as float64."""
    flat = tensor.flatten()
    index = flat.abs().argmax()
    return torch.stack([flat[index].double(), (index % tensor.shape[-1]).double()])
