"""The admin listener: readers that do not read, and a page in which a browser runs nothing but its own."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Callable

import pytest
from tornado import web
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

from aoai_gateway.admin import answers
from aoai_gateway.admin.answers import ReadInTimeHandler
from aoai_gateway.admin.controls import Controls
from aoai_gateway.admin.fleet import FleetHandler
from aoai_gateway.admin.listener import (
    CONTENT_SECURITY_POLICY,
    PAGE,
    AdminListener,
    MetricsHandler,
    StatusHandler,
)
from aoai_gateway.config.models import Admin, Config
from aoai_gateway.runtime.gateway import Gateway
from tests.engine_driver import config
from tests.ports import free_port

MEGABYTES = 64
"""More than the system's buffers hold."""

MANY = 1_000
"""Clients with quotas."""


class Large(ReadInTimeHandler):
    closed: asyncio.Event

    def get(self) -> None:
        self.finish(bytes(MEGABYTES << 20))

    def on_finish(self) -> None:
        connection = self.request.connection
        assert connection is not None
        connection.stream.set_close_callback(self.closed.set)  # type: ignore[attr-defined]


def test_the_connection_of_a_reader_that_does_not_read_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "UNREAD_SECONDS", 0.1)

    async def ask_and_do_not_read() -> None:
        Large.closed = asyncio.Event()
        (listening,) = bind_sockets(0, "127.0.0.1")
        server = HTTPServer(web.Application([(r"/", Large)]))
        server.add_sockets([listening])
        loop = asyncio.get_running_loop()
        with socket.socket() as scraper:
            scraper.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            scraper.setblocking(False)
            await loop.sock_connect(scraper, listening.getsockname())
            await loop.sock_sendall(scraper, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            async with asyncio.timeout(60):
                await Large.closed.wait()
        server.stop()

    asyncio.run(ask_and_do_not_read())


def test_what_answers_at_length_is_such_a_handler() -> None:
    assert all(issubclass(each, ReadInTimeHandler) for each in (MetricsHandler, StatusHandler, FleetHandler))


def test_who_reads_slowly_but_reads_gets_all_of_it(gateway_with: Callable[[Config], Gateway]) -> None:
    limits = {"max_tokens_per_minute": 1000, "max_requests_per_minute": 10, "max_tokens_per_day": 10_000}
    clients = [{"name": f"client number {n}", "key": f"key-{n}", **limits} for n in range(MANY)]
    gateway, port = gateway_with(config("a").but(clients=clients)), free_port()

    async def scrape() -> bytes:
        listener = AdminListener(gateway, Controls(gateway))
        listener.start(Admin(port=port))
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=4096)
        writer.write(f"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while part := await reader.read(16_384):
            answer += part
        writer.close()
        await listener.stop()
        return answer

    answer = asyncio.run(scrape())
    assert answer.endswith(b"\n")
    assert answer.count(b"aoai_gateway_quota_used_ratio{") == 3 * MANY


TEXT = PAGE.decode()


def test_it_loads_no_file_from_another_host() -> None:
    addresses = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s'\"`)]*", TEXT))
    assert addresses == {"http://www.w3.org/2000/svg"}, "a namespace is a name, nothing is fetched for it"
    assert not re.findall(r"<(?:link|script|img|iframe)\b[^>]*\bsrc=", TEXT)
    assert re.findall(r'<link[^>]*href="(\w+:)', TEXT) == ["data:"]


def test_text_from_outside_never_becomes_markup() -> None:
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
        assert way not in TEXT


def test_the_policy_allows_no_more_than_is_in_the_page() -> None:
    policy = dict(part.split(" ", 1) for part in CONTENT_SECURITY_POLICY.split("; "))
    assert policy["default-src"] == "'none'"
    assert re.fullmatch(r"'sha256-[\w+/]+='", policy["script-src"])
    assert re.fullmatch(r"'sha256-[\w+/]+='", policy["style-src"])
    assert "unsafe" not in CONTENT_SECURITY_POLICY


def test_nothing_in_it_needs_more_than_the_policy_allows() -> None:
    body = re.sub(r"<(script|style)>.*?</\1>", "", TEXT, flags=re.DOTALL)
    assert not re.findall(r"\s(?:on\w+|style)=", body), "inline handlers and styles are not in the policy"


def test_every_id_that_the_script_asks_for_is_there_once() -> None:
    ids = re.findall(r'\sid="([\w-]+)"', TEXT)
    assert len(ids) == len(set(ids))
    asked = set(re.findall(r'\$\("([\w-]+)"\)', TEXT)) | set(re.findall(r'new Chart\("([\w-]+)"', TEXT))
    assert asked
    assert asked <= set(ids)


def test_every_label_and_table_names_something() -> None:
    ids = set(re.findall(r'\sid="([\w-]+)"', TEXT))
    assert set(re.findall(r'aria-labelledby="([\w-]+)"', TEXT)) <= ids
    assert TEXT.count("<table ") == TEXT.count('role="table" aria-labelledby=')
