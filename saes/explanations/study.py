"""From an SAE and a text to explanations with scores: what is asked is fixed before anything is, and asked once.

:func:`prepare` runs the model and chooses latents, passages and pairs, without a judge. :meth:`Study.run` asks, latent
by latent, and keeps each answer in the folder; run again there, it continues. What comes out is a function of the
study and the answers alone, so that recorded answers give the same file, byte by byte.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from interp.files.differences import check_same
from interp.files.folder_lock import alone_in
from interp.files.outside import read_json
from interp.files.writing import write_json
from interp.metrics import Estimate, mean
from interp.terminal.progress import counted, progress
from interp.tokens.batches import measured
from saes.explanations.answers import ANSWERS, Answers
from saes.explanations.asking import Asking, Cap, Spent, Turn
from saes.explanations.choosing import Choice, choose
from saes.explanations.effects import LEAST_EFFECT, Clamping, Effect, effect_items
from saes.explanations.explained import Explained, explained_in
from saes.explanations.findings import FORMAT, Explanation, Findings, Left, Scored
from saes.explanations.judges.judge import Judge, Request, estimated_tokens
from saes.explanations.passages import Grid, Survey, gather, survey
from saes.explanations.prompts import (
    WIDEST_EXPLANATION,
    WORDS,
    explanation_request,
    prompt_version,
    read_explanation,
    read_words,
    score_request,
)
from saes.explanations.scores import Compared, Score, compared, score_of, summed_up
from saes.explanations.trials import Item, detection_items, explained_from, fuzzing_items
from saes.features.examples import Example, Text
from saes.features.page import token_texts
from saes.places.dictionary import Dictionary
from saes.sae import SAE
from saes.same_model import name_of

RUN = "run.json"
_FEWEST_PAIRS = 2
_TYPICAL_EXPLANATION = "x" * 120
_TOKENS_OF_A_WORD = 5


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How latents are explained and scored.

    Example:
        >>> from saes.explanations import Settings
        >>> Settings(items=7)
        Traceback (most recent call last):
        ValueError: items is 7; it must be an even number of 4 or more
    """

    scores: tuple[str, ...] = ("detection", "fuzzing", "effects")
    """Which scores are taken."""
    width: int = 32
    """Tokens of a passage, in explanations and scores."""
    top: int = 10
    """Strongest passages that an explanation is asked from."""
    spread: int = 5
    """Weaker passages that it is asked from too, from equal parts of the rest."""
    items: int = 20
    """Passages that a latent is scored on, half of them active, for detection and for fuzzing."""
    pairs: int = 6
    """Pairs of token lists that a latent is scored on, each from other passages."""
    per_request: int = 5
    """Items that a judge is shown at once."""
    answer_tokens: int | None = None
    """Most tokens of an answer; None for what the answer alone needs, which is too few for models that think first."""
    strength: float = 1.0
    """What a latent is clamped to, in multiples of its largest activation."""
    rows: int = 4
    """Passages that the effect of a clamp is averaged over, for each pair."""
    seed: int = 0
    """Of everything that is drawn at random, and of the requests."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.scores if name not in WORDS]
        if unknown or len(set(self.scores)) != len(self.scores):
            raise ValueError(f"scores are {', '.join(self.scores)}; choose among {', '.join(WORDS)}, each once")
        if self.items < 4 or self.items % 2:
            raise ValueError(f"items is {self.items}; it must be an even number of 4 or more")
        for name in ("top", "pairs", "per_request", "rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 1 or more")
        if self.answer_tokens is not None and self.answer_tokens < 1:
            raise ValueError(f"answer_tokens is {self.answer_tokens}; it must be 1 or more")
        if self.spread < 0 or self.seed < 0:
            raise ValueError(f"spread is {self.spread}, seed {self.seed}; they must be 0 or more")
        if not (math.isfinite(self.strength) and self.strength > 0):
            raise ValueError(f"strength is {self.strength}; it must be above 0")


@dataclass(frozen=True, kw_only=True, eq=False)
class Study:
    """All that will be asked, but for the explanations that come of it; from :func:`prepare`."""

    about: dict[str, Any]
    """SAE or part, model, text, templates and settings, as plain data."""
    settings: Settings
    """How latents are explained and scored."""
    companions: dict[int, int]
    """Of each latent that is scored another, about as dense, whose explanation stands for chance."""
    densities: dict[int, float]
    """Of these latents and companions, share of tokens on which each is active."""
    explanations: dict[int, Request]
    """The request for an explanation of each latent and companion."""
    examples: dict[int, int]
    """Passages that each of these requests shows."""
    items: dict[tuple[int, str], list[Item]]
    """What each latent is scored on, by latent and score."""
    kl: dict[int, Estimate]
    """Of each latent, and of those its effect is compared with, KL (clamped ‖ clean) in nats a position."""
    no_pairs: dict[int, str]
    """Latents without pairs of lists to tell their effect by, with the reason."""
    left_out: dict[int, str]
    """Latents that were asked for and cannot be explained, with the reason."""

    def plan(self, out: str | Path | None = None) -> str:
        """In a sentence: how many requests and about how many tokens, less what the folder ``out`` has answers to."""
        answers = Answers(Path(out) / ANSWERS) if out is not None else None
        whole = self._left(None)
        left = whole if answers is None else self._left(answers)
        before = f", {whole.requests - left.requests:,} requests answered before" if left != whole else ""
        others = len(self.explanations) - len(self.companions)
        extra = f" and {others:,} companions" if others else ""
        asked = f"about {left.requests:,} requests and {left.tokens:,} tokens, answers included"
        return f"{len(self.companions):,} latents{extra} to explain, {', '.join(self.settings.scores)}: {asked}{before}"

    def run(self, judge: Judge, out: str | Path, *, cap: Cap = Cap(), concurrent: int = 1) -> Findings:
        """Ask what is not answered yet, and write ``explanations.json`` into ``out``; where the cap ends it, of what
        there is.

        Up to ``concurrent`` requests are on their way at once, each in a thread in which ``judge.ask`` is called. The
        files in ``out`` are the same whatever that is, and whichever order the answers come in.

        Raises:
            ValueError: ``out`` holds another run; ``concurrent`` is below 1; or what the judge raises. Answers so far
                are kept.
            ConnectionError: the judge cannot be reached.
        """
        folder = Path(out)
        about = {"judge": judge.name, **self.about}
        with alone_in(folder):
            if (folder / RUN).exists():
                check_same(read_json(folder / RUN), about, where=folder)
            else:
                write_json(folder / RUN, about)
            answers, stopped = Answers(folder / ANSWERS), None
            asking = Asking(judge, answers, cap, concurrent=concurrent)
            left, whole = self._left(answers).requests, self._left(None).requests
            with progress("ask", whole, done=whole - left, unit="requests") as advance:
                try:
                    asking.ask(self._turns(answers), advance)
                except Spent as spent:
                    stopped = str(spent)
                except ConnectionError as error:
                    raise ConnectionError(
                        f"{error}; {_kept(answers, folder)}, and the same command continues"
                    ) from error
                except ValueError as error:
                    raise ValueError(f"{error}; {_kept(answers, folder)}") from error
            known = ([one] if isinstance(one, Request) else one.requests() for one in self._turns(answers))
            answers.arrange(request for some in known for request in some)
            findings = self._findings(answers, about, stopped)
            findings.write(folder)
        return findings

    def _turns(self, answers: Answers) -> list[Request | Turn]:
        """What is asked, in order; scores are of the sentences among the ``answers``."""
        turns: list[Request | Turn] = []
        for latent, companion in self.companions.items():
            turns += [self.explanations[latent], self.explanations[companion]]
            turns += [
                self._turn(latent, score, one, answers) for score in self.settings.scores for one in (latent, companion)
            ]
        return turns

    def _turn(self, latent: int, score: str, explained: int, answers: Answers) -> Turn:
        def requests() -> list[Request]:
            text = self._text(explained, answers)
            return [] if text is None else self._asked(latent, score, text)

        most = self._asked(latent, score, WIDEST_EXPLANATION)
        return Turn(
            after=self.explanations[explained],
            requests=requests,
            most_requests=len(most),
            most_tokens=sum(one.most_tokens() for one in most),
        )

    def _asked(self, latent: int, score: str, explanation: str) -> list[Request]:
        return [
            score_request(
                score,
                [item.text for item in some],
                explanation,
                seed=self.settings.seed,
                max_tokens=self.settings.answer_tokens or 16 + 8 * len(some),
            )
            for some in _batches(self.items.get((latent, score), []), self.settings.per_request)
        ]

    def _text(self, latent: int, answers: Answers) -> str | None:
        request = self.explanations[latent]
        return read_explanation(answers[request].text) if request in answers else None

    def _left(self, answers: Answers | None) -> Left:
        """What would be asked; of explanations that are not there yet with some text of usual length."""
        wanted: dict[str, int] = {}

        def want(request: Request, answer: int) -> None:
            if answers is None or request not in answers:
                wanted[request.key()] = estimated_tokens(request.text()) + answer

        for latent, companion in self.companions.items():
            for one in (latent, companion):
                want(self.explanations[one], 2 * estimated_tokens(_TYPICAL_EXPLANATION))
                known = answers is not None and self.explanations[one] in answers
                text = self._text(one, answers) if answers is not None and known else f"{one} {_TYPICAL_EXPLANATION}"
                if text is not None:
                    for score in self.settings.scores:
                        for request in self._asked(latent, score, text):
                            want(request, _TOKENS_OF_A_WORD * self.settings.per_request)
        return Left(requests=len(wanted), tokens=sum(wanted.values()))

    def _findings(self, answers: Answers, about: dict[str, Any], stopped: str | None) -> Findings:
        said = {latent for latent, request in self.explanations.items() if request in answers}
        scored = tuple(
            Scored(
                explanation=self._explanation(latent, answers, about["judge"]),
                companion=self._explanation(companion, answers, about["judge"]),
                scores={
                    score: both
                    for score in self.settings.scores
                    if (both := self._compared(latent, score, answers)) is not None
                },
                kl=self.kl.get(latent),
            )
            for latent, companion in sorted(self.companions.items())
            if {latent, companion} <= said
        )
        return Findings(
            format=FORMAT,
            about=about,
            latents=scored,
            summary={
                score: summed_up([one.scores[score] for one in scored if score in one.scores])
                for score in self.settings.scores
            },
            left_out={str(latent): reason for latent, reason in self.left_out.items()},
            no_pairs={str(latent): reason for latent, reason in self.no_pairs.items()},
            explained=len(said),
            malformed_explanations=sum(self._text(latent, answers) is None for latent in said),
            requests=answers.requests,
            tokens=answers.tokens,
            uncounted=answers.uncounted,
            left=self._left(answers),
            stopped=stopped,
        )

    def _explanation(self, latent: int, answers: Answers, judge: str) -> Explanation:
        return Explanation(
            latent=latent,
            text=self._text(latent, answers),
            judge=judge,
            prompts=self.about["prompts"],
            seed=self.settings.seed,
            examples=self.examples[latent],
            density=self.densities[latent],
        )

    def _compared(self, latent: int, score: str, answers: Answers) -> Compared | None:
        both = [self._score(latent, score, one, answers) for one in (latent, self.companions[latent])]
        return None if both[0] is None or both[1] is None else compared(both[0], both[1])

    def _score(self, latent: int, score: str, explained: int, answers: Answers) -> Score | None:
        items, text = self.items.get((latent, score), []), self._text(explained, answers)
        if not items or text is None:
            return None
        said: list[bool | None] = []
        asked = self._asked(latent, score, text)
        for request, some in zip(asked, _batches(items, self.settings.per_request), strict=True):
            if request not in answers:
                return None
            said += read_words(answers[request].text, [item.text for item in some], WORDS[score])
        truths, kinds = [item.truth for item in items], [item.kind for item in items]
        return score_of(truths, said, kinds, pairs=score == "effects")


def prepare(
    sae: SAE | Dictionary,
    text: Text,
    *,
    part: int | None = None,
    latents: Sequence[int] | None = None,
    max_latents: int = 20,
    settings: Settings = Settings(),
) -> Study:
    """Choose latents and all that will be asked of them. The model runs; no judge does.

    Args:
        sae: An SAE or transcoder of one site, or a dictionary over several places.
        text: Text that it was not trained on, with the model; of a dictionary its site is not read.
        part: Of a dictionary, the part whose latents are explained; it may be left out where there is one.
        latents: Numbers of the latents; by default ``max_latents`` of those with enough passages, in pairs of about
            the same density that are spread over all densities.
        max_latents: How many where ``latents`` are not given.
        settings: How they are explained and scored.

    Raises:
        ValueError: a latent or part that is not there; too little text for any latent, or for a companion; effects of
            latents whose clamp is not defined (crosscoders, and what writes to the residual stream at several layers).

    Example:
        >>> import interp, saes, torch
        >>> from saes.explanations import Settings, prepare
        >>> from saes.features.examples import Text
        >>> model = interp.load_model("embedded")
        >>> text = interp.embedded.TEXT_FOLDER / "heldout.jsonl"
        >>> rows = interp.rows_for(model, text, "rows", tokens=8_000)
        >>> sae = saes.SAE(96, 192, saes.TopK(8), site="blocks.2.hook_resid_post")
        >>> sae = sae.initialise(seed=0, mean=torch.zeros(96))
        >>> text = Text(model=model, rows=rows, site=interp.Site.parse(sae.site))
        >>> study = prepare(sae, text, max_latents=2, settings=Settings(scores=("detection",), items=8))
        >>> len(study.companions), study.plan().split(":")[0]
        (2, '2 latents to explain, detection')
    """
    whose = explained_in(sae, text, part=part)
    if "effects" in settings.scores:
        whose.require_clamps()
    sae, text = whose.sae, whose.text
    grid = Grid(text, width=settings.width, seed=settings.seed)
    found = survey(sae, grid)
    choice = choose(found, grid, latents, max_latents=max_latents, items=settings.items)
    explained, chosen = choice.explained, list(choice.companions)
    activity = gather(sae, grid, explained)
    text_of = token_texts(text.model.tokenizer)
    examples: dict[int, list[Example]] = {
        latent: explained_from(activity, latent, top=settings.top, spread=settings.spread, seed=settings.seed)
        for latent in explained
    }
    kl: dict[int, Estimate] = {}
    no_pairs: dict[int, str] = {}
    items: dict[tuple[int, str], list[Item]] = {}
    for score, make in (("detection", detection_items), ("fuzzing", fuzzing_items)):
        if score in settings.scores:
            for latent in chosen:
                items[latent, score] = make(activity, latent, text_of, count=settings.items, seed=settings.seed)
    if "effects" in settings.scores:
        kl, pairs, no_pairs = _effects(whose, grid, settings, choice, found, text_of)
        items |= {(latent, "effects"): some for latent, some in pairs.items()}
    return Study(
        about=_about(whose, grid, settings),
        settings=settings,
        companions=choice.companions,
        densities={latent: found.density(latent) for latent in explained},
        explanations={
            latent: explanation_request(shown, text_of, seed=settings.seed, max_tokens=settings.answer_tokens or 200)
            for latent, shown in examples.items()
        },
        examples={latent: len(shown) for latent, shown in examples.items()},
        items={key: some for key, some in items.items() if some},
        kl=kl,
        no_pairs=no_pairs,
        left_out=choice.left_out,
    )


@torch.no_grad()
def _effects(
    whose: Explained, grid: Grid, settings: Settings, choice: Choice, found: Survey, text_of: Callable[[int], str]
) -> tuple[dict[int, Estimate], dict[int, list[Item]], dict[int, str]]:
    """KL of clamps, pairs of each latent whose clamp does something, and why others have none; rivals are the nearest
    in density that do something."""
    pool = choice.with_rivals(settings.pairs)
    begins = np.flatnonzero(grid.scoring & (np.arange(len(grid.whole)) % grid.per_row == 0))
    if not len(begins):
        raise ValueError(
            "no row to score on begins with a passage without padding; give more text, or leave effects out"
        )
    drawn = np.random.default_rng([settings.seed, 4]).permuted(np.resize(begins, settings.pairs * settings.rows))
    text, device = whose.text, whose.sae.W_enc.device
    effects: dict[int, list[Effect]] = {latent: [] for latent in pool}
    for windows in counted(drawn.reshape(settings.pairs, -1), "clamp latents", settings.pairs, unit="sets of passages"):
        ids = torch.from_numpy(grid.ids[windows].astype(np.int64)).to(device)
        where = measured(torch.zeros_like(ids), text.first_position, ids=ids, drop_tokens=text.drop_tokens)
        if not where.any():
            raise ValueError("no token of the passages that latents are clamped on is measured; raise width")
        clamping = Clamping(whose.sae, text.model, text.sites[0], whose.writes, ids, where)
        for latent in pool:
            effects[latent].append(clamping.effect(latent, settings.strength * float(found.maximum[latent])))
    kl = {latent: mean(torch.tensor([one.kl for one in each], dtype=torch.float64)) for latent, each in effects.items()}
    strong = [latent for latent in pool if kl[latent].value >= LEAST_EFFECT]
    pairs: dict[int, list[Item]] = {}
    none: dict[int, str] = {}
    for latent, companion in choice.companions.items():
        if latent not in strong:
            none[latent] = f"its clamp does too little: a KL of {kl[latent].value:.1e} nats, below {LEAST_EFFECT:g}"
            continue
        near = sorted(strong, key=lambda x: abs(math.log(int(found.active[x]) / int(found.active[latent]))))
        rivals = [effects[x] for x in near if x not in (latent, companion)][: settings.pairs]
        some = effect_items(effects[latent], rivals, text_of, latent=latent, seed=settings.seed) if rivals else []
        if len(some) >= min(_FEWEST_PAIRS, settings.pairs):
            pairs[latent] = some
        else:
            none[latent] = "others raise the same tokens" if rivals else "no other latent's clamp does something"
    return kl, pairs, none


def _about(whose: Explained, grid: Grid, settings: Settings) -> dict[str, Any]:
    text = whose.text
    return {
        "prompts": prompt_version(),
        "sae": whose.identity,
        "model": name_of(text.model),
        "text": {
            "sha256": hashlib.sha256(np.ascontiguousarray(grid.ids.astype("<i8")).tobytes()).hexdigest(),
            "first_position": text.first_position,
            "drop_tokens": list(text.drop_tokens),
        },
        "settings": asdict(settings) | {"scores": list(settings.scores)},
    }


def _kept(answers: Answers, folder: Path) -> str:
    return f"every answer so far ({answers.requests:,}) is kept in {folder}"


def _batches(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    return [items[begin : begin + size] for begin in range(0, len(items), size)]
