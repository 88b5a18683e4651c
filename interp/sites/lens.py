"""What the model would say if it stopped after each block: its residual stream through final norm and unembedding.

nostalgebraist 2020, "interpreting GPT: the logit lens". No layer but the last was trained to be read so: the lens shows
what a head would see, not what later blocks make of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp import metrics
from interp.models.bridge import Model, is_bridge
from interp.models.inputs import checked_inputs
from interp.models.source import require_raw_weights
from interp.sites.capturing import capture
from interp.sites.site import Site, expand_sites
from interp.terminal.short_repr import short_repr


@dataclass(frozen=True, kw_only=True)
class LogitLens:
    """Logits after every block that was asked for.

    Example:
        >>> import interp
        >>> model = interp.load_model("embedded")
        >>> lens = interp.logit_lens(model, "When Emma and Jack went to the")
        >>> lens.logits.shape[-1] == model.cfg.d_vocab
        True
    """

    sites: tuple[Site, ...]
    """Where the residual stream was read, in order."""
    logits: Float[Tensor, "sites batch position vocab"]
    """What final norm and unembedding make of it; the last block's are the model's own."""
    final: Float[Tensor, "batch position vocab"]
    """The model's own logits, at the positions that were asked for."""

    __repr__ = short_repr

    def top(self, k: int = 5) -> Int[Tensor, "sites batch position k"]:
        """Ids of the ``k`` most likely next tokens, most likely first."""
        return self.logits.topk(k, dim=-1).indices

    def kl(self) -> Float[Tensor, "sites batch position"]:
        """KL(model || lens) in nats: what is still missing after each block."""
        return torch.stack([metrics.kl(self.final, logits) for logits in self.logits])

    def rank(self, ids: Int[Tensor, "batch position"]) -> Int[Tensor, "sites batch position"]:
        """How many tokens are more likely than the given ones; 0 where they are the most likely."""
        given = self.logits.gather(-1, ids.to(self.logits.device).expand(len(self.sites), -1, -1)[..., None])
        return (self.logits > given).sum(-1)


@torch.no_grad()
def logit_lens(
    model: Model,
    tokens: Any,
    *,
    sites: str | Site | Sequence[str | Site] = "blocks.*.hook_resid_post",
    attention_mask: Any = None,
    positions: Any = None,
) -> LogitLens:
    """Logits from the residual stream at ``sites``, on the CPU.

    Args:
        model: From ``load_model``, with raw weights.
        tokens: As :func:`interp.capture` takes them: ids, texts or what a tokenizer returned.
        sites: Places in the residual stream.
        attention_mask: As there.
        positions: Keep only these, as there: all logits take sites x batch x position x vocabulary numbers.

    Raises:
        ValueError: a site that is not in the residual stream; processed weights; a model whose logits are something
            else than final norm and unembedding (with a soft cap or a constant factor) make of its last block.

    Example:
        >>> import interp
        >>> model = interp.load_model("embedded")
        >>> lens = interp.logit_lens(model, "Emma was not at", positions=[-1])
        >>> [model.tokenizer.decode(ids[0, 0]) for ids in lens.top(1)]  # what comes next, after each block
        [' the', ' Fred', ' the', ' the']
    """
    require_raw_weights(model, purpose="read its residual stream")
    if not is_bridge(model):
        raise ValueError(f"logit_lens needs a model from load_model, not a {type(model).__name__}")
    wanted = expand_sites(model, sites)
    if others := [str(site) for site in wanted if site.kind not in ("resid_pre", "resid_mid", "resid_post")]:
        raise ValueError(f"{', '.join(others)}: the lens reads the residual stream, at hook_resid_pre, mid or post")
    last = Site("resid_post", len(model.blocks) - 1)
    cache = capture(model, tokens, [*wanted, last], attention_mask=attention_mask, positions=positions)
    inputs, options = checked_inputs(model, tokens, attention_mask)
    own = model.original_model(inputs, **options).logits.float().cpu()
    final = own if positions is None else own[:, positions]
    read = {site: _unembedded(model, cache[site]) for site in dict.fromkeys((*wanted, last))}
    scale = max(1.0, float(final.abs().max()))
    tolerance = 1e-3 if cache[last].dtype in (torch.float32, torch.float64) else 5e-2
    if not torch.allclose(read[last], final, rtol=0, atol=tolerance * scale):
        raise ValueError(
            f"the logits of this {type(model.original_model).__name__} are not what its final norm and unembedding make"
            f" of {last} (they differ by {float((read[last] - final).abs().max()):g}), so the lens would be wrong here"
        )
    return LogitLens(sites=wanted, logits=torch.stack([read[site] for site in wanted]), final=final)


def _unembedded(model: Model, residual: Float[Tensor, "batch position d"]) -> Float[Tensor, "batch position vocab"]:
    logits = model.original_model.get_output_embeddings()(model.ln_final(residual))
    return behind_unembedding(model.original_model.config, logits.float()).cpu()


def logit_factor(config: Any) -> float:
    """What a configuration multiplies logits by: Cohere's and Granite's factor."""
    return float(getattr(config, "logit_scale", 1.0) / getattr(config, "logits_scaling", 1.0))


def behind_unembedding(config: Any, logits: Float[Tensor, "*batch vocab"]) -> Float[Tensor, "*batch vocab"]:
    """A model's logits of what its unembedding puts out: a factor, and Gemma's soft cap."""
    logits = logits * logit_factor(config)
    cap = getattr(config, "final_logit_softcapping", None)
    return logits if cap is None else cap * torch.tanh(logits / cap)
