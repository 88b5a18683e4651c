"""Answers on disk, a line each, under the hash of what was asked: kept as they come, and never asked for again.

A judge of recorded answers gives them again offline.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from interp.files.outside import parse_json_text, reading, record
from interp.files.seals import SEAL, is_broken, sealed
from interp.files.writing import atomic_path, make_folder, sync_folder, told_if_full
from saes.explanations.judges.judge import Answer, Request

ANSWERS = "answers.jsonl"


@dataclass(frozen=True, kw_only=True)
class Answered:
    """A line of the file."""

    key: str
    """Hash of the request, in hexadecimal digits."""
    judge: str
    """Name of who answered it."""
    request: Request
    """What the judge was asked."""
    answer: Answer
    """What the judge said."""


class Answers:
    """A file of answers that grows. Each is on the disk before the next is asked for; one that a killed process left
    half-written does not count, and is taken off when the next is written.

    Raises:
        ValueError: a line other than the last cannot be read, or was altered.

    Example:
        >>> from pathlib import Path
        >>> from saes.explanations import Answers
        >>> Answers(Path("answers.jsonl")).requests
        0
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        lines, self._torn = _read(path)
        self._kept = {each.key: each for each in lines}

    def __contains__(self, request: Request) -> bool:
        return request.key() in self._kept

    def __getitem__(self, request: Request) -> Answer:
        return self._kept[request.key()].answer

    @property
    def requests(self) -> int:
        """How many were answered."""
        return len(self._kept)

    @property
    def tokens(self) -> int:
        """Of all requests and answers."""
        return sum(each.answer.tokens for each in self._kept.values())

    @property
    def uncounted(self) -> int:
        """Answers whose judge does not say its tokens, so that they are estimated."""
        return sum(not each.answer.counted for each in self._kept.values())

    def add(self, request: Request, answer: Answer, *, judge: str) -> None:
        """Keep an answer; it is on the disk when this returns."""
        one = Answered(key=request.key(), judge=judge, request=request, answer=answer)
        new = not self._path.exists()
        if self._torn:
            self._write_anew()
        with told_if_full(self._path):
            make_folder(self._path.parent)
            with self._path.open("ab") as file:
                file.write(_line(one))
                file.flush()
                os.fsync(file.fileno())
        if new:
            sync_folder(self._path.parent)
        self._kept[one.key] = one

    def arrange(self, order: Iterable[Request]) -> None:
        """Put the lines into this order, whichever they came in; others stand behind."""
        keys = [key for request in order if (key := request.key()) in self._kept]
        arranged = {key: self._kept[key] for key in dict.fromkeys([*keys, *self._kept])}
        if list(arranged) != list(self._kept):
            self._kept = arranged
            self._write_anew()

    def _write_anew(self) -> None:
        """All whole lines."""
        with atomic_path(self._path) as partial:
            partial.write_bytes(b"".join(map(_line, self._kept.values())))
        self._torn = False


class Recorded:
    """A judge that says again what one said before; whose name it bears. Nothing is asked of anybody.

    Args:
        path: ``answers.jsonl``, or the folder of a run that holds it.

    Raises:
        ValueError: the file cannot be read, is empty, or holds answers of several judges.

    Example:
        >>> from pathlib import Path
        >>> from saes.explanations import Answer, Answers, Message, Recorded, Request
        >>> request = Request(messages=(Message(role="user", content="Well?"),))
        >>> answer = Answer(text="yes", prompt_tokens=2, completion_tokens=1)
        >>> Answers(Path("answers.jsonl")).add(request, answer, judge="me")
        >>> judge = Recorded("answers.jsonl")
        >>> judge.name, judge.ask(request).text
        ('me', 'yes')
    """

    def __init__(self, path: str | Path) -> None:
        place = Path(path)
        self._path = place / ANSWERS if place.is_dir() else place
        if not self._path.is_file():
            raise ValueError(f"there are no recorded answers at {self._path}; name a file, or the folder of a run")
        lines, torn = _read(self._path)
        if torn:
            raise ValueError(f"{self._path} ends within a line: its recording was cut short; continue that run")
        self._kept = {each.key: each.answer for each in lines}
        judges = sorted({each.judge for each in lines})
        if len(judges) != 1:
            said = "holds no answer" if not judges else f"holds answers of {', '.join(judges)}"
            raise ValueError(f"{self._path} {said}; it must be the record of one judge")
        self.name = judges[0]

    def ask(self, request: Request) -> Answer:
        """The recorded answer.

        Raises:
            ValueError: there is none; its beginning and its key are named.
        """
        key = request.key()
        if key not in self._kept:
            begin = " ".join(request.text().split())[-120:]
            raise ValueError(
                f"{self._path} holds no answer to the request {key[:16]} (… {begin}): SAE, text, settings or templates"
                " are others than in its recording"
            )
        return self._kept[key]


def _line(one: Answered) -> bytes:
    return (json.dumps(sealed(asdict(one))) + "\n").encode()


def _read(path: Path) -> tuple[list[Answered], bool]:
    """All whole lines, and whether something that is none comes after them."""
    if not path.exists():
        return [], False
    with reading(path, "cannot be read"):
        content = path.read_bytes()
    whole, _, rest = content.rpartition(b"\n")
    found = []
    for number, line in enumerate(whole.split(b"\n") if whole else [], 1):
        with reading(path, f"is damaged in line {number}"):
            value = parse_json_text(line, path)
            if not isinstance(value, dict) or SEAL not in value or is_broken(value):
                raise ValueError("its checksum differs, or is missing")
            one = record(Answered, {name: part for name, part in value.items() if name != SEAL}, name="the line")
            if one.key != one.request.key():
                raise ValueError("what was asked is not what the key was made of")
            if min(one.answer.prompt_tokens, one.answer.completion_tokens) < 0:
                raise ValueError("tokens are fewer than 0")
            found.append(one)
    return found, bool(rest)
