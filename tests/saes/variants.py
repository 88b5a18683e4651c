"""The table of variants: a row for each, which every table-driven test of this folder runs on."""

import torch
from torch import Tensor

from saes import SAE, BatchTopK, Gated, JumpReLU, Matryoshka, ReLU, TopAFA, TopK
from saes.activations import Activation

VARIANTS: dict[str, Activation] = {
    "topk": TopK(4),
    "batchtopk": BatchTopK(4),
    "batchtopk-norms": BatchTopK(4, decoder_norms=True),
    "matryoshka": Matryoshka(4, shares=(0.25, 0.5, 1.0)),
    "jumprelu": JumpReLU(bandwidth=1e-3),
    "gated": Gated(),
    "relu": ReLU(),
    "afa": TopAFA(),
    "afa-parity": TopAFA("parity"),
}
DTYPE = torch.float64


def random_sae(variant: Activation, *, d_in: int = 8, d_sae: int = 24, dtype: torch.dtype = DTYPE) -> SAE:
    """Every weight random, thresholds positive."""
    sae = SAE(d_in, d_sae, variant, site="blocks.0.hook_resid_post", provenance={"model": "m"}, dtype=dtype)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 2)
            if name == "threshold":
                parameter.abs_()
    return sae


def inputs(n: int = 16, *, dtype: torch.dtype = DTYPE) -> Tensor:
    """Rows of width 8."""
    return torch.randn(n, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(dtype) * 2
