"""A language model over its checkpoints against one of them: kernels, weights, and the loss of its linearisation."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp import metrics
from interp.checkpoints.curves import Measurement, Quantity, quantity
from interp.kernels.comparisons import kernel_distance, movement
from interp.kernels.tangent_kernel import ntk
from interp.models.fingerprint import weights_fingerprint
from interp.models.plain import plain_module, require_tested_family
from interp.models.source import require_raw_weights

CODE = 1
"""Raised when the same weights and tokens would give other figures than before."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The checkpoint that others are compared with.

    Example:
        >>> import interp
        >>> model = interp.load_model("embedded")
        >>> len(interp.kernels.reference_of(model).fingerprint)
        71
    """

    fingerprint: str
    """Fingerprint of its weights, as results name it."""
    model: Any
    """The model with these weights, loaded."""


def reference_of(model: Any) -> Reference:
    """A model as the reference, such as step 0 of a run; it is kept in memory.

    Where the next step has the same weights (steps 0 and 1 of Pythia) the comparison with it says nothing.

    Raises:
        ValueError: processed weights; a family in which no test compared the gradients.

    Example:
        >>> import interp
        >>> model = interp.load_model("embedded")
        >>> reference = interp.kernels.reference_of(model)
        >>> reference.fingerprint == interp.models.weights_fingerprint(model)
        True
    """
    require_raw_weights(model, purpose="take tangent kernels")
    require_tested_family(model, "tangent kernels")
    return Reference(fingerprint=weights_fingerprint(model), model=model)


def measurement(reference: Reference, *, positions: int = 64, projection: int | None = None) -> Measurement:
    """Kernel distance, movement of weights and linearised loss, for :func:`interp.checkpoints.sweep`.

    An output is the log-probability of the token that comes next, at ``positions`` places spread evenly over the rows;
    parameters are the matrices of the blocks, one group a block.

    Args:
        reference: from :func:`reference_of`.
        positions: outputs; one backward pass each.
        projection: as for :func:`ntk`.

    Raises:
        ValueError: fewer than three positions.

    Example:
        >>> import interp
        >>> model = interp.load_model("embedded")
        >>> interp.kernels.measurement(interp.kernels.reference_of(model), positions=8).name
        'kernels'
    """
    if positions < 3:
        raise ValueError(f"positions={positions}; give three or more")
    at_reference: dict[str, dict[str, Float[Tensor, "n n"]]] = {}

    def run(model: Any, tokens: Int[Tensor, "sequences position"]) -> dict[str, Quantity]:
        require_raw_weights(model, purpose="take tangent kernels")
        require_tested_family(model, "tangent kernels")
        now, before = (plain_module(each, purpose="take tangent kernels") for each in (model, reference.model))
        groups = _block_matrices(now)
        names = [name for group in groups.values() for name in group]
        old, new = dict(before.named_parameters()), dict(now.named_parameters())
        if not set(names) <= set(old):
            raise ValueError("the reference is a model of another architecture: take a checkpoint of the same run")
        if not at_reference:
            at_reference["kernels"] = ntk(
                before, lambda: _log_probs(before, tokens, positions), groups=groups, projection=projection
            ).groups
        found = ntk(now, lambda: _log_probs(now, tokens, positions), groups=groups, projection=projection)
        # The linearisation at the reference, in all parameters: its gradients along the way that the weights went.
        way = {name: (new[name] - old[name]).detach() for name in old}
        linear = ntk(
            before, lambda: _log_probs(before, tokens, positions), groups={"all": list(old)}, along=way, projection=1
        )
        assert linear.along is not None
        kernels = {**found.groups, "all": found.kernel}
        first = {**at_reference["kernels"], "all": torch.stack(list(at_reference["kernels"].values())).sum(0)}
        moved = {g: movement({n: new[n] for n in group}, {n: old[n] for n in group}) for g, group in groups.items()}
        return {
            "kernel_distance": quantity({name: kernel_distance(kernels[name], first[name]) for name in kernels}),
            "kernel_size": quantity({name: float(k.trace()) / len(k) for name, k in kernels.items()}),
            "movement": quantity({name: each.relative for name, each in moved.items()}),
            "rotation": quantity({name: each.rotation for name, each in moved.items()}),
            "loss": quantity(
                {"model": metrics.mean(-found.outputs), "linearised": metrics.mean(-(linear.outputs + linear.along))}
            ),
        }

    titles = {
        "kernel_distance": "Distance of the tangent kernel from the reference's",
        "movement": "Movement of the block's matrices, share of their norm",
        "rotation": "Rotation of the block's matrices, 1 - cosine",
        "kernel_size": "Mean squared gradient of an output",
        "loss": "Loss of the model and of the reference's linearisation, nats",
    }
    settings = {"reference": reference.fingerprint, "positions": positions, "projection": projection}
    return Measurement(name="kernels", code=CODE, run=run, titles=titles, settings=settings)


def _block_matrices(model: nn.Module) -> dict[str, list[str]]:
    """Block -> names of its matrices."""
    groups: dict[str, list[str]] = {}
    for name, parameter in model.named_parameters():
        numbers = [part for part in name.split(".") if part.isdigit()]
        if numbers and parameter.ndim == 2:
            groups.setdefault(numbers[0], []).append(name)
    return groups


def _log_probs(model: nn.Module, tokens: Int[Tensor, "sequences position"], positions: int) -> Float[Tensor, " n"]:
    rows, length = tokens.shape
    places = torch.linspace(0, rows * (length - 1) - 1, min(positions, rows * (length - 1))).round().long().unique()
    sequence, position = places // (length - 1), places % (length - 1)
    used = sequence.unique()
    ids = tokens[used].to(next(model.parameters()).device)
    logits = model(input_ids=ids).logits.float().log_softmax(-1)
    row = torch.searchsorted(used, sequence)
    return logits[row, position, ids[row, position + 1]]
