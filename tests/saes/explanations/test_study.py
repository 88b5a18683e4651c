"""Whole studies on latents that are known, with judges whose scores are known before."""

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from threading import Barrier, Lock
from time import sleep
from typing import Any

import pytest
import torch

from saes.explanations import Answer, Cap, OpenAICompatible, Recorded, Request, Settings, prepare, read_notes
from saes.explanations.scores import ABOVE, NOT_ABOVE
from saes.explanations.study import Study
from saes.features.examples import Text
from tests.saes.explanations.planted import WORDS, Judging, coin, knows, named, planted_answer, planted_sae
from tests.saes.explanations.served import Server

SCORES = Settings(scores=("detection", "fuzzing"), items=12)


@pytest.fixture(scope="module")
def study(embedded: Any, text: Text) -> Study:
    """Of four latents."""
    return prepare(planted_sae(embedded), text, max_latents=4, settings=SCORES)


def test_who_knows_the_latents_is_always_right(study: Study, tmp_path: Path) -> None:
    judge = Judging(named(study), knows)
    found = study.run(judge, tmp_path / "run")
    assert found.stopped is None
    assert found.left.requests == 0
    assert len(found.latents) == 4
    for one in found.latents:
        assert one.explanation.text == f"the word [{WORDS[one.explanation.latent]}]"
        for score in one.scores.values():
            assert score.own.accuracy == 1.0
            assert (score.own.precision, score.own.recall, score.own.malformed) == (1.0, 1.0, 0)
            assert score.null.accuracy is not None
            assert abs(score.null.accuracy - 0.5) < 3 * score.null.accuracy.standard_error
    for summary in found.summary.values():
        assert summary.accuracy is not None
        assert (summary.accuracy, summary.latents, summary.above, summary.verdict) == (1.0, 4, 4, ABOVE)
    assert found.requests == judge.asked


def test_who_always_says_yes_is_at_one_half(study: Study, tmp_path: Path) -> None:
    found = study.run(Judging(named(study), lambda explanation, item: True), tmp_path / "run")
    for one in found.latents:
        for score in one.scores.values():
            assert (score.own.accuracy, score.own.precision, score.own.recall) == (0.5, 0.5, 1.0)
            assert score.verdict == NOT_ABOVE
    assert all(summary.verdict == NOT_ABOVE for summary in found.summary.values())


def test_a_coin_is_at_one_half_within_its_error(study: Study, tmp_path: Path) -> None:
    found = study.run(Judging(named(study), coin(0)), tmp_path / "run")
    for summary in found.summary.values():
        assert summary.accuracy is not None
        assert summary.advantage is not None
        error = 0.5 / (summary.items / 2) ** 0.5
        assert abs(summary.accuracy.value - 0.5) < 3 * error
        assert abs(summary.advantage.value) < 3 * 2**0.5 * error
        assert summary.verdict == NOT_ABOVE


def test_answers_that_cannot_be_read_are_counted(study: Study, tmp_path: Path) -> None:
    """One item in two gets a mumble: exactly these are malformed, and there is no verdict."""
    mumbled = []

    def says(explanation: str, item: str) -> bool | str:
        if len(item) % 2 == 0:
            mumbled.append(item)
            return "hm, maybe"
        return knows(explanation, item)

    found = study.run(Judging(named(study), says), tmp_path / "run")
    assert sum(summary.malformed for summary in found.summary.values()) == len(mumbled) > 10
    for score, summary in found.summary.items():
        assert summary.items == sum(one.scores[score].own.items for one in found.latents) * 2
        assert summary.accuracy == 1.0
        assert summary.verdict == f"no verdict: {summary.malformed} of {summary.items} answers cannot be read"
    silent = study.run(Judging(named(study), lambda *_: "?"), tmp_path / "silent")
    assert all(summary.malformed == summary.items > 0 for summary in silent.summary.values())
    dumb = study.run(Judging(dict.fromkeys(named(study), ""), knows), tmp_path / "dumb")
    assert dumb.malformed_explanations == dumb.explained == 4
    assert all(one.explanation.text is None and one.scores == {} for one in dumb.latents)


@pytest.mark.parametrize(
    "form",
    [
        lambda items: "I'm sorry, but I can't help with that.",
        lambda items: "\n".join(f"{int(number) - 1}: yes" for number in items),
        lambda items: "\n".join(f"{number}: {item}" for number, item in items.items()),
        lambda items: ", ".join(f"{number}: {'yes' if int(number) % 2 else 'no'}" for number in items),
    ],
    ids=["refusal", "from zero", "the items", "one line"],
)
def test_answers_in_other_forms_are_all_counted(
    form: Callable[[dict[str, str]], str], study: Study, tmp_path: Path
) -> None:
    class Other(Judging):
        def ask(self, request: Request) -> Answer:
            if request.key() in self.explanations:
                return super().ask(request)
            items = dict(re.findall(r"^(\d+): (.*)$", request.text(), re.MULTILINE))
            return Answer(text=form(items), prompt_tokens=1, completion_tokens=1)

    found = study.run(Other(named(study), knows), tmp_path)
    for summary in found.summary.values():
        assert summary.malformed == summary.items > 0
        assert summary.accuracy is None


class _Ends(Exception):
    pass


def test_what_was_asked_is_not_asked_again(study: Study, tmp_path: Path) -> None:
    """A run that dies, one that reaches its cap twice, one in a piece and one from its record: the same file."""
    whole = Judging(named(study), knows)
    study.run(whole, tmp_path / "whole")
    expected = (tmp_path / "whole/explanations.json").read_bytes()

    class Dying(Judging):
        def ask(self, request: Request) -> Answer:
            if self.asked == 7:
                raise _Ends
            return super().ask(request)

    judge = Dying(named(study), knows)
    with pytest.raises(_Ends):
        study.run(judge, tmp_path / "parts")
    parts = Judging(named(study), knows)
    first = study.run(parts, tmp_path / "parts", cap=Cap(requests=20))
    assert (parts.asked, first.requests, first.stopped) == (13, 20, "20 of 20 requests are spent")
    assert first.left.requests == whole.asked - 20
    assert f"about {first.left.requests} requests" in study.plan(tmp_path / "parts")
    assert json.loads((tmp_path / "parts/explanations.json").read_text())["stopped"] == first.stopped
    second = study.run(parts, tmp_path / "parts", cap=Cap(tokens=first.tokens + 2000))
    assert first.tokens < second.tokens <= first.tokens + 2000
    study.run(parts, tmp_path / "parts")
    assert parts.asked + 7 == whole.asked
    assert (tmp_path / "parts/explanations.json").read_bytes() == expected
    study.run(Recorded(tmp_path / "whole"), tmp_path / "replay")
    assert (tmp_path / "replay/explanations.json").read_bytes() == expected
    assert (tmp_path / "replay/answers.jsonl").read_bytes() == (tmp_path / "whole/answers.jsonl").read_bytes()
    with pytest.raises(ValueError, match=r"holds another run \(judge: there 'planted', asked 'other'\)"):
        study.run(Judging({}, knows, name="other"), tmp_path / "whole")
    lines = (tmp_path / "whole/answers.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "short.jsonl").write_text("".join(lines[:-1]))
    with pytest.raises(ValueError, match=r"short.jsonl holds no answer to the request"):
        study.run(Recorded(tmp_path / "short.jsonl"), tmp_path / "incomplete")


def test_several_at_once_are_the_same_files(study: Study, server: Server, tmp_path: Path) -> None:
    """One after another; and four at once of a server that is slow at random, busy now and then, and once refuses,
    under caps that grow. The files are the same to the byte, and no cap is passed."""
    server.judge = planted_answer
    study.run(OpenAICompatible(server.url, "m"), tmp_path / "one")
    assert server.most_inside == 1
    expected, drawn, lock = len(server.seen), random.Random(0), Lock()

    def uneven(text: str) -> str | tuple[int, dict[str, str]]:
        with lock:
            wait, busy = drawn.random() / 100, drawn.random() < 0.2
            refuses = len(server.seen) > 14 and not refused
            refused.extend([text] * refuses)
            first = len(server.seen) <= 2
        together.wait() if first else sleep(wait)
        return (400, {}) if refuses else (503, {}) if busy else planted_answer(text)

    refused: list[str] = []
    together = Barrier(2, timeout=60)
    server.judge, judge, several = uneven, OpenAICompatible(server.url, "m", first_wait=0.0, tries=20), tmp_path / "x"
    server.seen.clear()
    for cap in (Cap(requests=30), Cap()):
        if cap.requests == 30:
            with pytest.raises(ValueError, match="refused the request: 400"):
                study.run(judge, several, cap=cap, concurrent=4)
        found = study.run(judge, several, cap=cap, concurrent=4)
        assert cap.allows(found.requests, found.tokens)
        assert len((several / "answers.jsonl").read_text().splitlines()) == found.requests
        alone = study.run(Recorded(tmp_path / "one"), tmp_path / f"{cap}", cap=cap)
        assert alone == found
    assert (len(refused), found.requests) == (1, expected)
    assert server.most_inside > 1
    for name in ("answers.jsonl", "explanations.json"):
        assert (several / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


def test_what_is_no_answer_ends_a_run_that_continues(study: Study, server: Server, tmp_path: Path) -> None:
    """Now and then it is asked again; where nothing else comes, the error says so, what is kept and how to go on."""
    server.judge = planted_answer
    study.run(OpenAICompatible(server.url, "m"), tmp_path / "one")
    judge = OpenAICompatible(server.url, "m", tries=2, first_wait=0.0)
    server.seen.clear()
    server.judge = lambda text: b"<html>busy" if len(server.seen) % 2 else planted_answer(text)
    study.run(judge, tmp_path / "two", cap=Cap(requests=12))
    assert len(server.seen) == 24
    server.judge = lambda text: b"<html>gone"
    kept = rf"begins '<html>gone'\); every answer so far \(12\) is kept in {tmp_path / 'two'}, and the same command"
    with pytest.raises(ConnectionError, match=kept):
        study.run(judge, tmp_path / "two", concurrent=3)
    server.judge = planted_answer
    study.run(judge, tmp_path / "two")
    for name in ("answers.jsonl", "explanations.json"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


def test_the_plan_is_near_what_is_asked(study: Study, tmp_path: Path) -> None:
    judge = Judging(named(study), knows)
    found = study.run(judge, tmp_path / "run")
    assert f"about {judge.asked} requests" in study.plan()
    planned = int(study.plan().split("requests and ")[1].split(" tokens")[0].replace(",", ""))
    asked = [json.loads(line)["request"] for line in (tmp_path / "run/answers.jsonl").read_text().splitlines()]
    sent = sum(len(message["content"]) for one in asked for message in one["messages"]) / 4
    assert sent < planned < 1.5 * sent
    assert found.requests == judge.asked


def test_nothing_is_scored_on_what_it_was_explained_from(study: Study) -> None:
    for (latent, _), items in study.items.items():
        shown = study.explanations[latent].text()
        plain = shown.replace("<<", "").replace(">>", "")
        assert not any(item.text.replace("<<", "").replace(">>", "") in plain for item in items)


def test_notes_for_pages(study: Study, tmp_path: Path) -> None:
    study.run(Judging(named(study), knows), tmp_path)
    notes = read_notes(tmp_path)
    assert set(notes) == set(study.companions)
    note = next(iter(notes.values()))
    assert note["text"].startswith("the word [")
    assert note["by"].startswith("planted, templates ")
    assert note["scores"][0].startswith("detection 1.00 ± ")
    path = tmp_path / "explanations.json"
    whole = path.read_text()
    path.write_text(whole.replace("0.5", "0.6"))
    with pytest.raises(ValueError, match=r"explanations\.json is damaged: its checksum differs"):
        read_notes(tmp_path)
    for old, new in (('"deepfield-explanations-1"', '"else"'), ('"latent": ', '"latent": -'), ('"own"', '"mine"')):
        path.write_text(whole.replace(old, new).replace('"checksum"', '"no checksum"'))
        with pytest.raises(ValueError, match=r"explanations\.json is damaged"):
            read_notes(tmp_path)


def test_latents_that_are_asked_for(embedded: Any, text: Text) -> None:
    sae = planted_sae(embedded)
    with torch.no_grad():
        sae.b_enc[3] = -100
    found = prepare(sae, text, latents=[0, 3, 0], settings=SCORES)
    assert list(found.companions) == [0]
    assert found.left_out[3].startswith("active in 0 and 0; it must be active in 5 of")
    assert len(found.explanations) == 2  # its companion's is asked for too
    with pytest.raises(ValueError, match="there is no latent 10; this SAE has 0 to 9"):
        prepare(sae, text, latents=[10], settings=SCORES)
    with pytest.raises(ValueError, match="latent 3 is active in 0 and 0; it must be"):
        prepare(sae, text, latents=[3], settings=SCORES)
    with pytest.raises(ValueError, match="0 latents are active in 5 of"):
        prepare(sae, text, settings=Settings(items=400))
    with pytest.raises(ValueError, match="passages of 3 tokens"):
        prepare(sae, text, settings=Settings(width=3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scores": ("detection", "luck")}, "scores are detection, luck; choose among detection, fuzzing, effects"),
        ({"items": 5}, "items is 5; it must be an even number"),
        ({"pairs": 0}, "pairs is 0"),
        ({"seed": -1}, "seed -1"),
        ({"strength": float("nan")}, "strength is nan"),
    ],
)
def test_settings_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Settings(**options)
