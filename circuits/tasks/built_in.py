"""Built-in tasks, each from a tokenizer, a number of prompts and a seed.

A task's prompts must all have one length, and its answers one token each; both depend on the tokenizer. So prompts are
drawn from templates, those that do not fit are dropped, and the most frequent length is kept.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from circuits.tasks.task import Task, encode, single_token
from interp.embedded.synthetic import NAMES, OBJECTS, PLACES, TEMPLATES

# Pairs drawn in all, and for each that is wanted: enough to find `n` of one length among templates of several.
_DRAWS, _DRAWS_EACH = 1000, 20


class Pair(NamedTuple):
    """A clean and a corrupt prompt, and the answers to the clean one."""

    clean: str
    corrupt: str
    correct: tuple[str, ...]
    wrong: tuple[str, ...]


Draw = Callable[[np.random.Generator], Pair]
CORRUPTIONS = ("swap", "other_subject", "three_names")
FORMS = ("simple", "noun_phrase", "relative_clause")


def ioi(
    tokenizer: Any,
    n: int,
    seed: int = 0,
    *,
    corruption: str = "swap",
    templates: Sequence[str] = TEMPLATES["heldout"],
    names: Sequence[str] = NAMES["heldout"],
    **options: Any,
) -> Task:
    """Indirect object identification (Wang et al. 2022): "When Mary and John went to the store, John gave a drink to".

    Args:
        corruption: ``swap``: the second subject becomes the other name, so that the answer is the other one (the
            demonstration of RelP). ``other_subject``: it becomes a third name. ``three_names`` (ABC): all three names
            are other people, so that nothing but the form remains.
        templates: With {A}, {B} for the two people, {S} for the subject, {IO} for the answer, {place} and {object}.
        options: As for :class:`circuits.tasks.task.Task`, such as ``metric`` or ``direction``.
    """
    if corruption not in CORRUPTIONS:
        raise ValueError(f"corruption {corruption!r} is not one of {', '.join(CORRUPTIONS)}")

    def draw(rng: np.random.Generator) -> Pair:
        first, second, third, fourth, fifth = (names[i] for i in rng.choice(len(names), 5, replace=False))
        subject, answer = (first, second) if rng.random() < 0.5 else (second, first)
        words = {"place": _one(rng, PLACES), "object": _one(rng, OBJECTS)}
        before = _one(rng, templates).split("{IO}")[0].rstrip()
        people = {
            "swap": {"A": first, "B": second, "S": answer},
            "other_subject": {"A": first, "B": second, "S": third},
            "three_names": {"A": third, "B": fourth, "S": fifth},
        }[corruption]
        clean = before.format(A=first, B=second, S=subject, **words)
        return Pair(clean, before.format(**people, **words), (f" {answer}",), (f" {subject}",))

    return _collect(tokenizer, draw, n=n, seed=seed, name=f"ioi_{corruption}", options=options)


_EVENTS = tuple("war siege journey voyage reign peace strike trial festival march".split())


def greater_than(tokenizer: Any, n: int, seed: int = 0, **options: Any) -> Task:
    """Greater-than (Hanna et al. 2023): "The war lasted from the year 1732 to the year 17" is followed by more than 32.

    The corrupt prompt has the year 01, after which (nearly) every end is right. Correct are all two-digit tokens above
    the year, wrong the others; by default the difference of their probabilities is measured, as in the paper. The
    tokenizer must have all numbers 02 to 99 as tokens and split "1732" into "17" and "32" (GPT-2 does, Llama does not).
    """
    single = [f"{number:02d}" for number in range(2, 99)]

    def draw(rng: np.random.Generator) -> Pair:
        century, year = int(rng.integers(11, 18)), int(rng.integers(2, 98))
        text = f"The {_one(rng, _EVENTS)} lasted from the year {century}{{year:02d}} to the year {century}"
        right, wrong = (tuple(s for s in single if (int(s) > year) is above) for above in (True, False))
        return Pair(text.format(year=year), text.format(year=1), right, wrong)

    return _collect(
        tokenizer, draw, n=n, seed=seed, name="greater_than", options={"metric": "probability_difference"} | options
    )


# Singular and plural, and verbs that agree with them.
_NOUNS = (
    ("boy", "boys"), ("girl", "girls"), ("man", "men"), ("woman", "women"), ("child", "children"),
    ("friend", "friends"), ("king", "kings"), ("brother", "brothers"), ("sister", "sisters"), ("lady", "ladies"),
)  # fmt: skip
_VERBS = ((" is", " are"), (" was", " were"), (" has", " have"))
_PHRASES = ("near the", "behind the", "beside the", "before the")
_CLAUSE_VERBS = ("saw", "knew", "followed", "loved")


def agreement(tokenizer: Any, n: int, seed: int = 0, *, form: str = "simple", **options: Any) -> Task:
    """Subject-verb agreement (as in Marks et al. 2024): "The girl near the boys" is followed by " has", not " have".

    The corrupt prompt has the subject in the other number.

    Args:
        form: ``simple``: "The girl"; ``noun_phrase``: "The girl near the boys"; ``relative_clause``: "The girl that the
            boys saw". What stands between has either number.
    """
    if form not in FORMS:
        raise ValueError(f"form {form!r} is not one of {', '.join(FORMS)}")

    def draw(rng: np.random.Generator) -> Pair:
        subject, other = (_NOUNS[i] for i in rng.choice(len(_NOUNS), 2, replace=False))
        verbs, plural = _one(rng, _VERBS), int(rng.integers(2))
        between = {
            "simple": "",
            "noun_phrase": f" {_one(rng, _PHRASES)} {other[rng.integers(2)]}",
            "relative_clause": f" that the {other[rng.integers(2)]} {_one(rng, _CLAUSE_VERBS)}",
        }[form]
        clean, corrupt = (f"The {subject[number]}{between}" for number in (plural, 1 - plural))
        return Pair(clean, corrupt, (verbs[plural],), (verbs[1 - plural],))

    return _collect(tokenizer, draw, n=n, seed=seed, name=f"agreement_{form}", options=options)


def induction(tokenizer: Any, n: int, seed: int = 0, *, words: int = 10, **options: Any) -> Task:
    """Induction (Olsson et al. 2022): random tokens, then the same again up to the one whose follower is asked for.

    In the corrupt prompt the token before the follower is another one in the first half, so that nothing says what
    comes next. The wrong answer is the token before that.

    Args:
        words: Tokens of the first half, at least 4; half of them are repeated.
    """
    if words < 4:
        raise ValueError(f"words is {words}; the first half needs at least 4 tokens")
    _check_count(n)
    rng = np.random.default_rng(seed)
    special = set(getattr(tokenizer, "all_special_ids", None) or [])
    ordinary = [i for i in range(len(tokenizer)) if i not in special]
    rows: dict[str, list[Any]] = {"clean": [], "corrupt": [], "correct": [], "wrong": []}
    bos, asked = encode(tokenizer, "", bos=options.pop("bos", None)), words // 2
    for _ in range(n):
        *first, other = (ordinary[i] for i in rng.choice(len(ordinary), words + 1, replace=False))
        changed = [other if i == asked else token for i, token in enumerate(first)]
        rows["clean"].append([*bos, *first, *first[: asked + 1]])
        rows["corrupt"].append([*bos, *changed, *first[: asked + 1]])
        rows["correct"].append(first[asked + 1])
        rows["wrong"].append(first[asked - 1])
    return Task(**{"name": "induction"} | options | rows)


_ARGUMENTS = tuple("name size path value label key node list text index file state date time order group".split())


def docstring(tokenizer: Any, n: int, seed: int = 0, **options: Any) -> Task:
    """Docstring-like (Heimersheim and Janiak 2023): after ``:param a: ...`` and ``:param b: ...`` comes the argument
    that the function lists third.

    The corrupt prompt has other arguments in the function's list, so that nothing says which is next.
    """

    def draw(rng: np.random.Generator) -> Pair:
        a, b, c, x, y, z, one, two = (_ARGUMENTS[i] for i in rng.choice(len(_ARGUMENTS), 8, replace=False))
        text = (
            'def run({arguments}):\n    """Run it.\n\n    :param '
            + f"{a}: the {one}\n    :param {b}: the {two}\n    :param"
        )
        clean, corrupt = (text.format(arguments=", ".join(["self", *found])) for found in ((a, b, c), (x, y, z)))
        return Pair(clean, corrupt, (f" {c}",), (f" {a}",))

    return _collect(tokenizer, draw, n=n, seed=seed, name="docstring", options=options)


BUILT_IN: dict[str, Callable[..., Task]] = {
    "ioi": ioi,
    "greater_than": greater_than,
    "agreement": agreement,
    "induction": induction,
    "docstring": docstring,
}


def _one(rng: np.random.Generator, of: Sequence[Any]) -> Any:
    return of[int(rng.integers(len(of)))]


def _check_count(n: int) -> None:
    if n < 1:
        raise ValueError(f"n is {n}; a task has 1 prompt or more")


def _collect(tokenizer: Any, draw: Draw, *, n: int, seed: int, name: str, options: dict[str, Any]) -> Task:
    """Draw pairs until ``n`` different ones of one length, with answers of one token, are found."""
    _check_count(n)
    rng, bos = np.random.default_rng(seed), options.get("bos")
    by_length: dict[int, dict[Pair, None]] = {}
    dropped: Counter[str] = Counter()
    for _ in range(_DRAWS + _DRAWS_EACH * n):
        pair = draw(rng)
        length, other = (len(encode(tokenizer, text, bos=bos)) for text in (pair.clean, pair.corrupt))
        if length != other:
            dropped["clean and corrupt prompt of different length"] += 1
        elif error := _answer_error(tokenizer, pair):
            dropped[error] += 1
        else:
            kept = by_length.setdefault(length, {})
            kept[pair] = None
            if len(kept) == n:
                columns = {field: [getattr(found, field) for found in kept] for field in Pair._fields}
                return Task.from_text(tokenizer, **{"name": name} | options | columns)
    most = max(map(len, by_length.values()), default=0)
    why = "; ".join(reason for reason, _ in dropped.most_common(2)) or "there are no more different ones"
    raise ValueError(
        f"only {most} prompts of {name} fit this tokenizer, {n} were asked for ({why}). Lower n, or pass others"
    )


def _answer_error(tokenizer: Any, pair: Pair) -> str | None:
    for word in (*pair.correct, *pair.wrong):
        try:
            single_token(tokenizer, word)
        except ValueError as error:
            return str(error)
    return None
