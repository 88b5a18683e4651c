"""``interp sae explain``: what latents stand for, by a judge, and how far that holds."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from interp.commands.options import OutFolder
from interp.counts import Count
from interp.terminal.answers import answer
from interp.terminal.mode import say_plan
from saes.commands.latents import read_latents
from saes.commands.options import MeasuredText

if TYPE_CHECKING:
    from rich.table import Table

    from saes.explanations.findings import Findings
    from saes.explanations.judges.judge import Judge


@dataclass(frozen=True, kw_only=True)
class JudgeOptions:
    """Who is asked. Nothing is sent anywhere but to an endpoint that is named."""

    endpoint: str | None = None
    """Address of an OpenAI-compatible server, such as http://localhost:8000/v1; for --judge endpoint."""
    judge_model: str | None = None
    """What the endpoint calls its model; or the model on this machine, as for `interp cache`."""
    key_variable: str | None = None
    """Environment variable that holds the endpoint's key; by default none is sent."""
    answers: Path | None = None
    """Folder of an earlier run, or its answers.jsonl; for --judge recorded."""
    max_requests: int | None = None
    """Most requests that may be answered, all runs into --out together; with 0 the plan alone is made."""
    max_judge_tokens: Count | None = None
    """Most tokens of requests and answers, all runs into --out together."""
    concurrent: int | None = None
    """Requests to the endpoint that are on their way at once, 4 by default; what is written does not depend on it."""


@dataclass(frozen=True, kw_only=True)
class ScoreOptions:
    """What explanations are made from and scored on."""

    scores: str = "detection,fuzzing,effects"
    """Which scores, with commas between them."""
    width: int = 32
    """Tokens of a passage."""
    items: int = 20
    """Passages that each latent is scored on, for detection and for fuzzing; half of them are active."""
    pairs: int = 6
    """Pairs of token lists that each latent is scored on, for effects."""
    per_request: int = 5
    """Passages or pairs that the judge is shown at once."""
    answer_tokens: int | None = None
    """Most tokens of an answer; by default few, so that models that think first need more, such as 4000."""
    strength: float = 1.0
    """What latents are clamped to, in multiples of their largest activation."""
    seed: int = 0
    """Of what is drawn at random."""


def explain(
    sae: Path,
    /,
    *,
    data: Path,
    judge: Literal["endpoint", "local", "recorded"],
    out: OutFolder,
    asked: Annotated[JudgeOptions, Parameter(name="*")] = JudgeOptions(),
    part: int | None = None,
    latents: str | None = None,
    max_latents: int = 20,
    scored: Annotated[ScoreOptions, Parameter(name="*")] = ScoreOptions(),
    text: Annotated[MeasuredText, Parameter(name="*")] = MeasuredText(),
    tokens: Count = 100_000,
) -> None:
    """Let a judge explain latents in a sentence each, and score the sentences beside those of other latents.

    Parameters
    ----------
    sae
        Folder of an SAE or transcoder of one site, or of a dictionary over several places.
    data
        Text that it was not trained on: a file or folder, as for `interp cache`.
    judge
        A server (--endpoint, --judge-model), a model on this machine (--judge-model), or recorded answers (--answers).
    out
        Folder for answers and explanations; a run that was stopped continues there.
    part
        Of a dictionary over several places the part whose latents are explained; a crosscoder has one.
    latents
        Numbers, such as 0,5,9, or of a part 2/0,2/5; by default as many as --max-latents, in pairs of about the same
        density.
    max_latents
        How many to choose where --latents does not.
    tokens
        How many to read.
    """
    from rich.console import Console

    from saes.commands.inputs import open_inputs
    from saes.explanations.asking import Cap
    from saes.explanations.findings import FINDINGS
    from saes.explanations.preparing import prepare
    from saes.explanations.study import Settings
    from saes.features.examples import Text
    from saes.own_sites import own_sites
    from saes.places.files import load_any
    from saes.sae import SAE
    from saes.sets.dictionary_set import DictionarySet

    chosen = None
    if latents is not None:
        chosen, part = _one_part(latents, part)
    settings = Settings(
        scores=tuple(word.strip() for word in scored.scores.split(",")),
        **{name: value for name, value in vars(scored).items() if name != "scores"},
    )
    cap = Cap(requests=asked.max_requests, tokens=asked.max_judge_tokens)
    who = _judge(judge, asked)
    with open_inputs(sae, data=data, tokens=tokens, options=text, load=load_any) as inputs:
        say_plan(f"latents counted, passages looked for and latents clamped, in {inputs.planned(tokens)}")
        loaded = inputs.loaded
        assert not isinstance(loaded, DictionarySet)
        site = own_sites(loaded, model=inputs.model, name=str(sae))[0] if isinstance(loaded, SAE) else ()
        where = Text(
            model=inputs.model,
            rows=inputs.rows,
            site=site,
            max_tokens=tokens,
            first_position=inputs.first_position,
            drop_tokens=inputs.drop_tokens,
        )
        study = prepare(loaded, where, part=part, latents=chosen, max_latents=max_latents, settings=settings)
        say_plan(f"{who.name}: {study.plan(out)}")
        found = study.run(who, out, cap=cap, concurrent=asked.concurrent or (4 if judge == "endpoint" else 1))
    answer(found)
    if found.latents:
        Console().print(_table(found, title=str(sae)))
    for line in _lines(found):
        print(line)
    print(f"Explanations and scores are in {out / FINDINGS}; interp sae features --explanations {out} shows them.")


def _judge(kind: str, asked: JudgeOptions) -> "Judge":
    from saes.explanations.answers import Recorded
    from saes.explanations.judges.endpoint import OpenAICompatible
    from saes.explanations.judges.local import LocalModel

    takes = {"endpoint": ("endpoint", "judge_model"), "local": ("judge_model",), "recorded": ("answers",)}[kind]
    may = (*takes, "key_variable", "concurrent") if kind == "endpoint" else takes
    for name in ("endpoint", "judge_model", "key_variable", "answers", "concurrent"):
        given, flag = getattr(asked, name) is not None, f"--{name.replace('_', '-')}"
        if name in takes and not given:
            raise ValueError(f"--judge {kind} needs {flag}")
        if given and name not in may:
            raise ValueError(f"--judge {kind} takes no {flag}; leave it out")
    if asked.concurrent is not None and asked.concurrent < 1:
        raise ValueError(f"--concurrent {asked.concurrent}: at least 1 request must be on its way")
    if asked.answers is not None:
        return Recorded(asked.answers)
    assert asked.judge_model is not None
    if asked.endpoint is not None:
        return OpenAICompatible(asked.endpoint, asked.judge_model, key_variable=asked.key_variable)
    return LocalModel(asked.judge_model)


def _one_part(latents: str, part: int | None) -> tuple[list[int], int | None]:
    """Numbers of latents, and the part that they are of."""
    chosen = read_latents(latents)
    named = {its for its, _ in chosen}
    if part is None and None in named and len(named) > 1:
        raise ValueError(f"--latents {latents}: some are of a part, and some of none; give the part of each, or --part")
    parts = {part, *named} - {None}
    if len(parts) > 1:
        which = ", ".join(map(str, sorted(its for its in parts if its is not None)))
        raise ValueError(f"latents of the parts {which}: explain one part at a time, each into a folder of its own")
    return [latent for _, latent in chosen], next(iter(parts), None)


def _table(found: "Findings", *, title: str) -> "Table":
    from rich.table import Table
    from rich.text import Text

    names = list(found.summary)
    table = Table(title=f"Explanations of {title}: accuracy (by another latent's explanation); chance is 0.5")
    table.add_column("latent", justify="right")
    for name in names:
        table.add_column(name, justify="right")
    table.add_column("explanation")
    for one in found.latents:
        cells = []
        for name in names:
            both = one.scores.get(name)
            pair = None if both is None else (both.own.accuracy, both.null.accuracy)
            cells.append(f"{pair[0]:.2f} ({pair[1]:.2f})" if pair and None not in pair else "-")
        table.add_row(str(one.explanation.latent), *cells, Text(one.explanation.text or "(no sentence)"))
    return table


def _lines(found: "Findings") -> list[str]:
    lines = []
    for name, each in found.summary.items():
        if each.accuracy is None or each.null is None:
            lines.append(f"{name}: {each.verdict}")
            continue
        error, other = each.accuracy.error(".2f"), each.null.error(".2f")
        lines.append(
            f"{name}: {each.accuracy:.2f} {error} over {each.latents:,} latents, {each.null:.2f} {other} by another"
            f" latent's explanation; {each.verdict} ({each.above:,} of {each.latents:,} latents);"
            f" {each.malformed:,} of {each.items:,} answers cannot be read"
        )
    if found.malformed_explanations:
        lines.append(f"{found.malformed_explanations:,} of {found.explained:,} explanations hold no sentence")
    for latent, reason in {**found.left_out, **found.no_pairs}.items():
        lines.append(f"latent {latent}: {reason}")
    estimated = f" (estimated for {found.uncounted:,} answers)" if found.uncounted else ""
    lines.append(f"{found.requests:,} requests and {found.tokens:,} tokens in all{estimated}")
    if found.stopped is not None:
        lines.append(
            f"Stopped: {found.stopped}. About {found.left.requests:,} requests and {found.left.tokens:,} tokens are"
            " left; the same command with a larger cap continues"
        )
    return lines
