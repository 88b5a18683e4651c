"""Labelled texts of our own, whose answers are known because they were put in: templates, and the books that ship.

All are simple English that a small model reads. A word, or a document, is on one side of a split only, so that a probe
must know the kind and not the word.
"""

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from interp.embedded import TEXT_FOLDER
from interp.embedded.synthetic import NAMES, OBJECTS, PLACES
from saes.suites.texts.labelled import FEWEST_GROUPS, LabelledTexts

_NOUNS = (
    "boy boys, girl girls, man men, woman women, child children, friend friends, king kings, brother brothers, sister"
    " sisters, lady ladies, horse horses, house houses, tree trees, letter letters, book books, room rooms, door doors,"
    " window windows, hand hands, eye eyes, word words, day days, night nights, table tables, chair chairs, bird birds,"
    " dog dogs, ship ships, street streets, river rivers, garden gardens, soldier soldiers, servant servants, doctor"
    " doctors, stone stones, hat hats, key keys, ring rings, field fields, wall walls"
)
_NUMBERS = tuple(tuple(pair.split()) for pair in _NOUNS.split(","))
"""Singular and plural."""
_PLACES = (*PLACES, *"village town room street forest castle palace island valley shop cottage prison".split())
_OBJECTS = (*OBJECTS, *"chair table lamp candle sword box bottle pipe mirror plate glass umbrella".split())
_BEFORE_NOUN = ("I thought of the", "He looked at the", "She spoke of the", "They saw the")
_BEFORE_WORD = "They wrote the word"
_CROSSED = 16
"""Words of each kind in a set of two properties."""
_WORDS, _CHUNKS = 60, 3
"""Words of a chunk of a book, and chunks of a document."""
_LETTERS = 3000
"""Most words of the vocabulary that are asked for their first letter."""


def number(_tokenizer: Any = None) -> LabelledTexts:
    """Singular or plural: sentences that end in a noun."""
    rows = [
        (f"{before} {word}", label, singular)
        for (singular, plural), before in itertools.product(_NUMBERS, _BEFORE_NOUN)
        for word, label in ((singular, "singular"), (plural, "plural"))
    ]
    return _set("number", rows, position="last")


def kind(_tokenizer: Any = None) -> LabelledTexts:
    """Place or thing: sentences that end in one of either."""
    words = [(word, "place") for word in _PLACES] + [(word, "thing") for word in _OBJECTS]
    return _set("kind", [(f"{before} {w}", label, w) for w, label in words for before in _BEFORE_NOUN], position="last")


def names(_tokenizer: Any = None) -> LabelledTexts:
    """Name or noun: sentences that end in a person's name, or in a noun; on each side over seventy words."""
    words = [(name, "name") for name in (*NAMES["train"], *NAMES["heldout"])]
    words += [(word, "noun") for word in dict.fromkeys((*itertools.chain(*_NUMBERS), *_PLACES, *_OBJECTS))]
    befores = tuple(before.removesuffix(" the") for before in _BEFORE_NOUN)
    return _set("names", [(f"{before} {w}", label, w) for w, label in words for before in befores], position="last")


def books(_tokenizer: Any = None) -> LabelledTexts:
    """Which of two books that the embedded model was not trained on; passages of 60 words."""
    return _passages("books", "heldout", 2)


def authors(_tokenizer: Any = None) -> LabelledTexts:
    """Which of five books; passages of 60 words."""
    return _passages("authors", "train", 5)


def first_letter(tokenizer: Any) -> LabelledTexts:
    """With which letter a word begins: the lower-case words that are one token with the space before it.

    The task of Chanin et al. (2024). Raises ValueError where the vocabulary has too few such words.
    """
    decoded = (tokenizer.decode([i]) for i in sorted(tokenizer.get_vocab().values()))
    words = sorted({t[1:] for t in decoded if len(t) > 3 and t[0] == " " and t[1:].isascii() and t[1:].isalpha()})
    words = [word for word in words if word.islower()]
    if len(words) > _LETTERS:
        words = sorted(np.random.default_rng(0).choice(words, _LETTERS, replace=False).tolist())
    initials = [word[0] for word in words]
    enough = [word for word in words if initials.count(word[0]) >= FEWEST_GROUPS]
    if len({word[0] for word in enough}) < 2:
        raise ValueError(f"first_letter: this vocabulary has {len(enough)} whole words; use a set of your own")
    return _set("first_letter", [(f"{_BEFORE_WORD} {word}", word[0], word) for word in enough], position="last")


def who_where(_tokenizer: Any = None) -> LabelledTexts:
    """Two properties that vary independently: a name or a noun saw a place or a thing."""
    who = [(f"{name}", "name", name) for name in NAMES["train"][:_CROSSED]]
    who += [(f"The {one}", "noun", one) for one, _ in _NUMBERS[:_CROSSED]]
    what = [(word, "place") for word in _PLACES[:_CROSSED]] + [(word, "thing") for word in _OBJECTS[:_CROSSED]]
    rows = [(f"{text} saw the {word}", first, group) for text, first, group in who for word, _ in what]
    return replace(_set("who_where", rows, position="mean"), second=tuple(kind for _ in who for _, kind in what))


BUILT_IN: dict[str, Callable[[Any], LabelledTexts]] = {
    each.__name__: each for each in (number, kind, names, books, authors, first_letter, who_where)
}
"""Sets by name; each takes the model's tokenizer."""


def built_in(name: str, tokenizer: Any) -> LabelledTexts:
    """A set of :data:`BUILT_IN`. Raises ValueError for a name that is not there.

    Example:
        >>> from saes.suites import built_in
        >>> texts = built_in("number", None)  # the tokenizer matters to first_letter alone
        >>> texts.texts[0], texts.labels[0]
        ('I thought of the boy', 'singular')
    """
    if name not in BUILT_IN:
        raise ValueError(f"{name!r} is not one of the sets {', '.join(BUILT_IN)}")
    return BUILT_IN[name](tokenizer)


def _set(name: str, rows: list[tuple[str, str, str]], *, position: Any) -> LabelledTexts:
    texts, labels, groups = zip(*rows, strict=True)
    return LabelledTexts(name=name, texts=texts, labels=labels, groups=groups, position=position)


def _passages(name: str, split: str, most: int) -> LabelledTexts:
    """Passages of documents, which are the groups, of the first ``most`` books."""
    rows: list[tuple[str, str, str]] = []
    titles: dict[str, None] = {}
    for document, line in enumerate((TEXT_FOLDER / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()):
        entry = json.loads(line)
        titles.setdefault(entry["book"])
        if entry["book"] in list(titles)[:most]:
            words = entry["text"].split()
            chunks = [words[begin : begin + _WORDS] for begin in range(0, len(words) - _WORDS + 1, _WORDS)]
            rows += [(" ".join(chunk), entry["book"], f"{document}") for chunk in chunks[:_CHUNKS]]
    return _set(name, rows, position="mean")
