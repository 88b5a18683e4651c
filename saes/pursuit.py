"""Encode by gradient pursuit: latents found for a given decoder at inference time, in place of the trained encoder.

Blumensath and Davies, "Gradient pursuits" (2008), with codes kept non-negative as in Engels, Riggs, Tegmark (arXiv
2410.14670; their code, encoder_pursuit.py). With unit atoms D, residual r = s - w D and s = x - b_dec, a step is

    p = r Dᵀ    support = {w != 0} and argmax p    g = p on the support    w <- max(w + g <gD, r> / <gD, gD>, 0)
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from saes.latents import Latents


@torch.no_grad()
def gradient_pursuit(
    x: Float[Tensor, "n d"],
    W_dec: Float[Tensor, "d_sae d"],
    l0: int | Int[Tensor, " rows"],
    *,
    b_dec: Float[Tensor, " d"] | None = None,
    batch_rows: int = 1024,
) -> Latents:
    """Codes of each row with at most ``l0`` active latents, so that ``codes @ W_dec + b_dec`` is close to x.

    Two departures from the paper's code, which gives NaN once a row is exactly represented: such a row is left as it
    is; and an atom that points away from the residual is not added, since its code could only be negative.

    Args:
        x: Activations.
        W_dec: Decoder rows, of any length: atoms are brought to length 1, and codes are those of ``W_dec``.
        l0: Steps, of all rows or of each one, 0 or more. Codes that are clamped to 0 on the way can leave fewer active.
        b_dec: Subtracted from x first.
        batch_rows: Rows at once: memory is ``batch_rows`` times d_sae.

    Raises:
        ValueError: an ``l0`` below 0 or above d_sae, or one for other rows than those of x.

    Example:
        >>> import saes, torch
        >>> dictionary = torch.eye(4)
        >>> x = torch.tensor([[0.0, 3.0, 0.0, 1.0]])
        >>> saes.gradient_pursuit(x, dictionary, 1).to_dense()
        tensor([[0., 3., 0., 0.]])
    """
    steps = torch.full((len(x),), l0, device=x.device) if isinstance(l0, int) else l0
    if len(steps) != len(x):
        raise ValueError(f"l0 is of {len(steps)} rows, x has {len(x)}; give one number, or one for each row")
    if len(steps) and not 0 <= int(steps.min()) <= int(steps.max()) <= len(W_dec):
        raise ValueError(f"l0 runs from {int(steps.min())} to {int(steps.max())}; it must lie in 0 to {len(W_dec)}")
    norms = W_dec.norm(dim=-1)
    atoms = functional.normalize(W_dec, dim=-1)
    signal = x if b_dec is None else x - b_dec
    slots = max(1, int(steps.max())) if len(steps) else 1
    codes, indices = x.new_zeros(len(x), slots), torch.zeros(len(x), slots, dtype=torch.long, device=x.device)
    for begin in range(0, len(x), batch_rows):
        rows = slice(begin, begin + batch_rows)
        _pursue(signal[rows], atoms, steps[rows], codes[rows], indices[rows])
    return Latents(codes / norms[indices].clamp_min(torch.finfo(x.dtype).tiny), indices, len(W_dec))


def _pursue(
    signal: Float[Tensor, "n d"],
    atoms: Float[Tensor, "d_sae d"],
    steps: Int[Tensor, " n"],
    codes: Float[Tensor, "n slots"],
    indices: Int[Tensor, "n slots"],
) -> None:
    """Fill ``codes`` and ``indices``; step t may open slot t, so that a slot is never wanted twice."""
    for step in range(int(steps.max())):
        residual = signal - _combine(codes, indices, atoms)
        correlation = residual @ atoms.T
        best, atom = correlation.max(dim=-1)
        known = ((indices == atom[:, None]) & (codes != 0)).any(-1)
        opens = (best > 0) & ~known & (step < steps)
        indices[:, step] = torch.where(opens, atom, indices[:, step])
        support = codes != 0
        support[:, step] |= opens
        gradient = correlation.gather(1, indices) * support
        direction = _combine(gradient, indices, atoms)
        square = direction.square().sum(-1)
        size = torch.where((square > 0) & (step < steps), (direction * residual).sum(-1) / square, 0)
        codes.copy_((codes + size[:, None] * gradient).clamp_min(0))


def _combine(
    codes: Float[Tensor, "n slots"], indices: Int[Tensor, "n slots"], atoms: Float[Tensor, "d_sae d"]
) -> Float[Tensor, "n d"]:
    return functional.embedding_bag(indices, atoms, per_sample_weights=codes, mode="sum")
