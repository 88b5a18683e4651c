"""Synthetic training text for the embedded model: repeated tokens and indirect-object sentences.

Repeated random tokens reward induction heads (Olsson et al. 2022); indirect-object identification (IOI, Wang et al.
2022) rewards the circuit that names the person who was mentioned once. Templates and names come in two disjoint splits,
so that accuracy on the held-out split measures the rule and not a memorised list.
"""

import itertools
from dataclasses import dataclass
from typing import Literal

import numpy as np

Split = Literal["train", "heldout"]

NAMES: dict[Split, tuple[str, ...]] = {
    "train": tuple(
        "Mary John Tom James Dan Martin Amy Anna Mark Alice Laura Henry George Robert William Thomas David Helen Rose "
        "Ruth Frank Jack Adam Andrew Ben Eric Fred Grace Jim Joe Lily Max Nick Sam Steve Tim Victor Walter Anne Ellen "
        "Edward Richard Stephen Michael Emma Jessica Kevin Rachel Oliver Sophie Dorothy Edith Ralph Albert Ernest "
        "Diana Hugh Isabel Leo Nora Kitty Elizabeth Nicholas Lydia Caroline Charlotte Dora Emily Celia Margaret Bob "
        "Esther Catherine Jonathan Dick Molly".split()
    ),
    # Names that the training books use, each 30 to 450 times: words the model knows, in a role it was never taught.
    "heldout": tuple(
        "Harry Hannah Philip Louis Maria Agnes Martha Jane Lucy Arthur Simon Peter Clara Paul Daniel Susan Sarah Kate "
        "Julia Charles".split()
    ),
}
PLACES = tuple("store garden house school market church station office river hotel library park kitchen farm".split())
WORDS = tuple("old long little new always never often soon there very good great only again still".split())
OBJECTS = tuple("book letter ring drink flower key hat coat knife paper basket present picture watch".split())

# A training sentence is an opening, a link and an action: thousands of sentences, so that where a name stands, and in
# what words, says nothing. {W} is any word, for the same reason. None of the held-out templates can be put together
# from the parts without {W}.
_OPENINGS = (
    "When {A} and {B} went to the {place}",
    "After {A} and {B} came back from the {place}",
    "While {A} and {B} were walking by the {place}",
    "Because {A} and {B} were late for the {place}",
    "As soon as {A} and {B} reached the {place}",
    "Then, {A} and {B} went to the {place}",
    "Then, {A} and {B} had a long conversation at the {place}",
    "Friends {A} and {B} found a {object} at the {place}",
    "In the morning {A} and {B} met at the {place}",
    "One day {A} and {B} were sitting in the {place}",
    "The {place} was quiet when {A} and {B} arrived",
    "Once {A} was talking with {B} near the {place}",
    "Last week {A} had dinner with {B}",
    "Yesterday {A} and {B} bought a {object}",
    "There were only {A} and {B} in the {place}",
    "The {object} belonged to {A} and {B}",
    "I saw {A} and {B} at the {place}",
    "Last night {A} and {B} argued about the {object}",
    "Everyone knew that {A} and {B} came from the {place}",
    "Soon {A} and {B} were alone",
    "Many years before the {place} was built, {A} was married to {B}",
    "At the {place} there was a {object} for {A} and a {object} for {B}",
    "He said that {A} and {B} slept near the {place}",
    "In the {place} sat {A} and {B}",
    "The {object} which {A} and {B} wanted was in the {place}",
    "Neither {A} nor {B} liked the {place}",
    "For {A} and {B} it was a long day",
    "Not far from the {place} {A} ran into {B}",
    *("{W} {A} and {B} {W} the {place}", "{W} {W} {A} and {B} {W}", "{W} {A} {W} {B} {W} the {place}") * 4,
    *("{W} {W} {A} and {B} went to the {place}", "{W} the {object} {A} {W} {W} {B}") * 4,
)
_LINKS = (
    ", ",
    ", and ",
    ", so ",
    ", but ",
    ", and the next day ",
    ". ",
    ". Then ",
    ". Later ",
    ". Afterwards ",
    ". They had a {object}. ",
    ". The {object} was old, and ",
    ". Every evening ",
    ". At last ",
    ". Nobody spoke, until ",
    ". Still, ",
    ", which is why ",
    ", and there ",
    ". It was a small {object}, and after a while ",
    *(". {W} ", ", {W} ", ". {W} {W} ", " {W} the {place} {W} ") * 3,
)
_ACTIONS = (
    "{S} gave a {object} to {IO}.",
    "{S} gave it to {IO}.",
    "{S} handed the {object} to {IO}.",
    "{S} said goodbye to {IO}.",
    "{S} decided to show it to {IO}.",
    "{S} read a letter to {IO}.",
    "{S} sent a note to {IO}.",
    "{S} wrote a long letter to {IO}.",
    "{S} whispered to {IO}.",
    "{S} was afraid of {IO}.",
    "{S} sang for {IO}.",
    "{S} pointed at {IO}.",
    "{S} left it with {IO}.",
    "{S} was talking to {IO}.",
    "{S} had promised a {object} to {IO}.",
    "{S} looked at {IO}.",
    "{S} bought a {object} for {IO}.",
    "{S} lent the {object} to {IO}.",
    "{S} wanted to throw a {object} at {IO}.",
    *("{S} {W} a {object} to {IO}.", "{S} {W} {W} {IO}.", "{S} {W} the {object} {W} {IO}.") * 3,
)

TEMPLATES: dict[Split, tuple[str, ...]] = {
    "train": tuple(map("".join, itertools.product(_OPENINGS, _LINKS, _ACTIONS))),
    "heldout": (
        "While {A} and {B} were working at the {place}, {S} gave a {object} to {IO}.",
        "Then, {A} and {B} had a lot of fun at the {place}. {S} gave a {object} to {IO}.",
        "The {place} that {A} and {B} visited had a {object}. {S} decided to give it to {IO}.",
        "In the evening {A} and {B} stayed in the {place}, where {S} passed the {object} to {IO}.",
        "Long ago {A} and {B} lived beside the {place}. One morning {S} sold a {object} to {IO}.",
    ),
}

SHORT_TEMPLATES = (
    "So {A} and {B}; {S} with {IO}.",
    "With {A}, {B}, {S}, {IO}.",
    "Then {A} met {B}: {S} saw {IO}.",
    "But {A} or {B}, {S} told {IO}.",
    "For {A} and {B} and {S} and {IO}.",
)
"""For training alone: the rule with few words around it, three times as many answers in a row of tokens."""


@dataclass(frozen=True, kw_only=True)
class IOIPrompt:
    """One sentence cut before its answer, which is ``" " + indirect_object``."""

    prompt: str
    """The sentence, up to the word before the answer."""
    indirect_object: str
    """The name that answers: who is given something."""
    subject: str
    """The other name, which comes twice."""

    @property
    def sentence(self) -> str:
        return f"{self.prompt} {self.indirect_object}."


def ioi_prompts(
    rng: np.random.Generator,
    n: int,
    *,
    split: Split,
    names: tuple[str, ...] | None = None,
    templates: tuple[str, ...] | None = None,
    words: tuple[str, ...] = WORDS,
) -> list[IOIPrompt]:
    """Draw ``n`` prompts; the subject is the first- or the second-named person with equal chance (BABA, ABBA).

    ``names`` and ``templates`` are the split's own unless given; ``words`` stand in for {W}.
    """
    pool = NAMES[split] if names is None else names
    templates = TEMPLATES[split] if templates is None else templates
    prompts = []
    for _ in range(n):
        first, second = (pool[i] for i in rng.choice(len(pool), size=2, replace=False))
        subject, indirect_object = (first, second) if rng.random() < 0.5 else (second, first)
        template = templates[rng.integers(len(templates))]
        for _ in range(template.count("{W}")):
            template = template.replace("{W}", words[rng.integers(len(words))], 1)
        sentence = template.format(
            A=first,
            B=second,
            S=subject,
            IO=indirect_object,
            place=PLACES[rng.integers(len(PLACES))],
            object=OBJECTS[rng.integers(len(OBJECTS))],
        )
        prompt = sentence.removesuffix(f" {indirect_object}.")
        prompts.append(IOIPrompt(prompt=prompt, indirect_object=indirect_object, subject=subject))
    return prompts


def repeated_tokens(
    rng: np.random.Generator, *, rows: int, half: int, vocab: int, bos: int, first_id: int = 1
) -> np.ndarray:
    """``[rows, 1 + 2 * half]`` int64: ``bos``, ``half`` uniform tokens of ``[first_id, vocab)``, the same again."""
    once = rng.integers(first_id, vocab, size=(rows, half))
    return np.concatenate([np.full((rows, 1), bos), once, once], axis=1)
