"""A crosscoder of the embedded model before and after induction appears: which latents are new, and what do they do?

    python benchmarks/induction_crosscoder.py

Both checkpoints read the same rows; latent scaling says which latents are one checkpoint's own. On random tokens that
come twice, a new latent that belongs to induction is active the second time and not the first. What the new latents
write is then taken out of the later checkpoint, beside as many shared latents that write as much there.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from embedded_transcoders import config, heldout_rows, mixed_rows, show
from interleave import machine
from torch import Tensor

from interp import capture, load_model, metrics
from interp.embedded.synthetic import repeated_tokens
from interp.sites.site import Site
from interp.sites.splicing import edited_logits
from interp.store.caching import cache_activations
from saes import train_dictionary
from saes.evaluation import sharing
from saes.places import Dictionary, SameRows
from saes.training import with_places

HALF, ROWS, NEIGHBOURS = 100, 64, 10


def stores_of(models: list[Any], site: str, out: Path, tokens: int) -> SameRows:
    """What both checkpoints make of the same rows."""
    rows = mixed_rows(models[0], out / "tokens", tokens)
    return SameRows([cache_activations(m, rows, [site], out / f"store-{number}") for number, m in enumerate(models)])


def dense_latents(crosscoder: Dictionary, models: list[Any], site: Site, ids: Tensor) -> Tensor:
    """Activations of all latents, [rows, positions, d_sae]."""
    with torch.no_grad():
        (latents,) = crosscoder.encode([capture(model, ids, [site])[site] for model in models])
    return latents.to_dense()


@torch.no_grad()
def loss_without(model: Any, site: Site, ids: Tensor, written: Tensor) -> Tensor:
    """Loss of every prediction where ``written`` is taken away from the site, [rows, positions - 1]."""
    return metrics.cross_entropy(edited_logits(model, ids, [(site, lambda x: x - written)]), ids)


def matched(own: Tensor, others: Tensor, power: Tensor, rng: np.random.Generator) -> Tensor:
    """For each of ``own`` one of ``others``, each at most once, among the nearest in ``power``."""
    left, chosen = others.clone(), []
    for latent in own[power[own].argsort(descending=True)]:
        near = (power[left] - power[latent]).abs().argsort()[:NEIGHBOURS]
        pick = int(near[rng.integers(len(near))])
        chosen.append(left[pick])
        left = torch.cat([left[:pick], left[pick + 1 :]])
    return torch.stack(chosen)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/induction-crosscoder"))
    parser.add_argument("--steps", nargs=2, default=["step2896", "step4096"])
    parser.add_argument("--site", default="blocks.2.hook_resid_post")
    parser.add_argument("--tokens", type=int, default=400_000)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--draws", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    site, out = Site.parse(options.site), options.out
    models = [load_model("embedded", revision=step, device="cpu") for step in options.steps]
    source = stores_of(models, options.site, out, options.tokens)
    run = config(
        out / "crosscoder",
        options.epochs * options.tokens,
        kind="crosscoder",
        reads=(options.site,),
        writes=(),
        k=options.k,
        options={"decoder_norms": True},
    )
    crosscoder = train_dictionary(with_places(run, source), source, progress=True)
    found = sharing(crosscoder, source)
    print("| latents | number | confirmed by latent scaling |\n|---|---:|---:|")
    for name, number, confirmed in found.rows():
        print(f"| {name} | {number} | {'' if confirmed is None else confirmed} |")
    before, after = found.exclusive
    groups = {
        f"only {options.steps[0]}, confirmed": before & found.confirmed,
        f"only {options.steps[1]}, confirmed": after & found.confirmed,
        "all others": ~found.confirmed,
    }

    rng = np.random.default_rng(2)
    twice = torch.from_numpy(repeated_tokens(rng, rows=ROWS, half=HALF, vocab=4000, bos=0))
    text = heldout_rows(models[1], out / "heldout", 10_000)["text"]
    kept = (text.tensor_of("documents") >= 0).all(1)
    books = text.tensor_of("ids")[kept]
    f_twice, f_books = (dense_latents(crosscoder, models, site, ids) for ids in (twice, books))
    first, second = f_twice[:, 1 : HALF + 1], f_twice[:, HALF + 1 :]
    print("\n| active latents a token | random tokens | the same again | held-out books |\n|---|---:|---:|---:|")
    for name, mask in groups.items():
        cells = [show(metrics.mean((f[..., mask] != 0).float().sum(-1).mean(-1))) for f in (first, second, f_books)]
        print(f"| {name} | {' | '.join(cells)} |")

    part, _ = crosscoder.placed()[0]
    rows = part.at_place(1).detach()  # what the later checkpoint is written
    power = second.square().mean((0, 1)) * rows.square().sum(-1)
    own = groups[f"only {options.steps[1]}, confirmed"].nonzero().flatten()
    own = own[power[own] > 0]
    shared = (~before & ~after & (power > 0)).nonzero().flatten()
    model = models[1]

    texts = {"random tokens": slice(0, HALF), "the same again": slice(HALF + 1, None), "held-out books": slice(None)}
    runs = ((twice, f_twice, list(texts)[:2]), (books, f_books, list(texts)[2:]))
    clean = [loss_without(model, site, ids, torch.zeros(1)) for ids, _, _ in runs]

    def added(chosen: Tensor) -> dict[str, Tensor]:
        """Nats a token by row, for every text."""
        found = {}
        for (ids, f, names), before in zip(runs, clean, strict=True):
            losses = loss_without(model, site, ids, f[..., chosen] @ rows[chosen]) - before
            found |= {name: losses[:, texts[name]].mean(1) for name in names}
        return found

    ours = added(own)
    draws = [added(matched(own, shared, power, rng)) for _ in range(options.draws)]
    null = {name: torch.stack([draw[name].mean() for draw in draws]) for name in texts}
    print(f"\n| CE added in {options.steps[1]} without | " + " | ".join(texts) + " |\n|---|---:|---:|---:|")
    print(f"| its {len(own)} own latents | " + " | ".join(show(metrics.mean(ours[name])) for name in texts) + " |")
    mean = " | ".join(f"{its.mean():.3f} ({its.min():.3f} to {its.max():.3f})" for its in null.values())
    print(f"| as many matched shared ones, {options.draws} draws | {mean} |")

    rate = torch.stack([(f != 0).float().mean((0, 1)) for f in (first, second)])
    order = own[power[own].argsort(descending=True)]
    heads = ["relative norm", "active, random tokens", "the same again", "held-out books", "where in the books"]
    print(f"\n| latent | {' | '.join(heads)} |\n|---|---:|---:|---:|---:|---|")
    for latent in order[:8].tolist():
        share = float((f_books[..., latent] != 0).float().mean())
        places = f_books[..., latent].flatten().topk(3).indices.tolist()
        passages = [passage(model, books, *divmod(place, books.shape[1])) for place in places] if share else []
        cells = [f"{found.relative_norm[latent]:.2f}", *(f"{r:.3f}" for r in (*rate[:, latent].tolist(), share))]
        print(f"| {latent} | {' | '.join(cells)} | {'; '.join(passages)} |")
    about = machine()
    print(f"\n{len(source):,} rows, {options.epochs} passes; {about['cpu']}, {about['cores']} cores, {about['date']}")


def passage(model: Any, books: Tensor, row: int, position: int) -> str:
    """The token and seven before it, on one line."""
    text = model.tokenizer.decode(books[row, max(0, position - 7) : position + 1])
    return "`" + " ".join(text.split()).replace("|", "/") + "`"


if __name__ == "__main__":
    main()
