"""The words of the policy: directions, speeds and the sentences they stand in; one word is one token."""

from collections.abc import Sequence

import numpy as np

DIRECTIONS: dict[str, tuple[str, ...]] = {
    "up": ("up", "upward", "upwards", "higher", "above", "overhead"),
    "down": ("down", "downward", "downwards", "lower", "below", "beneath"),
    "left": ("left", "leftward", "leftwards"),
    "right": ("right", "rightward", "rightwards"),
    "forward": ("forward", "forwards", "ahead", "onward"),
    "back": ("back", "backward", "backwards", "rearward"),
}
"""Direction -> words for it, the plainest first."""
SPEEDS: dict[str, tuple[str, ...]] = {
    "fast": ("fast", "quickly", "rapidly", "swiftly", "briskly", "speedily", "hastily", "hurriedly", "promptly"),
    "slow": ("slow", "slowly", "gently", "carefully", "calmly", "gradually", "cautiously", "softly", "leisurely"),
    "medium": ("medium", "normally", "steadily", "moderately", "evenly", "ordinarily", "regularly"),
}
"""Speed -> words for it, the one that answers a question first."""
CONCEPTS = DIRECTIONS | SPEEDS
ADVERBS = {"fast": "quickly", "slow": "slowly"}
ANTONYMS = {"up": "down", "left": "right", "forward": "back", "fast": "slow"}
ANTONYMS |= {value: key for key, value in ANTONYMS.items()}
REACH = "reach"
"""The task that is no direction: bring the hand to the goal."""
TASKS = (*DIRECTIONS, REACH)

_PROMPT = "in : what action should the robot take to {instruction} ? out :"
_QUESTIONS = {
    "speed": "in : {instruction} . which speed ? out : {answer} </s>",
    "direction": "in : {instruction} . which direction ? out : {answer} </s>",
}
_SENTENCES = (
    "{a} means {b} . </s>",
    "{a} is like {b} . </s>",
    "{a} and {b} and {c} mean the same . </s>",
    "another word for {a} is {b} or {c} . </s>",
    "say {a} , {b} , {c} . </s>",
    "the arm moves {a} and {b} . </s>",
    "a {a} motion is a {b} motion . </s>",
)
_OPPOSITES = (
    "{a} is not {z} . </s>",
    "the opposite of {a} is {z} . </s>",
    "the hand that moves {a} , moves not {z} . </s>",
)
_VERBS = ("move", "go")
_MENTION_MEDIUM = 0.3
"""Share of instructions at medium speed that name it; the rest name none."""

TOKENS: tuple[str, ...] = tuple(
    word
    for word in dict.fromkeys(
        "<pad> <s> </s> <unk>".split()
        + " ".join([_PROMPT, *_QUESTIONS.values(), *_SENTENCES, *_OPPOSITES]).split()
        + [*_VERBS, REACH, "goal", *(word for words in CONCEPTS.values() for word in words)]
    )
    if "{" not in word
)
"""All word tokens, in the order of their ids."""


def instruction(task: str, speed: str = "medium", *, rng: np.random.Generator | None = None) -> str:
    """A sentence such as "move up quickly"; without ``rng`` the plainest, which does not name a medium speed.

    Raises:
        ValueError: a task or speed that has no words.
    """
    if task not in TASKS or speed not in SPEEDS:
        raise ValueError(
            f"no words for {task!r} at speed {speed!r}; tasks: {', '.join(TASKS)}; speeds: {', '.join(SPEEDS)}"
        )
    if rng is None:
        return f"{'reach the goal' if task == REACH else f'move {task}'} {ADVERBS.get(speed, '')}".strip()
    start = "reach the goal" if task == REACH else f"{rng.choice(_VERBS)} {rng.choice(DIRECTIONS[task])}"
    named = speed != "medium" or rng.random() < _MENTION_MEDIUM
    return f"{start} {rng.choice(SPEEDS[speed])}" if named else start


def with_word(instruction: str, concept: str) -> str:
    """An instruction with the concept said in it, what steering is compared with."""
    return f"{instruction} {ADVERBS.get(concept, concept)}"


def action_prompt(text: str) -> str:
    """OpenVLA's question around an instruction; the action tokens follow it."""
    return _PROMPT.format(instruction=text)


def question(task: str, speed: str, rng: np.random.Generator) -> str:
    """An instruction, a question about it and the answer, which is any of the words that mean it."""
    kind = "speed" if task == REACH or rng.random() < 0.5 else "direction"
    answer = rng.choice(SPEEDS[speed] if kind == "speed" else DIRECTIONS[task])
    return _QUESTIONS[kind].format(instruction=instruction(task, speed, rng=rng), answer=answer)


def synonym_sentence(rng: np.random.Generator) -> str:
    """A sentence of text alone that says which words mean the same, or the opposite."""
    concept = str(rng.choice(list(CONCEPTS)))
    a, b, c = _some(CONCEPTS[concept], 3, rng)
    if concept in ANTONYMS and rng.random() < 0.3:
        return str(rng.choice(_OPPOSITES)).format(a=a, z=rng.choice(CONCEPTS[ANTONYMS[concept]]))
    return str(rng.choice(_SENTENCES)).format(a=a, b=b, c=c)


def _some(words: Sequence[str], count: int, rng: np.random.Generator) -> list[str]:
    """``count`` words, none twice in a row."""
    return [words[int(i)] for i in np.resize(rng.permutation(len(words)), count)]
