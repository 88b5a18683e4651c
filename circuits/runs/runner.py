"""One forward pass with values read, changes added and gradients taken, and a count of what it cost.

Every intervention is an addition: to set a value to another one, the difference is added. So one pass can hold many
interventions, one a row of the batch, and the same code patches, interpolates and ablates.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from circuits.anatomy.anatomy import Anatomy
from circuits.anatomy.nodes import Hook
from interp.inference_mode import refuse_inference_mode


@dataclass
class Cost:
    """Passes through the model, each counted in passes of the task's prompts: a batch of 10 patched copies is 10."""

    forwards: float = 0.0
    """Forward passes of the task's prompts."""
    backwards: float = 0.0
    """Backward passes of the task's prompts."""
    attention_layers: int = 0
    """Attention layers recomputed on their own (the QK fix of AtP*)."""

    def to_json(self) -> dict[str, float]:
        """As a dictionary of numbers."""
        return {"forwards": self.forwards, "backwards": self.backwards, "attention_layers": self.attention_layers}


@dataclass(frozen=True)
class Start:
    """Where a pass begins: at a layer, with the residual stream ``[batch, position, d]`` that enters it."""

    layer: int
    """First layer that runs, counted from 0."""
    residual: Tensor
    """The residual stream that enters it, ``[batch, position, d]``."""


@dataclass(frozen=True, kw_only=True)
class Passed:
    """What one forward pass gave: last-position logits ``[batch, vocab]`` and the tensors at the hooks."""

    logits: Tensor
    """Logits of the last position, ``[batch, vocab]``."""
    wholes: Mapping[Hook, Tensor]
    """The whole tensor at each hook that was read."""

    def value(self, hook: Hook) -> Tensor:
        """The hook's value, ``[batch, position, (unit,) d]``."""
        return hook.read(self.wholes[hook])


@dataclass
class Runner:
    """Runs one model and counts.

    ``prompts`` is how many rows one pass of the task has.
    """

    anatomy: Anatomy
    """The parts of the model that runs."""
    prompts: int
    """Rows of one pass of the task."""
    cost: Cost = field(default_factory=Cost)
    """Passes that this runner has made."""

    def forward(
        self,
        tokens: Tensor,
        *,
        read: Iterable[Hook] = (),
        add: Mapping[Hook, Tensor] | None = None,
        gradients: bool = False,
        start: Start | None = None,
        cache: DynamicCache | None = None,
    ) -> Passed:
        """Run ``tokens [batch, position]``; ``add`` holds changes in the shape that the hook's ``read`` gives.

        With a ``cache`` of what comes before them (see ``circuits.runs.prefix``), all positions count from there.

        With ``gradients``, the graph starts at the embeddings (or at ``start``); parameters get no gradient.

        Raises:
            ValueError: gradients under inference mode, or through weights that were made there.
        """
        if gradients:
            refuse_inference_mode("attribution by gradients", self.anatomy.root)
        first = self.anatomy.embedding if start is None else self.anatomy.blocks[start.layer].whole
        add = add or {}
        read = list(dict.fromkeys(read))
        wholes: dict[Hook, Tensor] = {}
        at: dict[tuple[nn.Module, bool], list[Hook]] = {}
        for hook in dict.fromkeys([*add, *read]):
            at.setdefault((hook.module, hook.entering), []).append(hook)
        at.setdefault((first, start is not None), [])

        def change(module: nn.Module, entering: bool, value: Tensor) -> Tensor:
            if module is first and entering is (start is not None):
                value = (value if start is None else start.residual).detach().requires_grad_(gradients)
            for hook in at[module, entering]:
                if hook in add:
                    value = value + hook.embed(add[hook]).to(value.dtype)
            # An alias of its own, so that the gradient is that of the uses after this hook alone.
            value = value.view_as(value) if gradients else value
            wholes.update({hook: value for hook in at[module, entering] if hook in reading})
            return value.clone() if self.anatomy.family.in_place else value

        reading = set(read)
        with ExitStack() as stack, torch.set_grad_enabled(gradients):
            for module, entering in at:
                stack.callback(hook_at(module, entering, change).remove)
            for block in islice(self.anatomy.blocks, 0 if start is None else start.layer):
                stack.enter_context(_skipped(block.whole, in_tuple=self.anatomy.family.block_returns_tuple))
            device = next(self.anatomy.root.parameters()).device
            output = self.anatomy.root(
                input_ids=tokens.to(device), past_key_values=cache, use_cache=cache is not None, logits_to_keep=1
            )
        self.cost.forwards += len(tokens) / self.prompts
        logits = output.logits[:, -1]
        # A metric's differences would drown in the rounding of half precision.
        return Passed(logits=logits if logits.dtype == torch.float64 else logits.float(), wholes=wholes)

    def gradients(
        self, of: Tensor, passed: Passed, hooks: Sequence[Hook], *, keep_graph: bool = False
    ) -> dict[Hook, Tensor]:
        """d ``of`` / d value at the hooks of one pass, zero where ``of`` does not depend on them.

        Raises:
            ValueError: the metric ``of`` has no gradient at all.
        """
        if not of.requires_grad:
            raise ValueError(
                "the task's metric has no gradient with respect to the logits: compute it by differentiable operations"
                " (no argmax, .detach(), .item() or no_grad), or patch exactly: method='patching', or 'path-patching'"
                " for edges"
            )
        wholes = {hook: passed.wholes[hook] for hook in hooks}
        # Behind a rule that detaches there is no graph.
        live = {hook: whole for hook, whole in wholes.items() if whole.requires_grad}
        gradients = torch.autograd.grad(of, list(live.values()), allow_unused=True, retain_graph=keep_graph)
        slopes = dict(zip(live, gradients, strict=True))
        self.cost.backwards += len(passed.logits) / self.prompts
        return {
            hook: hook.read(torch.zeros_like(whole) if slopes.get(hook) is None else slopes[hook])
            for hook, whole in wholes.items()
        }


@contextmanager
def _skipped(block: nn.Module, *, in_tuple: bool) -> Iterator[None]:
    """The block hands on what it gets. Taking it out of its list would renumber the blocks, whose masks differ."""

    def hand_on(hidden_states: Tensor, *_args: Any, **_kwargs: Any) -> Any:
        return (hidden_states, None) if in_tuple else hidden_states

    vars(block)["forward"] = hand_on
    try:
        yield
    finally:
        del vars(block)["forward"]


Change = Callable[[nn.Module, bool, Tensor], Tensor]


def hook_at(module: nn.Module, entering: bool, change: Change) -> Any:
    """Call ``change`` with a module's first input or first output, and let what it returns go on in its place."""
    if entering:
        return module.register_forward_pre_hook(partial(_change_input, change), with_kwargs=True)
    return module.register_forward_hook(partial(_change_output, change))


def _change_input(change: Change, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    if args:
        return (change(module, True, args[0]), *args[1:]), kwargs
    return args, kwargs | {"hidden_states": change(module, True, kwargs["hidden_states"])}


def _change_output(change: Change, module: nn.Module, _args: Any, output: Any) -> Any:
    if isinstance(output, tuple):
        return (change(module, False, output[0]), *output[1:])
    return change(module, False, output)
