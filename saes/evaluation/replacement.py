"""The replacement model: a model whose MLPs are a transcoder set or cross-layer transcoder (Ameisen et al. 2025).

At every place that the dictionary writes its reconstruction stands in for the activation. ``true_stream`` reconstructs
from the clean model's activations: no layer sees the errors of those before it. ``compounding`` reads the replaced
stream, so errors add up through the layers. With error nodes, what the reconstruction misses on the clean stream is
added as a constant; the replacement model is then the model itself, to rounding, which is the test of everything else.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.sites.site import Site
from saes.places.dictionary import Dictionary


def replacement_logits(
    dictionary: Dictionary,
    model: Any,
    ids: Int[Tensor, "batch position"],
    clean: Mapping[Site, Float[Tensor, "batch position _"]],
    *,
    where: Bool[Tensor, "batch position"],
    compounding: bool,
    errors: bool = False,
) -> Float[Tensor, "batch position vocab"]:
    """Logits of the replacement model.

    Args:
        dictionary: On the model's device.
        model: A TransformerBridge.
        ids: Tokens.
        clean: What ``interp.capture`` found at the dictionary's places.
        where: Positions that are replaced; the others stay the model's own.
        compounding: Read the replaced stream, else the clean one; not of crosscoders, which read what they write.
        errors: Add what is missing on the clean stream.

    Raises:
        ValueError: ``compounding`` of a crosscoder.

    Example:
        >>> import interp, saes, torch
        >>> from saes.evaluation import replacement_logits
        >>> model, transcoders = interp.load_model("embedded"), saes.embedded_transcoders()
        >>> ids = torch.arange(1, 17)[None]
        >>> places = [interp.Site.parse(name) for name in transcoders.layout.reads + transcoders.layout.writes]
        >>> clean = interp.capture(model, ids, places)
        >>> options = {"where": torch.ones_like(ids, dtype=torch.bool), "compounding": True}
        >>> for errors in (False, True):  # with error nodes it is the model again
        ...     logits = replacement_logits(transcoders, model, ids, clean, errors=errors, **options)
        ...     print(torch.allclose(logits, model(ids), atol=1e-3))
        False
        True
    """
    reads, writes = sites_of(dictionary)
    dtype = dictionary.placed()[0][0].W_enc.dtype
    xs = [clean[site].to(dtype) for site in reads]
    x_hats = dictionary(xs)
    missing = [clean[site] - x_hat for site, x_hat in zip(writes, x_hats, strict=True)]
    if not compounding:
        values = [x_hat + (error if errors else 0) for x_hat, error in zip(x_hats, missing, strict=True)]
        hooks = [(str(site), _put(value, where)) for site, value in zip(writes, values, strict=True)]
        return model.run_with_hooks(ids, fwd_hooks=hooks)
    if dictionary.layout.kind == "crosscoder":
        raise ValueError("a crosscoder reads what it writes: it has no replacement model whose errors compound")
    stream = _ReplacedStream(dictionary, where, missing if errors else None)
    hooks = [(str(site), stream.reader(number)) for number, site in enumerate(reads)]
    hooks += [(str(site), stream.writer(number)) for number, site in enumerate(writes)]
    return model.run_with_hooks(ids, fwd_hooks=hooks)


def sites_of(dictionary: Dictionary) -> tuple[list[Site], list[Site]]:
    """The places read and written as sites of one model.

    Raises ValueError where they are of several stores, that is of several models.
    """
    if named := [name for name in dictionary.layout.reads if name.partition(":")[0].isdigit() and ":" in name]:
        raise ValueError(
            f"{', '.join(named)} are places of several models: there is no one model to replace or measure with; the"
            " table of shared and exclusive latents is saes.evaluation.sharing(dictionary, SameRows([...]))"
        )
    reads, writes = (
        [Site.parse(name) for name in names] for names in (dictionary.layout.reads, dictionary.layout.writes)
    )
    return reads, writes


class _ReplacedStream:
    """What the parts have read so far in one forward pass, and so what they write."""

    def __init__(
        self, dictionary: Dictionary, where: Bool[Tensor, "batch position"], missing: Sequence[Tensor] | None
    ) -> None:
        self.dictionary, self.where, self.missing = dictionary, where, missing
        self.xs: dict[int, Tensor] = {}
        self.written: dict[int, Tensor] = {}

    def reader(self, number: int) -> Any:
        """A hook that encodes what passes at the place of that number, and changes nothing."""

        def hook(value: Tensor, hook: Any) -> None:
            part, places = self.dictionary.placed()[number]
            x = self.xs[number] = value.to(part.W_enc.dtype)
            pieces = part.written(part.encode(x)).split(part.written_widths, dim=-1)
            for place, piece in zip(places.writes, pieces, strict=True):
                before = self.written.get(place)
                self.written[place] = piece if before is None else before + piece

        return hook

    def writer(self, number: int) -> Any:
        """A hook that puts the reconstruction from all that was read."""

        def hook(value: Tensor, hook: Any) -> Tensor:
            for part, (_, places) in enumerate(self.dictionary.placed()):
                if number in places.writes and part not in self.xs:
                    reads, writes = self.dictionary.layout.reads, self.dictionary.layout.writes
                    raise ValueError(f"the model computes {writes[number]} before {reads[part]}, which writes there")
            x_hat = self.dictionary.with_bias(number, self.written[number], self.xs[number])
            if self.missing is not None:
                x_hat = x_hat + self.missing[number]
            return torch.where(self.where[..., None], x_hat.to(value.dtype), value)

        return hook


def _put(value: Float[Tensor, "batch position d"], where: Bool[Tensor, "batch position"]) -> Any:
    def hook(before: Tensor, hook: Any) -> Tensor:
        return torch.where(where[..., None], value.to(before.dtype), before)

    return hook
