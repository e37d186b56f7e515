"""Pages of other origins: preflights, and the fields by which a browser lets a page read an answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.proxy import events
from mitmproxy.test import taddons

from aoai_gateway.config.models import Config, Cors
from tests.engine_driver import config
from tests.proxy.layer_driver import Connection, connect

PAGE = "https://chat.contoso.com"
PATH = "/openai/v1/chat/completions"


@pytest.fixture
def at() -> Iterator[Callable[..., Connection]]:
    """Makes a connection to a gateway that allows these origins."""
    with taddons.context(Proxyserver(), loadcore=False) as tctx:

        def make(*origins: str) -> Connection:
            plain = config("a", cors=Cors(origins=origins))
            endpoints = tuple(e.but(url=f"http://{e.name}.example/") for e in plain.aoai.endpoints)
            return connect(plain.but(aoai=plain.aoai.but(endpoints=endpoints)), tctx.options)

        yield make


def send(here: Connection, method: str, *fields: str, path: str = PATH, body: bytes = b"") -> str:
    """Send a request; gives the answer's head in lower case."""
    lines = [f"{method} {path} HTTP/1.1", "host: gw", f"content-length: {len(body)}", *fields, "", ""]
    here.feed(events.DataReceived(here.client, "\r\n".join(lines).encode() + body))
    return here.received.partition(b"\r\n\r\n")[0].decode().lower()


PREFLIGHT = ("access-control-request-method: POST", "access-control-request-headers: api-key,x-stainless-os")


@pytest.mark.parametrize("allowed", [PAGE, "*"])
def test_a_preflight_needs_no_key(at: Callable[..., Connection], allowed: str) -> None:
    head = send(at(allowed), "OPTIONS", f"Origin: {PAGE}", *PREFLIGHT)
    assert head.startswith("http/1.1 204 ")
    assert f"access-control-allow-origin: {allowed}" in head
    assert "access-control-allow-methods: get, post" in head
    assert "access-control-allow-headers: api-key,x-stainless-os" in head
    assert ("vary: origin" in head) is (allowed != "*")
    assert "content-length" not in head
    assert "credentials" not in head


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "https://chat.contoso.com.evil.example",
        "http://chat.contoso.com",
        "null",
        "*",
        "",
    ],
)
@pytest.mark.parametrize("method", ["OPTIONS", "POST"])
def test_an_origin_that_is_not_listed_is_never_reflected(
    at: Callable[..., Connection], origin: str, method: str
) -> None:
    head = send(at(PAGE), method, f"Origin: {origin}", *PREFLIGHT)
    assert head.startswith("http/1.1 401 ")
    assert "access-control" not in head
    assert "vary: origin" in head


def test_two_origins_are_none(at: Callable[..., Connection]) -> None:
    assert "access-control" not in send(at(PAGE), "POST", f"Origin: {PAGE}", "Origin: https://evil.example")


def test_it_is_off_by_default(at: Callable[..., Connection]) -> None:
    head = send(at(), "OPTIONS", f"Origin: {PAGE}", *PREFLIGHT)
    assert head.startswith("http/1.1 401 ")
    assert "access-control" not in head
    assert "vary" not in head


@pytest.mark.parametrize(
    ("method", "fields", "path", "status"),
    [
        ("POST", [], PATH, 401),
        ("POST", ["api-key: key-of-anybody"], "/nowhere", 404),
        ("POST", ["api-key: key-of-anybody", "upgrade: websocket"], PATH, 400),
        ("GET", [], "/health/live", 200),
        ("POST", [], "/health/live", 405),
    ],
)
def test_errors_can_be_read_too(
    at: Callable[..., Connection], method: str, fields: list[str], path: str, status: int
) -> None:
    head = send(at(PAGE), method, f"Origin: {PAGE}", *fields, path=path)
    assert head.startswith(f"http/1.1 {status} ")
    assert f"access-control-allow-origin: {PAGE}" in head


def test_a_malformed_body_too(at: Callable[..., Connection]) -> None:
    here = at(PAGE)
    fields = f"Origin: {PAGE}\r\napi-key: key-of-anybody\r\ntransfer-encoding: chunked"
    head = f"POST {PATH} HTTP/1.1\r\nhost: gw\r\n{fields}\r\n\r\nzz\r\n"
    here.feed(events.DataReceived(here.client, head.encode()))
    assert b"body_malformed" in here.received
    assert f"access-control-allow-origin: {PAGE}".encode() in here.received


def test_an_answer_exposes_its_hints(at: Callable[..., Connection]) -> None:
    here = at(PAGE)
    here.ask(origin=PAGE)
    head = (
        b"HTTP/1.1 200 x\r\ncontent-length: 2\r\ncontent-type: application/json\r\nretry-after: 1\r\n"
        b"access-control-allow-origin: *\r\naccess-control-allow-credentials: true\r\nx-other: 1\r\n\r\n"
    )
    here.answer("a", head + b"{}")
    got = here.received.decode().lower()
    assert got.startswith("http/1.1 200 ")
    assert got.count("access-control-allow-origin") == 1
    assert "credentials" not in got
    (exposed,) = [line for line in got.split("\r\n") if line.startswith("access-control-expose-headers")]
    assert "retry-after" in exposed
    assert "x-gateway-backend" in exposed
    assert "x-other" not in exposed


def test_a_backends_own_permission_goes_to_no_page(at: Callable[..., Connection]) -> None:
    here = at()
    here.ask(origin=PAGE)
    here.answer("a", b"HTTP/1.1 200 x\r\ncontent-length: 2\r\naccess-control-allow-origin: *\r\n\r\n{}")
    assert b"access-control" not in here.received


@pytest.mark.parametrize(
    "origin", ["chat.contoso.com", "https://a.b/", "https://a.b/path", "https://*.b", ""]
)
def test_what_is_no_origin_is_an_error(origin: str) -> None:
    with pytest.raises(ValueError, match="origin"):
        Cors(origins=(origin,))


def test_origins_are_written_as_browsers_send_them() -> None:
    assert Cors(origins=("HTTPS://Chat.Contoso.com:8443",)).origins == ("https://chat.contoso.com:8443",)
    assert Config.model_fields["cors"].default == Cors()
