"""What judges are asked, in the words of the templates beside this, and what is read from their answers."""

import hashlib
import re
from collections.abc import Callable, Sequence
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
    """The sentence behind "Explanation:", else the first line; None where an answer holds none."""
    text = _spoken(text)
    named = re.search(r"explanation\W{0,3}:[\s*]*(.*)", text, re.IGNORECASE)
    line = named[1] if named else next((line for line in text.splitlines() if line.strip()), "")
    line = " ".join(re.sub(r"[\0-\x1f\x7f-\x9f]", " ", line).split()).strip("*\"'` ")  # terminals obey some of them
    return line[:_LONGEST_EXPLANATION] if any(sign.isalnum() for sign in line) else None


def read_words(text: str, count: int, words: tuple[str, str]) -> list[bool | None]:
    """For each of ``count`` items whether the answer says the first word or the second; None where it says neither.

    ``3: yes`` is about the third item; after the word the line ends, or a sign follows. Of a single item the word may
    stand alone at the beginning. What is said twice, and not alike, is not said.
    """
    text, either = _spoken(text), "|".join(words)
    said: dict[int, set[bool]] = {}
    ended = r"[ \t]*(?:$|[.,:;!)*(|\-–—])"  # noqa: RUF001  # "1: A list of" is no A
    numbered = rf"^[^\w\n]*(?:passage |line )?(\d{{1,9}})\W{{1,8}}({either}){ended}"  # in time linear in the answer
    for number, word in re.findall(numbered, text, re.IGNORECASE | re.MULTILINE):
        said.setdefault(int(number), set()).add(word.lower() == words[0].lower())
    alone = re.match(rf"\W*({either}){ended}", text, re.IGNORECASE | re.MULTILINE)
    if count == 1 and not said and alone:
        said[1] = {alone[1].lower() == words[0].lower()}
    return [next(iter(said[item])) if len(said.get(item, ())) == 1 else None for item in range(1, count + 1)]


def _spoken(text: str) -> str:
    """Without what a model thinks aloud before; nothing is left of an answer that ends within a thought."""
    spoken = text.rpartition("</think>")[2]
    return "" if spoken.lstrip().startswith("<think>") else spoken


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
