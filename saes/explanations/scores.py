"""From a judge's answers to a score with its error, beside the same items judged by another latent's explanation."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from scipy.stats import t as student_t

from interp.metrics import Estimate, mean

TOO_MANY_MALFORMED = 0.2
"""Above this share of answers that cannot be read there is no verdict."""
ABOVE, NOT_ABOVE = "above another latent's explanation", "not above another latent's explanation"


@dataclass(frozen=True, kw_only=True)
class Score:
    """Of one explanation on the items of one latent, over the answers that can be read."""

    accuracy: Estimate | None
    """Mean of the shares of right answers on active and on other items (of pairs the share over all); chance is 0.5."""
    precision: Estimate | None
    """Share of the items called active that are; None where none was, and for pairs."""
    recall: Estimate | None
    """Share of the active items that were called so; None for pairs."""
    by_kind: dict[str, Estimate]
    """Share of right answers by kind of item."""
    items: int
    """Items that the judge was asked about."""
    malformed: int
    """Items on which the answer cannot be read; they are in no share."""


def score_of(
    truths: Sequence[bool], said: Sequence[bool | None], kinds: Sequence[str], *, pairs: bool = False
) -> Score:
    """``said`` holds None where the answer cannot be read.

    ``accuracy`` is None where no answer on one of the two kinds of truth could be read. Of ``pairs`` the two words mean
    nothing, so that accuracy is the share of right answers over all.
    """
    read = [(truth, word, kind) for truth, word, kind in zip(truths, said, kinds, strict=True) if word is not None]
    right = {truth: [word == truth for t, word, _ in read if t == truth] for truth in (True, False)}
    called = [truth for truth, word, _ in read if word]
    accuracy = None
    if pairs:
        accuracy = _share(right[True] + right[False])
    elif (recall := _share(right[True])) is not None and (silence := _share(right[False])) is not None:
        error = math.hypot(recall.standard_error, silence.standard_error) / 2
        accuracy = Estimate((recall.value + silence.value) / 2, error, len(read))
    by_kind = {name: _share([word == truth for truth, word, kind in read if kind == name]) for name in sorted({*kinds})}
    return Score(
        accuracy=accuracy,
        precision=None if pairs else _share(called),
        recall=None if pairs else _share(right[True]),
        by_kind={name: share for name, share in by_kind.items() if share is not None},
        items=len(truths),
        malformed=len(truths) - len(read),
    )


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A latent's own explanation beside that of its companion, on the same items."""

    own: Score
    """With the explanation of the latent itself."""
    null: Score
    """With the explanation of another latent that is about as dense."""
    verdict: str
    """Whether the first is above the second by more than two standard errors of their difference."""


def compared(own: Score, null: Score) -> Compared:
    """With a verdict on this latent."""
    items, malformed = own.items + null.items, own.malformed + null.malformed
    if malformed > TOO_MANY_MALFORMED * items:
        verdict = _no_verdict(malformed, items)
    elif own.accuracy is None or null.accuracy is None:
        verdict = "no verdict: no answer could be read on one kind of item"
    else:
        error = math.hypot(own.accuracy.standard_error, null.accuracy.standard_error)
        verdict = ABOVE if own.accuracy.value - null.accuracy.value > 2 * error else NOT_ABOVE
    return Compared(own=own, null=null, verdict=verdict)


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One score over all latents that have it."""

    latents: int
    """Latents with a score, of their own explanation and of the companion's."""
    accuracy: Estimate | None
    """Mean over these latents with their own explanations, the error over latents."""
    null: Estimate | None
    """Mean over these latents with the explanations of companions."""
    advantage: Estimate | None
    """Mean over these latents of the difference between the two; its error is over latents, or that of the answers
    where this is larger."""
    above: int
    """Latents whose own explanation is above the companion's."""
    items: int
    """Items asked about, with own and with other explanations."""
    malformed: int
    """Those on which the answer could not be read."""
    verdict: str
    """Whether the advantage is above 0 at 95 %, by Student's t over latents."""


def summed_up(each: Sequence[Compared]) -> Summary:
    """Over latents, which are the independent units."""
    items = sum(one.own.items + one.null.items for one in each)
    malformed = sum(one.own.malformed + one.null.malformed for one in each)
    pairs = [
        (one.own.accuracy, one.null.accuracy)
        for one in each
        if one.own.accuracy is not None and one.null.accuracy is not None
    ]
    own, null, advantage = (
        mean(torch.tensor(column, dtype=torch.float64)) if pairs else None
        for column in ([a.value for a, _ in pairs], [b.value for _, b in pairs], [a.value - b.value for a, b in pairs])
    )
    if advantage is not None:
        of_answers = math.hypot(*(each.standard_error for pair in pairs for each in pair)) / len(pairs)
        advantage = replace(advantage, standard_error=max(advantage.standard_error, of_answers))
    if malformed > TOO_MANY_MALFORMED * items:
        verdict = _no_verdict(malformed, items)
    elif advantage is None or math.isnan(advantage.standard_error):
        verdict = f"no verdict: {len(pairs)} latents with a score; it takes two or more"
    else:
        sure = float(student_t.ppf(0.975, len(pairs) - 1)) * advantage.standard_error
        verdict = ABOVE if advantage.value > sure else NOT_ABOVE
    return Summary(
        latents=len(pairs),
        accuracy=own,
        null=null,
        advantage=advantage,
        above=sum(one.verdict == ABOVE for one in each),
        items=items,
        malformed=malformed,
        verdict=verdict,
    )


def _no_verdict(malformed: int, items: int) -> str:
    return f"no verdict: {malformed:,} of {items:,} answers cannot be read"


def _share(right: Sequence[bool]) -> Estimate | None:
    """Its error is that of the share with one more of each outcome, so that ten of ten are not known exactly."""
    if not right:
        return None
    count, hits = len(right), sum(right)
    smoothed = (hits + 1) / (count + 2)
    return Estimate(hits / count, math.sqrt(smoothed * (1 - smoothed) / count), count)
