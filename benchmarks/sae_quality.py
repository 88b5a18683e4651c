"""How good are SAEs with defaults, next to peers with theirs, at equal rows, tokens and number of active latents?

    python benchmarks/sae_quality.py --tokens 400k --k 8 16 32 --seeds 3 --figure docs/sae-quality.svg

The residual stream of the embedded model, layer 2 (96 wide), 768 latents, batches of 2,048; or with ``--model
smollm2-135m`` that of SmolLM2-135M, block 15 (576 wide), 4,608 latents, without tokens of massive norm.

Everybody sees the same batches. A peer is trained with its default learning rate and with two others; which of the
three is its best is chosen on rows of the training documents that nobody is trained on, with one seed, and every figure
is of the held-out text. Peers live in environments of their own (``peers.py``) and write their own files, which are
read as ``interp eval`` reads them. What was trained stays in ``--out``, and a run that was stopped continues.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from interleave import RESULTS, machine
from peers import peer_python
from pictures import write_svg
from sae_quality_workers import Job
from safetensors.torch import load_file, save_file

from interp import Masks, Site, cache_activations, load_model, rows_for
from interp.counts import parse_count
from interp.embedded import TEXT_FOLDER
from interp.files.writing import write_json
from saes import SAE, TrainConfig, train
from saes.evaluation.report import evaluate_together

BATCH = 2048
OURS = {
    "topk": {},
    "batchtopk": {},
    "matryoshka": {},
    "jumprelu": {"l0": True},
    "gated": {"l0": True},
    "relu": {"l0": True},
}
"""Our variants, all with defaults: with k, or with --l0."""
PEERS = ("sparsify", "saelens", "dictionary_learning")
FIGURES = {
    "fvu": ("FVU", 4),
    "l0": ("L0", 1),
    "dead": ("dead", 3),
    "ce_recovered": ("CE recovered", 4),
    "ce_added": ("CE added (nats)", 4),
}
"""What is measured, with its title and digits. CE recovered is the embedded model's; of SmolLM2, whose massive tokens
stay clean, it is what the SAE adds, on fewer tokens: it takes two passes of the model for every SAE."""


def rates_of(peer: str, d_sae: int) -> tuple[float | None, ...]:
    """Learning rates of a peer's TopK SAEs: its own (None), and two others."""
    signum = 5e-3 / (d_sae / 2**14) ** 0.5  # sparsify's own
    others = {"sparsify": (signum / 3, signum * 3), "saelens": (1e-3, 3e-3), "dictionary_learning": (3e-3, 1e-2)}
    return None, *others[peer]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Whose activations they are, and how many latents everybody has."""

    model: str
    site: str
    d_sae: int
    drop_norm_above: float | None
    """Tokens of a larger norm, in medians, are neither trained on nor counted."""

    def activations(self, text: Path, tokens: int, out: Path, name: str = "") -> torch.Tensor:
        """Of up to so many tokens of ``text``; kept in ``out``."""
        model = load_model(self.model, device="cpu")
        rows = rows_for(model, text, out / f"{name}tokens", tokens=tokens)
        masks = Masks(drop_norm_above=self.drop_norm_above)
        return cache_activations(model, rows, self.site, out / f"{name}acts", masks=masks, progress=True).read(
            self.site
        )


EMBEDDED = Setting(model="embedded", site="blocks.2.hook_resid_post", d_sae=768, drop_norm_above=None)
SMOLLM2 = Setting(model="smollm2-135m", site="blocks.15.hook_resid_post", d_sae=4608, drop_norm_above=10)
SETTINGS = {setting.model: setting for setting in (EMBEDDED, SMOLLM2)}


@dataclass(frozen=True, kw_only=True)
class Trained:
    """One SAE, and where it is."""

    who: str
    k: int
    tokens: int
    seed: int
    lr: float | None
    folder: str

    @property
    def name(self) -> str:
        """Of its folder."""
        rate = "default" if self.lr is None else f"{self.lr:.3g}"
        return f"{self.who}-k{self.k}-{self.tokens}-{rate}-{self.seed}"


class Rows:
    """Activations in memory, shuffled by seed."""

    def __init__(self, data: torch.Tensor, model: str) -> None:
        self.data, self.provenance = data, {"model": model}

    def __len__(self) -> int:
        return len(self.data)

    def batches_of(self, sites: Sequence[Site], batch_size: int, seed: int = 0, start: int = 0) -> Iterator[Any]:
        """See ``saes.training.sources.Source``."""
        order = torch.randperm(len(self.data), generator=torch.Generator().manual_seed(seed))
        for begin in range(start * batch_size, len(order), batch_size):
            yield dict.fromkeys(sites, self.data[order[begin : begin + batch_size]])


def prepared(setting: Setting, out: Path, text: Path, distinct: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows to train on, and rows to choose by: the last tenth of the training text."""
    file = out / "rows.safetensors"
    if not file.is_file():
        x = setting.activations(text, distinct, out)
        cut = len(x) * 9 // 10 // 256 * 256
        save_file({"x": x[:cut].contiguous(), "choice": x[cut:].contiguous()}, file)
    found = load_file(file)
    return found["x"], found["choice"]


@torch.no_grad()
def figures_of(sae: SAE, x: torch.Tensor) -> dict[str, float]:
    """FVU, active latents a row, and the share of latents that no row activates."""
    error = active = 0.0
    seen = torch.zeros(sae.d_sae, dtype=torch.bool)
    for rows in x.split(4096):
        latents = sae.encode(rows)
        error += float((rows - sae.decode(latents, rows)).square().sum())
        active += float(latents.l0.sum())
        seen[latents.indices[latents.values != 0]] = True
    fvu = error / float((x - x.mean(0)).square().sum())
    return {"fvu": fvu, "l0": active / len(x), "dead": 1 - float(seen.float().mean())}


def train_ours(setting: Setting, one: Trained, rows: torch.Tensor) -> None:
    options = {"l0": float(one.k)} if OURS[one.who] else {"k": one.k}
    config = TrainConfig(
        site=setting.site, out=Path(one.folder), activation=one.who, d_sae=setting.d_sae, batch_size=BATCH,
        tokens=one.tokens, seed=one.seed, data_seed=one.seed, **options,  # type: ignore[arg-type]
    )  # fmt: skip
    train(config, Rows(rows, setting.model))


def train_peers(setting: Setting, asked: Sequence[Trained], out: Path) -> None:
    """Those that are not there yet, a process for each peer."""
    for who in PEERS:
        jobs = [
            Job(
                rows=str(out / "rows.safetensors"), model=setting.model, order_seed=one.seed,
                steps=-(-one.tokens // BATCH), batch=BATCH, k=one.k, d_sae=setting.d_sae, seed=one.seed, lr=one.lr,
                out=one.folder,
            )
            for one in asked
            if one.who == who and not Path(one.folder).exists()
        ]  # fmt: skip
        if not jobs:
            continue
        written = [replace(job, out=job.out + ".partial") for job in jobs]
        file = out / f"jobs-{who}.json"
        file.write_text(json.dumps([asdict(job) for job in written]))
        worker = [str(peer_python(who)), str(Path(__file__).with_name("sae_quality_workers.py")), who, str(file)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled"}
        environment.pop("PYTHONPATH", None)
        with subprocess.Popen(worker, stdout=subprocess.PIPE, text=True, env=environment) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("{"):
                    done = Path(json.loads(line)["out"])
                    inner = done / "trainer_0"  # dictionary_learning makes one more
                    (inner if inner.is_dir() else done).rename(done.with_suffix(""))
                    shutil.rmtree(done, ignore_errors=True)
                    print(f"trained {done.stem}", flush=True)
        if process.returncode:
            raise RuntimeError(f"{who} ended with {process.returncode}")


def best_rates(
    setting: Setting, asked: Sequence[Trained], choice: torch.Tensor
) -> dict[tuple[str, int, int], float | None]:
    """For each peer, k and budget the rate of the SAE that rebuilds the rows to choose by best."""
    found: dict[tuple[str, int, int], list[tuple[float, float | None]]] = {}
    for one in asked:
        found.setdefault((one.who, one.k, one.tokens), []).append(
            (figures_of(load(setting, one), choice)["fvu"], one.lr)
        )
    return {key: min(its, key=lambda pair: pair[0])[1] for key, its in found.items()}


def load(setting: Setting, one: Trained) -> SAE:
    return SAE.load(one.folder, site=setting.site)


def measured(
    setting: Setting, asked: Sequence[Trained], out: Path, *, heldout: int, ce: int
) -> dict[str, dict[str, float]]:
    """Figures on the held-out text, by name; kept in ``out``. CE added is SmolLM2's, on ``ce`` tokens."""
    file = out / "measured.json"
    known: dict[str, dict[str, float]] = json.loads(file.read_text()) if file.is_file() else {}
    missing = [one for one in asked if one.name not in known or (ce and "ce_added" not in known[one.name])]
    if not missing:
        return known
    text = TEXT_FOLDER / "heldout.jsonl"
    if setting is SMOLLM2:
        x = setting.activations(text, heldout, out, "heldout-")
        known |= {one.name: figures_of(load(setting, one), x) for one in missing}
        write_json(file, known)
        if not ce:
            return known
    model = load_model(setting.model, device="cpu")
    rows = rows_for(model, text, out / "heldout", tokens=ce or heldout)
    for begin in range(0, len(missing), 12):
        some = missing[begin : begin + 12]
        saes = [load(setting, one) for one in some]
        batch_rows = 1 if setting is SMOLLM2 else 8
        reports = evaluate_together(saes, model, rows, sites=[setting.site] * len(some), batch_rows=batch_rows)
        for one, report in zip(some, reports, strict=True):
            if setting is SMOLLM2:
                assert report.without_massive.ce_difference is not None
                known[one.name]["ce_added"] = report.without_massive.ce_difference.value
                continue
            known[one.name] = {
                "fvu": report.fvu.value,
                "l0": report.l0.value,
                "dead": report.dead_fraction.value,
                "ce_recovered": report.ce_recovered_zero.value,
            }
        write_json(file, known)
        print(f"measured {begin + len(some)} of {len(missing)}", flush=True)
    return known


def summary(its: Sequence[dict[str, float]]) -> dict[str, tuple[float, float | None]]:
    """Mean over seeds, and its standard error, which one seed does not tell."""
    found = {}
    for figure in its[0]:
        values = [one[figure] for one in its]
        error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None
        found[figure] = (statistics.fmean(values), error)
    return found


def shown(found: dict[str, tuple[float, float | None]]) -> list[str]:
    """Those of ``FIGURES`` that were found, as cells of a table."""
    cells = []
    for name in FIGURES:
        if name in found:
            (value, error), (_, digits) = found[name], FIGURES[name]
            cells.append(f"{value:.{digits}f}" + (" (n = 1)" if error is None else f" ± {error:.{digits}f}"))
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded", choices=list(SETTINGS))
    parser.add_argument(
        "--out", type=Path, help="by default runs/sae-quality, with the name of another model behind it"
    )
    parser.add_argument("--text", type=Path, default=TEXT_FOLDER / "train.jsonl", help="to train on")
    parser.add_argument("--distinct", type=parse_count, default=300_000, help="most activations; passes repeat them")
    parser.add_argument("--tokens", type=parse_count, nargs="+", default=[400_000])
    parser.add_argument("--k", type=int, nargs="+", default=[8, 16, 32])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--heldout-tokens", type=int, default=20_000)
    parser.add_argument("--ce-tokens", type=parse_count, default=0, help="of SmolLM2: tokens for CE added (0: none)")
    parser.add_argument("--ours", nargs="*", default=list(OURS), choices=list(OURS))
    parser.add_argument("--peers", nargs="*", default=list(PEERS), choices=list(PEERS))
    parser.add_argument("--figure", type=Path, help="an SVG of FVU against L0")
    options = parser.parse_args()
    torch.set_num_threads(1)
    setting = SETTINGS[options.model]
    name = "sae-quality" if setting == EMBEDDED else f"sae-quality-{setting.model}"
    out: Path = (options.out or Path("runs") / name).resolve()
    out.mkdir(parents=True, exist_ok=True)
    rows, choice = prepared(setting, out, options.text, options.distinct)

    def named(who: str, k: int, tokens: int, seed: int, lr: float | None = None) -> Trained:
        one = Trained(who=who, k=k, tokens=tokens, seed=seed, lr=lr, folder="")
        return replace(one, folder=str(out / one.name))

    points = [(k, tokens) for tokens in options.tokens for k in options.k]
    first = [
        named(who, *point, 0, lr) for who in options.peers for point in points for lr in rates_of(who, setting.d_sae)
    ]
    train_peers(setting, first, out)
    rates = best_rates(setting, first, choice)
    contestants = [(who, who, None) for who in options.ours]
    contestants += [(who, f"{who}, {what}", what) for who in options.peers for what in ("default", "best of three")]

    def seeds_of(who: str, what: str | None, k: int, tokens: int) -> list[Trained]:
        lr = rates[who, k, tokens] if what == "best of three" else None
        return [named(who, k, tokens, seed, lr) for seed in range(options.seeds)]

    every = [one for who, _, what in contestants for point in points for one in seeds_of(who, what, *point)]
    everything = list(dict.fromkeys(every))  # a peer's default may be its best
    train_peers(setting, everything, out)
    for one in everything:
        if one.who in OURS and not (Path(one.folder) / "cfg.json").is_file():
            train_ours(setting, one, rows)
            print(f"trained {one.name}", flush=True)
    ce = options.ce_tokens if setting is SMOLLM2 else 0
    known = measured(setting, everything, out, heldout=options.heldout_tokens, ce=ce)

    table, curves = [], {}
    for tokens in options.tokens:
        for k in options.k:
            for who, label, what in contestants:
                found = summary([known[one.name] for one in seeds_of(who, what, k, tokens)])
                lr = rates[who, k, tokens] if what == "best of three" else None
                table.append({"tokens": tokens, "k": k, "who": label, "lr": lr, "seeds": options.seeds, **found})
                curves.setdefault((tokens, label), []).append(found)
    print(f"\n{len(rows):,} activations to train on, {len(choice):,} to choose by; {setting.d_sae:,} latents\n")
    names = [name for name in FIGURES if name in table[0]]
    columns = ["activations", "k or L0 asked for", "SAE", *(FIGURES[name][0] for name in names)]
    print(f"| {' | '.join(columns)} |\n|---:|---:|---{'|---:' * len(names)}|")
    for line in table:
        rate = "" if line["lr"] is None else f" ({line['lr']:.2g})"
        cells = [f"{line['tokens']:,}", line["k"], line["who"] + rate, *shown(line)]
        print(f"| {' | '.join(map(str, cells))} |")
    about = machine()
    print(f"\n{about['cpu']}, {about['cores']} cores, Python {about['python']}, {about['date']}.")
    settings = {name: str(value) for name, value in vars(options).items() if name not in ("out", "text", "figure")}
    file = "-".join(map(str, [name, *options.tokens]))
    write_json(RESULTS / f"{file}.json", {"machine": about, "settings": settings, "table": table})
    if options.figure:
        draw(curves, options.figure)


def draw(curves: dict[tuple[int, str], list[dict[str, tuple[float, float | None]]]], path: Path) -> None:
    """FVU against L0 at the first budget, error bars of two standard errors."""
    import plotly.graph_objects as go

    figure = go.Figure()
    budget = next(iter(curves))[0]
    for (tokens, label), its in curves.items():
        if tokens != budget:
            continue
        peer = "," in label
        its = sorted(its, key=lambda found: found["l0"][0])
        figure.add_scatter(
            x=[found["l0"][0] for found in its],
            y=[found["fvu"][0] for found in its],
            error_y={"array": [2 * (found["fvu"][1] or 0) for found in its], "thickness": 1},
            name=label if peer else f"deepfield {label}",
            mode="lines+markers",
            line={"dash": ("dot" if "default" in label else "dash") if peer else "solid"},
        )
    figure.update_layout(
        title=f"Held-out FVU at {budget:,} activations of training",
        xaxis_title="L0, active latents a token", yaxis_title="FVU", xaxis_type="log", yaxis_type="log",
    )  # fmt: skip
    write_svg(figure, path, width=760, height=640)


if __name__ == "__main__":
    main()
