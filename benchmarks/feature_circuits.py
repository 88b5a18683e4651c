"""Circuits of SAE features in the embedded model: IG, AtP and RelP side by side.

    python benchmarks/feature_circuits.py

trains TopK SAEs on the outputs of attention and MLPs and on the residual stream of the later blocks, and prints what
they leave out and faithfulness by size for indirect objects. Nothing is fetched.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from circuits import Task, tasks
from circuits.features.comparison import compare_features
from interp import capture, load_model
from interp.embedded import TEXT_FOLDER
from interp.embedded.synthetic import ioi_prompts
from interp.metrics import fvu
from interp.pages.html_page import Page
from interp.store.live import LiveActivations
from interp.tokens.token_rows import write_token_rows
from saes import SAE, TrainConfig, train_many

KINDS = ("hook_attn_out", "hook_mlp_out", "hook_resid_post")


def train_saes(model: Any, sites: Sequence[str], folder: Path, *, tokens: int, d_sae: int, k: int) -> list[SAE]:
    """TopK SAEs at ``sites`` of the embedded model, on what it was trained on: books and indirect-object sentences, of
    templates and names other than those of the tasks."""
    rng, mixed = np.random.default_rng(0), folder / "text.jsonl"
    lines = [json.dumps({"text": prompt.sentence}) for prompt in ioi_prompts(rng, 4000, split="train")]
    lines += (TEXT_FOLDER / "train.jsonl").read_text(encoding="utf-8").splitlines()
    mixed.write_text("\n".join(lines[i] for i in rng.permutation(len(lines))), encoding="utf-8")
    rows = write_token_rows(mixed, model.tokenizer, folder / "tokens", tokens=min(tokens, 200_000), context=64)
    store = LiveActivations(model, rows, sites, buffer_tokens=50_000)
    configs = [
        TrainConfig(site=site, out=folder / site, k=k, d_sae=d_sae, tokens=tokens, batch_size=1024, lr=2e-3)
        for site in sites
    ]
    return train_many(configs, store)


def unexplained(model: Any, task: Task, saes: Sequence[SAE]) -> str:
    """Fraction of variance unexplained on the task's clean prompts, as a row for each SAE."""
    lines = ["| site | FVU on the prompts |", "|---|---|"]
    found = capture(model, task.clean, [sae.site for sae in saes])
    for sae in saes:
        x = found[sae.site].flatten(0, 1).float()
        lines.append(f"| {sae.site} | {fvu(x, sae(x).detach()).value:.3f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=600_000)
    parser.add_argument("--d-sae", type=int, default=768)
    parser.add_argument("--k", type=int, default=16)
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--first-layer", type=int, default=2, help="earlier ones are given for free")
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 300, 1000, 2000, 4000])
    parser.add_argument("--out", type=Path, default=Path("runs/feature_circuits"), help="SAEs; trained where missing")
    parser.add_argument("--html", type=Path, help="write the curves there")
    options = parser.parse_args()
    model = load_model("embedded")
    sites = [f"blocks.{layer}.{kind}" for layer in range(options.first_layer, model.cfg.n_layers) for kind in KINDS]
    options.out.mkdir(parents=True, exist_ok=True)
    saes = train_saes(model, sites, options.out, tokens=options.tokens, d_sae=options.d_sae, k=options.k)
    # All names are others in the corrupt prompts, since a name that both share could be in no circuit.
    task = tasks.ioi(model.tokenizer, options.prompts, corruption="three_names")
    found = compare_features(model, task, saes, sizes=options.sizes)
    nodes = len(next(iter(found.scores.values())).nodes)
    print(f"{task}\n\n{unexplained(model, task, saes)}\n\n{nodes} features and errors differ\n\n{found.markdown()}")
    if options.html:
        page = Page("Feature circuits of the embedded model", subtitle=str(task))
        page.figures(
            (found.figure(), "± standard error over prompts. Each position of a feature counts as a node.")
        ).write(options.html)


if __name__ == "__main__":
    main()
