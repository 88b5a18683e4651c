"""What probes read of an example: its activation and its latents, each a mean over the tokens that stand for it.

Latents stay sparse. Without them, of the tokens of a text, the mean over tokens of what an SAE changes is what it
changes in the mean, since decoders are linear: ablating a latent at every token takes its mean times its decoder row
from the mean activation.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import sparse
from torch import Tensor

from interp.files.scratch import scratch_folder
from interp.models.bridge import Model
from interp.models.loading import context_length
from interp.sites.site import Site
from interp.sites.splicing import vectors_at
from interp.terminal.progress import counted
from interp.tokens.batches import measured, row_batches
from interp.tokens.for_model import LONGEST_BY_DEFAULT, rows_for
from saes.latents import Latents
from saes.sae import SAE
from saes.suites.texts.labelled import LabelledTexts


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Activations and latents of examples, on the CPU."""

    x: Float[Tensor, "n d"]
    """Activation of each example, a mean where it has several tokens."""
    latents: Any
    """The same of its latents, a scipy.sparse.csr_array [n, d_sae]."""

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, rows: np.ndarray) -> "Examples":
        """Some of them, by numbers or a mask."""
        return Examples(x=self.x[torch.from_numpy(np.asarray(rows))], latents=self.latents[rows])

    def columns(self, latents: Sequence[int] | np.ndarray) -> np.ndarray:
        """Values of a few latents, [n, latents]."""
        return self.latents[:, np.asarray(latents, dtype=np.int64)].toarray()

    def mean(self) -> np.ndarray:
        """Of each latent over the examples, [d_sae]."""
        return np.asarray(self.latents.mean(0)).ravel()


@torch.no_grad()
def examples_from_rows(sae: SAE, x: Float[Tensor, "n d"], *, batch: int = 4096) -> Examples:
    """One example a row of activations.

    Example:
        >>> from saes.suites import plant
        >>> from saes.suites.texts.examples import examples_from_rows
        >>> planted = plant(roots=4, d=8, seed=0)
        >>> examples_from_rows(planted.true_dictionary(), planted.rows(10, seed=0).x).latents.shape
        (10, 4)
    """
    device, dtype = sae.W_enc.device, sae.W_enc.dtype
    parts = [_csr(sae.encode(some.to(device, dtype))) for some in x.split(batch)]
    return Examples(x=x.detach().float().cpu(), latents=sparse.vstack(parts, format="csr"))


@torch.no_grad()
def examples_from_texts(
    sae: SAE,
    model: Model,
    texts: LabelledTexts,
    site: Site,
    *,
    bos: str = "model",
    context: int | None = None,
    first_position: int = 0,
    drop_tokens: Sequence[int] = (),
    batch_rows: int = 16,
) -> Examples:
    """One example a text, which is cut off at ``context`` tokens.

    Where ``texts.position`` is ``last``, that token is taken whatever it is; of a mean, positions before
    ``first_position`` and the ids ``drop_tokens`` are left out, and so is a beginning-of-sequence token.
    Raises ValueError where nothing of a text is left.

    Example:
        >>> import interp, saes, torch
        >>> from saes.suites import built_in, examples_from_texts
        >>> model, site = interp.load_model("embedded"), interp.Site.parse("blocks.2.hook_resid_post")
        >>> sae = saes.SAE(96, 192, saes.TopK(8)).initialise(seed=0, mean=torch.zeros(96))
        >>> len(examples_from_texts(sae, model, built_in("kind", model.tokenizer), site))
        208
    """
    longest = min(context or LONGEST_BY_DEFAULT, context_length(model))
    means: list[Tensor] = []
    latents, device = [], sae.W_enc.device
    dropped = {*drop_tokens, *([] if model.tokenizer.bos_token_id is None else [model.tokenizer.bos_token_id])}
    with scratch_folder() as scratch:
        lines = (json.dumps({"text": text}) for text in texts.texts)
        (scratch / "texts.jsonl").write_text("\n".join(lines), encoding="utf-8")
        rows = rows_for(
            model,
            scratch / "texts.jsonl",
            scratch / "rows",
            tokens=longest * len(texts.texts),
            context=longest,
            packing="document",
            bos=bos,
        )
        if len(rows.ids) != len(texts.texts):
            raise ValueError(f"{texts.name}: {len(texts.texts) - len(rows.ids)} texts hold no token; leave them out")
        steps = row_batches(rows, len(rows.ids), batch_rows, device=next(model.parameters()).device)
        for ids, documents in counted(steps, f"read {texts.name}", -(-len(rows.ids) // batch_rows), unit="batches"):
            width = int((documents >= 0).sum(1).max())  # most texts are far shorter than a row
            ids, documents = ids[:, :width], documents[:, :width]
            if texts.position == "last":
                kept = torch.zeros_like(documents, dtype=torch.bool)
                kept[torch.arange(len(ids)), (documents >= 0).sum(1) - 1] = True
            else:
                kept = measured(documents, first_position, ids=ids, drop_tokens=sorted(dropped))
            if not kept.any(1).all():
                number = len(means) * batch_rows + int((~kept.any(1)).nonzero()[0])
                raise ValueError(f"{texts.name}: nothing is left of {texts.texts[number]!r}; give longer texts")
            x = vectors_at(model, ids, site, attention_mask=documents >= 0)[kept].to(device, sae.W_enc.dtype)
            owner = kept.nonzero()[:, 0].cpu()
            means.append(_means(x.float().cpu(), owner, len(ids)))
            latents.append(_pooling(owner, len(ids)) @ _csr(sae.encode(x)))
    return Examples(x=torch.cat(means), latents=sparse.vstack(latents, format="csr"))


def _means(values: Float[Tensor, "tokens d"], owner: Int[Tensor, " tokens"], n: int) -> Float[Tensor, "n d"]:
    sums = torch.zeros(n, values.shape[1]).index_add_(0, owner, values)
    return sums / torch.bincount(owner, minlength=n)[:, None]


def _pooling(owner: Int[Tensor, " tokens"], n: int) -> Any:
    """The matrix [n, tokens] that takes means."""
    weights = 1 / torch.bincount(owner, minlength=n)[owner].double()
    return sparse.csr_array((weights.numpy(), (owner.numpy(), np.arange(len(owner)))), shape=(n, len(owner)))


def _csr(latents: Latents) -> Any:
    values, indices = latents.values.detach().double().cpu(), latents.indices.cpu()
    rows, slots = (values != 0).nonzero(as_tuple=True)
    entries = (values[rows, slots].numpy(), (rows.numpy(), indices[rows, slots].numpy()))
    return sparse.csr_array(entries, shape=(len(values), latents.d_sae))
