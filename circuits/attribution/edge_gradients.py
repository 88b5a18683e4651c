"""Edge scores by gradients, batch of prompts after batch, and layer of readers after layer.

What all readers of a batch see as slopes is the largest thing here, ``[reader, n, position, d]``: of 24 layers with 16
heads a thousand times the residual stream. So the slopes of one layer's readers are multiplied with what was written
before them, and dropped.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from circuits.anatomy.nodes import Hook
from circuits.anatomy.wiring import PARTS, Wiring, output_weights, width_of
from circuits.runs.budget import at_once, slices
from circuits.runs.pair import Contrast, Session, contrast, refuse_flat
from circuits.runs.runner import Passed
from circuits.tasks.metrics import Measure, measure_between
from interp.models.bridge import unwrapped
from interp.sites.norms import linear_norm
from interp.terminal.progress import counted

# Vectors of the model's width that a token leaves in a layer's graph (an MLP of four times the width, its activation in
# eight steps), with the copies of what is read and its gradients.
GRAPH = 80


@dataclass(frozen=True)
class _Inputs:
    """Hooks whose values and gradients the edge scores are made of."""

    read: dict[str, list[Hook]]

    @property
    def all(self) -> list[Hook]:
        return [hook for hooks in self.read.values() for hook in hooks]


def _inputs(wiring: Wiring) -> _Inputs:
    anatomy, hooks = wiring.anatomy, wiring.hooks
    read = {part: [node.change for node in hooks.parts[part]] for part in PARTS}
    read["stream"] = [wiring.stream(layer) for layer in range(len(anatomy.blocks))]
    read["mlp"] = list(wiring.entries.mlp)
    read["final"] = [Hook(wiring.entries.logits, entering=True)]
    read["projected"] = [Hook(block.o, entering=False) for block in anatomy.blocks]
    return _Inputs(read)


def by_gradient(
    session: Session, wiring: Wiring, rules: frozenset[str] | None, *, steps: int, memory: int
) -> tuple[Measure, Tensor]:
    """The metric with its ends, and ``[n, writer, reader]``: differences of the runs times mean gradients at ``steps``
    points from the base input on; 0 where there is no edge."""
    task, inputs = session.task, _inputs(wiring)
    effects = torch.zeros(len(task), *wiring.mask.shape, dtype=torch.float64)
    ends: list[tuple[Tensor, Tensor]] = []
    size = at_once(len(task), bytes_each=_bytes_of_a_prompt(session, wiring), memory=memory)
    for prompts in counted(list(slices(len(task), size)), "score edges", unit="groups of prompts"):
        part = replace(session, task=task.rows(prompts))
        ends.append(_add_batch(effects[prompts], part, wiring, inputs, rules, steps))
    source, base = (torch.cat(logits) for logits in zip(*ends, strict=True))
    clean, corrupt = (source, base) if task.direction == "denoise" else (base, source)
    measure = measure_between(task, clean, corrupt)
    if steps == 1:
        refuse_flat(measure, source, base)
    effects /= steps * (measure.clean - measure.corrupt)
    return measure, effects.masked_fill_(~wiring.mask, 0)


def _add_batch(
    scores: Tensor, session: Session, wiring: Wiring, inputs: _Inputs, rules: frozenset[str] | None, steps: int
) -> tuple[Tensor, Tensor]:
    """Add up the scores ``[n, writer, reader]`` of one batch, raw and not yet divided by ``steps``; the logits of its
    source and base run."""
    hooks = wiring.hooks
    first = hooks.resid_pre[0]
    pair = contrast(
        session, [first, *hooks.z, *hooks.mlp_out], gradients=True, rules=rules, also_base=inputs.all, scaled=False
    )
    written = _written(wiring, pair)
    _add_scores(scores, session, wiring, written, inputs, pair.base, pair.base_metric.sum(), rules)
    for step in range(1, steps):
        with session.under(rules):
            passed = session.runner.forward(
                session.task.base,
                read=inputs.all,
                add={first.change: pair.difference(first) * (step / steps)},
                gradients=True,
            )
        _add_scores(scores, session, wiring, written, inputs, passed, pair.measure(passed.logits).sum(), rules)
    return pair.source.logits, pair.base.logits.detach()


def _bytes_of_a_prompt(session: Session, wiring: Wiring) -> int:
    """About, of one prompt's graph and of what the scores are made of."""
    anatomy, block = session.anatomy, session.anatomy.blocks[0]
    weight, length, layers = next(block.o.parameters()), session.task.length, len(anatomy.blocks)
    slopes = 6 * len(wiring.readers) // layers  # of a layer's readers, as they are, through a norm, and in float64
    vectors = GRAPH * layers + len(wiring.writers) + slopes
    return length * (vectors * width_of(anatomy) + 4 * layers * anatomy.heads * length) * weight.element_size()


@dataclass(frozen=True)
class _Written:
    """Source minus base of what writers add to the stream: the input ``[n, 1, position, d]``, and by layer the heads
    ``[n, head, position, d]`` and the MLP ``[n, 1, position, d]``."""

    embed: Tensor
    heads: list[Tensor]
    mlps: list[Tensor]


def _written(wiring: Wiring, pair: Contrast) -> _Written:
    anatomy, hooks = wiring.anatomy, wiring.hooks
    heads = [
        torch.einsum("npha,had->nhpd", pair.difference(node), output_weights(anatomy, block))
        for node, block in zip(hooks.z, anatomy.blocks, strict=True)
    ]
    mlps = [pair.difference(node)[:, None] for node in hooks.mlp_out]
    return _Written(pair.difference(hooks.resid_pre[0])[:, None], heads, mlps)


def _add_scores(
    scores: Tensor,
    session: Session,
    wiring: Wiring,
    written: _Written,
    inputs: _Inputs,
    passed: Passed,
    metric: Tensor,
    rules: frozenset[str] | None,
) -> None:
    """Add to ``[n, writer, reader]`` what the gradients of one pass make of it."""
    anatomy = wiring.anatomy
    wanted = [s for name in ("q", "k", "v", "mlp", "final") for s in inputs.read[name]]
    gradients = session.runner.gradients(metric, passed, wanted)
    frozen = rules is not None and "ln" in rules
    done = 0
    for layer, slopes in _slopes(wiring, inputs, passed, gradients, rules):
        columns = slice(done, done := done + len(slopes))
        by_prompt = _flat(slopes.transpose(0, 1))
        scores[:, :1, columns] += _products(written.embed, by_prompt)
        row = 1
        for before in range(min(layer + 1, len(anatomy.blocks))):
            seen, post_norm = by_prompt, anatomy.blocks[before].attention_post_norm
            if post_norm is not None:
                at = passed.value(inputs.read["projected"][before])
                seen = _flat(through_norm(post_norm, at, slopes, frozen).transpose(0, 1))
            scores[:, row : row + anatomy.heads, columns] += _products(written.heads[before], seen)
            row += anatomy.heads
            scores[:, row : row + 1, columns] += _products(written.mlps[before], by_prompt)
            row += 1


def _slopes(
    wiring: Wiring,
    inputs: _Inputs,
    passed: Passed,
    gradients: dict[Hook, Tensor],
    rules: frozenset[str] | None,
) -> Iterator[tuple[int, Tensor]]:
    """By layer ``[reader, n, position, d]``: gradients at what its readers read, in their order; the logits' last."""
    anatomy = wiring.anatomy
    frozen = rules is not None and "ln" in rules
    for layer, norm in enumerate(wiring.entries.attention):
        stream, slopes = passed.value(inputs.read["stream"][layer]), []
        for part in PARTS:
            gradient = gradients[inputs.read[part][layer]]
            if rules is not None and "ah" in rules and part != "v":
                gradient = torch.zeros_like(gradient)  # the rule cuts behind the hook that was read
            weights, _ = wiring.projections[part][layer]
            back = torch.einsum("npha,had->hnpd", gradient, weights)
            slopes.append(through_norm(norm, stream, back, frozen))
        mlp = gradients[inputs.read["mlp"][layer]][None]
        slopes.append(through_norm(norm, stream, mlp, frozen) if wiring.entries.shared else mlp)
        yield layer, torch.cat(slopes).detach()
    yield len(anatomy.blocks), gradients[inputs.read["final"][0]][None].detach()


def _flat(vectors: Tensor) -> Tensor:
    """``[n, reader, position * d]`` in float64."""
    return vectors.double().flatten(2)


def _products(written: Tensor, slopes: Tensor) -> Tensor:
    """``[n, writer, reader]``, summed over positions."""
    return torch.bmm(_flat(written), slopes.transpose(1, 2)).cpu()


def through_norm(module: nn.Module | None, x: Tensor, gradients: Tensor, frozen: bool) -> Tensor:
    """Pull ``[v, n, position, d]`` back through a norm at ``x``, if there is one; its scale may be a constant (the LN
    rule)."""
    if module is None:
        return gradients
    function: Callable[[Tensor], Tensor] = linear_norm(module) if frozen else unwrapped(module).forward
    with torch.enable_grad():
        many = x.detach().expand_as(gradients).clone().requires_grad_()
        return torch.autograd.grad(function(many), many, gradients)[0]
