"""Judges: what goes to a server and what comes of its answers, a model on this machine, a record; and the cap."""

import json
import random
from pathlib import Path
from threading import Barrier, Lock
from time import sleep
from typing import Any

import pytest
import torch

import interp
from interp.files.seals import sealed
from saes.explanations import Answer, Answers, LocalModel, Message, OpenAICompatible, Recorded, Request
from saes.explanations.asking import Asking, Cap, Spent, Turn
from tests.saes.explanations.served import Server, completion

KEY = "sk-very-secret-0123456789"


def request_of(text: str = "Is a dog an animal?", **options: Any) -> Request:
    return Request(messages=(Message(role="user", content=text),), **options)


def test_a_request_is_sent_and_its_answer_read(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    judge = OpenAICompatible(server.url + "/", "m", key_variable="MY_KEY")
    server.reply(200, completion("yes", prompt_tokens=7, completion_tokens=2))
    assert judge.ask(request_of(max_tokens=5, seed=3)) == Answer(text="yes", prompt_tokens=7, completion_tokens=2)
    ((path, headers, sent),) = server.seen
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert sent == {
        "model": "m", "messages": [{"role": "user", "content": "Is a dog an animal?"}], "max_tokens": 5,
        "temperature": 0, "seed": 3,
    }  # fmt: skip
    assert KEY not in repr(vars(judge)) + judge.name


def test_a_server_gets_the_parameters_that_it_takes(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """As OpenAI's reasoning models word it, and servers that know no seed."""
    judge = OpenAICompatible(server.url, "m", tries=1)
    for complaint in (
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
        "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) value is supported.",
    ):
        server.reply(400, {"error": {"message": complaint}})
    server.reply(422, {"detail": [{"loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]})
    server.reply(200, completion("yes"))
    server.reply(200, completion("no"))
    assert [judge.ask(request_of(max_tokens=5)).text for _ in range(2)] == ["yes", "no"]
    sent = [set(content) - {"model", "messages"} for _, _, content in server.seen]
    assert sent == [
        {"max_tokens", "temperature", "seed"}, {"max_completion_tokens", "temperature", "seed"},
        {"max_completion_tokens", "seed"}, {"max_completion_tokens"}, {"max_completion_tokens"},
    ]  # fmt: skip
    assert [record.args[1] for record in caplog.records if isinstance(record.args, tuple)] == ["temperature", "seed"]
    server.reply(400, {"error": "temperature of the room is unknown"})
    with pytest.raises(ValueError, match=r"refused the request: 400 .*room"):
        judge.ask(request_of())


def test_without_a_variable_no_key_is_sent(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server.reply(200, completion(""))
    answer = OpenAICompatible(server.url, "m").ask(request_of("x" * 40))
    assert answer == Answer(text="", prompt_tokens=10, completion_tokens=0, counted=False)
    assert "Authorization" not in server.seen[0][1]


def test_a_busy_server_is_asked_again(server: Server) -> None:
    judge = OpenAICompatible(server.url, "m", first_wait=0.001)
    server.reply(429, {"error": "slow"}, Retry_After="0.01")
    server.reply(503, b"not json")
    server.reply(200, completion("ok"))
    assert judge.ask(request_of()).text == "ok"
    assert len(server.seen) == 3
    for _ in range(2):
        server.reply(500, {"error": "broken"})
    with pytest.raises(ConnectionError, match=r"m at http.*did not answer in 2 tries \(last: 500 .*broken"):
        OpenAICompatible(server.url, "m", tries=2, first_wait=0.0).ask(request_of())


def test_nobody_there() -> None:
    with pytest.raises(ConnectionError, match=r"did not answer in 2 tries"):
        OpenAICompatible("http://127.0.0.1:9", "m", tries=2, first_wait=0.0).ask(request_of())


def test_a_refusal_is_told_once_and_without_the_key(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    judge = OpenAICompatible(server.url, "m", key_variable="MY_KEY")
    server.reply(401, {"error": f"Incorrect API key provided: {KEY}"})
    with pytest.raises(ValueError, match=r"refused the request: 401 .*provided: \[key\]") as refused:
        judge.ask(request_of())
    assert KEY not in str(refused.value)
    assert refused.value.__cause__ is None
    server.reply(307, b"", Location="http://127.0.0.1:9/elsewhere")
    with pytest.raises(ValueError, match=r"307 .*it points elsewhere"):
        judge.ask(request_of())
    assert len(server.seen) == 2


def test_a_key_that_the_server_repeats_is_nowhere(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in an answer, which goes to disk, nor half of it, where a long complaint is cut."""
    monkeypatch.setenv("MY_KEY", KEY)
    judge = OpenAICompatible(server.url, "m", key_variable="MY_KEY")
    server.reply(200, completion(f"Explanation: your key is {KEY}"))
    assert judge.ask(request_of()).text == "Explanation: your key is [key]"
    server.reply(400, ("x" * 290 + KEY).encode())
    with pytest.raises(ValueError, match="xxx") as refused:
        judge.ask(request_of())
    assert KEY[:5] not in str(refused.value)


def test_an_answer_that_is_cut_off_is_asked_for_again(server: Server) -> None:
    whole = json.dumps(completion("yes")).encode()
    server.reply(200, whole[:30], Content_Length=str(len(whole)))
    server.reply(200, whole)
    assert OpenAICompatible(server.url, "m", first_wait=0.0).ask(request_of()).text == "yes"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"<html>", r"sent what is no JSON: .*; it begins '<html>'"),
        (b"", "an empty answer"),
        (json.dumps(completion("yes")).encode()[:30], "sent what is no JSON: .*begins '{\"choices"),
        (b"null", "sent what is no chat completion"),
        (b"[" * 100_000, "nested too deeply"),
        ({"error": {"message": "no such model"}}, "it lacks 'choices'; it begins .*no such model"),
        ({"choices": []}, "sent what is no chat completion"),
        ({"choices": [{"message": "hi"}]}, "sent what is no chat completion"),
        ({"choices": [{"message": {"content": ["a"]}}]}, "content is a list, not a text"),
        (completion(None), "content is null, not a text"),
        ([1], "sent what is no chat completion"),
        (b" " * (5 << 20), "the server sent more than 4,194,304 bytes"),
    ],
)
def test_what_is_no_answer_is_asked_for_again(server: Server, body: Any, message: str) -> None:
    judge = OpenAICompatible(server.url, "m", tries=2, first_wait=0.0)
    server.reply(200, body)
    server.reply(200, completion("yes"))
    assert judge.ask(request_of()).text == "yes"
    server.reply(200, body)
    server.reply(200, body)
    with pytest.raises(ConnectionError, match=rf"did not answer in 2 tries \(last: .*{message}"):
        judge.ask(request_of())
    assert len(server.seen) == 4


@pytest.mark.parametrize(
    "choice",
    [
        {"message": {"content": None, "refusal": "I cannot"}},
        {"message": {"content": None, "tool_calls": [{}]}},
        {"message": {"content": None}, "finish_reason": "length"},
    ],
)
def test_no_text_with_a_reason_is_an_answer(server: Server, choice: Any) -> None:
    """Which would be the same again: it is counted as one that cannot be read."""
    server.reply(200, {"choices": [choice], "usage": [1]})
    answer = OpenAICompatible(server.url, "m").ask(request_of())
    assert (answer.text, answer.counted, len(server.seen)) == ("", False, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("localhost:8000", "m", None), "is no address"),
        (("https://me:pass@host/v1", "m", None), "more than host and path"),
        (("https://host/v1?key=1", "m", None), "more than host and path"),
        (("http://example.org/v1", "m", "MY_KEY"), "not encrypted"),
        (("https://example.org/v1", "", None), "model is empty"),
    ],
)
def test_addresses_that_are_refused(arguments: tuple[str, str, str | None], message: str) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        OpenAICompatible(arguments[0], arguments[1], key_variable=arguments[2])
    assert "pass" not in str(refused.value).replace("passages", "")


@pytest.mark.parametrize("key", ["", "two words", "line\nend", "schlüssel"])
def test_a_key_that_cannot_be_one_is_not_repeated(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", key)
    with pytest.raises(ValueError, match="the environment variable MY_KEY") as refused:
        OpenAICompatible("https://127.0.0.1:9/v1", "m", key_variable="MY_KEY").ask(request_of())
    assert not key or key not in str(refused.value)


def test_a_model_on_this_machine_is_greedy() -> None:
    """The likeliest token again and again, from the plain model, without a cache."""
    judge, model = LocalModel("embedded"), interp.load_hf_model("embedded")
    ids = model.tokenizer("Once upon a time", return_tensors="pt")["input_ids"]
    answer = judge.ask(request_of("Once upon a time", max_tokens=4))
    assert (answer.prompt_tokens, answer.completion_tokens) == (ids.shape[1], 4)
    for _ in range(4):
        following = model(ids).logits[:, -1].argmax(-1, keepdim=True)
        ids = torch.cat([ids, following], 1)
    assert answer.text == model.tokenizer.decode(ids[0, -4:])
    with pytest.raises(ValueError, match="do not fit into"):
        judge.ask(request_of("Once upon a time " * 200))


class Counting:
    """Answers with how often it was asked."""

    name = "counting"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def ask(self, request: Request) -> Answer:
        self.asked.append(request.text())
        return Answer(text=str(len(self.asked)), prompt_tokens=30, completion_tokens=4)


def _said(asking: Asking, texts: str) -> list[str]:
    requests = [request_of(text) for text in texts]
    asking.ask(requests)
    return [asking.answers[request].text for request in requests]


def test_answers_are_kept_and_given_again(tmp_path: Path) -> None:
    path, judge = tmp_path / "run" / "answers.jsonl", Counting()
    assert _said(Asking(judge, Answers(path)), "aba") == ["1", "2", "1"]
    assert judge.asked == ["a", "b"]
    torn = path.read_bytes() + b'{"key": "half of a li'
    path.write_bytes(torn)
    again = Asking(judge, Answers(path))
    assert path.read_bytes() == torn  # perhaps another process is writing it
    assert _said(again, "abc") == ["1", "2", "3"]
    assert judge.asked == ["a", "b", "c"]
    assert (again.answers.requests, again.answers.tokens) == (3, 102)
    record = Recorded(tmp_path / "run")
    assert record.name == "counting"
    assert record.ask(request_of("c")).text == "3"
    with pytest.raises(ValueError, match=rf"holds no answer to the request {request_of('d').key()[:16]} \(… d\)"):
        record.ask(request_of("d"))


def test_records_that_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with pytest.raises(ValueError, match="there are no recorded answers"):
        Recorded(path)
    for judge in "ab":
        Answers(path).add(request_of(judge), Answer(text="", prompt_tokens=1, completion_tokens=0), judge=judge)
    with pytest.raises(ValueError, match="holds answers of a, b"):
        Recorded(path)
    whole = path.read_text()
    path.write_text(whole.replace('"content": "a"', '"content": "z"'))
    with pytest.raises(ValueError, match=r"answers\.jsonl is damaged in line 1: its checksum differs"):
        Answers(path)
    first, second = (json.loads(line) for line in whole.splitlines())
    swapped = sealed({**first, "request": second["request"]} | {"checksum": None})
    path.write_text(json.dumps(swapped) + "\n")
    with pytest.raises(ValueError, match="line 1: what was asked is not what the key was made of"):
        Answers(path)
    path.write_text(whole[:-10])
    with pytest.raises(ValueError, match="ends within a line"):
        Recorded(path)
    assert Answers(path).requests == 1
    path.write_text(whole[:10])
    alone = Answers(path)
    alone.add(request_of("c"), Answer(text="", prompt_tokens=1, completion_tokens=0), judge="a")
    assert (alone.requests, Answers(path).requests, Recorded(path).name) == (1, 1, "a")


def test_the_cap_is_never_passed(tmp_path: Path) -> None:
    judge = Counting()
    asking = Asking(judge, Answers(tmp_path / "a.jsonl"), Cap(requests=2))
    with pytest.raises(Spent, match="2 of 2 requests are spent"):
        _said(asking, "abc")
    assert _said(asking, "a") == ["1"]
    needed = request_of("c").most_tokens()
    for tokens, enough in ((68 + needed - 1, False), (68 + needed, True)):
        asking = Asking(judge, Answers(tmp_path / "a.jsonl"), Cap(tokens=tokens))
        if enough:
            assert _said(asking, "c") == ["3"]
        else:
            with pytest.raises(Spent, match="68 of"):
                _said(asking, "c")
    assert len(judge.asked) == 3
    with pytest.raises(ValueError, match="the cap of tokens is -1"):
        Cap(tokens=-1)
    with pytest.raises(ValueError, match="0 requests at once; it must be 1 or more"):
        Asking(judge, Answers(tmp_path / "a.jsonl"), concurrent=0)


class Slow:
    """Answers after a time that is drawn for each request, so that answers overtake each other; costs are drawn too."""

    name = "slow"

    def __init__(self, *, fails: str = "", together: int = 1) -> None:
        self.fails, self.asked, self._count = fails, 0, Lock()
        self._together = Barrier(together, timeout=60)  # of the first so many, none is answered before all are asked

    def ask(self, request: Request) -> Answer:
        with self._count:
            self.asked += 1
            first = self.asked <= self._together.parties
        if first:
            self._together.wait()
        draw = random.Random(request.text())
        sleep(draw.choice([0, 0.01]) if self._together.parties > 1 else 0)
        if request.text() == self.fails:
            raise ConnectionError(f"no answer to {request.text()}")
        return Answer(
            text=f"{request.text()}!", prompt_tokens=draw.randrange(5, 20), completion_tokens=draw.randrange(9)
        )


def turns_of(answers: Answers) -> list[Request | Turn]:
    """Six questions, each with three that are made of its answer; of every third question there are none."""

    def turn(number: int) -> Turn:
        before = request_of(f"question {number}", max_tokens=8)

        def requests() -> list[Request]:
            said = answers[before].text
            return [request_of(f"{said} {which}", max_tokens=8) for which in "abc"[: 3 * (number % 3 > 0)]]

        most = request_of(f"question {number}!?? a", max_tokens=8).most_tokens()  # longer than what it says
        return Turn(after=before, requests=requests, most_requests=3, most_tokens=3 * most)

    return [each for number in range(6) for each in (request_of(f"question {number}", max_tokens=8), turn(number))]


def _run(path: Path, judge: Slow, *, cap: Cap | None = None, concurrent: int) -> tuple[set[str], str | None]:
    """Keys of all that was answered, and why it stopped."""
    answers, stopped = Answers(path), None
    try:
        Asking(judge, answers, cap or Cap(), concurrent=concurrent).ask(turns_of(answers))
    except (Spent, ConnectionError) as error:
        stopped = str(error)
    lines = [json.loads(line)["key"] for line in path.read_text().splitlines()]
    assert len(lines) == len(set(lines)) == answers.requests
    return set(lines), stopped


@pytest.mark.parametrize(
    ("cap", "together"),
    [
        ({}, 4),
        ({"requests": 1}, 1),
        ({"requests": 5}, 2),
        ({"tokens": 150}, 1),
        ({"tokens": 300}, 1),
        ({"tokens": 500}, 2),
    ],
)
def test_several_at_once_are_what_one_after_another_is(cap: dict[str, int], together: int, tmp_path: Path) -> None:
    """The same requests are answered, at every cap too; more than one is on its way where the cap leaves room."""
    one, several, limit = Slow(), Slow(together=together), Cap(**cap)
    expected = _run(tmp_path / "one", one, cap=limit, concurrent=1)
    assert _run(tmp_path / "several", several, cap=limit, concurrent=4) == expected
    assert several.asked == one.asked == len(expected[0])
    found = Answers(tmp_path / "several")
    assert limit.allows(found.requests, found.tokens)
    assert (expected[1] is None) == (len(expected[0]) == 6 + 3 * 4)
    assert (expected[1] is None) == (cap in ({}, {"tokens": 500}))


def test_what_fails_keeps_what_is_on_its_way_and_sends_no_more(tmp_path: Path) -> None:
    path, judge = tmp_path / "a.jsonl", Slow()
    answered, error = _run(path, Slow(fails="question 2", together=4), concurrent=4)
    assert error == "no answer to question 2"
    assert 3 <= len(answered) < 18 - 3  # the other three of the first four, at least
    assert request_of("question 2", max_tokens=8).key() not in answered
    whole, none = _run(path, judge, concurrent=3)
    assert (len(whole), none, judge.asked) == (18, None, 18 - len(answered))
    assert answered < whole
