"""What judges are asked, in the words of the templates beside this, and what is read from their answers."""

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from saes.explanations.judges.judge import Message, Request
from saes.features.examples import Example

WORDS = {"detection": ("yes", "no"), "fuzzing": ("yes", "no"), "effects": ("A", "B")}
"""Of each score, what an answer says where something is so, and where it is not."""
STRONG = 0.3
"""Tokens are marked from this share of the passage's largest activation."""
_HERE = Path(__file__).parent
_TEMPLATES = ("explanation", *WORDS)
_LONGEST_EXPLANATION = 400
WIDEST_EXPLANATION = "\U00020000" * _LONGEST_EXPLANATION
"""No sentence that is read has more characters, or more bytes."""
_NAMED = r"explanation\W{0,3}[:\uff1a][\s*]*(.*)"
_REFUSES = re.compile(
    r"(?:(?:I['\u2019]m|I am) )?(?:sorry|unable)\b|I can(?:not|['\u2019]t)\b|as an AI\b", re.IGNORECASE
)
_UNSEEN = re.compile("[\0-\x1f\x7f-\x9f\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff]")
"""Terminals obey some of them, and some turn the text behind them around."""


@cache
def prompt_version() -> str:
    """Twelve digits of a hash over all templates: it changes with every word in them."""
    content = b"\0".join((_HERE / f"{name}.jinja").read_bytes() for name in _TEMPLATES)
    return hashlib.sha256(content).hexdigest()[:12]


def marked(activations: Sequence[float]) -> list[bool]:
    """Which tokens of a passage are shown as those on which the latent is active."""
    floor = STRONG * max(activations)
    return [value > 0 and value >= floor for value in activations]


def shown(ids: Sequence[int], text_of: Callable[[int], str], marks: Sequence[bool] | None = None) -> str:
    """A passage in one line, marked runs of tokens between << and >>, which nothing else in it can look like."""
    marks = [False] * len(ids) if marks is None else marks
    pieces, inside = [], False
    for token, mark in zip(ids, marks, strict=True):
        if mark != inside:
            pieces.append("<<" if mark else ">>")
            inside = mark
        pieces.append(_in_a_line(text_of(token)))
    return "".join([*pieces, ">>" if inside else ""])


def explanation_request(
    examples: Sequence[Example], text_of: Callable[[int], str], *, seed: int, max_tokens: int
) -> Request:
    """Asks for a sentence on a latent; strengths are in tenths of its largest activation among the examples."""
    top = max(example.activation for example in examples)
    passages = [
        {
            "text": shown(example.ids, text_of, marks := marked(example.activations)),
            "strengths": [
                (_in_a_line(text_of(token)).strip(), max(1, round(10 * value / top)))
                for token, value, mark in zip(example.ids, example.activations, marks, strict=True)
                if mark
            ],
        }
        for example in examples
    ]
    return _request(_rendered("explanation", passages=passages), seed=seed, max_tokens=max_tokens)


def score_request(score: str, items: Sequence[str], explanation: str, *, seed: int, max_tokens: int) -> Request:
    """Asks for one of the score's two words for each item."""
    return _request(_rendered(score, explanation=explanation, items=items), seed=seed, max_tokens=max_tokens)


def read_explanation(text: str) -> str | None:
    """The sentence behind "Explanation:", or an answer of one line that is no refusal; None where there is neither."""
    text = _spoken(text)
    named = re.search(rf"^[^\w\n]*{_NAMED}", text, re.IGNORECASE | re.MULTILINE) or re.search(
        _NAMED, text, re.IGNORECASE
    )
    lines = [line for line in text.splitlines() if line.strip()]
    if named is None and (len(lines) != 1 or _REFUSES.match(lines[0].strip())):
        return None
    line = " ".join(_UNSEEN.sub(" ", named[1] if named else lines[0]).split())
    line = re.sub(r'"\s*\}$', "", line).strip("*\"'` ")
    return line[:_LONGEST_EXPLANATION] if any(sign.isalnum() for sign in line) else None


def read_words(text: str, items: Sequence[str], words: tuple[str, str]) -> list[bool | None]:
    """For each of the ``items`` whether the answer says the first word or the second; None where it says neither.

    ``3: yes`` is about the third item; after the word the line ends, or a sign follows. Of a single item the word may
    stand alone in a line. What is said twice, and not alike, is not said, nor is what repeats an item that begins with
    such a word; and where items are counted from 0, it is not known which are meant.
    """
    text, either = _spoken(text), "|".join(words)
    said: dict[int, set[bool]] = {}
    word = rf"\b({either})[^\S\n]*(?:$|[.,;!)*(|\-–—])"  # noqa: RUF001  # "1: A list of" is no A
    numbered = rf"^[^\w\n]*(?:passage |line )?(\d{{1,9}})\W{{1,8}}(?={word})(.*)"  # in time linear in the answer
    for number, _, line in re.findall(numbered, text, re.IGNORECASE | re.MULTILINE):
        if (
            1 <= int(number) <= len(items)
            and " " in line.strip()
            and items[int(number) - 1].strip().startswith(line[:16])
        ):
            continue
        said.setdefault(int(number), set()).update(_firsts(re.findall(word, line, re.IGNORECASE), words))
    if len(items) == 1 and not said:
        said[1] = _firsts(re.findall(rf"^[^\w\n]*({either})[^\w\n]*$", text, re.IGNORECASE | re.MULTILINE), words)
    meant = {} if 0 in said else said
    return [next(iter(meant[item])) if len(meant.get(item, ())) == 1 else None for item in range(1, len(items) + 1)]


def _firsts(said: Iterable[str], words: tuple[str, str]) -> set[bool]:
    return {word.casefold() == words[0].casefold() for word in said}


def _spoken(text: str) -> str:
    """Without what a model thinks aloud, or ends within; with one sign for ends of lines."""
    spoken = re.split(r"</think(?:ing)?>|<\|message\|>", text)[-1]
    return "\n".join(re.split(r"<think(?:ing)?>", spoken)[0].splitlines())


def _in_a_line(text: str) -> str:
    return re.sub(r"\r\n|[\n\v\f\r\x1c-\x1e\x85\u2028\u2029]", "↵", text).replace("<", "\u2039").replace(">", "\u203a")


def _request(content: str, *, seed: int, max_tokens: int) -> Request:
    return Request(messages=(Message(role="user", content=content),), seed=seed, max_tokens=max_tokens)


def _rendered(name: str, **values: object) -> str:
    return _environment().get_template(f"{name}.jinja").render(values).strip()


@cache
def _environment() -> Environment:
    """Of plain text: nothing is escaped, since nothing is HTML."""
    loader = FileSystemLoader(_HERE)
    return Environment(loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
