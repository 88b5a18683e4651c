"""What happens to a task's metric when chosen parts of a model are ablated or patched, measured by running it.

Every chosen part is set to a value of another run, wherever the parts before it have moved it: parts of several layers
can be set at once, at all positions or at one.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from circuits.anatomy.nodes import NodeHooks, node_hooks
from circuits.attribution.features import Splice, splices
from circuits.explorer.graph import Part
from circuits.runs.pair import contrast, open_session
from circuits.runs.runner import hook_at
from circuits.scores.uncertainty import mean_estimate
from circuits.tasks.task import Task
from interp.metrics import Estimate
from interp.models.bridge import Model
from saes.sae import SAE

VALUES: Mapping[str, str] = {
    "resample": "ablated to the value on the corrupt prompts",
    "mean": "ablated to the mean over the corrupt prompts",
    "zero": "ablated to zero",
    "clean": "patched from the clean into the corrupt run",
}
"""What a part can be set to. All but ``clean`` run the clean prompts."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The task's metric with parts set; 1 is the clean run and 0 the corrupt one."""

    value: Estimate
    """The scaled metric; its standard error is over prompts, with the two ends taken as given."""
    raw: float
    """The mean of the metric before it is scaled."""
    metric: str
    """Name of the task's metric, or ``faithfulness`` within a circuit."""

    @property
    def n(self) -> int:
        """Prompts."""
        return self.value.n

    @property
    def standard_error(self) -> float:
        """Of ``value``."""
        return self.value.standard_error


class Interventions:
    """A model and a task, ready to be run with parts of the model set.

    Raises:
        ValueError: as :func:`circuits.attribute` and, for SAEs, :func:`circuits.attribute_features`.
    """

    def __init__(self, model: Model, task: Task, saes: Sequence[SAE] = ()) -> None:
        task.require_aligned("parts to set in the explorer")
        self.task = task.replace(direction="denoise")
        self.session = open_session(model, self.task)
        self.splices: Mapping[str, Splice] = (
            {splice.name: splice for splice in splices(model, self.session, saes)} if saes else {}
        )
        self._pair = contrast(self.session, [])

    @torch.no_grad()
    def measure(self, parts: Iterable[Part], *, to: str = "resample") -> Measured:
        """The metric with all ``parts`` set at once, to a key of ``VALUES``; with none, the run that would be changed.

        Raises:
            ValueError: an unknown value; a part that cannot be set.
        """
        if to not in VALUES:
            raise ValueError(f"parts can be set to {', '.join(VALUES)}, not to {to!r}")
        base, source = self.task.clean, self.task.corrupt
        if to == "clean":
            base, source = source, base
        by_site: dict[tuple[str, int], list[Part]] = {}
        for part in parts:
            by_site.setdefault((part.family, part.layer), []).append(part)
        setters = [self._setter(together) for together in by_site.values()]
        read = [hooks.value for hooks, _ in setters]
        other = self.session.runner.forward(source, read=read)
        with ExitStack() as stack:
            for hooks, setter in setters:
                value = other.value(hooks.value).detach()
                if to == "mean":
                    value = value.mean(0, keepdim=True).expand_as(value)
                act = self._hook(hooks, setter, value, zero=to == "zero")
                stack.callback(hook_at(hooks.change.module, hooks.change.entering, act).remove)
            logits = self.session.runner.forward(base).logits
        measure = self._pair.measure
        scaled, raw = measure(logits).double(), measure.raw(logits).double()
        return Measured(value=mean_estimate(scaled), raw=float(raw.mean()), metric=self.task.metric_name)

    def _setter(self, parts: Sequence[Part]) -> "tuple[NodeHooks, Callable[[Tensor, Tensor, bool], Tensor]]":
        """Where the parts of one site are, and how a value there follows from its own, another run's, and ``zero``."""
        first = parts[0]
        if first.family in ("logits", "resid_mid"):
            raise ValueError(f"{first.id} cannot be set; choose parts before it")
        if any(part.kind in ("latent", "error") for part in parts):
            if first.site not in self.splices:
                raise ValueError(f"{first.id} needs its SAE: pass saes=[...] with the one of {first.site}")
            splice = self.splices[first.site]
            return splice.hooks, lambda own, other, zero: _set_latents(splice, parts, own, other, zero)
        # What the circuits call embed is what enters the first block.
        family, layer = ("resid_pre", 0) if first.kind == "embed" else (first.family, first.layer)
        return node_hooks(self.session.anatomy, family)[layer], lambda own, other, zero: _set(parts, own, other, zero)

    def _hook(
        self, hooks: NodeHooks, setter: Callable[[Tensor, Tensor, bool], Tensor], other: Tensor, *, zero: bool
    ) -> Callable[[nn.Module, bool, Tensor], Tensor]:
        def act(_module: nn.Module, _entering: bool, whole: Tensor) -> Tensor:
            own = hooks.value.read(whole)
            return whole + hooks.change.embed(setter(own, other, zero) - own).to(whole.dtype)

        return act


def _set(parts: Sequence[Part], own: Tensor, other: Tensor, zero: bool) -> Tensor:
    new, target = own.clone(), torch.zeros_like(other) if zero else other
    for part in parts:
        where: tuple[Any, ...] = (slice(None), slice(None) if part.position is None else part.position)
        if part.index is not None:
            # Heads have an axis of their own; neurons are entries of the last.
            where = (*where, part.index)
        new[where] = target[where]
    return new


def _set_latents(splice: Splice, parts: Sequence[Part], own: Tensor, other: Tensor, zero: bool) -> Tensor:
    (features, error), (other_features, other_error) = splice.parts(own), splice.parts(other)
    change, error_change = torch.zeros_like(features), torch.zeros_like(error)
    for part in parts:
        at = slice(None) if part.position is None else part.position
        if part.index is None:
            error_change[:, at] = (0 if zero else other_error[:, at]) - error[:, at]
        else:
            target = 0 if zero else other_features[:, at, part.index]
            change[:, at, part.index] = target - features[:, at, part.index]
    return own + change @ splice.sae.W_dec.detach() + error_change
