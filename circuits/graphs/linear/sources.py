"""The sources of one prompt, numbered as columns, and what each adds to targets along the frozen linear map.

Columns are, one behind another: tokens; the error of every layer's MLP at every position; where a split is given the
linear part of these errors; and the active latents of every transcoder. What MLPs write at positions that are left out
is no source: it is summed into one constant a target.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from circuits.graphs.linear.local_model import Gradients, LocalModel, local_model, open_anatomy, prompt_ids
from circuits.graphs.linear.transcoders import (
    Transcoder,
    Transcoders,
    kept_positions,
    own_of,
    transcoders_of,
    written_by,
)
from saes.dark_matter.split.least_squares import LinearMap, NormalEquations
from saes.latents import Latents

KINDS = ("token", "error", "linear error", "latent", "target")
"""Kinds of nodes. Where a split is given, ``error`` is what is left of an error without its linear part."""
ErrorSplit = Mapping[int, Callable[[Tensor], Tensor]]
"""By layer a linear map from what its transcoder reads, ``[n, d]``, to the part of its error that follows from that: a
``LinearMap`` of :mod:`saes.dark_matter`, fitted on a corpus (:func:`fit_error_split`)."""
_GATHERED = 2**24
"""Most numbers of decoder rows that are gathered at a time."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Columns:
    """What each column is."""

    kind: np.ndarray
    """The kind of each, as its number in ``KINDS``."""
    layer: np.ndarray
    """The layer of each; -1 for tokens."""
    position: np.ndarray
    """Position in the prompt of each, counted from 0."""
    index: np.ndarray
    """Of a latent its number, of a token its id, else -1."""
    value: np.ndarray
    """Of a latent its activation, of an error its norm, of a token the norm of its embedding."""

    def __len__(self) -> int:
        return len(self.kind)


@dataclass(frozen=True, kw_only=True, eq=False)
class Effects:
    """What sources add to ``b`` targets."""

    of_columns: Float[Tensor, "b columns"]
    """What each source adds to each target, in the target's unit."""
    bias: Float64[Tensor, " b"]
    """Of all biases between: the model's and the decoders'."""
    left_out: Float64[Tensor, " b"]
    """Of what MLPs write at positions that are left out."""


class Sources:
    """Everything that adds to targets, of one local model.

    Args:
        local: The forward pass.
        kept: Boolean ``[position]``: where transcoders stand in.
        split: Linear parts of errors.
    """

    @torch.no_grad()
    def __init__(self, local: LocalModel, kept: Tensor, split: ErrorSplit | None = None) -> None:
        self.local = local
        device = local.embedding.device
        self.kept = kept.to(device).nonzero().flatten()
        self.left_out = (~kept.to(device)).nonzero().flatten()
        self.latents: dict[int, Latents] = {
            one.layer: one.part.encode(self._input(one)[self.kept].to(one.part.W_enc.dtype))
            for one in local.transcoders
        }
        self.decoder_biases: dict[int, Tensor] = {}
        self.errors: dict[int, Tensor] = {}
        self.linear_errors: dict[int, Tensor] = {}
        for layer, written in local.written.items():
            error = written[self.kept] - self._reconstructed(layer, written.dtype)
            own = own_of(local.transcoders, layer)
            if split is not None and layer in split and own is not None:
                linear = self.linear_errors[layer] = split[layer](self._input(own)[self.kept].cpu()).to(error)
                error = error - linear
            self.errors[layer] = error
        if split is not None and (strange := sorted(set(split) - set(self.linear_errors))):
            raise ValueError(f"the split is of layer {strange[0]}, which has no transcoder here")
        self.columns = self._number()

    def _input(self, one: Transcoder) -> Tensor:
        return self.local.live[one.read].detach()

    def _reconstructed(self, layer: int, dtype: torch.dtype) -> Tensor:
        """Of one layer's output at kept positions."""
        total = torch.zeros_like(self.local.written[layer][self.kept])
        for one, number in written_by(self.local.transcoders, layer):
            latents = self.latents[one.layer]
            for rows in self._chunks(latents):
                products = latents.values[rows].unsqueeze(-2) @ one.decoder(latents.indices[rows], number)
                total[rows] += products.squeeze(-2).to(dtype)
        own = own_of(self.local.transcoders, layer)
        if own is not None:
            bias = self.decoder_biases[layer] = own.part.b_dec.detach()[: total.shape[-1]].to(dtype)
            total += bias
            if own.part.skip:
                total += own.skip(self._input(own)[self.kept]).to(dtype)
        return total

    def _chunks(self, latents: Latents) -> list[slice]:
        size = max(1, _GATHERED // max(1, latents.values.shape[-1] * self.local.embedding.shape[-1]))
        return [slice(begin, begin + size) for begin in range(0, len(self.kept), size)]

    def _number(self) -> Columns:
        local, kept = self.local, self.kept.cpu().numpy()
        n, every = len(local.ids), []
        norms = local.embedding.detach().norm(dim=-1).cpu().numpy()
        every.append((0, np.full(n, -1), np.arange(n), local.ids.cpu().numpy(), norms))
        for kind, errors in ((1, self.errors), (2, self.linear_errors)):
            for layer, error in errors.items():
                count = len(kept)
                every.append((kind, np.full(count, layer), kept, np.full(count, -1), error.norm(dim=-1).cpu().numpy()))
        for layer, latents in self.latents.items():
            active = latents.values != 0
            position, _ = active.nonzero(as_tuple=True)
            count = len(position)
            every.append(
                (3, np.full(count, layer), kept[position.cpu().numpy()], latents.indices[active].cpu().numpy(),
                 latents.values[active].float().cpu().numpy())
            )  # fmt: skip
        self._ends = list(accumulate(len(each[1]) for each in every))
        whole = [np.concatenate([each[number] for each in every]) for number in range(1, 5)]
        return Columns(
            kind=np.concatenate([np.full(len(each[1]), each[0], np.int8) for each in every]),
            layer=whole[0].astype(np.int16),
            position=whole[1].astype(np.int32),
            index=whole[2].astype(np.int64),
            value=whole[3].astype(np.float32),
        )

    def written_by(self, column: int) -> list[tuple[int, int, Float[Tensor, " d"]]]:
        """What one source adds where: layer (-1 for the output of the module that embeds tokens), position, vector."""
        kind, layer = int(self.columns.kind[column]), int(self.columns.layer[column])
        position = int(self.columns.position[column])
        if kind == KINDS.index("token"):
            return [(layer, position, self.local.embedding.detach()[position])]
        if kind != KINDS.index("latent"):
            errors = self.errors if kind == KINDS.index("error") else self.linear_errors
            return [(layer, position, errors[layer][self.kept == position][0])]
        one = next(one for one in self.local.transcoders if one.layer == layer)
        index = torch.tensor([int(self.columns.index[column])], device=one.part.W_enc.device)
        latents, row = self.latents[layer], self.kept == position
        value = (latents.values * (latents.indices == index))[row].sum()
        return [(to, position, value * one.decoder(index, number)[0]) for number, to in enumerate(one.writes)]

    @torch.no_grad()
    def effects(self, slopes: Gradients) -> Effects:
        """What every source adds to the targets of one batch."""
        local, b = self.local, len(slopes.embedding)
        found = torch.zeros(b, len(self.columns), dtype=local.embedding.dtype, device=local.embedding.device)
        bias, left_out = slopes.bias.clone(), torch.zeros_like(slopes.bias)
        pieces = iter(zip([0, *self._ends], self._ends, strict=False))
        begin, end = next(pieces)
        found[:, begin:end] = (slopes.embedding * local.embedding.detach()).sum(-1)
        for errors in (self.errors, self.linear_errors):
            for layer, error in errors.items():
                begin, end = next(pieces)
                if layer in slopes.written:
                    found[:, begin:end] = (slopes.written[layer][:, self.kept] * error).sum(-1)
        for one in local.transcoders:
            begin, end = next(pieces)
            found[:, begin:end] = self._of_latents(one, slopes)
        for layer, slope in slopes.written.items():
            left_out += (slope[:, self.left_out] * local.written[layer][self.left_out]).flatten(1).sum(1).double()
            if layer in self.decoder_biases:
                bias += (slope[:, self.kept].sum(1) @ self.decoder_biases[layer]).double()
        return Effects(of_columns=found, bias=bias, left_out=left_out)

    def _of_latents(self, one: Transcoder, slopes: Gradients) -> Tensor:
        """``[b, active latent]``, in the order of the columns."""
        latents = self.latents[one.layer]
        active = latents.values != 0
        dtype = slopes.embedding.dtype
        total = torch.zeros(len(slopes.embedding), *latents.values.shape, dtype=dtype, device=active.device)
        for number, layer in enumerate(one.writes):
            if layer not in slopes.written:
                continue
            slope = slopes.written[layer][:, self.kept]
            for rows in self._chunks(latents):
                decoders = one.decoder(latents.indices[rows], number).to(dtype)
                total[:, rows] += torch.einsum("pkd,bpd->bpk", decoders, slope[:, rows])
        return (total * latents.values.to(dtype))[:, active]


def fit_error_split(
    model: Any,
    transcoders: Transcoders,
    prompts: Iterable[str | Sequence[int] | Tensor],
    *,
    leave_out: Sequence[int] = (0,),
    ridge: float = 0.0,
) -> dict[int, LinearMap]:
    """By layer the least-squares map, with an intercept, from what a transcoder reads to its error (the linear part of
    dark matter, Engels et al. 2024), fitted on a corpus: pass it as ``split`` for prompts that are not among it.

    Args:
        model: As for :func:`circuits.attribution_graph`, as are ``transcoders`` and ``leave_out``.
        prompts: Texts, or ids ``[position]``; tokens in all need to be many times the width.
        ridge: Added to the normal equations' diagonal.

    Raises:
        ValueError: no prompts, or fewer tokens than the width.

    Example:
        >>> import interp, saes
        >>> import torch
        >>> from circuits.graphs import fit_error_split
        >>> model, transcoders = interp.load_model("embedded"), saes.embedded_transcoders()
        >>> prompt = torch.randint(300, (200,), generator=torch.Generator().manual_seed(0))
        >>> sorted(fit_error_split(model, transcoders, [prompt]))
        [0, 1, 2, 3]
    """
    anatomy = open_anatomy(model)
    given = transcoders_of(model, anatomy, transcoders)
    equations: dict[int, NormalEquations] = {}
    for prompt in prompts:
        ids = prompt_ids(model, prompt)
        kept = kept_positions(len(ids), leave_out)
        with local_model(anatomy, ids, given, kept=kept) as local:
            sources = Sources(local, kept)
        for one in given:
            x, error = local.live[one.read].detach()[sources.kept].cpu(), sources.errors[one.layer].cpu()
            known = equations.setdefault(one.layer, NormalEquations(x.shape[1], error.shape[1]))
            known.add(x, error)
    if not equations:
        raise ValueError("prompts is empty; the linear part of errors is fitted on texts")
    for layer, known in equations.items():
        if known.n <= (width := given[0].part.d_in):
            raise ValueError(f"layer {layer} has {known.n} tokens, its input {width} dimensions: pass more prompts")
    return {layer: known.solve(fit_intercept=True, ridge=ridge) for layer, known in equations.items()}
