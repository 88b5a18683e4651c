"""Which positions an intervention touches, counted from the start of the sequence in every call of a model.

With a key-value cache a model sees only the positions that are new, so an index into the current call would mean
something else in every step of ``generate``. What a call adds to is read off its cache.
"""

import inspect
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from interp.models.bridge import Model, module_at
from interp.models.feed_forward import Stack, root_of

SCOPES = ("all", "prefill", "decode", "text", "image", "last")


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call of the decoder: the columns ``start`` to ``start + length`` of the sequence."""

    start: int
    """First column of the sequence in this call, from 0."""
    length: int
    """How many columns this call computes."""
    rows: int
    """How many sequences are in the batch."""
    ids: Tensor | None
    """[batch, tokens] as the outermost module that takes ids got them; without the image in OpenVLA's layout."""
    real: Bool[Tensor, "rows columns"] | None
    """Of all columns until the end of this call, which are no padding; None where no mask was given."""


class Positions:
    """Where a scope is, in the call that is running."""

    def __init__(
        self,
        model: Model,
        stack: Stack,
        scope: Any,
        *,
        prompt_length: int | None = None,
        image_mask: Tensor | None = None,
    ) -> None:
        self._scope = _checked(scope)
        if image_mask is not None and (image_mask.dtype != torch.bool or image_mask.ndim != 2):
            raise ValueError(
                f"image_mask is boolean [batch, position], not {image_mask.dtype} of shape {list(image_mask.shape)}:"
                " (input_ids == image_token_id)"
            )
        self._root, self._stack = root_of(model), stack
        self._prompt_length, self._image_mask = prompt_length, image_mask
        self._image_token = _image_token(self._root)
        self._entered: list[Mapping[str, Any]] = []
        self._selected: Bool[Tensor, "rows length"] | None = None
        self.calls = 0
        """How often positions were asked for, where the scope is not all of them ..."""
        self.touched = False
        """... and whether any was ever selected."""

    def attach(self, hooks: ExitStack) -> None:
        """Follow the decoder, and the modules around it, which see token ids and padding masks."""
        if isinstance(self._scope, str) and self._scope == "all":
            return
        parts = self._stack.decoder.split(".") if self._stack.decoder else []
        paths = [".".join(parts[:length]) for length in range(len(parts) + 1)]
        for path in paths:
            module = module_at(self._root, path) if path else self._root
            assert module is not None
            is_decoder = path == self._stack.decoder
            enter = self._enter_decoder if is_decoder else self._enter
            hooks.callback(module.register_forward_pre_hook(enter, with_kwargs=True).remove)
            hooks.callback(module.register_forward_hook(self._leave, always_call=True).remove)

    def select(self, x: Tensor) -> Bool[Tensor, "rows length"] | None:
        """Of a hidden state [batch, position, …] of the running call, the positions to change; None for all."""
        if isinstance(self._scope, str) and self._scope == "all":
            return None
        if self._selected is None or self._selected.shape != x.shape[:2]:
            raise ValueError(
                f"scope={self._shown} needs to know which positions a call is about, and {self._stack.decoder!r} is not"
                " called as a module here; only scope='all' works where layers are called one by one"
            )
        self.calls += 1
        return self._selected.to(x.device)

    @property
    def _shown(self) -> str:
        return repr(self._scope) if isinstance(self._scope, str) else "a mask"

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        names = list(inspect.signature(module.forward).parameters)
        self._entered.append({**dict(zip(names, args, strict=False)), **kwargs})

    def _enter_decoder(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._enter(module, args, kwargs)
        call = self._call()
        self._selected = self._of(call)
        self.touched |= bool(self._selected.any())

    def _leave(self, *_: Any) -> None:
        self._entered.pop()

    def _call(self) -> Call:
        own = self._entered[-1]
        state = own.get("inputs_embeds")
        state = own["input_ids"] if state is None else state
        rows, length = state.shape[:2]
        cache = own.get("past_key_values")
        start = 0 if cache is None else int(cache.get_seq_length())
        ids = next((ids for given in self._entered if (ids := given.get("input_ids")) is not None), None)
        real = None
        for given in self._entered:  # the innermost that fits: outside, a mask may lack the image's columns
            mask = given.get("attention_mask")
            if isinstance(mask, Tensor) and mask.ndim == 2 and mask.shape[1] == start + length:
                real = mask.to(state.device) != 0
        return Call(start=start, length=length, rows=rows, ids=ids, real=real)

    def _of(self, call: Call) -> Bool[Tensor, "rows length"]:
        device = None if call.ids is None else call.ids.device
        columns = torch.arange(call.start, call.start + call.length, device=device)
        every = torch.ones(call.rows, call.length, dtype=torch.bool, device=device)
        real = every if call.real is None else call.real[:, call.start :].to(every.device)
        if isinstance(self._scope, Tensor):
            return self._masked(self._scope, call, columns) & real
        prompt = self._prompt_length
        if self._scope in ("prefill", "decode"):
            if prompt is None:
                prompt = call.start or call.length
            return every & ((columns < prompt) if self._scope == "prefill" else (columns >= prompt))
        if self._scope == "last":
            if prompt is not None:
                return every & (columns >= prompt - 1)
            last = (real * torch.arange(1, call.length + 1, device=every.device)).argmax(1)
            return torch.arange(call.length, device=every.device).eq(last[:, None])
        image = self._image(call, columns)
        return image if self._scope == "image" else ~image & real

    def _masked(self, mask: Tensor, call: Call, columns: Tensor) -> Bool[Tensor, "rows length"]:
        """A row of flags counts tokens, without padding; one row for each of the batch counts columns."""
        mask = mask.to(columns.device)
        if mask.ndim == 2:
            return _taken(_for_rows(mask, call.rows), columns.expand(call.rows, -1))
        tokens = columns.expand(call.rows, -1)
        if call.real is not None:
            tokens = (call.real.to(columns.device).long().cumsum(1) - 1)[:, call.start :]
        return _taken(mask.expand(call.rows, -1), tokens)

    def _image(self, call: Call, columns: Tensor) -> Bool[Tensor, "rows length"]:
        if self._image_mask is not None:
            mask = _for_rows(self._image_mask.to(columns.device), call.rows)
            return _taken(mask, columns.expand(call.rows, -1))
        none = torch.zeros(call.rows, call.length, dtype=torch.bool, device=columns.device)
        if call.ids is not None and call.ids.shape[1] == call.length and self._image_token is not None:
            return call.ids.eq(self._image_token)
        given = 0 if call.ids is None else call.ids.shape[1]
        if call.start or (given == call.length and self._scope == "text"):
            return none
        if given == call.length:
            raise ValueError(
                f"scope='image' finds no image: the {type(self._root).__name__} has no image token, and puts in no"
                " positions beside its tokens. Pass image_mask=… [batch, position], true at the image"
            )
        if 0 < given < call.length:  # OpenVLA's layout: patches stand behind the first token
            return none | ((columns >= 1) & (columns < 1 + call.length - given))
        raise ValueError(
            f"scope={self._scope!r} needs the prompt's token ids, which no forward pass of this model gets (PI0's"
            " sample_actions embeds them itself): pass image_mask=(input_ids == image_token_id)"
        )


def _taken(mask: Bool[Tensor, "rows known"], at: Tensor) -> Bool[Tensor, "rows length"]:
    """The mask at some positions; false beyond its end."""
    inside = (at >= 0) & (at < mask.shape[1])
    return mask.gather(1, at.clamp(0, mask.shape[1] - 1)) & inside


def _for_rows(mask: Bool[Tensor, "given known"], rows: int) -> Bool[Tensor, "rows known"]:
    """``generate`` repeats every prompt for its beams, and for the sequences that it returns."""
    if rows % len(mask):
        raise ValueError(f"a mask of {len(mask)} rows does not fit a batch of {rows}; give a row for each, or one row")
    return mask.repeat_interleave(rows // len(mask), 0)


def _checked(scope: Any) -> str | Tensor:
    if isinstance(scope, str):
        if scope in SCOPES:
            return scope
        raise ValueError(f"scope={scope!r} is not known; choose one of {', '.join(SCOPES)}, or give a mask")
    mask = torch.as_tensor(scope)
    if mask.dtype != torch.bool or mask.ndim not in (1, 2) or not mask.numel():
        raise ValueError(
            f"a mask of positions is boolean, [position] or [batch, position], not {mask.dtype} of shape"
            f" {list(mask.shape)}: true where to steer, counted from the start of the sequence"
        )
    return mask


def _image_token(root: nn.Module) -> int | None:
    config = getattr(root, "config", None)
    for part in (config, getattr(config, "vlm_config", None)):
        for name in ("image_token_id", "image_token_index"):
            if isinstance(token := getattr(part, name, None), int):
                return token
    return None
