"""Run a model and keep the activations asked for, stopping as soon as the last of them has been computed.

Of a bridge a copy of the plain Hugging Face modules runs (:mod:`interp.models.plain`), and sites are the inputs and
outputs of its modules: values do not depend on what a bridge's hooks show, which differs from family to family. The
bridge itself runs where only it will do: where somebody's hooks edit it, or its weights were processed or edited, and
for gradients; there, sites whose values no test compared in that family are refused. The two agree to rounding (1e-5 in
float32), not to the bit, because fused attention adds in another order. Whichever runs, both engines see the same
tensors.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint

from interp.arguments.kinds import require
from interp.inference_mode import refuse_inference_mode
from interp.models.bridge import is_bridge, remove_hook
from interp.models.families.table import declared
from interp.models.inputs import checked_inputs
from interp.models.plain import PlainCopy, has_plain_values, require_right_attention
from interp.sites.checking import require_declared
from interp.sites.engines import run_with_hooks, run_with_nnsight
from interp.sites.hooks import Hook, hook_of
from interp.sites.kinds import KINDS
from interp.sites.parts import Parts, parts_of
from interp.sites.remote import is_remotable, module_of, run_remotely
from interp.sites.site import Site, declared_parts, expand_sites, find_module
from interp.sites.softmax import show_softmax

ENGINES = {"hooks": run_with_hooks, "nnsight": run_with_nnsight}


class ActivationCache(Mapping[Site, Tensor]):
    """Captured tensors by site, in the order of the layers; a site's name will do as a key."""

    def __init__(
        self,
        tensors: Mapping[Site, Tensor],
        *,
        going_on: Mapping[Site, Tensor] | None = None,
        positions: slice | Tensor | None = None,
    ) -> None:
        self._tensors = dict(tensors)
        self._going_on, self._positions = going_on or {}, positions

    def __getitem__(self, site: Site | str) -> Tensor:
        return self._tensors[self._captured(site)]

    def gradient(self, of: Tensor, site: Site | str) -> Tensor:
        """d ``of`` / d the activation at ``site``, in the shape of the activation, of a capture with gradients=True.

        ``of`` is one number made of tensors of this cache that are computed later. Everything between counts: both the
        blocks and the residual stream around them.

        Raises:
            ValueError: ``of`` is not one number, or no number that depends on the site; or the model does not go on
                from what is read at the site, as with a norm's scale.

        Example:
            >>> import interp
            >>> model, sites = interp.load_model("embedded"), ["blocks.0.hook_resid_post", "blocks.3.hook_resid_post"]
            >>> cache = interp.capture(model, "Emma was", sites, gradients=True)
            >>> later = cache["blocks.3.hook_resid_post"]
            >>> cache.gradient(later[0, -1, 5], "blocks.0.hook_resid_post").shape == later.shape
            True
        """
        key = self._captured(site)
        if of.numel() != 1:
            raise ValueError(f"a gradient is of one number, not of shape {list(of.shape)}: sum it, or take one entry")
        if key not in self._going_on or not of.requires_grad:
            why = "the model does not go on from what is read there" if of.requires_grad else "nothing has gradients"
            raise ValueError(f"no gradient at {key}: {why}; capture with gradients=True a site that lies on the way")
        (gradient,) = torch.autograd.grad(of, self._going_on[key], retain_graph=True, allow_unused=True)
        if gradient is None:
            raise ValueError(f"the number does not depend on {key}; take an earlier site, or make it of a later one")
        return _selected(gradient, key, self._positions)

    def _captured(self, site: Site | str) -> Site:
        key = Site.parse(site)
        if key not in self._tensors:
            raise KeyError(f"{key} was not captured; this cache holds {', '.join(map(str, self._tensors))}")
        return key

    def __iter__(self) -> Iterator[Site]:
        return iter(self._tensors)

    def __repr__(self) -> str:
        shapes = (f"{site}: {list(tensor.shape)}" for site, tensor in self._tensors.items())
        return f"ActivationCache({', '.join(shapes)})"

    def __len__(self) -> int:
        return len(self._tensors)


def capture(
    model: Any,
    tokens: Any,
    sites: str | Site | Iterable[str | Site] = (),
    *,
    attention_mask: Any = None,
    stop: bool = True,
    positions: Any = None,
    reduce: Callable[[Tensor], Tensor] | Mapping[Site, Callable[[Tensor], Tensor]] | None = None,
    gradients: bool = False,
    engine: str = "hooks",
    remote: bool | str = False,
) -> ActivationCache:
    """Activations at ``sites`` for a batch of tokens; what each kind of site holds is said in :mod:`interp.sites.site`.

    The model is left as it was, also after an error. Dropout is active in training mode, as always in torch.

    Args:
        model: A TransformerBridge from ``load_model`` or a plain Hugging Face model of a family declared in
            ``interp.models.families``; or any torch model, for path sites.
        tokens: Integers [batch, position], as a tensor, array or lists; what a tokenizer returned; or texts, which are
            read as the published tokenizer does and padded on the right. For a model that is not a transformer of
            Hugging Face, the tensor it takes.
        sites: Names, Sites or patterns such as ``blocks.*.hook_resid_post``.
        attention_mask: [batch, position], 1 where a token is real: positions are counted from each row's first real
            token, and padding is not seen. What is captured at padding means nothing.
        stop: End the forward pass at the deepest site. False runs it to its end, for the sake of other hooks.
        positions: Keep only these positions of the sequence (queries of scores and patterns): a slice, or a list of
            ints, negative ones counted from the end.
        reduce: Called on each tensor inside the forward pass, after positions and head were selected; its result is
            kept in the tensor's place. Or one for each site.
        gradients: Keep the tensors attached to the graph of the bridge's parameters, and of each other: see
            :meth:`ActivationCache.gradient`. By default no graph is built.
        engine: ``hooks``, or ``nnsight`` for the same tensors through an nnsight trace.
        remote: Run the trace elsewhere: True on NDIF, a URL on another server, ``local`` only through the same
            serialisation. The model is then nnsight's ``TransformersModel``, which loads no weights here, and the sites
            those of a plain Hugging Face model; tensors arrive on the CPU.

    Raises:
        ValueError: a site the model lacks, or that did not run; tokens, positions or engine it cannot take; gradients
            under inference mode.

    Example:
        >>> import interp
        >>> model = interp.load_model("embedded")
        >>> acts = interp.capture(model, "When Emma and Jack", ["blocks.3.hook_resid_post", "blocks.3.attn.hook_z"])
        >>> acts["blocks.3.attn.hook_z"].shape[2:]  # head, d_head
        torch.Size([3, 32])
    """
    if sites == ():
        raise ValueError(
            "no site is named: pass one or a pattern after the tokens, such as 'blocks.*.hook_resid_post';"
            " interp.available_sites(model) lists what there is"
        )
    if engine not in ENGINES:
        raise ValueError(f"engine {engine!r} is not known; choose {' or '.join(ENGINES)}")
    if remote:
        _check_remote(model, engine, reduce, gradients)
        hf_model = module_of(model)
        wanted = expand_sites(hf_model, sites)
        inputs, options = checked_inputs(hf_model, tokens, attention_mask)
        where = _checked_positions(positions, inputs)
        return ActivationCache(run_remotely(model, inputs, options, wanted, positions=where, stop=stop, host=remote))
    require(model, nn.Module, what="a model", fix="interp.load_model('gpt2') first, and then tokens or texts")
    wanted = expand_sites(model, sites)
    inputs, options = checked_inputs(model, tokens, attention_mask)
    where = _checked_positions(positions, inputs)
    if gradients:
        refuse_inference_mode("capture with gradients=True", model)
    if any(site.kind != "path" for site in wanted):
        require_declared(model)
    captured: dict[Site, Tensor] = {}
    going_on: dict[Site, Tensor] = {}

    def keep(site: Site, passing: Any) -> bool:
        if site not in captured:  # of a module that is called again, the first call
            whole = _first_tensor(passing, site)
            shown = _value(hooks[site], passing, whole)
            at_output = not (isinstance(hooks[site].module, HookPoint) or hooks[site].entering)
            if gradients and at_output and shown is whole:
                going_on[site] = whole
            value = _selected(shown, site, where)
            if reduce is not None:
                value = reduce[site](value) if isinstance(reduce, Mapping) else reduce(value)
            captured[site] = _own(value if gradients else value.detach(), whole, may_alias=plain)
        return stop and len(captured) == len(hooks)

    with ExitStack() as undo:
        runner, hooks, plain = _hooks(model, wanted, inputs, undo, gradients=gradients)
        if engine == "nnsight" and (edited := [str(site) for site, at in hooks.items() if at.module._forward_hooks]):
            raise ValueError(
                f"hooks edit {', '.join(edited)}, and nnsight reads a module before its hooks do: capture it with"
                " engine='hooks'"
            )
        undo.enter_context(torch.set_grad_enabled(gradients))
        for site, hook in hooks.items() if gradients else ():
            if isinstance(hook.module, HookPoint):
                _go_on_from(model, site, hook.module, going_on, undo)
        ENGINES[engine](runner, inputs, options, hooks, keep)
    if missing := [str(site) for site in wanted if site not in captured]:
        raise ValueError(
            f"{', '.join(missing)} did not run in this forward pass. A bridge computes attention itself, so the"
            " modules inside Hugging Face's run only where no scores, pattern, scale or gradients are asked for too"
        )
    return ActivationCache({site: captured[site] for site in wanted}, going_on=going_on, positions=where)


def _check_remote(model: Any, engine: str, reduce: Any, gradients: bool) -> None:
    if engine != "nnsight":
        raise ValueError(f"remote runs are traces: pass engine='nnsight', not {engine!r}")
    if not is_remotable(model):
        raise ValueError(
            f"{type(model).__name__} cannot run elsewhere; pass nnsight's TransformersModel('openai-community/gpt2')"
        )
    if reduce is not None or gradients:
        raise ValueError("reduce and gradients are for runs on this machine; leave them out with remote")


def _go_on_from(model: Any, site: Site, point: HookPoint, going_on: dict[Site, Tensor], undo: ExitStack) -> None:
    """Let the run go on from a tensor in the site's shape, which ``going_on`` holds, so that there is a gradient at it.

    A bridge shows the stream between attention and MLP where it enters the MLP's norm. What has a gradient there is a
    copy, which joins the stream at the block's end: as its difference from the original, which is 0.
    """
    copies = site.kind == "resid_mid"
    joining: list[Tensor] = []

    def go_on(value: Tensor, *, hook: Any) -> Tensor | None:
        if site.kind.endswith("_scale"):  # a norm that nobody looks at detaches its scale from the graph
            return None
        # An alias otherwise: where one norm serves attention and MLP, the tensor itself enters both.
        going_on[site] = value.clone() if copies else value.view_as(value)
        if copies:
            joining.append(going_on[site] - value)
        return going_on[site]

    undo.callback(remove_hook, point, point.add_hook(go_on))
    if copies:
        end = find_module(model, Site("resid_post", site.layer))
        assert isinstance(end, HookPoint)
        end.add_hook(lambda value, hook: value + joining.pop(), prepend=True)
        undo.callback(remove_hook, end, end.fwd_hooks[0])


def _hooks(
    model: Any, sites: Sequence[Site], inputs: Tensor, undo: ExitStack, *, gradients: bool
) -> tuple[nn.Module, dict[Site, Hook], bool]:
    """What to run, where the sites are in it, and whether their tensors stay as they are and need no copy. What is
    changed for it is changed back with ``undo``."""
    kinds = {site.kind for site in sites} - {"path"}
    if not is_bridge(model):
        parts = declared_parts(model)
        require_right_attention(model)
        if parts is not None and kinds & {"scores", "pattern"}:
            _require_eager(model)
        return model, {site: _hook_in_plain(model, site, parts, inputs, undo) for site in sites}, False
    family = declared(model.original_model.config)
    by_bridge = frozenset() if family is None else family.editable if gradients else family.bridge
    if has_plain_values(model) and not (gradients and kinds <= by_bridge):
        copy = PlainCopy(model, eager=bool(kinds & {"scores", "pattern"}))
        parts = None if family is None else parts_of(copy.model)
        plain = {site: _plain_hook(model, site, copy, parts, inputs, undo) for site in sites}
        hooks = {site: hook for site, hook in plain.items() if hook is not None}
        if len(hooks) == len(plain):
            return copy.model, hooks, not (family is not None and family.in_place)
    if refused := [str(site) for site in sites if site.kind not in by_bridge and site.kind != "path"]:
        name = model.original_model.config.model_type
        raise ValueError(
            f"{', '.join(refused[:3])} of a {name!r} model cannot be taken while hooks"
            " or processed or edited weights make the bridge itself run: its value there was not compared with the"
            " Hugging Face module's. Call model.reset_hooks() first, or load the model again"
        )
    root = model.original_model
    modules = {site: root if site.kind == "logits" else _module(model, site) for site in sites}
    hooks = {site: Hook(module=module, convert=_conversion(module)) for site, module in modules.items()}
    return root, hooks, False


def _require_eager(model: Any) -> None:
    if (name := model.config._attn_implementation) != "eager":
        raise ValueError(
            f"attention runs as {name!r}, which computes no scores and patterns; call"
            " model.set_attn_implementation('eager'), or load the model with interp.load_hf_model or load_model"
        )


def _hook_in_plain(model: Any, site: Site, parts: Parts | None, inputs: Tensor, undo: ExitStack) -> Hook:
    if parts is None or site.kind == "path":
        return Hook(module=_module(model, site))
    if site.kind in ("scores", "pattern"):
        assert site.layer is not None
        undo.callback(show_softmax(parts.blocks[site.layer].attention))
    hook = hook_of(parts, site.kind, site.layer, batch=len(inputs))
    assert hook is not None
    return hook


def _module(model: Any, site: Site) -> nn.Module:
    module = find_module(model, site)
    assert module is not None
    return module


def _plain_hook(
    model: Any, site: Site, copy: PlainCopy, parts: Parts | None, inputs: Tensor, undo: ExitStack
) -> Hook | None:
    """Where a bridge's site is in the plain copy; None for a module that only the bridge has."""
    if site.kind == "path":
        twin = copy.counterpart(_module(model, site))
        return None if twin is None else Hook(module=twin)
    if parts is None:  # an undeclared family has the residual stream around its blocks
        block = copy.counterpart(model.blocks[site.layer])
        return None if block is None else Hook(module=block, entering=site.kind == "resid_pre")
    return _hook_in_plain(copy.model, site, parts, inputs, undo)


def _conversion(point: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """What brings a tensor into the shape that a hook point shows, such as flat queries into heads."""
    rule = getattr(point, "hook_conversion", None)
    return None if rule is None else rule.convert


def _value(hook: Hook, passing: Any, whole: Tensor) -> Tensor:
    if hook.read is not None:
        return hook.read(passing)
    return whole if hook.convert is None else hook.convert(whole)


def _first_tensor(passing: Any, site: Site) -> Tensor:
    """Of a layer that returns a plain tensor, all of it: its first entry would be the first row of the batch."""
    value = passing
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, tuple | list) and value:
        value = value[0]
    if not isinstance(value, Tensor):
        raise ValueError(f"the module at {site} returns {type(passing).__name__} without a tensor in front")
    return value


def _selected(value: Tensor, site: Site, positions: slice | Tensor | None) -> Tensor:
    dim = 2 if site.kind in ("scores", "pattern") else 1
    if site.head is not None:
        value = value.select(KINDS[site.kind].head_dim, site.head)
        dim = 1
    if positions is None:
        return value
    if isinstance(positions, slice):
        return value[(slice(None),) * dim + (positions,)]
    return value.index_select(dim, positions.to(value.device))


def _own(value: Tensor, whole: Tensor, *, may_alias: bool) -> Tensor:
    """A tensor that later steps of the model cannot write to, and that does not keep a larger one in memory."""
    shared = value.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr()
    return value.clone() if shared and not (may_alias and value.numel() == whole.numel()) else value


def _checked_positions(positions: Any, inputs: Tensor) -> slice | Tensor | None:
    if positions is None:
        return None
    if inputs.ndim < 2:
        raise ValueError(
            f"positions={positions!r} need an input with positions; this one has shape {list(inputs.shape)}"
        )
    length = inputs.shape[1]
    try:
        chosen = range(length)[positions] if isinstance(positions, slice) else [int(p) for p in positions]
    except (TypeError, ValueError):
        raise ValueError(f"positions must be a slice or a list of ints such as [-1], not {positions!r}") from None
    if not len(chosen) or not all(-length <= p < length for p in chosen):
        raise ValueError(f"positions={positions!r} choose nothing or go beyond a sequence of {length} tokens")
    if isinstance(positions, slice) and (positions.step or 1) > 0:
        return positions
    return torch.tensor([p % length for p in chosen])
