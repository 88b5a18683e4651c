"""The context in which a model runs, and learns, with clamps."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from interp.clamping.rules import Forward, Rule, checked
from interp.models.plain import require_tested_family
from interp.sites.site import Site
from interp.steering.site_edits import intervene


@contextmanager
def clamp(model: Any, rules: Rule | Iterable[Rule]) -> Iterator[None]:
    """Within the block every forward pass has what ``rules`` say, and gradients flow through all that they leave.

    Every clamp is ``where(chosen, value, activation)`` on a new tensor, so that it can stand around a whole training
    loop. What is overwritten gets no gradient, but weight decay still moves the weights behind it, and tied weights
    learn from elsewhere. Patterns that are set are not normalised again. Layers and heads are counted from 0; a head is
    a query head, also where groups share keys and values.

    Args:
        model: from ``load_model``; its attention is computed in small steps, whatever transformers would take.
        rules: one or more of :class:`Ablate`, :class:`Previous`, :class:`Induction`, :class:`NoPrevious`,
            :class:`Temperature`, :class:`Preserve`, :class:`Graft`; later ones override earlier ones at the same
            place. Where one needs a pass without clamps, each forward runs twice.

    Raises:
        ValueError: a layer or head that is not there, a number that cannot be, processed weights, a family in which no
            test compared the sites; and in a forward pass that sees only new tokens (``use_cache``).

    Example:
        >>> import interp, torch
        >>> from interp.clamping import Previous, clamp
        >>> model = interp.load_model("embedded")
        >>> with clamp(model, Previous(layer=0, head=2)):
        ...     pattern = interp.capture(model, torch.arange(1, 5)[None], "blocks.0.attn.hook_pattern[2]")
        >>> pattern["blocks.0.attn.hook_pattern[2]"][0, 2].tolist()
        [0.0, 1.0, 0.0, 0.0]
    """
    require_tested_family(model, "clamps")
    given = checked(rules)
    run = _Run(model, {site for rule in given for site in getattr(rule, "needs", tuple)()})
    with ExitStack() as contexts:
        for rule in given:
            contexts.enter_context(intervene(model, {rule.site(): partial(run.edit, rule)}))
        run.attach(contexts)
        yield


class _Run:
    """Knows the tokens of the forward pass that is running, and what a pass without clamps had."""

    def __init__(self, model: Any, needed: set[Site]) -> None:
        self._model, self._needed = model, needed
        self._forward: Forward | None = None
        self._known: dict[nn.Module, set[int]] = {}
        self._recording: dict[Site, Tensor] | None = None

    def attach(self, contexts: ExitStack) -> None:
        """Look at the ids where they enter, and record, after all edits, at the sites that are needed."""
        embedding, root = self._model.embed, self._model.original_model
        contexts.callback(embedding.register_forward_pre_hook(self._on_ids).remove)
        if self._needed:
            contexts.enter_context(intervene(self._model, {site: partial(self._record, site) for site in self._needed}))
            contexts.callback(root.register_forward_pre_hook(self._clean_pass, with_kwargs=True).remove)
            self._known = {
                module: {*module._forward_hooks, *module._forward_pre_hooks} for module in self._model.modules()
            }

    def edit(self, rule: Rule, old: Tensor) -> Tensor | None:
        """What a rule makes of an activation; nothing during the pass without clamps."""
        if self._recording is not None:
            return None
        now = self._forward
        if now is None:
            raise ValueError("clamps read the token ids: call the model with ids, not with embeddings")
        length = now.ids.shape[1]
        if rule.site().kind in ("scores", "pattern") and tuple(old.shape[-2:]) != (length, length):
            raise ValueError(
                f"{type(rule).__name__} sets whole patterns, and this pass sees {old.shape[-2]} of {old.shape[-1]}"
                " positions: pass use_cache=False"
            )
        return rule.value(old, now)

    def _record(self, site: Site, value: Tensor) -> None:
        if self._recording is not None:
            self._recording[site] = value

    def _on_ids(self, _module: nn.Module, args: tuple[Any, ...]) -> None:
        if self._recording is None:
            clean = {} if self._forward is None else self._forward.clean
            self._forward = Forward(ids=args[0], clean=clean)

    def _clean_pass(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._recording is not None:
            return
        self._recording = {}
        try:
            with _without_later_hooks(self._known):
                module(*args, **kwargs)
            clean = self._recording
        finally:
            self._recording = None
        ids = args[0] if args else kwargs.get("input_ids")
        self._forward = Forward(ids=ids, clean=clean)  # type: ignore[arg-type]


@contextmanager
def _without_later_hooks(known: dict[nn.Module, set[int]]) -> Iterator[None]:
    """Take off for a while the hooks that were put on since: a capture inside the clamp is not to see this pass."""
    saved: list[tuple[Any, dict[int, Any]]] = []
    for module, ids in known.items():
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            later = [i for i, hook in hooks.items() if i not in ids and not _is_of_the_bridge(hook)]
            if later:
                saved.append((hooks, dict(hooks)))
                for each in later:
                    del hooks[each]
    try:
        yield
    finally:
        for hooks, before in saved:
            hooks.clear()
            hooks.update(before)


def _is_of_the_bridge(hook: Any) -> bool:
    """Whether a hook belongs to how a bridge computes; it puts some on at its first pass."""
    return str(getattr(hook, "__module__", "")).startswith("transformer_lens.model_bridge")
