"""The neural tangent kernel of a torch model, exactly or through a random projection of its gradients."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.inference_mode import refuse_inference_mode
from interp.terminal.progress import counted
from interp.terminal.short_repr import short_repr

_MOST_BYTES = 1 << 30


@dataclass(frozen=True, kw_only=True)
class TangentKernel:
    """Kernels of groups of parameters; their sum is that of all of them.

    Example:
        >>> import torch
        >>> from interp.kernels import ntk
        >>> line, x = torch.nn.Linear(2, 1).eval(), torch.eye(2)
        >>> found = ntk(line, lambda: line(x)[:, 0], groups={"slope": ["weight"], "offset": ["bias"]})
        >>> found.groups["slope"].tolist(), found.groups["offset"].tolist()
        ([[1.0, 0.0], [0.0, 1.0]], [[1.0, 1.0], [1.0, 1.0]])
        >>> found.kernel.tolist()  # their sum
        [[2.0, 1.0], [1.0, 2.0]]
    """

    groups: dict[str, Float[Tensor, "n n"]]
    """The kernel of each group of parameters, by its name."""
    outputs: Float[Tensor, " n"]
    """The values whose gradients were taken."""
    along: Float[Tensor, " n"] | None
    """Of each output the gradient times the direction that was asked for: its first-order change."""
    projection: int | None
    """Dimensions r that gradients were sketched to; the error of K_ij is about √(K_ii K_jj / r). None is exact."""

    __repr__ = short_repr

    @property
    def kernel(self) -> Float[Tensor, "n n"]:
        """Of all groups."""
        return torch.stack(list(self.groups.values())).sum(0)


def ntk(
    model: nn.Module,
    outputs: Callable[[], Float[Tensor, " n"]],
    *,
    groups: Mapping[str, Sequence[str]] | None = None,
    along: Mapping[str, Tensor] | None = None,
    projection: int | None = None,
    seed: int = 0,
) -> TangentKernel:
    """K_ij = Σ_θ ∂f_i/∂θ ∂f_j/∂θ of some outputs of a model, by one backward pass for each.

    Args:
        model: any torch model, in evaluation mode.
        outputs: runs it and returns the chosen outputs, still attached to their graph.
        groups: name -> names of parameters; by default all trainable ones together. A kernel of each is kept, since a
            sum hides one that moves. Tied parameters count once.
        along: parameter -> a direction, such as θ - θ₀: first-order changes of the outputs are returned.
        projection: sketch gradients of every group to so many dimensions, where they would not fit into memory.
        seed: of the projection; two kernels are comparable only under the same one.

    Raises:
        ValueError: training mode; parameters that do not exist, or are in two groups; outputs that are no vector or do
            not depend on any parameter; gradients that take more than 1 GiB without a projection; inference mode.

    Example:
        >>> import torch
        >>> from interp.kernels import ntk
        >>> x = torch.eye(2)
        >>> line = torch.nn.Linear(2, 1, bias=False).eval()
        >>> ntk(line, lambda: line(x)[:, 0]).kernel.tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    if model.training:
        raise ValueError("the model is in training mode, where dropout changes its outputs: call model.eval()")
    refuse_inference_mode("the tangent kernel", model)
    parameters = dict(model.named_parameters())
    chosen = {"all": [name for name, p in parameters.items() if p.requires_grad]} if groups is None else groups
    names = [name for group in chosen.values() for name in group]
    if unknown := sorted({*names, *(along or {})} - set(parameters)):
        raise ValueError(
            f"the model has no parameters {', '.join(unknown[:3])}; it has {', '.join(list(parameters)[:3])} …"
        )
    if not names or len(set(names)) < len(names) or not all(chosen.values()):
        raise ValueError("every group needs parameters, and each can be in one group only")
    if projection is not None and projection < 1:
        raise ValueError(f"projection={projection}; it must be 1 or more dimensions")
    with torch.enable_grad(), _trainable([parameters[name] for name in names]):
        values = outputs()
        if values.ndim != 1 or not len(values) or not values.requires_grad:
            raise ValueError(
                f"outputs have shape {list(values.shape)}; they must be a vector that depends on parameters"
            )
        widths = {name: sum(parameters[p].numel() for p in group) for name, group in chosen.items()}
        if projection is None and 4 * len(values) * sum(widths.values()) > _MOST_BYTES:
            raise ValueError(
                f"{len(values)} gradients of {sum(widths.values()):,} parameters take more than 1 GiB: pass"
                " projection=2048, fewer outputs or fewer parameters"
            )
        rows: dict[str, list[Tensor]] = {name: [] for name in chosen}
        first_order = []
        for i, value in enumerate(counted(list(values), "take gradients", unit="outputs")):
            keep = i + 1 < len(values)
            found = torch.autograd.grad(value, [parameters[n] for n in names], retain_graph=keep, allow_unused=True)
            gradients = dict(zip(names, found, strict=True))
            for name, group in chosen.items():
                rows[name].append(_row([(p, gradients[p], parameters[p]) for p in group], projection, seed))
            if along is not None:
                first_order.append(sum(_product(gradients.get(n), direction) for n, direction in along.items()))
    kernels = {}
    for name, each in rows.items():
        matrix = torch.stack(each).double()
        kernels[name] = matrix @ matrix.T
    return TangentKernel(
        groups=kernels,
        outputs=values.detach().double().cpu(),
        along=None if along is None else torch.tensor(first_order, dtype=torch.float64),
        projection=projection,
    )


def _product(gradient: Tensor | None, direction: Tensor) -> float:
    return 0.0 if gradient is None else float((gradient.double() * direction.to(gradient.device).double()).sum())


def _row(parts: list[tuple[str, Tensor | None, Tensor]], projection: int | None, seed: int) -> Tensor:
    """One output's gradients end to end, or their count sketch: each entry is added, with a sign, to a random place."""
    if projection is None:
        return torch.cat([(torch.zeros_like(p) if g is None else g).detach().flatten().cpu() for _, g, p in parts])
    sketch = torch.zeros(projection, dtype=torch.float64)
    for position, (_, gradient, _) in enumerate(parts):
        if gradient is None:
            continue
        flat = gradient.detach().flatten().double().cpu()
        generator = torch.Generator().manual_seed(seed * 1_000_003 + position)
        places = torch.randint(projection, flat.shape, generator=generator)
        signs = torch.randint(2, flat.shape, generator=generator, dtype=torch.int8) * 2 - 1
        sketch.index_add_(0, places, flat * signs)
    return sketch


class _trainable:
    """Parameters that can have gradients, for a while."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self._frozen = [p for p in parameters if not p.requires_grad]

    def __enter__(self) -> None:
        for parameter in self._frozen:
            parameter.requires_grad_(True)

    def __exit__(self, *_: object) -> None:
        for parameter in self._frozen:
            parameter.requires_grad_(False)
