"""Requests in their order, some of them at once, below a cap.

What is answered in the end, and what at a cap, is what one request after another gives. A request is sent before its
turn only where it would be sent whatever the earlier ones come to: requests and tokens of all before it, those that
are not known yet at their most, and its own still stay below the cap.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread

from saes.explanations.answers import Answers
from saes.explanations.judges.judge import Answer, Judge, Request


@dataclass(frozen=True, kw_only=True)
class Cap:
    """The most that a folder's answers may cost, those of earlier runs in it included; None for no limit.

    Example:
        >>> from saes.explanations import Cap
        >>> Cap(requests=100).tokens is None
        True
    """

    requests: int | None = None
    """Requests that may be answered, all runs together."""
    tokens: int | None = None
    """Tokens of requests and answers, all runs together."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and value < 0:
                raise ValueError(f"the cap of {name} is {value}; it must be 0 or more")

    def allows(self, requests: int, tokens: int) -> bool:
        """Whether so much may be spent in all."""
        return not (
            (self.requests is not None and requests > self.requests)
            or (self.tokens is not None and tokens > self.tokens)
        )


class Spent(Exception):
    """The cap is reached; what was answered before is kept."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Turn:
    """Requests one after another, made of the answer to an earlier one."""

    after: Request
    """The earlier one, whose answer they are made of."""
    requests: Callable[[], list[Request]]
    """What is asked once that is answered."""
    most_requests: int
    """Requests that there are at most."""
    most_tokens: int
    """Tokens that they and their answers take at most."""


class Asking:
    """Answers that are not in the file yet come from the judge, and each goes into the file.

    Args:
        judge: Who is asked; of several requests at once it is asked in a thread each.
        answers: The file.
        cap: The most that may be spent.
        concurrent: Requests that may be on their way at once.

    Raises:
        ValueError: ``concurrent`` is below 1.
    """

    def __init__(self, judge: Judge, answers: Answers, cap: Cap = Cap(), *, concurrent: int = 1) -> None:
        if concurrent < 1:
            raise ValueError(f"{concurrent} requests at once; it must be 1 or more")
        self._judge, self.answers, self._cap, self._concurrent = judge, answers, cap, concurrent
        self._waiting: list[Request | Turn] = []
        self._flying: dict[str, Request] = {}
        self._came: SimpleQueue[tuple[Request, Answer | BaseException]] = SimpleQueue()

    def ask(self, turns: Iterable[Request | Turn], told: Callable[[], None] = lambda: None) -> None:
        """Until all are answered; ``told`` is called after each.

        Raises:
            Spent: the next request could go beyond the cap.
            Exception: what the judge raises. Nothing more is sent then, and answers on their way are kept.
        """
        self._waiting = list(turns)
        failed: BaseException | None = None
        while True:
            while failed is None and len(self._flying) < self._concurrent and (one := self._next()) is not None:
                self._send(one)
            if not self._flying:
                break
            request, answer = self._came.get()
            del self._flying[request.key()]
            if isinstance(answer, Answer):
                self.answers.add(request, answer, judge=self._judge.name)
                told()
            else:
                failed = failed or answer
        if failed is not None:
            raise failed
        if self._waiting:
            raise self._spent(self._waiting[0])

    def _next(self) -> Request | None:
        """The first that is neither answered nor on its way, and may be sent."""
        requests = self.answers.requests + len(self._flying)
        tokens = self.answers.tokens + sum(one.most_tokens() for one in self._flying.values())
        place = 0
        while place < len(self._waiting):
            one = self._waiting[place]
            if isinstance(one, Turn) and one.after in self.answers:
                self._waiting[place : place + 1] = one.requests()
            elif isinstance(one, Turn):
                requests, tokens, place = requests + one.most_requests, tokens + one.most_tokens, place + 1
            elif one in self.answers:
                del self._waiting[place]
            elif one.key() in self._flying:
                place += 1
            elif self._cap.allows(requests + 1, tokens + one.most_tokens()):
                del self._waiting[place]
                return one
            else:
                return None  # and so it is of all after it
        return None

    def _send(self, request: Request) -> None:
        self._flying[request.key()] = request

        def ask() -> None:
            try:
                answer: Answer | BaseException = self._judge.ask(request)
            except BaseException as error:
                answer = error
            self._came.put((request, answer))

        if self._concurrent == 1:
            ask()
        else:
            Thread(target=ask, daemon=True).start()  # a daemon, so that Ctrl-C waits for no server

    def _spent(self, following: Request | Turn) -> Spent:
        assert isinstance(following, Request)  # a turn follows what it waits for
        spent, cap = self.answers, self._cap
        if cap.requests is not None and spent.requests + 1 > cap.requests:
            return Spent(f"{spent.requests:,} of {cap.requests:,} requests are spent")
        return Spent(
            f"{spent.tokens:,} of {cap.tokens:,} tokens are spent, and the next request could take"
            f" {following.most_tokens():,}"
        )
