"""The local replacement model of one prompt: affine in what MLPs write and in the tokens' embeddings.

One forward pass runs under the rules ``ln`` and ``ah`` of :mod:`circuits.rules`: scales of norms and attention patterns
are constants. What each MLP writes is cut off from its input and becomes a leaf of the graph, but for the skip
connection of a transcoder, which is linear and stays. So gradients from any place run through the residual stream,
values and output projections of heads, and frozen norms alone.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor, nn

from circuits.anatomy.anatomy import Anatomy, anatomy_of, require_experts_apart
from circuits.graphs.linear.transcoders import Transcoder, own_of
from circuits.rules import active_rules, relevance
from circuits.runs.runner import hook_at
from interp.inference_mode import refuse_inference_mode
from interp.models.inputs import checked_inputs
from interp.models.plain import plain_module
from interp.sites.checking import require_declared
from interp.sites.hooks import hook_of, why_absent
from interp.sites.norms import linear_norm
from interp.sites.site import Site

FROZEN = frozenset({"ln", "ah"})
UNEMBEDDING = Site("logits")
"""As a place of injection: what enters the unembedding at the last position."""

ATTENTION_INPUT = "attention_input"
"""As a kind of place with a layer: what queries and keys are made of."""


@dataclass(frozen=True, eq=False)
class Injection:
    """A direction at a place: the target is its product with what is there."""

    site: Site
    """The place whose tensor the direction is multiplied with."""
    position: int
    """Position in the prompt; negative ones count from the end."""
    vector: Float[Tensor, " d"]
    """The direction, as wide as the place."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Gradients:
    """Of ``b`` targets."""

    written: Mapping[int, Float[Tensor, "b position d"]]
    """By layer, with respect to what the MLP adds to the residual stream; layers behind all targets are left out."""
    embedding: Float[Tensor, "b position d"]
    """With respect to the output of the module that embeds tokens."""
    bias: Float64[Tensor, " b"]
    """Sum over the model's own biases (norms, attention, position embeddings) of what each adds to the target."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LocalModel:
    """What the one forward pass left. Values are the model's own; ``live`` ones are attached to the graph."""

    anatomy: Anatomy
    """The model's plain modules, block by block."""
    ids: Int[Tensor, " position"]
    """Token ids of the prompt, one for each position."""
    transcoders: tuple[Transcoder, ...]
    """One for each layer that has one, in the order of the layers."""
    live: Mapping[Site, Float[Tensor, "position d"]]
    """Where transcoders read, and where targets are."""
    written: Mapping[int, Float[Tensor, "position d"]]
    """By layer: what the MLP adds to the residual stream."""
    leaves: Mapping[int, Float[Tensor, "position d"]]
    """By layer: zeros that are added to it."""
    embedding: Float[Tensor, "position d"]
    """Output of the module that embeds tokens, a leaf of the graph."""
    position_embedding: Tensor | None
    """Output of the module that embeds positions; None where the model has none."""
    biases: tuple[Tensor, ...]
    """The model's biases, as leaves; those in norms of queries and keys are constants."""
    logits: Float[Tensor, " vocab"]
    """At the last position."""

    def values(self, targets: Sequence[Injection]) -> Float[Tensor, " b"]:
        """The product of each target, attached to the graph: one gather a place, since each would put a gradient of
        the whole place for every row of the batch."""
        by_site: dict[Site, list[int]] = {}
        for number, target in enumerate(targets):
            by_site.setdefault(target.site, []).append(number)
        parts = []
        for site, numbers in by_site.items():
            x = self.live[site]
            positions = torch.tensor([targets[number].position for number in numbers], device=x.device)
            vectors = torch.stack([targets[number].vector.to(x.dtype) for number in numbers])
            parts.append((x[positions] * vectors).sum(-1))
        order = torch.tensor([number for numbers in by_site.values() for number in numbers], device=parts[0].device)
        return torch.cat(parts)[order.argsort()]

    def pull_back(self, targets: Sequence[Injection], *, before: int) -> Gradients:
        """Gradients of targets in one batched backward pass; ``before`` is the layer before which all sources are."""
        products = self.values(targets)
        layers = [layer for layer in self.leaves if layer < before]
        constants = [] if self.position_embedding is None else [self.position_embedding]
        constants += self.biases
        wanted = [self.embedding, *(self.leaves[layer] for layer in layers), *constants]
        one_each = torch.eye(len(targets), dtype=products.dtype, device=products.device)
        found = torch.autograd.grad(
            products, wanted, one_each, is_grads_batched=True, retain_graph=True, allow_unused=True
        )
        embedding, *others = found
        bias = torch.zeros(len(targets), dtype=torch.float64, device=products.device)
        for value, slope in zip(constants, others[len(layers) :], strict=True):
            if slope is not None:
                bias += (slope.detach().double() * value.detach().double()).flatten(1).sum(1)
        nothing = products.new_zeros(len(targets), *self.embedding.shape)
        return Gradients(
            written={
                layer: nothing if slope is None else slope.detach()
                for layer, slope in zip(layers, others, strict=False)
            },
            embedding=nothing if embedding is None else embedding.detach(),
            bias=bias,
        )


def open_anatomy(model: Any) -> Anatomy:
    """The parts of the plain modules behind a model, if a graph can be drawn of it.

    Raises:
        ValueError: an undeclared family, experts, small vectors of keys and values, training mode, processed weights,
            somebody's hooks, rules in force, or half precision, in which small edges are lost.
    """
    module = plain_module(model, purpose="draw attribution graphs")
    anatomy = anatomy_of(module)
    require_experts_apart(anatomy, purpose="draw attribution graphs of")
    require_declared(model)
    if rules := active_rules(getattr(model, "original_model", module)):
        raise ValueError(f"the rules {sorted(rules)} are in force on this model; leave that block")
    dtype = next(module.parameters()).dtype
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"the model is in {dtype}, in which small edges are lost: load it with dtype='float32'")
    return anatomy


def prompt_ids(model: Any, prompt: str | Sequence[int] | Tensor) -> Int[Tensor, " position"]:
    """Ids of one prompt, checked.

    Raises:
        ValueError: as ``interp.capture``; or several prompts.
    """
    tokens: Any = [prompt] if isinstance(prompt, str) else torch.as_tensor(prompt)
    if isinstance(tokens, Tensor):
        if tokens.ndim != 1:
            raise ValueError(f"a graph is of one prompt: ids [position], not of shape {list(tokens.shape)}")
        tokens = tokens[None]
    ids, _ = checked_inputs(model, tokens, None if isinstance(prompt, str) else torch.ones_like(tokens))
    return ids[0]


@contextmanager
def local_model(
    anatomy: Anatomy,
    ids: Int[Tensor, " position"],
    transcoders: tuple[Transcoder, ...],
    *,
    kept: Tensor,
    sites: Iterable[Site] = (),
) -> Iterator[LocalModel]:
    """Run the prompt once; within the block its graph can be pulled back through.

    Args:
        anatomy: Of plain modules.
        ids: The prompt.
        transcoders: Of that model.
        kept: Positions at which skip connections stand in for a part of the MLP.
        sites: Where targets are, beside the unembedding.
    """
    refuse_inference_mode("an attribution graph", anatomy.root)
    tape = _Tape(anatomy, transcoders, kept)
    with ExitStack() as stack, torch.enable_grad():
        biases = stack.enter_context(_biases_alone(anatomy))
        with relevance(anatomy, rules=FROZEN), ExitStack() as hooks:
            tape.attach(hooks, {one.read for one in transcoders} | set(sites))
            output = anatomy.root(input_ids=ids[None], use_cache=False, logits_to_keep=1)
        yield LocalModel(
            anatomy=anatomy,
            ids=ids,
            transcoders=transcoders,
            live=tape.live,
            written=tape.written,
            leaves=tape.leaves,
            embedding=tape.constants["embedding"],
            position_embedding=tape.constants.get("position"),
            biases=biases,
            logits=output.logits[0, -1].detach(),
        )


class _Tape:
    """What hooks take down and change in the forward pass."""

    def __init__(self, anatomy: Anatomy, transcoders: tuple[Transcoder, ...], kept: Tensor) -> None:
        self.anatomy, self.transcoders = anatomy, transcoders
        self.kept = kept.to(next(anatomy.root.parameters()).device)
        self.live: dict[Site, Tensor] = {}
        self.written: dict[int, Tensor] = {}
        self.leaves: dict[int, Tensor] = {}
        self.constants: dict[str, Tensor] = {}

    def attach(self, hooks: ExitStack, sites: set[Site]) -> None:
        """Those that look come before those that cut: an MLP's input is both."""
        root: Any = self.anatomy.root
        places = [(*reading_place(self.anatomy, site), site) for site in sites]
        places.append((root.get_output_embeddings(), True, lambda value: value, UNEMBEDDING))
        for module, entering, convert, site in places:
            hooks.callback(hook_at(module, entering, self._look(site, convert)).remove)
        for layer, block in enumerate(self.anatomy.blocks):
            hooks.callback(hook_at(block.mlp, True, lambda _m, _e, value: value.detach()).remove)
            hooks.callback(hook_at(block.mlp_added, False, self._cut(layer)).remove)
        token_embedding = self.anatomy.embedding_projection or self.anatomy.embedding
        for name, embedding in (("embedding", token_embedding), ("position", self.anatomy.position_embedding)):
            if embedding is not None:
                hooks.callback(hook_at(embedding, False, self._begin(name)).remove)

    def _look(self, site: Site, convert: Callable[[Tensor], Tensor]) -> Any:
        def look(_module: nn.Module, _entering: bool, value: Tensor) -> Tensor:
            self.live[site] = convert(value)[0]
            return value.clone() if self.anatomy.family.in_place else value

        return look

    def _begin(self, name: str) -> Any:
        def begin(_module: nn.Module, _entering: bool, value: Tensor) -> Tensor:
            leaf = self.constants[name] = value.detach().reshape(-1, value.shape[-1]).clone().requires_grad_()
            return leaf.view_as(value).clone()

        return begin

    def _cut(self, layer: int) -> Any:
        factor, own = self.anatomy.family.residual_multiplier, own_of(self.transcoders, layer)

        def cut(_module: nn.Module, _entering: bool, value: Tensor) -> Tensor:
            constant = value.detach()
            self.written[layer] = constant.reshape(-1, constant.shape[-1]) * factor
            added = self.leaves[layer] = torch.zeros_like(self.written[layer]).requires_grad_()
            if own is not None and own.part.skip:
                skipped = own.skip(self.live[own.read]).to(added.dtype) * self.kept[:, None]
                added = added + (skipped - skipped.detach())
            return constant + (added / factor).view_as(constant)

        return cut


def reading_place(anatomy: Anatomy, site: Site) -> tuple[nn.Module, bool, Callable[[Tensor], Tensor]]:
    """The module by which a site's tensor passes, whether it enters, and what brings it into ``[batch, position, d]``,
    with scales of norms as constants.

    Raises:
        ValueError: the model has no such site.
    """
    if site.kind == ATTENTION_INPUT:
        assert site.layer is not None
        return anatomy.blocks[site.layer].q, True, lambda value: value
    hook = hook_of(anatomy, site.kind, site.layer, batch=1)
    if hook is None:
        raise ValueError(f"this model has no {site}: {why_absent(anatomy, site.kind, site.layer)}")
    convert = hook.convert or (lambda value: value)
    if site.kind.endswith("_normalized"):
        norm = replace(linear_norm(hook.module), weight=None, bias=None)
        convert = lambda value: norm(value if value.ndim == 3 else value[None])  # noqa: E731
    return hook.module, hook.entering, convert


@contextmanager
def _biases_alone(anatomy: Anatomy) -> Iterator[tuple[Tensor, ...]]:
    """Of the parameters only biases are differentiated: no weight's input is kept for its gradient. Biases in the norms
    of queries and keys belong to the patterns, which are constants."""
    before = [(parameter, parameter.requires_grad) for parameter in anatomy.root.parameters()]
    of_patterns = {
        id(parameter)
        for block in anatomy.blocks
        for norm in (block.q_norm, block.k_norm)
        if norm is not None
        for parameter in norm.parameters()
    }
    biases = tuple(
        parameter
        for name, parameter in anatomy.root.named_parameters()
        if name.endswith("bias") and id(parameter) not in of_patterns
    )
    try:
        anatomy.root.requires_grad_(False)
        for bias in biases:
            bias.requires_grad_(True)
        yield biases
    finally:
        for parameter, flag in before:
            parameter.requires_grad_(flag)
