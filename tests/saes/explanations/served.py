"""A server on this machine that speaks the chat-completions protocol, and says what it is told to."""

import json
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock
from typing import Any


class Server(ThreadingHTTPServer):
    """Answers what it is told to, in order, or what ``judge`` says, several at once (bytes as they are); and keeps what
    it was sent."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.replies: list[tuple[int, dict[str, str], bytes]] = []
        self.seen: list[tuple[str, dict[str, str], Any]] = []
        self.judge: Callable[[str], str | bytes | tuple[int, dict[str, str]]] | None = None
        self.inside = self.most_inside = 0
        self._count = Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def reply(self, status: int, value: Any, **headers: str) -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.replies.append((status, {name.replace("_", "-"): text for name, text in headers.items()}, body))

    def come(self, more: int) -> None:
        """A request comes in, or leaves (-1)."""
        with self._count:
            self.inside += more
            self.most_inside = max(self.most_inside, self.inside)


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((self.path, dict(self.headers), body))
        if self.server.judge is None:
            status, headers, reply = self.server.replies.pop(0)
        else:
            self.server.come(1)
            said = self.server.judge(body["messages"][0]["content"])
            self.server.come(-1)
            status, headers = said if isinstance(said, tuple) else (200, {})
            reply = json.dumps(completion(said) if isinstance(said, str) else {"error": "busy"}).encode()
            reply = said if isinstance(said, bytes) else reply
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *_: Any) -> None:
        pass


def completion(text: str | None, **usage: int) -> dict[str, Any]:
    """What such a server sends back."""
    return {"choices": [{"message": {"role": "assistant", "content": text}}], "usage": usage}
