"""Exact top-k of float32 products that multiplies most of them in bfloat16 only, on CPUs that have units for it.

Let s be the bfloat16 product of a row x with a latent's weights w (bias b), and z the one that float32 gives. With the
unit roundoffs u = 2^-8 of bfloat16 and v = 2^-24 of float32, dx = x - bfloat16(x) and dw likewise:

    |z - s| <= E + c (|s| + |b|),   E = |w| (|dx| + 3 g |x|) + |dw| (|x| + |dx|),   c = 2.1 u,   g = d v / (1 - d v)

by Cauchy and Schwarz for the rounding of x and w; g bounds the rounding of a float32 sum in any order (there are two of
them, and the norms here); c covers rounding b and twice the result. Of every row k values are at least t, the k-th
largest maximum of a group; so the k-th largest z is at least t - E - c (|t| + |b|), and whatever has a smaller upper
bound is out. The few latents left are multiplied again in float32. Where they are not few, ``top`` returns None.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.linalg import vector_norm

from saes.kernels import cpu_groups as groups
from saes.kernels.cpu_pairs import pair_dot

LEAST = 1 << 24
"""Products below which it does not pay to set up."""
MOST_LEFT = 1 / 16
"""Share of latents that may be left: beyond it multiplying all of them in float32 is faster."""
CHUNK = 1024
"""Rows of the table that are rounded at a time."""
_ROUNDOFF, _SINGLE = 2.0**-8, 2.0**-24


@dataclass(frozen=True)
class Screen:
    """A table prepared to screen blocks of rows."""

    table: Float[Tensor, "d_sae d"]
    """Encoder's weights, a row a latent."""
    bias: Float[Tensor, " d_sae"] | None
    """What is added to products; None for nothing."""
    low: Float[Tensor, "d_sae d"]
    """The table in bfloat16."""
    low_bias: Float[Tensor, " d_sae"] | None
    """The bias in bfloat16; None where there is none."""
    longest: Float[Tensor, ""]
    """Largest norm of the table's rows."""
    most_rounded: Float[Tensor, ""]
    """Largest norm of what rounding took from a row."""
    largest_bias: Float[Tensor, ""]
    """Largest magnitude of an entry of the bias."""
    products: Float[Tensor, "rows size groups"]
    """Room for a block's products in bfloat16."""
    k: int
    """How many entries of a row are wanted."""

    @staticmethod
    def pays(x: Float[Tensor, "n d"], table: Float[Tensor, "d_sae d"], k: int) -> bool:
        """Whether this CPU multiplies bfloat16 several times faster, and there is enough to multiply."""
        large = len(x) * len(table) >= LEAST and k <= MOST_LEFT * len(table) / 4 and x.shape[1] < 1 << 14
        return large and x.dtype == table.dtype == torch.float32 and _multiplies_bfloat16()

    @classmethod
    def of(
        cls, table: Float[Tensor, "d_sae d"], bias: Float[Tensor, " d_sae"] | None, *, rows: int, k: int
    ) -> "Screen":
        """For blocks of up to ``rows`` rows."""
        low = torch.empty_like(table, dtype=torch.bfloat16)
        norms = []
        for row, rounded in zip(table.split(CHUNK), low.split(CHUNK), strict=True):
            rounded.copy_(row)
            error = rounded.float().sub_(row)
            norms.append(torch.stack([vector_norm(t, dim=-1).max() for t in (row, error)]))
        longest, most_rounded = torch.stack(norms).amax(0)
        return cls(
            table,
            bias,
            low,
            None if bias is None else bias.bfloat16(),
            longest,
            most_rounded,
            table.new_zeros(()) if bias is None else bias.abs().max(),
            groups.room(rows, len(table), k, torch.bfloat16),
            k,
        )

    def top(self, x: Float[Tensor, "n d"]) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]] | None:
        """The k largest products of each row and their latents; None where too many may be among them (or x is NaN)."""
        products, d_sae = self.products[: len(x)], len(self.table)
        low, into = x.bfloat16(), groups.latents_of(products, d_sae)
        if self.low_bias is None:
            torch.mm(low, self.low.T, out=into)
        else:
            torch.addmm(self.low_bias, low, self.low.T, out=into)
        # Above zero, bfloat16 is in the order of its bits as integers, and of integers the maximum is found faster. A
        # group without a member above zero gets the value of some other member.
        maxima = products.view(torch.int16).amax(1).view(torch.bfloat16)
        least = self._least(x, low, maxima)
        if not bool((least > 0).all()):
            maxima = products.amax(1)
            least = self._least(x, low, maxima)
        row, group = (maxima >= least[:, None]).nonzero(as_tuple=True)
        if len(group) > maxima.numel() / 2:
            return None
        pair, member = (products[row, :, group] >= least[row, None]).nonzero(as_tuple=True)
        rows, latents = row[pair], member * maxima.shape[1] + group[pair]
        counts = torch.bincount(rows, minlength=len(x))
        if counts.min() < self.k or len(rows) > MOST_LEFT * into.numel():
            return None
        exact = pair_dot(rows, latents, x, self.table)
        if self.bias is not None:
            exact += self.bias[latents]
        return _largest(rows, counts, exact, latents, self.k)

    def _least(self, x: Tensor, low: Tensor, maxima: Float[Tensor, "n groups"]) -> Float[Tensor, " n"]:
        """What s must reach in each row: see the module's text."""
        d, kth = x.shape[1], maxima.float().topk(self.k, sorted=False).values.amin(-1)
        sums = d * _SINGLE / (1 - d * _SINGLE)
        norm, residual = vector_norm(x, dim=-1), vector_norm(x - low, dim=-1)
        error = self.longest * (residual + 3 * sums * norm) + self.most_rounded * (norm + residual)
        # What flushing numbers near zero may add; far below any rounding unless all of x or of W is that small.
        error = error * (1 + 4 * sums) + 2.0**-100 * d * (1 + norm + self.longest)
        share = 2.1 * _ROUNDOFF
        bound = kth - 2 * error - share * (kth.abs() + 2 * self.largest_bias)
        return torch.where(bound >= 0, bound / (1 + share), bound / (1 - share))


def _largest(
    rows: Int[Tensor, " pairs"],
    counts: Int[Tensor, " n"],
    values: Float[Tensor, " pairs"],
    latents: Int[Tensor, " pairs"],
    k: int,
) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    """The k largest of each row's pairs; those of one row lie side by side, at least k of them."""
    slots = torch.arange(len(rows)) - (counts.cumsum(0) - counts)[rows]
    shape = (len(counts), int(counts.max()))
    padded = values.new_full(shape, -torch.inf).index_put_((rows, slots), values)
    where = rows.new_zeros(shape).index_put_((rows, slots), latents)
    best = padded.topk(k, sorted=False)
    return best.values, where.gather(1, best.indices)


def _multiplies_bfloat16() -> bool:
    if not (torch.backends.mkldnn.enabled and hasattr(torch.cpu, "get_capabilities")):
        return False
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
