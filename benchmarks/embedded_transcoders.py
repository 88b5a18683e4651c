"""The transcoder set of the embedded model that ships with the package: how it was made, and its figures.

    python benchmarks/embedded_transcoders.py --train       # writes saes/embedded/transcoders, then prints
    python benchmarks/embedded_transcoders.py               # prints the figures of the set that is there

It is trained on what the model was trained on: books (those that ship), repeated random tokens, and sentences with an
indirect object, in the model's own proportions. A run that was stopped continues in ``--out``.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from interleave import machine

from interp import embedded, load_model, rows_for
from interp.embedded.synthetic import ioi_prompts, repeated_tokens
from interp.embedded.train import CONTEXT, Batches, tokenize_books
from interp.files.writing import sha256_of_file
from interp.metrics import Estimate
from interp.store.live import LiveActivations
from interp.tokens.token_rows import TokenRows
from saes import TrainConfig, embedded_transcoders, train_dictionary
from saes.embedded import TRANSCODERS
from saes.evaluation.places_report import PlacesReport, evaluate_places
from saes.places import Dictionary, save_dictionary
from saes.training import with_places

READS, WRITES = ("blocks.*.mlp.hook_in",), ("blocks.*.hook_mlp_out",)
BUFFER = 1 << 17
"""Tokens that are shuffled among each other."""
SENTENCES = 2000


def mixed_rows(model: Any, folder: Path, tokens: int) -> TokenRows:
    """Rows of the model's own training mixture, with the books that ship; the same for the same number of tokens."""
    batches = Batches(tokenize_books(_texts("train"), model.tokenizer), model.tokenizer)
    count = -(-tokens // (CONTEXT * len(batches(0)[0])))
    ids = np.concatenate([batches(step)[0].numpy() for step in range(count)])
    return rows_for(model, ids, folder, tokens=ids.size, context=CONTEXT, bos="never", separator=None)


def heldout_rows(model: Any, folder: Path, tokens: int) -> dict[str, TokenRows]:
    """Kind -> rows: held-out books; random tokens twice over; sentences with names and templates never taught."""
    text = rows_for(model, embedded.TEXT_FOLDER / "heldout.jsonl", folder / "text", tokens=tokens, context=CONTEXT)
    rng = np.random.default_rng(1)
    repeated = repeated_tokens(rng, rows=max(1, tokens // CONTEXT), half=(CONTEXT - 1) // 2, vocab=4000, bos=0)
    prompts = [p.sentence for p in ioi_prompts(rng, SENTENCES, split="heldout")]
    ids = [token for sentence in model.tokenizer(prompts)["input_ids"] for token in sentence]
    flat = {"repeated": repeated.reshape(-1), "sentences": np.array(ids[:tokens])}
    others = {kind: rows_for(model, its, folder / kind, tokens=tokens, context=CONTEXT) for kind, its in flat.items()}
    return {"text": text, **others}


def _texts(split: str) -> list[str]:
    lines = (embedded.TEXT_FOLDER / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["text"] for line in lines]


def config(out: Path, tokens: int, **changes: Any) -> TrainConfig:
    """The recipe of the set that ships; other dictionaries of the same model differ from it in ``changes``."""
    recipe = {
        "kind": "transcoders",
        "reads": READS,
        "writes": WRITES,
        "activation": "batchtopk",
        "k": 16,
        "d_sae": 1024,
        "batch_size": 1024,
        "lr": 4e-3,
        "tokens": tokens,
        "log_every": 50,
        "device": "cpu",
    }
    return TrainConfig(out=out, **(recipe | changes))


def train_set(model: Any, out: Path, tokens: int) -> Dictionary:
    """Train, and put the set, rounded to float16, where it ships; returns it as it was before."""
    live = LiveActivations(model, mixed_rows(model, out / "tokens", tokens), [*READS, *WRITES], buffer_tokens=BUFFER)
    trained = train_dictionary(with_places(config(out / "set", tokens), live), live, progress=True)
    rounded = copy.deepcopy(trained)
    for name, weights in rounded.named_parameters():
        if not name.endswith("threshold"):  # a threshold is compared with, and stays float32
            weights.data = weights.data.half()
    save_dictionary(rounded, TRANSCODERS)
    return trained


def show(value: Estimate) -> str:
    return f"{value.value:.3f} ± {value.standard_error:.3f}"


def replacement_table(reports: Mapping[str, PlacesReport]) -> str:
    """One row a report: FVU, L0, and the model replaced, on the true stream and compounding."""
    lines = ["| | FVU | L0 | KL, true stream | KL, compounding | CE added, compounding | top-1, compounding |"]
    lines.append("|---" + "|---:" * 6 + "|")
    for name, its in reports.items():
        assert its.compounding is not None
        figures = [its.fvu, its.l0, its.true_stream.kl]
        figures += [its.compounding.kl, its.compounding.ce_difference, its.compounding.top_1]
        lines.append("| " + " | ".join([name, *map(show, figures)]) + " |")
    return "\n".join(lines)


def layer_table(reports: Mapping[str, PlacesReport]) -> str:
    """FVU and L0 of every layer, by report."""
    layers: Sequence[int] = range(len(next(iter(reports.values())).parts))
    lines = ["| layer | " + " | ".join(f"FVU, {name} | L0, {name}" for name in reports) + " |"]
    lines.append("|---" + "|---:" * (2 * len(reports)) + "|")
    for layer in layers:
        cells = [(show(r.places[layer].fvu), show(r.parts[layer].l0)) for r in reports.values()]
        lines.append("| " + " | ".join([str(layer), *(text for pair in cells for text in pair)]) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("runs/embedded-transcoders"))
    parser.add_argument("--tokens", type=int, default=2_000_000)
    parser.add_argument("--heldout-tokens", type=int, default=30_000)
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    torch.set_num_threads(1)  # sums over several threads depend on their number
    model = load_model("embedded", device="cpu")
    before = train_set(model, options.out, options.tokens) if options.train else None
    dictionary = embedded_transcoders()
    rows = heldout_rows(model, options.out / "heldout", options.heldout_tokens)
    reports = {
        kind: evaluate_places(dictionary, model, its, max_tokens=options.heldout_tokens) for kind, its in rows.items()
    }
    print(replacement_table(reports), "\n")
    if before is not None:
        exact = evaluate_places(before, model, rows["text"], max_tokens=options.heldout_tokens)
        print(replacement_table({"text, before rounding to float16": exact}), "\n")
    print(layer_table(reports), "\n")
    for kind, its in reports.items():
        parts = ", ".join(f"{part.dead_fraction.value:.2f}" for part in its.parts)
        print(f"{kind}: {its.tokens:,} tokens, CE clean {show(its.ce_clean)}, never active, by layer: {parts}")
    about = machine()
    print(f"{about['cpu']}, {about['cores']} cores, {about['date']}")
    for file in sorted(TRANSCODERS.iterdir()):
        print(f"{file.name}: {file.stat().st_size:,} bytes, sha256 {sha256_of_file(file)}")


if __name__ == "__main__":
    main()
