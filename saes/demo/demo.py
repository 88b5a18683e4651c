"""The main job from end to end on the embedded model: cache, train, evaluate, split the error, follow the outliers.

Every long step resumes: a demo that was killed continues when the same command runs again.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from interp.embedded import TEXT_FOLDER
from interp.files.writing import write_json
from interp.massive import sweep
from interp.massive.sweep_table import FEWEST_TO_FIT
from interp.models.bridge import Model
from interp.models.loading import context_length, load_model
from interp.sites.capturing import capture
from interp.sites.site import Site, expand_sites
from interp.store.caching import cache_activations
from interp.tokens.token_rows import TokenRows, write_token_rows
from saes.dark_matter import Decomposition, decompose
from saes.demo.page import build_page
from saes.demo.result import DemoResult, SAEResult, Sizes
from saes.evaluation.report import Report, evaluate
from saes.sae import SAE
from saes.training.config import TrainConfig
from saes.training.loop import train


def run_demo(out: Path, *, sizes: Sizes | None = None, console: Console | None = None) -> Path:
    """Run everything below ``out``, said on ``console`` where there is one; returns the page.

    Example:
        >>> from pathlib import Path
        >>> import saes
        >>> from saes.demo.result import Sizes
        >>> few = {"cached_tokens": 2_000, "trained_tokens": 2_000, "heldout_tokens": 3_000, "sequences": 2}
        >>> page = saes.demo.run_demo(Path("demo"), sizes=Sizes(d_sae=128, batch_size=500, **few))
        >>> sorted(each.name for each in page.parent.iterdir())
        ['activations', 'afa', 'massive', 'report.html', 'report.json', 'tokens', 'topk']
    """
    sizes, console = sizes or Sizes(), console or Console(quiet=True)
    seconds: dict[str, float] = {}

    @contextmanager
    def stage(title: str) -> Iterator[None]:
        console.rule(f"[bold]{title}", align="left")
        began = time.monotonic()
        yield
        seconds[title] = time.monotonic() - began
        console.print(f"[dim]{seconds[title]:.1f} s[/dim]")

    with stage("Load the embedded model"):
        model = load_model("embedded")
        sites = expand_sites(model, "blocks.*.hook_resid_post")
        site = sites[len(sites) // 2]
        context = context_length(model)
    with stage("Cache activations of every layer"):
        rows = {
            part: write_token_rows(
                TEXT_FOLDER / f"{part}.jsonl",
                model.tokenizer,
                out / "tokens" / part,
                tokens=tokens,
                context=context,
            )
            for part, tokens in (("train", sizes.cached_tokens), ("heldout", sizes.heldout_tokens))
        }
        store = cache_activations(model, rows["train"], sites, out / "activations", dtype="float16")
        console.print(f"{len(store):,} tokens at {len(store.sites)} sites in {out / 'activations'}")
    results = []
    for name, activation, k in (("TopK", "topk", sizes.k), ("top-AFA", "afa", None)):
        with stage(f"Train a {name} SAE at {site}"):
            config = TrainConfig(
                site=str(site),
                out=out / activation,
                activation=activation,
                k=k,
                d_sae=sizes.d_sae,
                tokens=sizes.trained_tokens,
                batch_size=sizes.batch_size,
                checkpoint_every=200,
            )
            sae = train(config, store, progress=not console.quiet)
        with stage(f"Evaluate the {name} SAE on held-out text"):
            report = evaluate(sae, model, rows["heldout"], max_tokens=sizes.heldout_tokens)
            dark_matter = _decompose(sae, model, rows["heldout"], site)
            console.print(_summary(report, dark_matter))
        log = (config.out / "log.jsonl").read_text(encoding="utf-8").splitlines()
        curve = [json.loads(line) for line in log]
        results.append(SAEResult(name=name, folder=config.out, report=report, dark_matter=dark_matter, curve=curve))
    with stage("Massive activations over training"):
        massive = sweep("embedded", rows["heldout"].tensor_of("ids", slice(sizes.sequences)), out / "massive").table
        massive_fits = massive.fits() if len(massive.measured) >= FEWEST_TO_FIT else []
        peak = max(estimate.value for estimate in massive.measured[-1].stats.ratio)
        console.print(f"largest magnitude / median of the final model: {peak:.0f} at its most extreme layer")
    demo = DemoResult(
        sizes=sizes,
        site=str(site),
        store=store,
        saes=tuple(results),
        massive=massive,
        massive_fits=massive_fits,
        seconds=seconds,
    )
    write_json(out / "report.json", _plain(demo))
    page = build_page(demo).write(out / "report.html")
    console.rule()
    console.print(f"Total {sum(seconds.values()):.0f} s. The report is [bold]{page}[/bold]: open it in a browser.")
    return page


@torch.no_grad()
def _decompose(sae: SAE, model: Model, rows: TokenRows, site: Site) -> Decomposition:
    ids, documents = rows.tensor_of("ids"), rows.tensor_of("documents")
    batches = zip(ids.split(16), (documents >= 0).split(16), strict=True)
    x = torch.cat([capture(model, some, [site], attention_mask=real)[site] for some, real in batches]).float()
    x, documents = x.flatten(0, 1), documents.flatten()
    x, documents = x[documents >= 0], documents[documents >= 0]  # padding belongs to no document
    return decompose(x, sae(x), documents=documents)


def _summary(report: Report, dark_matter: Decomposition) -> str:
    dead = report.dead_fraction.value * report.d_sae
    return "\n".join(
        (
            f"FVU {report.fvu}   L0 {report.l0}   dead {dead:.0f} of {report.d_sae}",
            f"CE recovered {report.ce_recovered_zero} (zero ablation), {report.ce_recovered_mean} (mean ablation)",
            f"error predicted linearly from x: R² {dark_matter.r2_vector}; its squared norm: R² {dark_matter.r2_norm}",
            f"FVU {dark_matter.fvu}, of which at most {dark_matter.fvu_nonlinear} is nonlinear (documents held out)",
        )
    )


def _plain(demo: DemoResult) -> dict[str, Any]:
    """The page's numbers as JSON."""
    return {
        "sizes": asdict(demo.sizes),
        "site": demo.site,
        "saes": {
            result.name: {
                "folder": str(result.folder),
                "report": result.report.to_json(),
                "dark_matter": {
                    name: asdict(getattr(result.dark_matter, name))
                    for name in ("fvu", "fvu_nonlinear", "r2_vector", "r2_vector_pooled", "r2_norm")
                },
            }
            for result in demo.saes
        },
        "massive_ratio": {
            str(each.step): [asdict(estimate) for estimate in each.stats.ratio] for each in demo.massive.measured
        },
        "seconds": demo.seconds,
    }
