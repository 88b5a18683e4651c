"""A judge behind an address that speaks the chat-completions protocol, which OpenAI began and most servers know.

There is no default address, and nothing is sent before one is named. The key is read from an environment variable when
a request is made, goes into its header alone, and is struck out of whatever the server says back.
"""

import http.client
import json
import logging
import os
import re
import time
from collections.abc import Mapping
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, build_opener
from urllib.request import Request as HTTPRequest

from interp.files.outside import parse_json_text, reading, reason
from saes.explanations.judges.judge import Answer, Request, estimated_tokens

logger = logging.getLogger(__name__)

AGAIN = (408, 429, 500, 502, 503, 504)
"""Status codes after which a request is sent again."""
_LONGEST_WAIT = 60.0
_LARGEST_BODY = 4 << 20
_UNFIT = re.compile(r"unsupported|not support|unrecognized|unknown|not permitted|extra")
_LOCAL = ("localhost", "127.0.0.1", "::1")


class _NoAnswer(ValueError):
    """What came is no chat completion."""


class _NoRedirects(HTTPRedirectHandler):
    """A request that goes elsewhere would take the key with it."""

    def redirect_request(self, *_: Any) -> None:
        return None


class OpenAICompatible:
    """A model behind ``POST {url}/chat/completions``, at temperature 0.

    A server that says that it wants ``max_completion_tokens``, or takes no temperature or seed, gets its way.

    Args:
        url: Up to, and without, ``/chat/completions``: ``http://localhost:8000/v1``.
        model: What the server calls it.
        key_variable: Environment variable that holds the key; by default no key is sent.
        timeout: Seconds for a whole answer.
        tries: How often a request is sent before it is given up, where the server is busy or does not answer.
        first_wait: Seconds before the second try; twice as many before each one after, or what the server asks for.

    Raises:
        ValueError: an address that is none, that holds a secret, or to which the key would go unencrypted; a variable
            without a key.

    Example:
        >>> from saes.explanations import OpenAICompatible
        >>> OpenAICompatible("http://localhost:8000/v1", "my-model").name
        'my-model at http://localhost:8000/v1'
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        key_variable: str | None = None,
        timeout: float = 120.0,
        tries: int = 6,
        first_wait: float = 1.0,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"endpoint {url!r} is no address; give one such as http://localhost:8000/v1")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError(
                f"the endpoint at {parts.hostname} has more than host and path, which would be written into records:"
                " give the key by --key-variable, and no user, query or fragment"
            )
        if key_variable is not None and parts.scheme == "http" and parts.hostname not in _LOCAL:
            raise ValueError(f"endpoint {url} is not encrypted, and would get the key in {key_variable}; use https")
        if not model:
            raise ValueError("model is empty; say which model of the endpoint is to judge")
        if tries < 1 or timeout <= 0 or first_wait < 0:
            raise ValueError(f"tries is {tries}, timeout {timeout}, first_wait {first_wait}; 1, above 0, and 0 or more")
        self._address = url.rstrip("/")
        self._model, self._key_variable = model, key_variable
        self._timeout, self._tries, self._first_wait = timeout, tries, first_wait
        self._names: dict[str, str | None] = {name: name for name in ("max_tokens", "temperature", "seed")}
        self._opener = build_opener(_NoRedirects)
        self._key()  # so that a missing one is told before any work

    @property
    def name(self) -> str:
        """Model and address."""
        return f"{self._model} at {self._address}"

    def ask(self, request: Request) -> Answer:
        """Send it, again where the server is busy or sends what is no answer.

        Raises:
            ValueError: the key is missing, or the server refuses the request.
            ConnectionError: there was no answer after all tries; it says what came last.
        """
        key, names = self._key(), self._names
        wait, said = self._first_wait, ""
        for attempt in range(self._tries):
            if attempt:
                time.sleep(min(wait, _LONGEST_WAIT))
                wait *= 2
            try:
                return self._answer(request, self._send(request, names, key), key)
            except HTTPError as error:
                with error:
                    said = _without(f"{error.code} {error.reason}: {_beginning(error, key)}", key)
                if error.code in (400, 422) and (changed := _wanted(names, said)):
                    self._names = self._names | changed
                    for name in (ours for ours, theirs in changed.items() if theirs is None):
                        logger.warning(
                            "%s takes no %s: it uses its own, and may answer otherwise next time", self.name, name
                        )
                    return self.ask(request)
                if error.code not in AGAIN:
                    moved = "; it points elsewhere, name that address" if 300 <= error.code < 400 else ""
                    raise ValueError(f"{self.name} refused the request: {said}{moved}") from None
                wait = max(wait, _asked_wait(error))
            except (URLError, OSError, http.client.HTTPException, _NoAnswer) as error:
                said = _without(reason(error), key)
        raise ConnectionError(f"{self.name} did not answer in {self._tries} tries (last: {said})")

    def _key(self) -> str | None:
        if self._key_variable is None:
            return None
        key = os.environ.get(self._key_variable, "").strip()
        if not key or not key.isascii() or not key.isprintable() or " " in key:
            state = "is not set" if not key else "holds what cannot be a key (spaces, line ends or other signs)"
            raise ValueError(f"the environment variable {self._key_variable} {state}; put the key of {self.name} there")
        return key

    def _send(self, request: Request, names: Mapping[str, str | None], key: str | None) -> bytes:
        values = {"max_tokens": request.max_tokens, "temperature": 0, "seed": request.seed}
        content = {
            "model": self._model,
            "messages": [vars(message) for message in request.messages],
            **{theirs: values[ours] for ours, theirs in names.items() if theirs is not None},
        }
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        body = json.dumps(content).encode()
        deadline = time.monotonic() + self._timeout
        sent = HTTPRequest(f"{self._address}/chat/completions", data=body, headers=headers, method="POST")
        with self._opener.open(sent, timeout=self._timeout) as response:
            found = b""
            while piece := response.read1(1 << 16):
                found += piece
                if time.monotonic() > deadline:
                    raise TimeoutError(f"the answer took more than {self._timeout:g} seconds")
                if len(found) > _LARGEST_BODY:
                    raise _NoAnswer(f"the server sent more than {_LARGEST_BODY:,} bytes for one answer")
            if response.length:  # read1 ends quietly where a connection does
                raise http.client.IncompleteRead(found, response.length)
        return found

    def _answer(self, request: Request, body: bytes, key: str | None) -> Answer:
        try:
            value = parse_json_text(body, "the server", "sent what is no JSON")
            with reading("the server", "sent what is no chat completion"):
                text, usage = _said(value["choices"][0]), value.get("usage")
        except ValueError as error:
            raise _NoAnswer(f"{error}; it begins {_shown(body, key)!r}" if body else "an empty answer") from None
        text = _without(text, key)
        usage = usage if isinstance(usage, dict) else {}
        counts: list[Any] = [usage.get("prompt_tokens"), usage.get("completion_tokens")]
        counted = all(type(count) is int and count >= 0 for count in counts)
        if not counted:
            counts = [estimated_tokens(request.text()), estimated_tokens(text)]
        return Answer(text=text, prompt_tokens=counts[0], completion_tokens=counts[1], counted=counted)


def _wanted(names: Mapping[str, str | None], said: str) -> dict[str, str | None]:
    """Of what was sent that which the server, by what it says, wants under another name, or not at all."""
    if not _UNFIT.search(said.lower()):
        return {}
    for ours, theirs in names.items():
        if theirs is not None and re.search(rf"\b{theirs}\b", said):
            if ours != "max_tokens":
                return {ours: None}
            if theirs == ours and "max_completion_tokens" in said:
                return {ours: "max_completion_tokens"}
    return {}


def _said(choice: Any) -> str:
    """Its text, which may be none where it says why: a refusal, a call of a tool, or an end other than the usual."""
    message = choice["message"]
    text = message.get("content")
    if text is None and (
        message.get("refusal") or message.get("tool_calls") or choice.get("finish_reason") not in (None, "stop")
    ):
        return ""
    if not isinstance(text, str):
        raise ValueError(f"content is {'null' if text is None else f'a {type(text).__name__}'}, not a text")
    return text


def _beginning(error: HTTPError, key: str | None) -> str:
    try:
        return _shown(error.read(1 << 16), key)
    except (OSError, http.client.HTTPException):
        return ""


def _shown(body: bytes, key: str | None) -> str:
    """Its beginning; the key goes before anything is cut, so that no half of it is left."""
    return _without(" ".join(body[: 1 << 16].decode(errors="replace").split()), key)[:300]


def _asked_wait(error: HTTPError) -> float:
    """Seconds that the server asks to wait; dates, which it may give too, are not read."""
    try:
        return float(error.headers.get("Retry-After", 0))
    except (TypeError, ValueError):
        return 0.0


def _without(text: str, key: str | None) -> str:
    """Servers repeat a key that they do not know."""
    return text if key is None else text.replace(key, "[key]")
