"""Scores against hand counts, what is read from answers, and what is shown."""

import math
import random
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from saes.explanations.passages import Activity, Grid
from saes.explanations.prompts import explanation_request, marked, read_explanation, read_words, shown
from saes.explanations.scores import ABOVE, NOT_ABOVE, compared, score_of, summed_up
from saes.explanations.trials import detection_items, explained_from, fuzzing_items
from saes.features.examples import Example


def test_a_score_by_hand() -> None:
    """3 of 4 active ones found, 1 of 2 silent ones called active, one answer unreadable."""
    truths = [True, True, True, True, False, False, False]
    said = [True, True, True, False, True, False, None]
    kinds = ["level 1", "level 1", "level 2", "level 2", "random", "near miss", "near miss"]
    score = score_of(truths, said, kinds)
    assert score.accuracy == (0.75 + 0.5) / 2
    assert (score.precision, score.recall, score.items, score.malformed) == (0.75, 0.75, 7, 1)
    assert {kind: share.value for kind, share in score.by_kind.items()} == {
        "level 1": 1.0, "level 2": 0.5, "random": 0.0, "near miss": 1.0
    }  # fmt: skip
    assert score.accuracy.n == 6
    of_recall, of_silence = math.sqrt((4 / 6) * (2 / 6) / 4), math.sqrt(0.25 / 2)
    assert score.accuracy.standard_error == pytest.approx(math.hypot(of_recall, of_silence) / 2)


def test_of_pairs_the_words_mean_nothing() -> None:
    score = score_of([True, False, True], [True, False, False], ["pair"] * 3, pairs=True)
    assert score.accuracy == pytest.approx(2 / 3)
    assert (score.precision, score.recall) == (None, None)


def test_a_coin_has_the_error_that_it_says() -> None:
    """Over 400 runs of 20 tosses nearly all lie within two of their standard errors of one half, and not all by far."""
    generator = random.Random(1)
    inside = 0
    for _ in range(400):
        score = score_of([True] * 10 + [False] * 10, [generator.random() < 0.5 for _ in range(20)], ["x"] * 20)
        assert score.accuracy is not None
        inside += abs(score.accuracy.value - 0.5) <= 2 * score.accuracy.standard_error
    assert 0.92 <= inside / 400 <= 0.99


@pytest.mark.parametrize("said", [[True, None, None], [None, None, False]])
def test_one_kind_alone_is_no_accuracy(said: list[bool | None]) -> None:
    assert score_of([True, False, False], [said[0], None, None], ["x"] * 3).accuracy is None
    nothing = score_of([True, True], [None, None], ["x"] * 2)
    assert (nothing.accuracy, nothing.precision, nothing.malformed, nothing.by_kind) == (None, None, 2, {})


def _known(hits: int) -> Any:
    """Of ten active and ten silent, ``hits`` of each are right."""
    truths = [True] * 10 + [False] * 10
    return score_of(truths, [truth == (i % 10 < hits) for i, truth in enumerate(truths)], ["x"] * 20)


def test_verdicts() -> None:
    assert compared(_known(10), _known(5)).verdict == ABOVE
    assert compared(_known(6), _known(5)).verdict == NOT_ABOVE
    mumbled = score_of([True, False], [None, True], ["x"] * 2)
    assert compared(mumbled, mumbled).verdict == "no verdict: 2 of 4 answers cannot be read"
    both = [compared(_known(10), _known(5))] * 5
    found = summed_up(both)
    assert found.accuracy is not None
    assert found.null is not None
    assert found.advantage is not None
    assert (found.accuracy, found.null, found.advantage, found.above, found.latents) == (1.0, 0.5, 0.5, 5, 5)
    assert found.verdict == ABOVE
    # Latents that all agree have no spread; the answers' own error is then what is known.
    one = both[0]
    assert one.own.accuracy is not None
    assert one.null.accuracy is not None
    single = math.hypot(one.own.accuracy.standard_error, one.null.accuracy.standard_error)
    assert found.advantage.standard_error == pytest.approx(single / math.sqrt(5))
    assert summed_up(both[:1]).verdict == "no verdict: 1 latents with a score; it takes two or more"
    assert summed_up([]).verdict == "no verdict: 0 latents with a score; it takes two or more"


@pytest.mark.parametrize(
    ("text", "count", "expected"),
    [
        ("1: yes\n2: no\n3: Yes.", 3, [True, False, True]),
        ("2) NO\n1. yes, because\n", 2, [True, False]),
        ("**1**: yes\n- 2: no", 2, [True, False]),
        ("Passage 1: yes\nPassage 2: no", 2, [True, False]),
        ("1: yes\n1: no\n2: no\n2: no", 2, [None, False]),
        ("<think>1: no, or 2: yes?</think>\n1: yes\n2: no", 2, [True, False]),
        ("yes", 1, [True]),
        ("No.", 1, [False]),
        ("yes\nno", 2, [None, None]),
        ("No problem, here is", 1, [None]),
        ("yesterday", 1, [None]),
        ("1: maybe\n2: yes and no\n3: no", 3, [None, None, False]),
        ("", 2, [None, None]),
        ("11: yes\n12: no", 2, [None, None]),
        ("**1**: **yes**\n| 2 | no |", 2, [True, False]),
        ("<think>\n1: yes\n2: no, or", 2, [None, None]),
        ("9" * 5000 + ": yes\n1: no", 1, [False]),
        (" \n" * 20_000 + "." * 40_000, 1, [None]),  # would take a minute, were it not linear
        ("1: YES\r\n2: no\r\n3:\u00a0yes\u00a0\r\n", 3, [True, False, True]),
        ("\u0661: yes\n\uff12\uff1a no\n03: ye\u017f", 3, [True, False, True]),  # digits and letters of other scripts
        ("\n".join(f"{number}: yes" for number in range(1, 50)), 2, [True, True]),
        ("6: yes\n7: no", 2, [None, None]),
        ("0: yes\n1: no\n2: yes", 3, [None, None, None]),
        ("All of them: yes", 2, [None, None]),
        ("1-2: yes", 2, [None, None]),
        ("1: yes, 2: no", 2, [None, None]),
        ("1: no - but perhaps yes\n2: no, there is no other", 2, [None, False]),
        ('{"1": "yes", "2": "no"}', 2, [None, None]),
        ('["yes", "no"]', 2, [None, None]),
        ("- yes\n- no", 1, [None]),
        ("I'm sorry, but I can't help with that.", 1, [None]),
        ("No, I can't help with that.", 1, [None]),
        ("1: ja\n2: nein", 2, [None, None]),
        ("1: \u0443\u0435s", 1, [None]),  # Cyrillic letters that look the same
        ("<thinking>1: no</thinking>\n1: yes\n<think>\n2: no", 2, [True, None]),
        ("<|channel|>analysis<|message|>\n1: no\n<|channel|>final<|message|>1: yes", 1, [True]),
    ],
)
def test_words_that_are_read(text: str, count: int, expected: list[bool | None]) -> None:
    assert read_words(text, ["an item"] * count, ("yes", "no")) == expected


def test_what_repeats_an_item_is_no_answer() -> None:
    items = ["No, he said, and went home", "No. 5"]
    assert read_words("1: No, he said, and\n2: no.", items, ("yes", "no")) == [None, False]
    assert read_words("1: No, he said: yes\n2: No. 5", items, ("yes", "no")) == [None, None]
    pairs = ['A: "x", "y"  |  B: "z"', 'A: "x"  |  B: "z"']
    assert read_words('1: A: "x", "y"\n2: A: "else", "no', pairs, ("A", "B")) == [None, None]
    assert read_words("1: A | B\n2: A, B", pairs, ("A", "B")) == [None, None]
    assert read_words("1: A | lists of names\n2: B. A is of verbs", pairs, ("A", "B")) == [True, False]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1: A\n2: b", [True, False]), ("A list of things", [None, None]), ("1: A list\n2: B (surely)", [None, False])],
)
def test_letters_that_are_read(text: str, expected: list[bool | None]) -> None:
    assert read_words(text, ["an item"] * 2, ("A", "B")) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Explanation: Names of towns.", "Names of towns."),
        ('thinking …\n**Explanation:** "names  of\ttowns"\nmore', "names of towns"),
        ("\n names of towns\n", "names of towns"),
        ("Sure! Here is one sentence:\nnames of towns", None),
        ("I'm sorry, but I can't help with that.", None),
        ("As an AI, I have no access to units.", None),
        ("The word explanation: see below\n> Explanation: names of towns\nExplanation: else", "names of towns"),
        ("# Explanation\n\nnames of towns", None),
        ('{"explanation": "names of towns"}', "names of towns"),
        ('["names", "of towns"]\n[]', None),
        ("Explanation: " + "word " * 2000, "word " * 80),
        ("Explanation\uff1a\u4eba\u540d\u304c\u73fe\u308c\u308b", "\u4eba\u540d\u304c\u73fe\u308c\u308b"),
        ("Explanation: \u202eevil\u202c\u200b", "evil"),
        ("Explanation: names\rof towns", "names"),
        ("  \n", None),
        ("Explanation: ...", None),
        ("Explanation:" + "x" * 1000, "x" * 400),
        ("Explanation:" + "\n" * 40_000, None),
        ("<think>\nThe user wants an explanation: towns", None),
        ("Explanation: {{ 7 * 7 }} and <b>", "{{ 7 * 7 }} and <b>"),
        ("Explanation: towns\x1b[2J\x00\x9b", "towns [2J"),
    ],
)
def test_explanations_that_are_read(text: str, expected: str | None) -> None:
    assert read_explanation(text) == expected


def test_passages_are_one_line_and_their_marks_unmistakable() -> None:
    assert shown([1, 2, 3, 4], ["", "a", "<<b>>", "\n", "d"].__getitem__, [False, True, True, False]) == (
        "a<<\u2039\u2039b\u203a\u203a↵>>d"
    )
    assert shown([0, 1, 2], ["a\u2028", "b\x85\v", "\r\n"].__getitem__) == "a↵b↵↵↵"
    assert marked([0.0, 0.29, 0.3, 1.0]) == [False, False, True, True]
    example = Example(row=0, position=1, activation=4.0, first=0, ids=(1, 4), activations=(0.0, 4.0))
    text = explanation_request([example], ["", "a", "", "", " d"].__getitem__, seed=0, max_tokens=9).text()
    assert 'Passage 1: a<< d>>\nStrengths: "d" 10\n' in text


class _Grid(Grid):
    """Five passages of four tokens a row, all different; every other one is to score on."""

    def __init__(self, windows: int) -> None:
        self.width, self.per_row = 4, 5
        self.ids = np.arange(windows * 4).reshape(windows, 4) + 100
        self.scoring = np.arange(windows) % 2 == 1
        self.explaining = ~self.scoring


def _activity(strengths: dict[int, list[float]], windows: int = 60) -> Activity:
    matrix = np.zeros((windows, 4), dtype=np.float32)
    for window, row in strengths.items():
        matrix[window] = row
    return Activity(_Grid(windows), {7: csr_matrix(matrix)})


def test_items_of_detection() -> None:
    """Every fifth of the order of strength has its positives; near misses hold a token that is a peak elsewhere."""
    strengths = {window: [0.0, float(window), 0.0, 0.0] for window in range(1, 41, 2)}
    activity = _activity(strengths)
    activity.grid.ids[[51, 53], 2] = activity.grid.ids[1, 1]
    items = detection_items(activity, 7, str, count=20, seed=3)
    assert [sum(item.kind == kind for item in items) for kind in ("level 1", "level 5", "near miss", "random")] == [
        2, 2, 2, 8
    ]  # fmt: skip
    first = {item.text for item in items if item.kind == "level 1"}
    assert first <= {shown(activity.grid.ids[window].tolist(), str) for window in (39, 37, 35, 33)}
    assert {item.text for item in items if item.kind == "near miss"} == {
        shown(activity.grid.ids[window].tolist(), str) for window in (51, 53)
    }
    assert items == detection_items(activity, 7, str, count=20, seed=3)
    assert items != detection_items(activity, 7, str, count=20, seed=4)
    assert sum(item.truth for item in items) == 10


def test_items_of_fuzzing() -> None:
    """Marks that are moved keep their number and distances, and meet no token on which the latent is active."""
    activity = _activity({window: [0.0, 2.0, 2.0, 0.1] for window in range(1, 20, 2)} | {21: [1.0] * 4})
    items = fuzzing_items(activity, 7, str, count=8, seed=0)
    assert items == []  # three of four tokens are active: there is nowhere to move to
    activity = _activity({window: [2.0, 2.0, 0.0, 0.0] for window in range(1, 20, 2)})
    items = fuzzing_items(activity, 7, str, count=8, seed=0)
    assert [sum(item.kind == kind for item in items) for kind in ("marks right", "marks moved")] == [4, 4]
    assert all(item.text.startswith("<<") == item.truth for item in items)
    assert all(item.text.endswith(">>") != item.truth for item in items)


def test_passages_that_explain() -> None:
    """The strongest of one half, then one of each part of the rest."""
    activity = _activity({window: [0.0, float(window), 0.0, 0.0] for window in range(0, 60, 2)} | {59: [99.0] * 4})
    examples = explained_from(activity, 7, top=4, spread=3, seed=0)
    windows = [example.row * 5 + example.first // 4 for example in examples]
    assert windows[:4] == [58, 56, 54, 52]
    assert len(windows) == 7
    assert all(window % 2 == 0 for window in windows)
    rest = list(range(34, 0, -2))  # behind the candidates for the first four
    parts = [set(part.tolist()) for part in np.array_split(rest, 3)]
    assert all(window in part for window, part in zip(windows[4:], parts, strict=True))
