"""A simulator in a thread of its own, and a plain HTTP client that shows every byte."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from aoai_gateway.config.models import SimulatedEndpoint
from aoai_simulator.server import start
from aoai_simulator.simulator import Simulator

KEY = "simulator-key"
INSTANT = {"first_token_seconds": 0, "tokens_per_second": 0}
SPEC: Mapping[str, Any] = {
    "sweden": {
        "region": "Sweden Central",
        "deployments": {
            "chat": {"model": "gpt-4o", **INSTANT},
            "text": {"model": "gpt-35-turbo-instruct", **INSTANT},
            "embed": {"model": "text-embedding-3-small", **INSTANT},
            "reason": {"model": "o4-mini", **INSTANT},
            "paced": {"model": "gpt-4o", "first_token_seconds": 0.1, "tokens_per_second": 100},
            "paygo": {"model": "gpt-4o", "tokens_per_minute": 10_000, "requests_per_minute": 600, **INSTANT},
            "ptu": {"model": "gpt-4o", "provisioned_tokens_per_minute": 1000, **INSTANT},
        },
    },
    "france": {"region": "France Central", "deployments": {"reason": {"model": "o4-mini", **INSTANT}}},
}
CHAT = "/openai/deployments/chat/chat/completions?api-version=2024-10-21"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> Any:
        return self.json["error"]


class Connection:
    """One keep-alive connection; it understands no more HTTP than the simulator sends."""

    def __init__(self, url: str, *, timeout: float = 10) -> None:
        parts = urlsplit(url)
        assert parts.hostname
        self.socket = socket.create_connection((parts.hostname, parts.port or 80), timeout)
        self._unread = b""

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, method: str, target: str, body: bytes = b"", **headers: str) -> None:
        names = {"host": "simulator", "api-key": KEY, "content-length": str(len(body))}
        names |= {name.replace("_", "-"): value for name, value in headers.items()}
        lines = "".join(f"{name}: {value}\r\n" for name, value in names.items())
        self.socket.sendall(f"{method} {target} HTTP/1.1\r\n{lines}\r\n".encode() + body)

    def receive(self) -> Answer:
        status, headers = self.receive_head()
        return Answer(status, headers, self.receive_body(headers))

    def receive_head(self) -> tuple[int, dict[str, str]]:
        start, *lines = self._until(b"\r\n\r\n").decode().split("\r\n")[:-2]
        return int(start.split()[1]), dict(line.split(": ", 1) for line in lines)

    def receive_body(self, headers: Mapping[str, str]) -> bytes:
        if "content-length" in headers:
            return self._exactly(int(headers["content-length"]))
        body = b""
        while chunk := self.receive_chunk():
            body += chunk
        return body

    def receive_chunk(self) -> bytes:
        size = int(self._until(b"\r\n"), 16)
        return self._exactly(size + 2)[:-2]

    def receive_all(self) -> bytes:
        """Everything until the connection ends; raises ConnectionResetError for a RST."""
        data, self._unread = self._unread, b""
        while received := self.socket.recv(65536):
            data += received
        return data

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._unread:
            self._more()
        end = self._unread.index(mark) + len(mark)
        data, self._unread = self._unread[:end], self._unread[end:]
        return data

    def _exactly(self, size: int) -> bytes:
        while len(self._unread) < size:
            self._more()
        data, self._unread = self._unread[:size], self._unread[size:]
        return data

    def _more(self) -> None:
        received = self.socket.recv(65536)
        if not received:
            raise EOFError("the connection was closed")
        self._unread += received


class Running:
    """A simulator that runs in a thread."""

    def __init__(self, spec: Mapping[str, Any] = SPEC, **options: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        endpoints = {name: SimulatedEndpoint.model_validate(item) for name, item in spec.items()}
        options.setdefault("keys", dict.fromkeys(endpoints, KEY))
        self.simulator: Simulator = self.run(start(endpoints, **options))
        self.url = next(iter(self.simulator.urls.values()))

    def run[T](self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def stop(self) -> None:
        self.run(self.simulator.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(60)
        self._loop.close()

    def connect(self, endpoint: str = "sweden", **options: Any) -> Connection:
        return Connection(self.simulator.urls[endpoint], **options)

    def post(self, target: str, body: Any, *, endpoint: str = "sweden", **headers: str) -> Answer:
        with self.connect(endpoint) as connection:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            connection.send("POST", target, data, **headers)
            return connection.receive()

    def get(self, target: str, method: str = "GET") -> Answer:
        with self.connect() as connection:
            connection.send(method, target)
            return connection.receive()

    def chat(self, prompt: str = "hello", deployment: str = "chat", **fields: Any) -> Answer:
        target = f"/openai/deployments/{deployment}/chat/completions?api-version=2024-10-21"
        return self.post(target, {"messages": [{"role": "user", "content": prompt}], **fields})

    def ask(self, method: str, path: str, body: Any = None) -> Answer:
        """A request to the control plane."""
        with Connection(self.simulator.control_url) as connection:
            data = b"" if body is None else json.dumps(body).encode()
            connection.send(method, f"/_simulator/{path}", data)
            status, headers = connection.receive_head()
            lower = {name.lower(): value for name, value in headers.items()}
            return Answer(status, lower, connection.receive_body(lower))

    def control(self, method: str, path: str, body: Any = None) -> Any:
        answer = self.ask(method, path, body)
        assert answer.status == 200, answer.body
        return answer.json

    def fault(self, kind: str, **parameters: Any) -> None:
        self.control("POST", "faults", {"fault": kind, **parameters})

    def requests(self) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = self.control("GET", "requests")
        return entries

    def last_request(self, **wanted: Any) -> dict[str, Any]:
        """The last request, once it has the wanted values (an outcome is booked after the last byte)."""
        wait_until(lambda: all(self.requests()[-1][name] == value for name, value in wanted.items()))
        return self.requests()[-1]


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.005)


def events(body: bytes) -> list[str]:
    """The data of each event."""
    frames = [frame for frame in body.decode().split("\n\n") if frame]
    return [frame.split("data: ", 1)[1] for frame in frames]


def stream_text(body: bytes) -> str:
    """The text of a chat stream."""
    chunks = [json.loads(data) for data in events(body) if data != "[DONE]"]
    return "".join(
        choice.get("delta", {}).get("content") or "" for chunk in chunks for choice in chunk["choices"]
    )
