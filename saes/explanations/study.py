"""From a study to explanations with scores: what is asked is fixed before anything is, and asked once.

:meth:`Study.run` asks, latent by latent, and keeps each answer in the folder; run again there, it continues. What comes
out is a function of the study and the answers alone, so that recorded answers give the same file, byte by byte.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp.files.differences import check_same
from interp.files.folder_lock import alone_in
from interp.files.outside import read_json
from interp.files.writing import write_json
from interp.metrics import Estimate
from interp.terminal.progress import progress
from saes.explanations.answers import ANSWERS, Answers
from saes.explanations.asking import Asking, Cap, Spent, Turn
from saes.explanations.findings import FORMAT, Explanation, Findings, Left, Scored
from saes.explanations.judges.judge import Judge, Request, estimated_tokens
from saes.explanations.prompts import (
    WIDEST_EXPLANATION,
    WORDS,
    read_explanation,
    read_words,
    score_request,
)
from saes.explanations.scores import Compared, Score, compared, score_of, summed_up
from saes.explanations.trials import Item

RUN = "run.json"
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
    """All that will be asked, but for the explanations that come of it; from :func:`saes.explanations.prepare`."""

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


def _kept(answers: Answers, folder: Path) -> str:
    return f"every answer so far ({answers.requests:,}) is kept in {folder}"


def _batches(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    return [items[begin : begin + size] for begin in range(0, len(items), size)]
