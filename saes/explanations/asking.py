"""A judge that is asked each thing once, and only while there is something left to spend."""

from dataclasses import dataclass

from saes.explanations.judge import Answer, Judge, Request
from saes.explanations.recorded import Answers


@dataclass(frozen=True, kw_only=True)
class Cap:
    """The most that a folder's answers may cost, those of earlier runs in it included; None for no limit."""

    requests: int | None = None
    """Requests that may be answered, all runs together."""
    tokens: int | None = None
    """Tokens of requests and answers, all runs together."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and value < 0:
                raise ValueError(f"the cap of {name} is {value}; it must be 0 or more")


class Spent(Exception):
    """The cap is reached; what was answered before is kept."""


class Asking:
    """Answers from the file first, then from the judge, each of which goes into the file."""

    def __init__(self, judge: Judge, answers: Answers, cap: Cap = Cap()) -> None:
        self._judge, self.answers, self._cap = judge, answers, cap

    def ask(self, request: Request) -> Answer:
        """The answer.

        Raises:
            Spent: it is not among those that were given, and the next request could go beyond the cap.
        """
        if request in self.answers:
            return self.answers[request]
        cap = self._cap
        if cap.requests is not None and self.answers.requests + 1 > cap.requests:
            raise Spent(f"{self.answers.requests:,} of {cap.requests:,} requests are spent")
        if cap.tokens is not None and self.answers.tokens + request.most_tokens() > cap.tokens:
            raise Spent(
                f"{self.answers.tokens:,} of {cap.tokens:,} tokens are spent, and the next request could take"
                f" {request.most_tokens():,}"
            )
        answer = self._judge.ask(request)
        self.answers.add(request, answer, judge=self._judge.name)
        return answer
