"""SAEs of normalised inputs as SAEs of raw ones: what was done to all inputs alike is folded into the weights, exactly.

Latents stay as they are, and the output comes back in the raw activation's units.
"""

import math
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

Weights = dict[str, Tensor]


def checked_factor(factor: Any, *, where: Path) -> float:
    """What inputs were multiplied by in training: a record's ``scales``, which ``SAE.from_record`` folds in place."""
    if type(factor) not in (int, float) or not 0 < factor < math.inf:
        raise ValueError(f"{where}: the factor of its inputs is {factor!r}; it must be a number above 0")
    return float(factor)


def fold_latent_scales(weights: Weights, scales: Float[Tensor, " d_sae"]) -> Weights:
    """Of an SAE whose latents are multiplied by ``scales`` before they are decoded."""
    return weights | {"W_dec": weights["W_dec"] * scales.to(weights["W_dec"].dtype)[:, None]}


def fold_whitening(weights: Weights, whitening: Weights, *, subtract_b_dec: bool, where: Path) -> Weights:
    """Of an SAE of ``(x - mean) @ matrix``, whose output is multiplied by ``inverse_matrix`` before the mean returns.

    In float64, rounded once. Where b_dec is not subtracted, the encoder's biases take the mean over.

    Raises:
        ValueError: the two matrices are not each other's inverse, or of another shape than the SAE's input.
    """
    names, d_in = ("mean", "matrix", "inverse_matrix"), len(weights["W_enc"])
    if sorted(whitening) != sorted(names):
        raise ValueError(f"{where}: its whitening has {', '.join(sorted(whitening))}; expected {', '.join(names)}")
    mean, matrix, inverse = (whitening[name].double() for name in names)
    for name, value, shape in zip(names, (mean, matrix, inverse), ((d_in,), (d_in, d_in), (d_in, d_in)), strict=True):
        if tuple(value.shape) != shape or not value.isfinite().all():
            raise ValueError(
                f"{where}: {name} of its whitening has shape {tuple(value.shape)}, expected finite {shape}"
            )
    product = matrix @ inverse
    if not torch.allclose(product, torch.eye(d_in, dtype=torch.float64), atol=1e-4):
        off = float((product - torch.eye(d_in)).abs().max())
        raise ValueError(f"{where}: inverse_matrix of its whitening is not the inverse of matrix, by {off:.2g}")
    W_enc = matrix @ weights["W_enc"].double()
    folded = {
        "W_enc": W_enc,
        "W_dec": weights["W_dec"].double() @ inverse,
        "b_dec": weights["b_dec"].double() @ inverse + mean,
    }
    if not subtract_b_dec:
        shift = mean @ W_enc
        folded["b_enc"] = weights["b_enc"].double() - shift
        if "b_mag" in weights:  # added to the gate's pre-activation, without its bias, times exp(r_mag)
            folded["b_mag"] = weights["b_mag"].double() - shift * weights["r_mag"].double().exp()
    return weights | {name: value.to(weights[name].dtype) for name, value in folded.items()}
