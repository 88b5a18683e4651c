"""What a judge is: messages go in, a text and what it cost come out."""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, kw_only=True)
class Message:
    """One turn of a conversation.

    Example:
        >>> from saes.explanations import Message
        >>> Message(role="user", content="Is a dog an animal?").role
        'user'
    """

    role: str
    """Who speaks: system, user or assistant."""
    content: str
    """What is said, as plain text."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a judge is asked.

    Example:
        >>> from saes.explanations import Message, Request
        >>> request = Request(messages=(Message(role="user", content="Is a dog an animal?"),))
        >>> request.key() == Request(messages=request.messages, seed=1).key()
        False
    """

    messages: tuple[Message, ...]
    """The conversation so far, the question last."""
    max_tokens: int = 200
    """The most tokens that the answer may have."""
    seed: int = 0
    """For judges that draw their answers at random."""

    def key(self) -> str:
        """SHA-256 of all of it, under which its answer is kept."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def text(self) -> str:
        """The messages, one under the other."""
        return "\n\n".join(message.content for message in self.messages)

    def most_tokens(self) -> int:
        """A token has one byte at least, and a chat template adds little: what a cap must have left."""
        return len(self.text().encode()) + 64 * len(self.messages) + self.max_tokens


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a judge says.

    Example:
        >>> from saes.explanations import Answer
        >>> Answer(text="yes", prompt_tokens=12, completion_tokens=1).tokens
        13
    """

    text: str
    """Its words, which may be none."""
    prompt_tokens: int
    """Tokens of the request, as the judge counts them."""
    completion_tokens: int
    """Tokens of the answer, as the judge counts them."""
    counted: bool = True
    """False where the judge does not say its tokens, which are then estimated."""

    @property
    def tokens(self) -> int:
        """Of request and answer."""
        return self.prompt_tokens + self.completion_tokens


@runtime_checkable
class Judge(Protocol):
    """Whatever can be asked. Of the same request it should give the same answer.

    Example:
        >>> from saes.explanations import Answer, Judge, Message, Request
        >>> class Nodding:
        ...     name = "nodding"
        ...
        ...     def ask(self, request: Request) -> Answer:
        ...         return Answer(text="1: yes", prompt_tokens=1, completion_tokens=1)
        >>> judge: Judge = Nodding()
        >>> judge.ask(Request(messages=(Message(role="user", content="Well?"),))).text
        '1: yes'
    """

    @property
    def name(self) -> str:
        """Which judge it is, in the records of what it said."""

    def ask(self, request: Request) -> Answer:
        """Its answer."""


def estimated_tokens(text: str) -> int:
    """About as many as a usual tokenizer makes of English: one for four bytes."""
    return -(-len(text.encode()) // 4)
