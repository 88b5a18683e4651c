"""The rules of layer-wise relevance propagation as gradients: the forward pass stays what it is, to the bit.

Relevance Patching (Rezaei Jafari et al. 2025, arXiv 2508.21258) replaces the gradient of attribution patching by an LRP
coefficient. Each rule changes what one kind of module passes back:

===========  ==============================================================  =======================================
rule         what the backward pass sees                                      where
===========  ==============================================================  =======================================
``ln``       the norm's scale is a constant; centring stays differentiable   norms of the residual stream, also the
                                                                              final one and Gemma's post-norms
``identity`` ``d act(x) / dx := act(x) / x``                                  activations of MLPs
``half``     each branch of a product gets half the gradient                  gated MLPs
``ah``       the attention pattern is a constant                              queries and keys
``zero``     the plain gradient: linear maps, embeddings, sums                everything else; needs no hook
===========  ==============================================================  =======================================

Half alone or Identity alone does not conserve relevance on a gated MLP: they belong together. Under ``ah`` queries and
keys have no relevance at all.

The rules are read when the model runs, not when it is built, and every pass is counted: a rule that fired less often
than the model has places for it raises, instead of leaving a score that looks right.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from circuits.anatomy.anatomy import Anatomy, anatomy_of, model_type, part_of_projection, require_experts_apart
from circuits.anatomy.ratios import Ratio, ratio_of
from interp.models.bridge import unwrapped
from interp.sites.norms import linear_norm

RULES = ("ln", "identity", "half", "ah", "zero")
PRESETS: dict[str, frozenset[str]] = {
    "paper": frozenset({"ln", "identity", "half", "ah"}),
    "no_ah": frozenset({"ln", "identity", "half"}),
    "ln": frozenset({"ln"}),
    "none": frozenset(),
}
"""``paper``: what the paper's numbers were made with. ``no_ah``: better for attention outputs (docs/circuits.md)."""

_active: WeakKeyDictionary[nn.Module, frozenset[str]] = WeakKeyDictionary()


class _WithGradientOf(torch.autograd.Function):
    """The first tensor's values, the second's gradient. Adding their difference would do, but not to the last bit
    where one of them is infinite or rounds in half precision."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, surrogate: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        return None, gradients[0]


def with_gradient_of(value: Tensor, surrogate: Tensor) -> Tensor:
    """``value`` in the forward pass; in the backward pass the gradient goes to ``surrogate`` alone."""
    return _WithGradientOf.apply(value.detach(), surrogate.to(value.dtype))


def rule_set(rules: str | Iterable[str]) -> frozenset[str]:
    """Names of rules (``ln`` or ``LN-rule``), or a preset, as a set; the zero rule is in effect anyway.

    Raises:
        ValueError: an unknown name.
    """
    if isinstance(rules, str) and rules in PRESETS:
        return PRESETS[rules]
    names = [rules] if isinstance(rules, str) else list(rules)
    found = {name.lower().removesuffix("-rule").replace("0", "zero") for name in names}
    if unknown := found - set(RULES):
        raise ValueError(
            f"no rule {', '.join(sorted(unknown))}; rules are {', '.join(RULES)}, presets {', '.join(PRESETS)}"
        )
    return frozenset(found - {"zero"})


def rules_of_method(
    method: str, rules: str | Iterable[str] | None, *, methods: Iterable[str], default: str, steps: int, what: str = ""
) -> frozenset[str] | None:
    """The rules in force under an attribution method that was asked for: those of ``relp``, None under the others.

    Raises:
        ValueError: a method that is not one of ``methods``; rules for another than ``relp``, or unknown ones; fewer
            than one step.
    """
    if method not in methods:
        raise ValueError(f"method {method!r}{what} is not one of {', '.join(methods)}")
    if rules is not None and method != "relp":
        raise ValueError(f"rules={rules!r} are for method 'relp'; {method!r} has none")
    if steps < 1:
        raise ValueError(f"steps is {steps}; it must be 1 or more")
    return rule_set(default if rules is None else rules) if method == "relp" else None


def active_rules(root: nn.Module) -> frozenset[str]:
    """The rules that :func:`relevance` has in force on a model."""
    return _active.get(root, frozenset())


@contextmanager
def relevance(model: Any, *, rules: str | Iterable[str]) -> Iterator[Counter[str]]:
    """Within the block, gradients through ``model`` are LRP coefficients; logits are unchanged to the bit.

    Yields the number of times each rule fired in the last completed forward pass.

    Args:
        model: A plain Hugging Face model or a bridge with raw weights, of a family in ``interp.models.families``;
            or its anatomy, where that is known.
        rules: A preset (``paper``, ``no_ah``, ``ln``, ``none``) or names of rules.

    Raises:
        ValueError: unknown rule, family, norm, gate or activation, before anything runs; rules already in force.
        RuntimeError: at the end of a forward pass in which a rule did not fire wherever it should have.
    """
    chosen = rule_set(rules)
    anatomy = model if isinstance(model, Anatomy) else anatomy_of(model)
    if chosen:
        require_experts_apart(anatomy, purpose="trace relevance through")
    if anatomy.root in _active:
        raise ValueError(
            f"rules {sorted(_active[anatomy.root])} are in force on this model already; leave that block first"
        )
    fired: Counter[str] = Counter()
    # In this order: the Half rule halves what the Identity rule passes back.
    planned = [hook for rule in RULES if rule in chosen for hook in _PLANS[rule](anatomy)]
    expected = Counter(rule for rule, _, _ in planned)
    with ExitStack() as stack:
        for rule, module, change in planned:
            stack.callback(module.register_forward_hook(partial(_counted, rule, change, fired)).remove)
        stack.callback(anatomy.root.register_forward_pre_hook(lambda *_: fired.clear()).remove)
        stack.callback(anatomy.root.register_forward_hook(lambda *_: _check_coverage(fired, expected)).remove)
        _active[anatomy.root] = chosen
        stack.callback(_active.pop, anatomy.root)
        yield fired


Change = Callable[[Tensor, Tensor], Tensor]
Planned = tuple[str, nn.Module, Change]


def _counted(
    rule: str, change: Change, fired: Counter[str], _module: nn.Module, args: tuple[Any, ...], output: Any
) -> Any:
    """The hook of one rule at one place, once the first three are given."""
    fired[rule] += 1
    return change(args[0], output) if torch.is_grad_enabled() else output


def _check_coverage(fired: Counter[str], expected: Counter[str]) -> None:
    short = {rule: f"{fired[rule]} of {count} times" for rule, count in expected.items() if fired[rule] != count}
    if short:
        raise RuntimeError(
            f"rules did not fire everywhere in this forward pass: {short}. Something computes a norm, an activation or"
            " attention without its module (processed weights, a fused kernel, a module called twice); scores would be"
            " those of other rules"
        )


def _as(surrogate: Callable[[Tensor], Tensor]) -> Change:
    """Backward as through ``surrogate`` of the module's input."""
    return lambda x, y: with_gradient_of(y, surrogate(x))


def _constant_ratio(ratio: Ratio) -> Callable[[Tensor], Tensor]:
    return lambda x: x * ratio(x.detach())


def _ln(anatomy: Anatomy) -> Iterator[Planned]:
    for module in anatomy.norms:
        yield "ln", module, _as(linear_norm(module))


def _identity(anatomy: Anatomy) -> Iterator[Planned]:
    for block in anatomy.blocks:
        activation = block.activation
        assert activation is not None
        yield "identity", activation, _as(_constant_ratio(ratio_of(unwrapped(activation))))


def _half(anatomy: Anatomy) -> Iterator[Planned]:
    """Halved on each branch rather than on the product: neurons are scored at the product, and what they get must not
    depend on whether their hook stands before or behind the rule's (a factor of 2 in published code)."""
    for block in anatomy.blocks:
        if block.up is None and block.gate_up is None:
            continue
        for branch in (block.activation, block.up):
            if branch is not None:
                yield "half", branch, lambda _x, y: with_gradient_of(y, y / 2)
        if block.gate_up is not None:
            yield "half", block.gate_up, lambda _x, y: with_gradient_of(y, _second_half_halved(y))


def _second_half_halved(gate_and_up: Tensor) -> Tensor:
    gate, up = gate_and_up.chunk(2, -1)
    return torch.cat([gate, up / 2], -1)


def _ah(anatomy: Anatomy) -> Iterator[Planned]:
    """With queries and keys detached the pattern is a constant, whether attention is eager or fused."""
    if anatomy.family.latent is not None:
        raise ValueError(
            f"the AH rule does not know attention of a {model_type(anatomy)!r} model, whose keys and values"
            " are made of one small vector. Leave the rule out (rules='no_ah')"
        )
    read, embed = part_of_projection(anatomy, 2)

    def keep_values(_x: Tensor, y: Tensor) -> Tensor:
        values = embed(read(y))
        return values + (y - values).detach()

    for block in anatomy.blocks:
        if block.q is block.k:
            yield "ah", block.q, keep_values
        else:
            for projection in (block.q, block.k):
                yield "ah", projection, lambda _x, y: y.detach()


_PLANS: dict[str, Callable[[Anatomy], Iterator[Planned]]] = {"ln": _ln, "identity": _identity, "half": _half, "ah": _ah}
