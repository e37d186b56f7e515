"""Uploads that are on disk as long as their call: taken in, read, sent on, sent again, and gone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.connection import Connection as Peer
from mitmproxy.proxy import commands, events
from mitmproxy.test import taddons

from aoai_gateway.proxy import downstream_request, request_head
from aoai_gateway.runtime import spool as spool_module
from aoai_gateway.runtime.body_reader import BodyReader
from aoai_gateway.runtime.connections import OWN_DESCRIPTORS, RESERVE
from aoai_gateway.runtime.spool import Spool
from aoai_gateway.runtime.stream_hooks import GatewayAskHook
from aoai_gateway.wire import stored
from aoai_gateway.wire.batch_file import Lines, read_file
from aoai_gateway.wire.bodies import parse_body
from aoai_gateway.wire.request_body import RequestBody
from aoai_gateway.wire.stored import Stored
from aoai_gateway.wire.targets import Target
from tests.engine_driver import config
from tests.proxy.layer_driver import Connection, connect, listen, over_plain_http

PATH = "/openai/v1/audio/transcriptions"
FORM = "multipart/form-data; boundary=xyz"
FILE = bytes(range(256)) * 40


def form(model: str = "gpt", file: bytes = FILE) -> bytes:
    parts = (b'"file"; filename="a.wav"', file), (b'"model"', model.encode())
    line = b"content-disposition: form-data; name="
    return b"".join(b"--xyz\r\n%s%s\r\n\r\n%s\r\n" % (line, *part) for part in parts) + b"--xyz--\r\n"


def await_it(hook: commands.StartHook) -> None:
    if isinstance(hook, GatewayAskHook):
        asyncio.run(hook.data.perform(None))  # type: ignore[arg-type]  # it asks no addon


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have small bodies count as large ones."""
    monkeypatch.setattr(request_head, "SPOOLED_ABOVE", 1_000)
    monkeypatch.setattr(request_head, "LARGE_BODY", 1_000)
    monkeypatch.setattr(stored, "BLOCK", 3_000)


@pytest.fixture
def spools(monkeypatch: pytest.MonkeyPatch) -> list[Spool]:
    """All files that are made."""
    made: list[Spool] = []

    def make() -> Spool:
        made.append(Spool())
        return made[-1]

    monkeypatch.setattr(downstream_request, "Spool", make)
    return made


@pytest.fixture
def made() -> Iterator[Callable[..., Connection]]:
    with taddons.context(Proxyserver()) as tctx:

        def make(**parts: Any) -> Connection:
            here = connect(over_plain_http(config("ptu@a", "b", **parts)), tctx.options)
            here.on_hook = await_it
            return here

        yield make


def head(length: int | None, path: str = PATH, kind: str = FORM, *fields: str) -> bytes:
    framing = f"content-length: {length}" if length is not None else "transfer-encoding: chunked"
    lines = (f"POST {path} HTTP/1.1", "host: gw", "api-key: key-of-anybody", f"content-type: {kind}", framing)
    return "\r\n".join((*lines, *fields, "", "")).encode()


def upload(here: Connection, body: bytes, **how: Any) -> None:
    here.feed(events.DataReceived(here.client, head(len(body), **how)))
    for at in range(0, len(body), 1_000):
        here.feed(events.DataReceived(here.client, body[at : at + 1_000]))


def got(here: Connection, host: str) -> bytes:
    return here.sent[f"{host}.example"].partition(b"\r\n\r\n")[2]


def is_gone(spool: Spool) -> bool:
    if spool.is_closed:
        spool_module._CLOSER.submit(int).result(30)  # it closes one file after the other
    return spool._file.closed


class Asks:
    """What a connection waits for, done when the test says so."""

    def __init__(self, here: Connection) -> None:
        self._here = here

    @property
    def waiting(self) -> list[GatewayAskHook]:
        return [hook for hook in self._here.hooks if isinstance(hook, GatewayAskHook)]

    def go_on(self, until: Callable[[], bool]) -> None:
        while not until():
            hook = self.waiting[0]
            self._here.hooks.remove(hook)
            self._here.feed(events.HookCompleted(hook))
            self._here.run_timers()


def test_a_form_goes_on_with_the_standins_name_wherever_its_model_stands(
    made: Callable[..., Connection], spools: list[Spool]
) -> None:
    here = made()
    upload(here, form())
    assert got(here, "a") == form("ptu")
    sent = here.sent["a.example"].partition(b"\r\n\r\n")[0]
    assert f"content-length: {len(form('ptu'))}".encode() in sent
    (spool,) = spools
    assert not is_gone(spool)
    here.respond("a", 200)
    assert here.result()[0] == 200
    assert is_gone(spool)
    assert here.gateway.spooled.total == here.gateway.held.total == 0
    assert here.at_rest


def test_the_flow_holds_nothing_of_it(made: Callable[..., Connection], spools: list[Spool]) -> None:
    here = made()
    upload(here, form())
    assert len(spools[0]) == here.gateway.spooled.total == len(form())
    assert here.gateway.held.total == 0


def test_it_is_sent_again_from_there(made: Callable[..., Connection], spools: list[Spool]) -> None:
    here = made()
    upload(here, form())
    here.respond("a", 500)
    assert got(here, "b") == form("b")
    here.respond("b", 200)
    assert here.result()[0] == 200
    assert [is_gone(spool) for spool in spools] == [True]


def test_a_chunked_upload_of_unknown_length(made: Callable[..., Connection], spools: list[Spool]) -> None:
    here = made()
    body = form()
    here.feed(events.DataReceived(here.client, head(None)))
    here.feed(events.DataReceived(here.client, b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)))
    assert got(here, "a") == form("ptu")
    assert len(spools) == 1


def test_bytes_that_are_no_form(made: Callable[..., Connection], spools: list[Spool]) -> None:
    here = made()
    upload(here, FILE, path="/openai/v1/something/new", kind="application/octet-stream")
    assert got(here, "a") == FILE
    assert len(spools) == 1


@pytest.mark.parametrize(
    "how",
    [
        {"body": form(file=b"short")},
        {"body": json.dumps({"model": "gpt", "input": "x" * 5_000}).encode(), "kind": "application/json"},
    ],
)
def test_what_is_small_or_has_to_be_read_stays_in_memory(
    made: Callable[..., Connection], spools: list[Spool], how: dict[str, Any]
) -> None:
    here = made()
    path = "/openai/v1/embeddings" if "kind" in how else PATH
    upload(here, how.pop("body"), path=path, **how)
    assert spools == []
    assert here.sent["a.example"]


def test_what_an_addon_may_look_at_stays_in_memory(
    made: Callable[..., Connection], spools: list[Spool]
) -> None:
    class Looker:
        seen = b""

        def request(self, flow: Any) -> None:
            self.seen = flow.request.raw_content

    here, looker = made(), Looker()
    del here.gateway.heard.refresh
    listen(here.gateway, looker)
    upload(here, form())
    assert looker.seen == form()
    assert spools == []


def test_one_that_is_too_large_is_refused_by_its_head_and_as_it_comes(
    made: Callable[..., Connection], spools: list[Spool]
) -> None:
    limits = {"body_mb": 1, "upload_mb": 2}
    here = made(limits=limits)
    here.feed(events.DataReceived(here.client, head(3 * 1024 * 1024)))
    assert here.result()[0] == 413
    assert spools == []
    here = made(limits=limits)
    here.feed(events.DataReceived(here.client, head(None)))
    for _ in range(3):
        here.feed(events.DataReceived(here.client, b"%x\r\n%s\r\n" % (1_000_000, b"x" * 1_000_000)))
    assert here.result()[0] == 413
    assert [is_gone(spool) for spool in spools] == [True]
    assert here.gateway.spooled.total == 0


def test_one_may_be_larger_than_a_body_in_memory(made: Callable[..., Connection]) -> None:
    here = made(limits={"body_mb": 1, "upload_mb": 2})
    upload(here, form(file=b"x" * 1_500_000))
    assert len(got(here, "a")) > 1_500_000


def test_without_room_on_disk_it_is_503(
    made: Callable[..., Connection], spools: list[Spool], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = made()
    here.gateway.spooled.total = here.gateway.limits().spooled_bytes
    upload(here, form())
    assert here.result()[0] == 503
    assert spools == []
    here = made()

    class Full:
        closed = False

        def write(self, data: bytes) -> int:
            raise OSError(28, "No space left on device")

        def close(self) -> None:
            self.closed = True

    monkeypatch.setattr("tempfile.TemporaryFile", lambda **_: Full())
    upload(here, form())
    status, body = here.result()
    assert status == 503
    assert b"No space" not in body
    assert here.gateway.spooled.total == here.gateway.connections.files == 0
    assert is_gone(spools[0])


def test_without_a_descriptor_for_its_file_it_is_503(
    made: Callable[..., Connection], spools: list[Spool]
) -> None:
    here = made()
    connections = here.gateway.connections
    connections.files = most = connections.descriptors - OWN_DESCRIPTORS - RESERVE
    upload(here, form())
    status, body = here.result()
    assert (status, b"too many uploads" in body) == (503, True)
    assert spools == []
    assert connections.files == most
    here = made()
    upload(here, form())
    assert here.gateway.connections.files == 1
    here.respond("a", 200)
    assert here.result()[0] == 200
    assert here.gateway.connections.files == 0


@pytest.mark.parametrize("when", ["in its midst", "at the backend"])
def test_a_client_that_leaves_takes_its_file_along(
    made: Callable[..., Connection], spools: list[Spool], when: str
) -> None:
    here = made()
    if when == "in its midst":
        here.feed(events.DataReceived(here.client, head(len(form())) + form()[:5_000]))
    else:
        upload(here, form())
    assert here.gateway.connections.files == 1
    here.hang_up()
    assert is_gone(spools[0])
    assert here.gateway.spooled.total == here.gateway.connections.files == 0
    assert here.at_rest


def test_a_backend_that_hangs_up_before_it_has_all_of_it_is_replayed(
    made: Callable[..., Connection], spools: list[Spool]
) -> None:
    here = made()
    here.takes_time = GatewayAskHook
    upload(here, form())

    asks = Asks(here)
    asks.go_on(lambda: b"--xyz" in here.sent.get("a.example", b""))
    here.hang_up("a")
    assert len(got(here, "a")) < len(form())
    asks.go_on(lambda: here.sent.get("b.example", b"").endswith(b"--xyz--\r\n"))
    assert got(here, "b") == form("b")
    asks.go_on(lambda: not asks.waiting)
    here.respond("b", 200)
    assert here.result()[0] == 200
    assert is_gone(spools[0])


@pytest.mark.parametrize("hangs_up", [True, False])
@pytest.mark.parametrize(("status", "then"), [(413, 413), (503, 200)])
def test_a_backend_may_answer_before_it_has_all_of_it(
    made: Callable[..., Connection], spools: list[Spool], status: int, then: int, hangs_up: bool
) -> None:
    here = made()
    here.takes_time = GatewayAskHook
    upload(here, form())
    asks = Asks(here)
    asks.go_on(lambda: b"--xyz" in here.sent.get("a.example", b""))
    here.respond("a", status)
    first = here.server("a")
    if hangs_up:
        here.hang_up("a")
    if status == 503:
        asks.go_on(lambda: here.sent.get("b.example", b"").endswith(b"--xyz--\r\n"))
        assert got(here, "b") == form("b")
    asks.go_on(lambda: not asks.waiting)
    if status == 503:
        here.respond("b", 200)
    asks.go_on(lambda: not asks.waiting)
    assert here.result()[0] == then
    assert len(got(here, "a")) < len(form())
    assert not first.connected, "half a request is on it"
    assert is_gone(spools[0])
    assert here.at_rest


def test_a_stream_may_answer_before_all_of_it_is_there(
    made: Callable[..., Connection], spools: list[Spool]
) -> None:
    here = made()
    here.takes_time = GatewayAskHook
    upload(here, form())
    asks = Asks(here)
    asks.go_on(lambda: b"--xyz" in here.sent.get("a.example", b""))
    first = here.server("a")
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    event = b'data: {"type":"transcript.text.done","text":"Hi"}\n\n'
    here.answer("a", head + b"%x\r\n%s\r\n" % (len(event), event))
    asks.go_on(lambda: not asks.waiting)
    here.answer("a", b"0\r\n\r\n")
    asks.go_on(lambda: not asks.waiting)
    assert here.result()[0] == 200
    assert not first.connected, "half a request is on it, and the next one may not follow there"
    assert is_gone(spools[0])
    assert here.at_rest


def test_a_backend_that_takes_no_more_and_answers_is_heard(
    made: Callable[..., Connection], spools: list[Spool]
) -> None:
    here = made()

    async def written_out(client: str, backend: Peer) -> None:
        if b"--xyz" in here.sent.get("a.example", b""):
            here.respond("a", 413)
            await asyncio.sleep(30)

    here.gateway.written_out = written_out
    upload(here, form())
    assert here.result()[0] == 413


def test_a_backend_that_takes_nothing_is_given_up(
    made: Callable[..., Connection], spools: list[Spool]
) -> None:
    here = made(replay={"idle_seconds": 0.5})

    async def written_out(client: str, backend: Peer) -> None:
        if backend.address == ("a.example", 80):
            await asyncio.sleep(30)

    here.gateway.written_out = written_out
    upload(here, form())
    assert got(here, "b") == form("b")
    here.respond("b", 200)
    assert here.result()[0] == 200


def test_a_faulty_form_is_told_without_a_word_of_it(
    made: Callable[..., Connection], spools: list[Spool]
) -> None:
    here = made()
    upload(here, form()[:-9] + b"------------"[:9])
    status, body = here.result()
    assert status == 400
    assert b"not a form" in body
    assert is_gone(spools[0])


def batch(model: str) -> bytes:
    line = b'{"custom_id": "1", "body": {"model": "%s", "input": "%s"}}\n' % (model.encode(), b"x" * 700)
    parts = (b'"purpose"', b"batch"), (b'"file"; filename="b.jsonl"', line * 20)
    start = b"--xyz\r\ncontent-disposition: form-data; name="
    return b"".join(b"%s%s\r\n\r\n%s\r\n" % (start, *part) for part in parts) + b"--xyz--\r\n"


class ReadsHere(BodyReader):
    """Reads bodies as the processes do."""

    async def parse(self, target: Target, content_type: str, raw: bytes, **_: Any) -> RequestBody:
        return parse_body(target, content_type, raw)

    async def read_file(self, body: Stored, span: tuple[int, int], *_: Any, **__: Any) -> Lines:
        return read_file(body, *span)


@pytest.mark.parametrize("in_memory", [False, True])
def test_a_batchs_lines_go_on_with_the_standins_name_and_again_with_the_next(
    made: Callable[..., Connection], spools: list[Spool], in_memory: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if in_memory:
        monkeypatch.setattr(request_head, "SPOOLED_ABOVE", 1_000_000)
    here = made()
    here.gateway.reader = ReadsHere()
    upload(here, batch("gpt"), path="/openai/v1/files")
    assert got(here, "a") == batch("ptu")
    assert f"content-length: {len(batch('ptu'))}".encode() in here.sent["a.example"]
    here.respond("a", 429)
    assert got(here, "b") == batch("b")
    here.respond("b", 200)
    assert here.result()[0] == 200
    assert len(spools) == (not in_memory)
