"""Built-in tasks, each from a tokenizer (or a model that has one), a number of prompts and a seed.

A position must be the same part of the sentence in all prompts of a task, and in both prompts of a pair, or heat maps
and means over prompts would mix roles; and answers are one token each. Both depend on the tokenizer. So prompts are
drawn from one template, those that do not fit are dropped, and the most frequent layout is kept. Prompts from several
templates are of one length, and their task has roles.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from string import Formatter
from typing import Any, NamedTuple

import numpy as np

from circuits.tasks.task import Task, encode, single_token
from interp.embedded.synthetic import NAMES, OBJECTS, PLACES, TEMPLATES

# Pairs drawn in all, and for each that is wanted: enough to find `n` of one layout among words of several tokens.
_DRAWS, _DRAWS_EACH = 1000, 20

Pieces = tuple[tuple[str, str], ...]
"""A prompt in pieces of (role, text), each with the space before it; the role of words that never change is empty."""


class Pair(NamedTuple):
    """A clean and a corrupt prompt, and the answers to the clean one.

    Example:
        >>> from circuits.tasks import Pair
        >>> pair = Pair(clean=(("", "Emma is"),), corrupt=(("", "They are"),), correct=(" glad",), wrong=(" sad",))
        >>> pair.correct
        (' glad',)
    """

    clean: Pieces
    corrupt: Pieces
    correct: tuple[str, ...]
    wrong: tuple[str, ...]


Draw = Callable[[np.random.Generator], Pair]
CORRUPTIONS = ("swap", "other_subject", "three_names")
FORMS = ("simple", "noun_phrase", "relative_clause")
ORDERS = ("ABBA", "BABA")


def ioi(
    tokenizer: Any,
    n: int = 16,
    seed: int = 0,
    *,
    corruption: str = "swap",
    templates: str | Sequence[str] = TEMPLATES["heldout"][0],
    orders: str | Sequence[str] = "ABBA",
    names: Sequence[str] = NAMES["heldout"],
    **options: Any,
) -> Task:
    """Indirect object identification (Wang et al. 2022): "When Mary and John went to the store, John gave a drink to".

    Args:
        corruption: ``swap``: the second subject becomes the other name, so that the answer is the other one (the
            demonstration of RelP). ``other_subject``: it becomes a third name. ``three_names`` (ABC): all three names
            are other people, so that nothing but the form remains.
        templates: One or several, such as ``TEMPLATES["heldout"]`` of ``interp.embedded.synthetic``, with {A}, {B} for
            the two people, {S} for the subject, {IO} for the answer, {place} and {object}.
        orders: ``ABBA``: the indirect object is named first; ``BABA``: the subject is; or both.
        options: As for :class:`circuits.tasks.task.Task`, such as ``metric`` or ``direction``.

    With several templates or orders, roles (``IO``, ``S1``, ``S2``, ``place``, ``object``, ``end``, and ``text`` for
    the rest) stand at different positions, and results are by role.

    Example:
        >>> import circuits, interp
        >>> model = interp.load_model("embedded")
        >>> task = circuits.tasks.ioi(model, 2)
        >>> model.tokenizer.decode(task.clean[0]) != model.tokenizer.decode(task.corrupt[0])
        True
    """
    templates, orders = ((value,) if isinstance(value, str) else tuple(value) for value in (templates, orders))
    if corruption not in CORRUPTIONS:
        raise ValueError(f"corruption {corruption!r} is not one of {', '.join(CORRUPTIONS)}")
    if not orders or (unknown := set(orders) - set(ORDERS)):
        raise ValueError(f"orders {sorted(unknown) if orders else []} are not among {', '.join(ORDERS)}")
    if not templates:
        raise ValueError("templates is empty; a task has one or more")

    def draw(rng: np.random.Generator) -> Pair:
        first, second, third, fourth, fifth = (names[i] for i in rng.choice(len(names), 5, replace=False))
        answer_first = _one(rng, orders) == "ABBA"
        subject, answer = (second, first) if answer_first else (first, second)
        words = {"place": _one(rng, PLACES), "object": _one(rng, OBJECTS)}
        before = _one(rng, templates).split("{IO}")[0].rstrip()
        people = {
            "swap": {"A": first, "B": second, "S": answer},
            "other_subject": {"A": first, "B": second, "S": third},
            "three_names": {"A": third, "B": fourth, "S": fifth},
        }[corruption]
        roles = {"A": "IO", "B": "S1"} if answer_first else {"A": "S1", "B": "IO"}
        roles = {"S": "S2", "place": "place", "object": "object"} | roles
        clean = _filled(before, roles, {"A": first, "B": second, "S": subject} | words)
        return Pair(clean, _filled(before, roles, people | words), (f" {answer}",), (f" {subject}",))

    several = len(templates) * len(orders) > 1
    return _collect(tokenizer, draw, n=n, seed=seed, name=f"ioi_{corruption}", options=options, several_layouts=several)


_EVENTS = tuple("war siege journey voyage reign peace strike trial festival march".split())


def greater_than(tokenizer: Any, n: int = 16, seed: int = 0, **options: Any) -> Task:
    """Greater-than (Hanna et al. 2023): "The war lasted from the year 1732 to the year 17" is followed by more than 32.

    The corrupt prompt has the year 01, after which (nearly) every end is right. Correct are all two-digit tokens above
    the year, wrong the others; by default the difference of their probabilities is measured, as in the paper. The
    tokenizer must have all numbers 02 to 99 as tokens and split "1732" into "17" and "32" (GPT-2 does, Llama does not).

    Example:
        >>> import circuits
        >>> from tokenizers import Regex, Tokenizer, models, pre_tokenizers
        >>> from transformers import PreTrainedTokenizerFast
        >>> words = "The lasted from the year to war siege journey voyage reign peace strike trial festival march"
        >>> ids = {word: i for i, word in enumerate(["[UNK]", *words.split(), *(f"{n:02d}" for n in range(100))])}
        >>> splitting = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))  # in place of GPT-2's
        >>> splitting.pre_tokenizer = pre_tokenizers.Split(Regex("[0-9]{2}| "), "isolated")
        >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=splitting, unk_token="[UNK]")
        >>> task = circuits.tasks.greater_than(tokenizer, 1, seed=3)
        >>> " ".join(tokenizer.decode(task.clean[0], skip_special_tokens=True).split())
        'The siege lasted from the year 16 10 to the year 16'
        >>> tokenizer.decode(task.correct[0][:3])
        '11 12 13'
    """
    single = [f"{number:02d}" for number in range(2, 99)]

    def draw(rng: np.random.Generator) -> Pair:
        century, year = int(rng.integers(11, 18)), int(rng.integers(2, 98))
        template = "The {event} lasted from the year {century}{year} to the year {century}"
        roles = {"event": "event", "century": "century", "year": "year"}
        words = {"event": _one(rng, _EVENTS), "century": str(century)}
        right, wrong = (tuple(s for s in single if (int(s) > year) is above) for above in (True, False))
        clean, corrupt = (_filled(template, roles, words | {"year": f"{shown:02d}"}) for shown in (year, 1))
        return Pair(clean, corrupt, right, wrong)

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


def agreement(tokenizer: Any, n: int = 16, seed: int = 0, *, form: str = "simple", **options: Any) -> Task:
    """Subject-verb agreement (as in Marks et al. 2024): "The girl near the boys" is followed by " has", not " have".

    The corrupt prompt has the subject in the other number.

    Args:
        form: ``simple``: "The girl"; ``noun_phrase``: "The girl near the boys"; ``relative_clause``: "The girl that the
            boys saw". What stands between has either number.

    Example:
        >>> import circuits, interp
        >>> model = interp.load_model("embedded")
        >>> task = circuits.tasks.agreement(model, 4)
        >>> len(task), task.metric_name
        (4, 'logit_difference')
    """
    if form not in FORMS:
        raise ValueError(f"form {form!r} is not one of {', '.join(FORMS)}")

    def draw(rng: np.random.Generator) -> Pair:
        subject, other = (_NOUNS[i] for i in rng.choice(len(_NOUNS), 2, replace=False))
        verbs, plural = _one(rng, _VERBS), int(rng.integers(2))
        template = (
            "The {subject}"
            + {
                "simple": "",
                "noun_phrase": " {phrase} {other}",
                "relative_clause": " that the {other} {verb}",
            }[form]
        )
        words = {"phrase": _one(rng, _PHRASES), "verb": _one(rng, _CLAUSE_VERBS), "other": other[rng.integers(2)]}
        roles = {name: name for name in ("subject", *words)}
        clean, corrupt = (
            _filled(template, roles, words | {"subject": subject[number]}) for number in (plural, 1 - plural)
        )
        return Pair(clean, corrupt, (verbs[plural],), (verbs[1 - plural],))

    return _collect(tokenizer, draw, n=n, seed=seed, name=f"agreement_{form}", options=options)


def induction(tokenizer: Any, n: int = 16, seed: int = 0, *, words: int = 10, **options: Any) -> Task:
    """Induction (Olsson et al. 2022): random tokens, then the same again up to the one whose follower is asked for.

    In the corrupt prompt the token before the follower is another one in the first half, so that nothing says what
    comes next. The wrong answer is the token before that.

    Args:
        words: Tokens of the first half, at least 4; half of them are repeated.

    Example:
        >>> import circuits, interp
        >>> model = interp.load_model("embedded")
        >>> task = circuits.tasks.induction(model, 3, words=5)
        >>> len(task)
        3
    """
    if words < 4:
        raise ValueError(f"words is {words}; the first half needs at least 4 tokens")
    _check_count(n)
    tokenizer = _tokenizer_of(tokenizer)
    rng = np.random.default_rng(seed)
    special = set(getattr(tokenizer, "all_special_ids", None) or [])
    ordinary = [i for i in range(len(tokenizer)) if i not in special]
    rows: dict[str, list[Any]] = {"clean": [], "corrupt": [], "correct": [], "wrong": []}
    bos, last = encode(tokenizer, "", bos=options.pop("bos", None)), words // 2
    for _ in range(n):
        *first, other = (ordinary[i] for i in rng.choice(len(ordinary), words + 1, replace=False))
        changed = [other if i == last else token for i, token in enumerate(first)]
        rows["clean"].append([*bos, *first, *first[: last + 1]])
        rows["corrupt"].append([*bos, *changed, *first[: last + 1]])
        rows["correct"].append(first[last + 1])
        rows["wrong"].append(first[last - 1])
    once = [str(i) for i in range(1, words + 1)]
    labels = ["[BOS]"] * len(bos) + [f"[{i}]" for i in once] + [f"[{i} again]" for i in once[: last + 1]]
    return Task(**{"name": "induction", "labels": labels} | options | rows)


_ARGUMENTS = tuple("name size path value label key node list text index file state date time order group".split())


def docstring(tokenizer: Any, n: int = 16, seed: int = 0, **options: Any) -> Task:
    """Docstring-like (Heimersheim and Janiak 2023): after ``:param a: ...`` and ``:param b: ...`` comes the argument
    that the function lists third.

    The corrupt prompt has other arguments in the function's list, so that nothing says which is next.

    Example:
        >>> import circuits, interp
        >>> tokenizer = interp.load_model("embedded").tokenizer
        >>> task = circuits.tasks.docstring(tokenizer, 1)
        >>> lines = tokenizer.decode(task.clean[0], skip_special_tokens=True).splitlines()
        >>> lines[0], [line.strip() for line in lines[3:]]
        ('def run(self, path, text, name):', [':param path: the date', ':param text: the file', ':param'])
        >>> tokenizer.decode(task.correct[0])
        ' name'
    """

    template = (
        'def run(self, {def_1}, {def_2}, {def_3}):\n    """Run it.\n\n    :param {doc_1}: the {word_1}\n'
        "    :param {doc_2}: the {word_2}\n    :param"
    )
    slots = ("def_1", "def_2", "def_3", "doc_1", "doc_2", "word_1", "word_2")
    roles = {slot: slot.replace("_", " ") for slot in slots}

    def draw(rng: np.random.Generator) -> Pair:
        a, b, c, x, y, z, one, two = (_ARGUMENTS[i] for i in rng.choice(len(_ARGUMENTS), 8, replace=False))
        clean, corrupt = (
            _filled(template, roles, dict(zip(slots, (*listed, a, b, one, two), strict=True)))
            for listed in ((a, b, c), (x, y, z))
        )
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
    if not isinstance(n, int) or n < 1:
        raise ValueError(f"n is {n!r}; a task has 1 prompt or more")


def _filled(template: str, roles: Mapping[str, str], words: Mapping[str, str]) -> Pieces:
    """A template with its slots filled, in pieces; a space belongs to the word behind it."""
    pieces: list[tuple[str, str]] = []
    for text, slot, *_ in Formatter().parse(template):
        fixed = text.removesuffix(" ") if slot is not None else text
        if fixed:
            pieces.append(("", fixed))
        if slot is not None:
            pieces.append((roles[slot], text[len(fixed) :] + words[slot]))
    return tuple(pieces)


def _tokenizer_of(given: Any) -> Any:
    """Itself, or that of a model."""
    found = getattr(given, "tokenizer", given)
    if not callable(getattr(found, "decode", None)):
        raise ValueError(
            f"prompts are drawn for a tokenizer, or for a model that has one, not for {type(given).__name__}: pass"
            " model.tokenizer, or interp.load_model('gpt2')"
        )
    return found


def _text(pieces: Pieces) -> str:
    return "".join(text for _, text in pieces)


def _roles_of(tokenizer: Any, pieces: Pieces, bos: bool | None) -> tuple[str, ...] | None:
    """The role of each token; None where tokens do not end where pieces do."""
    ids, text = encode(tokenizer, _text(pieces), bos=bos), ""
    roles = ["BOS"] * len(encode(tokenizer, "", bos=bos))
    for role, piece in pieces:
        text += piece
        so_far = encode(tokenizer, text, bos=bos)
        if so_far != ids[: len(so_far)] or len(so_far) <= len(roles):
            return None
        roles += [role] * (len(so_far) - len(roles))
    return tuple(roles)


def _collect(
    tokenizer: Any,
    draw: Draw,
    *,
    n: int,
    seed: int,
    name: str,
    options: dict[str, Any],
    several_layouts: bool = False,
) -> Task:
    """Draw pairs until ``n`` different ones of one layout (or, where there are several, one length), with answers of
    one token, are found."""
    _check_count(n)
    tokenizer = _tokenizer_of(tokenizer)
    rng, bos = np.random.default_rng(seed), options.get("bos")
    by_layout: dict[Any, dict[Pair, tuple[str, ...]]] = {}
    dropped: Counter[str] = Counter()
    for _ in range(_DRAWS + _DRAWS_EACH * n):
        pair = draw(rng)
        roles, other = (_roles_of(tokenizer, pieces, bos) for pieces in (pair.clean, pair.corrupt))
        if roles is None or other is None:
            dropped["words that the tokenizer joins with what follows"] += 1
        elif roles != other:
            dropped["words of different length in clean and corrupt prompt"] += 1
        elif error := _answer_error(tokenizer, pair):
            dropped[error] += 1
        else:
            kept = by_layout.setdefault(len(roles) if several_layouts else roles, {})
            kept[pair] = roles
            if len(kept) == n:
                return _task_of(tokenizer, kept, {"name": name} | options, several_layouts)
    most = max(map(len, by_layout.values()), default=0)
    why = "; ".join(reason for reason, _ in dropped.most_common(2)) or "there are no more different ones"
    raise ValueError(
        f"only {most} prompts of {name} fit this tokenizer, {n} were asked for ({why}). Lower n, or pass others"
    )


def _task_of(
    tokenizer: Any, kept: Mapping[Pair, tuple[str, ...]], options: dict[str, Any], several_layouts: bool
) -> Task:
    texts = {side: [_text(getattr(pair, side)) for pair in kept] for side in ("clean", "corrupt")}
    answers = {side: [getattr(pair, side) for pair in kept] for side in ("correct", "wrong")}
    rows = list(kept.values())
    if several_layouts:
        shared = set.intersection(*map(set, rows))
        named = [[role if role in shared and role else "text" for role in row] for row in rows]
        options = {"roles": [[*row[:-1], "end" if row[-1] == "text" else row[-1]] for row in named]} | options
    else:
        tokens = [tokenizer.decode([i]) for i in encode(tokenizer, texts["clean"][0], bos=options.get("bos"))]
        labels = [f"[{role}]" if role else token for role, token in zip(rows[0], tokens, strict=True)]
        options = {"labels": labels} | options
    return Task.from_text(tokenizer, **options | texts | answers)


def _answer_error(tokenizer: Any, pair: Pair) -> str | None:
    for word in (*pair.correct, *pair.wrong):
        try:
            single_token(tokenizer, word)
        except ValueError as error:
            return str(error)
    return None
