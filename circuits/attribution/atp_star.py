"""AtP* (Kramár et al. 2024, arXiv 2403.00745): attribution patching without its two known blind spots.

*QK fix*: a saturated softmax has no gradient, though another query or key may change the pattern altogether. So the
attention of a head is computed again with the query (or one key) of the other run, values held, and what its output
changes by is multiplied by the gradient there. Queries of all positions change different rows and take one computation
of a layer; keys take one for each position that differs.

*GradDrop*: effects on two paths that cancel at the base run need not cancel elsewhere. So one layer's contribution to
the residual stream after the other is cut out of the backward pass, and absolute effects are averaged.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from circuits.anatomy.anatomy import require_heads_apart
from circuits.anatomy.nodes import Hook, NodeHooks, node_hooks
from circuits.runs.pair import Contrast, Session, contrast
from circuits.runs.runner import hook_at


def atp_star(
    session: Session, families: Sequence[tuple[str, Sequence[NodeHooks]]]
) -> tuple[Contrast, list[list[Tensor]]]:
    """Both runs, and for each family and layer the products ``[drop, n, position, (unit,) d]``, one for each layer cut.

    Summed over ``d`` they are effects; of queries and keys ``d`` has one entry, the sum already.
    """
    blocks = session.anatomy.blocks
    if any(family in ("q", "k") for family, _ in families):
        require_heads_apart(session.anatomy, purpose="recompute attention for each query and key ('atp-star') of")
    added = [Hook(module, entering=False) for b in blocks for module in (b.attention_added, b.mlp_added)]
    z = node_hooks(session.anatomy, "z")
    nodes = [hooks for _, layers in families for hooks in layers]
    calls: dict[int, tuple[tuple[Any, ...], dict[str, Any]]] = {}
    with ExitStack() as stack:
        if any(family in ("q", "k") for family, _ in families):
            for layer, block in enumerate(blocks):
                stack.callback(
                    block.attention.register_forward_pre_hook(_remember(calls, layer), with_kwargs=True).remove
                )
        pair = contrast(session, [*nodes, *z], gradients=True, also_base=added)
    changed = {
        (family, layer): _changed_attention(session, pair, family, hooks, z[layer], layer, calls[layer])
        for family, layers in families
        if family in ("q", "k")
        for layer, hooks in enumerate(layers)
    }
    gradients = [
        _with_layer_cut(
            session, pair, added[2 * layer : 2 * layer + 2], [*(p.change for p in nodes), *(p.change for p in z)]
        )
        for layer in range(len(blocks))
    ]

    def products(family: str, layer: int, hooks: NodeHooks) -> Tensor:
        if (family, layer) in changed:
            return torch.stack([changed[family, layer](g[z[layer].change]) for g in gradients])
        difference = pair.difference(hooks)
        product = torch.stack([difference * g[hooks.change] for g in gradients])
        if family in ("attn_out", "mlp_out"):  # the cut is made right behind them, where autograd does not see it
            product[layer] = 0
        return product

    return pair, [[products(family, layer, hooks) for layer, hooks in enumerate(layers)] for family, layers in families]


def _with_layer_cut(
    session: Session, pair: Contrast, outputs: Sequence[Hook], wanted: Sequence[Hook]
) -> dict[Hook, Tensor]:
    """Gradients with nothing passing back through one layer's attention and MLP; the graph stays for the next."""
    handles = [pair.base.wholes[hook].register_hook(torch.zeros_like) for hook in outputs]
    gradients = session.runner.gradients(pair.base_metric.sum(), pair.base, wanted, keep_graph=True)
    for handle in handles:
        handle.remove()
    return {hook: gradient.detach() for hook, gradient in gradients.items()}


def _remember(calls: dict[int, Any], layer: int) -> Callable[..., None]:
    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls[layer] = (args, kwargs)  # the base run comes last, and stays

    return hook


def _changed_attention(
    session: Session,
    pair: Contrast,
    family: str,
    hooks: NodeHooks,
    z: NodeHooks,
    layer: int,
    call: tuple[tuple[Any, ...], dict[str, Any]],
) -> Callable[[Tensor], Tensor]:
    """From the gradient at ``z`` to the effects ``[n, position, head, 1]`` of the other run's queries or keys."""
    difference = pair.difference(hooks)
    if family == "q":
        moved = _rerun(session, layer, call, hooks.change, difference, z.value) - pair.base.value(z.value).detach()
        return lambda gradient: (moved * gradient).sum(-1, keepdim=True)
    heads, groups = session.anatomy.heads, session.anatomy.key_value_heads
    moves = {}
    for position in difference.ne(0).any(-1).any(-1).any(0).nonzero().flatten().tolist():
        only = torch.zeros_like(difference)
        only[:, position] = difference[:, position]
        moves[position] = _rerun(session, layer, call, hooks.change, only, z.value) - pair.base.value(z.value).detach()

    def effects(gradient: Tensor) -> Tensor:
        total = difference.new_zeros(*difference.shape[:-1], 1)
        for position, moved in moves.items():
            by_head = (moved * gradient).sum(-1).sum(1)
            total[:, position, :, 0] = by_head.unflatten(-1, (groups, heads // groups)).sum(-1)
        return total

    return effects


@torch.no_grad()
def _rerun(
    session: Session, layer: int, call: tuple[tuple[Any, ...], dict[str, Any]], hook: Hook, difference: Tensor, z: Hook
) -> Tensor:
    """The heads' outputs of one layer with a change of its queries or keys, everything else as in the base run."""
    seen: list[Tensor] = []

    def change(module: nn.Module, entering: bool, value: Tensor) -> Tensor:
        if module is z.module and entering:
            seen.append(z.read(value))
            return value
        return value + hook.embed(difference).to(value.dtype)

    block = session.anatomy.blocks[layer]
    with ExitStack() as stack:
        for module, entering in ((hook.module, hook.entering), (z.module, True)):
            stack.callback(hook_at(module, entering, change).remove)
        block.attention(*call[0], **call[1])
    session.runner.cost.attention_layers += 1
    return seen[0]
