"""What bad input gets, byte by byte: a clear error in Azure OpenAI's shape, and nothing sent to a backend."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.processes import Gateway, Host
from tests.e2e.raw import Connection, Reply, exchange, head, post
from tests.e2e.settings import CLIENT_KEY
from tests.e2e.shared import Pair, running

CHAT = "/openai/v1/chat/completions"
CLASSIC = "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21"
QUESTION: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}
BODY = json.dumps(QUESTION).encode()
LIMITED_KEY = "limited-key-77aa01"
TOKEN = "eyJhbGciOiJub25lIn0.eyJvaWQiOiI0MiJ9.c2lnbmF0dXJl"

HEADER_KB = 8
BODY_MB = 1


@pytest.fixture(scope="module")
def pair(host: Host, tmp_path_factory: pytest.TempPathFactory, home: Path) -> Iterator[Pair]:
    with running(
        host,
        tmp_path_factory.mktemp(f"bad-input-{host}"),
        home,
        clients=[
            {"name": "Tester", "key": CLIENT_KEY},
            {"name": "Limited", "key": LIMITED_KEY, "deployments_allowed": "gpt-4o-mini"},
            {"name": "Former", "key": "former-key-1234", "enabled": False},
        ],
        limits={"header_kb": HEADER_KB, "body_mb": BODY_MB},
    ) as pair:
        yield pair


@pytest.fixture
def gateway(pair: Pair) -> Iterator[Gateway]:
    """The module's gateway; no backend hears of what a test does to it, and it goes on serving."""
    gateway, simulator = pair
    simulator.reset()
    before = len(gateway.stdout)
    yield gateway
    said = gateway.stdout[before:]
    print(said)
    assert simulator.requests() == []
    good = exchange(gateway, post(CHAT, BODY, key=CLIENT_KEY))
    assert good.status == 200, good
    assert "Traceback" not in said
    assert "crashed" not in said


def check(reply: Reply, status: int, code: str, *, says: str = "", param: str | None = None) -> Reply:
    error = reply.error
    assert (reply.status, error["code"]) == (status, code), reply
    assert says in error["message"]
    if param is not None:
        assert error["param"] == param
    return reply


# --- who is asking -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "credential",
    [
        [],
        ["api-key: "],
        ["api-key: never-issued-5e"],
        ["Authorization: Bearer never-issued-5e"],
        ["Authorization: Basic bmV2ZXI6aXNzdWVk"],
        ["api-key: former-key-1234"],
    ],
    ids=["none", "empty", "unknown", "bearer", "basic", "disabled"],
)
@pytest.mark.parametrize("path", [CHAT, CLASSIC, "/openai/v1/models", "/nowhere"])
def test_without_a_known_key(gateway: Gateway, credential: list[str], path: str) -> None:
    reply = exchange(gateway, post(path, BODY, *credential))
    check(reply, 401, "401", says="api-key")
    assert b"never-issued" not in reply.body


def test_an_unknown_key_in_the_query(gateway: Gateway) -> None:
    reply = exchange(gateway, post(f"{CHAT}?api-key=never-issued-5e", BODY))
    check(reply, 401, "401")
    assert b"never-issued" not in reply.body
    assert "never-issued" not in gateway.log


def test_a_token_where_no_client_uses_entra_id(gateway: Gateway) -> None:
    reply = check(exchange(gateway, post(CHAT, BODY, f"Authorization: Bearer {TOKEN}")), 401, "invalid_token")
    assert reply.headers["www-authenticate"].startswith("Bearer ")


@pytest.mark.each_host
def test_the_401_does_not_wait_for_the_body(gateway: Gateway) -> None:
    with Connection(gateway) as connection:
        connection.send(head(f"POST {CHAT} HTTP/1.1", "Content-Length: 500000"))
        check(connection.reply(), 401, "401")
        # What comes of it nevertheless is swallowed; the connection ends with it.
        connection.send(b"x" * 500_000)
        assert connection.rest() == b""


# --- what is asked for -------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [CLIENT_KEY, LIMITED_KEY])
def test_an_unknown_deployment(gateway: Gateway, key: str) -> None:
    body = json.dumps({**QUESTION, "model": "gpt-9"}).encode()
    for reply in (
        exchange(gateway, post(CHAT, body, key=key)),
        exchange(gateway, post(CLASSIC.replace("gpt-4o", "gpt-9"), BODY, key=key)),
    ):
        check(reply, 404, "DeploymentNotFound", says="gpt-9", param="model")
        # Those that the client may use are named, and no others.
        named = re.findall(r"gpt-4o[a-z-]*", reply.error["message"])
        assert named == (["gpt-4o", "gpt-4o-mini"] if key == CLIENT_KEY else ["gpt-4o-mini"])


def test_a_deployment_that_the_client_may_not_use(gateway: Gateway) -> None:
    for path in (CHAT, CLASSIC):
        reply = exchange(gateway, post(path, BODY, key=LIMITED_KEY))
        check(reply, 403, "DeploymentNotAllowed", says="gpt-4o-mini")


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/nowhere",
        "/openai",
        "/openai/v1",
        "/openai/v1/chat/completions/",
        "/openai//v1/chat/completions",
        "//openai/v1/chat/completions",
        "/openai/v1/../v1/chat/completions",
        "/openai/v1/chat%2fcompletions",
        "/openai/v1/chat/completions;x",
        "/v1/chat/completions",
        "/openai/deployments/gpt-4o/nothing",
        "/openai/chat/completions",
        "/_simulator/requests",
        "/health/other",
    ],
)
def test_an_unknown_path(gateway: Gateway, path: str) -> None:
    check(exchange(gateway, post(path, BODY, key=CLIENT_KEY)), 404, "404", says=path.partition("?")[0])


@pytest.mark.parametrize(
    "name", ["gpt-4o%2F..%2Fx", "..", "%2e%2e", "gpt%204o", "a@b.example", "gpt-4o%00", "%ff", "x" * 300]
)
def test_a_deployment_name_that_is_none(gateway: Gateway, name: str) -> None:
    path = f"/openai/deployments/{name}/chat/completions?api-version=2024-10-21"
    check(exchange(gateway, post(path, BODY, key=CLIENT_KEY)), 404, "DeploymentNotFound")


def test_a_family_that_is_not_built(gateway: Gateway) -> None:
    path = "/openai/deployments/gpt-4o/extensions/chat/completions?api-version=2024-10-21"
    request = head(f"POST {path} HTTP/1.1", f"api-key: {CLIENT_KEY}", "Content-Length: 0")
    reply = exchange(gateway, request)
    check(reply, 501, "not_built", says="extensions")
    assert reply.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(
    "path",
    [
        "/openai/realtime?api-version=2024-10-21&deployment=gpt-4o",
        "/openai/v1/realtime?model=gpt-4o",
        "/openai/v1/live",
        "/openai/v1/responses",
    ],
)
def test_a_session_without_a_handshake(gateway: Gateway, path: str) -> None:
    reply = exchange(gateway, head(f"GET {path} HTTP/1.1", f"api-key: {CLIENT_KEY}"))
    check(reply, 426, "upgrade_required", says="WebSocket")
    assert reply.headers["upgrade"] == "websocket"


def test_another_method(gateway: Gateway) -> None:
    reply = exchange(gateway, head("PUT /openai/v1/embeddings HTTP/1.1", f"api-key: {CLIENT_KEY}"))
    check(reply, 405, "method_not_allowed", says="POST")
    assert reply.headers["allow"] == "POST"


# --- the body ----------------------------------------------------------------------------------------

DEEP = b'{"model": "gpt-4o", "messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"hello",
        b"[]",
        b"null",
        b'"gpt-4o"',
        BODY[:-1],
        BODY + b"x",
        BODY + BODY,
        b'{"model": "gpt-4o", "messages": [], "model": "gpt-4o-mini"}',
        b'{"model": "gpt-4o", "messages": [], "mod\\u0065l": "gpt-4o-mini"}',
        b'{"model": "gpt-4o", "stream": true, "messages": [], "stream": false}',
        b'{"model": 7, "messages": []}',
        b'{"model": "gpt-4o", "messages": [], "stream": "yes"}',
        b'{"model": "gpt-4o\xff", "messages": []}',
        "{}".encode("utf-16"),
        DEEP,
    ],
    ids=[
        "empty", "text", "array", "null", "string", "cut", "garbage-after", "two", "two-models",
        "escaped-model", "two-streams", "number", "stream-text", "not-utf8", "utf16", "deep",
    ],
)  # fmt: skip
def test_a_body_that_is_not_what_it_should_be(gateway: Gateway, body: bytes) -> None:
    reply = exchange(gateway, post(CHAT, body, key=CLIENT_KEY))
    check(reply, 400, "invalid_body")


def test_no_model(gateway: Gateway) -> None:
    reply = exchange(gateway, post(CHAT, b'{"messages": []}', key=CLIENT_KEY))
    check(reply, 400, "missing_deployment", param="model")


@pytest.mark.parametrize(
    "content_type", ["multipart/form-data; boundary=x", "application/x-www-form-urlencoded"]
)
def test_a_form(gateway: Gateway, content_type: str) -> None:
    reply = exchange(gateway, post(CHAT, BODY, f"Content-Type: {content_type}", key=CLIENT_KEY))
    check(reply, 400, "unsupported_media_type")


@pytest.mark.parametrize(
    ("coding", "code"),
    [
        ("gzip", "invalid_body"),
        ("br", "invalid_body"),
        ("zstd", "invalid_body"),
        ("deflate, gzip", "unsupported_media_type"),
        ("compress", "unsupported_media_type"),
    ],
)
def test_a_body_that_is_not_in_its_coding(gateway: Gateway, coding: str, code: str) -> None:
    # What is counted and what the backend reads must be the same bytes.
    reply = exchange(gateway, post(CHAT, BODY, f"Content-Encoding: {coding}", key=CLIENT_KEY))
    check(reply, 400, code, says="content-encoding")


def test_a_body_too_large_by_its_length(gateway: Gateway) -> None:
    size = BODY_MB * 1024 * 1024 + 1
    with Connection(gateway) as connection:
        connection.send(head(f"POST {CHAT} HTTP/1.1", f"api-key: {CLIENT_KEY}", f"Content-Length: {size}"))
        reply = check(connection.reply(), 413, "request_too_large", says="1,048,576")
        assert reply.headers["connection"] == "close"
        connection.send(b"x" * size)
        assert connection.rest() == b""


def test_a_body_too_large_in_chunks(gateway: Gateway) -> None:
    with Connection(gateway) as connection:
        connection.send(head(f"POST {CHAT} HTTP/1.1", f"api-key: {CLIENT_KEY}", "Transfer-Encoding: chunked"))
        for _ in range(9):
            connection.send(b"20000\r\n" + b" " * 0x20000 + b"\r\n")
        reply = check(connection.reply(), 413, "request_too_large")
        assert reply.headers["connection"] == "close"
        connection.send(b"0\r\n\r\n")
        assert connection.rest() == b""


def test_a_body_as_large_as_allowed_is_read(pair: Pair) -> None:
    gateway, _ = pair
    room = BODY_MB * 1024 * 1024 - len(BODY)
    reply = exchange(gateway, post(CHAT, BODY + b" " * room, key=CLIENT_KEY))
    assert reply.status == 200, reply


def test_half_a_body(gateway: Gateway) -> None:
    with Connection(gateway) as connection:
        connection.send(head(f"POST {CHAT} HTTP/1.1", f"api-key: {CLIENT_KEY}", "Content-Length: 900"))
        connection.send(BODY)
        connection.finish()
        connection.rest()


# --- who is addressed --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "CONNECT elsewhere.example:443 HTTP/1.1",
        "CONNECT 127.0.0.1:{port} HTTP/1.1",
        "POST http://elsewhere.example/openai/v1/chat/completions HTTP/1.1",
        "POST http://127.0.0.1:{port}/openai/v1/chat/completions HTTP/1.1",
        "POST https://elsewhere.example/openai/v1/chat/completions HTTP/1.1",
    ],
)
@pytest.mark.parametrize("key", [CLIENT_KEY, None], ids=["known", "unknown"])
def test_a_target_that_names_a_host(gateway: Gateway, line: str, key: str | None) -> None:
    credential = [f"api-key: {key}"] if key else []
    first = line.format(port=gateway.port)
    reply = exchange(gateway, head(first, *credential, "Content-Length: 0"))
    check(reply, 400, "invalid_target")


@pytest.mark.parametrize("line", ["OPTIONS * HTTP/1.1", "PRI * HTTP/1.1", "GET openai/v1/models HTTP/1.1"])
def test_a_target_that_is_no_path(gateway: Gateway, line: str) -> None:
    reply = exchange(gateway, head(line, f"api-key: {CLIENT_KEY}"))
    assert reply.status == 400
    assert reply.error["code"] in ("invalid_target", "head_malformed")


@pytest.mark.parametrize(
    "hosts",
    [
        [],
        ["Host: gateway.example", "Host: gateway.example"],
        ["Host: gateway.example", "Host: elsewhere.example"],
        ["Host: "],
        ["Host: user@elsewhere.example"],
        ["Host: elsewhere.example/openai"],
        ["Host: elsewhere.example?x"],
        ["Host: gateway.example, elsewhere.example"],
        ["Host: gateway example"],
        ["Host: http://elsewhere.example"],
        ["Host: " + "x" * 300],
    ],
)
def test_an_odd_host(gateway: Gateway, hosts: list[str]) -> None:
    data = head(f"POST {CHAT} HTTP/1.1", *hosts, f"api-key: {CLIENT_KEY}", "Content-Length: 0", host=None)
    check(exchange(gateway, data), 400, "invalid_target", says="Host")


@pytest.mark.parametrize(
    "name", ["localhost", "elsewhere.example", "[::1]:8080", "10.0.0.1:80", "gpt.internal."]
)
def test_any_other_host_chooses_nothing(pair: Pair, name: str) -> None:
    gateway, simulator = pair
    simulator.reset()
    data = post(CHAT, BODY, key=CLIENT_KEY).replace(b"gateway.example", name.encode())
    assert exchange(gateway, data).status == 200
    (seen,) = simulator.requests()
    assert seen["endpoint"] == "sweden"
    assert seen["headers"]["host"] in simulator.urls["sweden"]


@pytest.mark.each_host
@pytest.mark.parametrize(
    "fields",
    [
        ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: eA=="],
    ],
    ids=["websocket"],
)
def test_an_upgrade(gateway: Gateway, fields: list[str]) -> None:
    with Connection(gateway) as connection:
        connection.send(post(CHAT, BODY, *fields, key=CLIENT_KEY))
        check(connection.reply(), 400, "invalid_target", says="upgrade")
        # The connection speaks HTTP/1.1, or is closed; it is no tunnel.
        connection.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9))
        assert b"HTTP/1.1 200" not in connection.rest()


# --- the head ----------------------------------------------------------------------------------------


@pytest.mark.each_host
@pytest.mark.parametrize(
    "data",
    [
        b"NONSENSE\r\n\r\n",
        b"GET /openai/v1/models\r\n\r\n",
        b"GET /openai/v1/ models HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /openai/v1/models HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n",
        b"GET /openai/v1/models HTTP/1.1\r\nHost: a\r\n: empty\r\n\r\n",
        b"GET /openai/v1/models HTTP/1.1\r\nHost: a\r\nbad name: x\r\n\r\n",
        b"GET /openai/v1/models HTTP/1.1\r\nHost: a\r\napi-key : x\r\n\r\n",
        b"GET /openai/v1/models HTTP/1.1\r\n host: a\r\n\r\n",
        b"GET /openai/v1/models HTTP/1.x\r\nHost: a\r\n\r\n",
        b"\x00\x01\x02\x03\r\n\r\n",
        b"\xff\xfe\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    ],
)
def test_a_malformed_head(gateway: Gateway, data: bytes) -> None:
    with Connection(gateway) as connection:
        connection.send(data)
        reply = connection.reply()
        check(reply, 400, "head_malformed")
        assert reply.headers["connection"] == "close"
        assert connection.rest() == b""


@pytest.mark.each_host
@pytest.mark.parametrize(
    "data",
    [
        b"POST /openai/v1/chat/completions HTTP/2.0\r\nHost: a",
        b"POST /openai/v1/chat/completions HTTP/3.0\r\nHost: a",
        b"POST /openai/v1/chat/completions HTTP/0.9\r\nHost: a",
        b"POST /openai/v1/chat/completions?x=\x00 HTTP/1.1\r\nHost: a",
        b"POST /openai/v1/chat/completions?x=\xc3\xa4 HTTP/1.1\r\nHost: a",
        b"POST /openai/v1/chat/completions HTTP/1.1\r\nHost: a\r\nx: a\x00b",
        b"POST /openai/v1/chat/completions HTTP/1.1\r\nHost: a\r\nx: a\rx-injected: b",
        b"POST /openai/v1/chat/completions HTTP/1.1\r\nHost: a\r\nx: a\r\n folded",
        b"POST /openai/v1/chat/completions HTTP/1.1\r\nHost: a\r\nx: \x1b[2J",
    ],
)
def test_a_head_that_must_not_be_passed_on(gateway: Gateway, data: bytes) -> None:
    fields = f"\r\napi-key: {CLIENT_KEY}\r\nContent-Length: {len(BODY)}\r\n\r\n".encode()
    check(exchange(gateway, data + fields + BODY), 400, "head_malformed")


@pytest.mark.each_host
def test_the_preface_of_http_2(gateway: Gateway) -> None:
    with Connection(gateway) as connection:
        connection.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
        check(connection.reply(), 400, "head_malformed")
        connection.finish()
        assert b"HTTP/1.1 2" not in connection.rest()


@pytest.mark.each_host
@pytest.mark.parametrize("ends", [True, False], ids=["complete", "endless"])
@pytest.mark.parametrize("part", ["line", "field", "fields"])
def test_a_head_that_is_too_large(gateway: Gateway, part: str, ends: bool) -> None:
    size = HEADER_KB * 1024
    data = {
        "line": f"GET /{'x' * size} HTTP/1.1\r\nHost: a",
        "field": f"GET /openai/v1/models HTTP/1.1\r\nHost: a\r\nx-long: {'x' * size}",
        "fields": "GET /openai/v1/models HTTP/1.1\r\nHost: a" + "\r\nx: y" * (size // 6 + 1),
    }[part].encode() + (b"\r\n\r\n" if ends else b"")
    with Connection(gateway) as connection:
        connection.send(data)
        check(connection.reply(), 431, "head_too_large", says=f"{size:,}")
        assert connection.rest() == b""


def test_a_head_just_within_the_limit(gateway: Gateway) -> None:
    start = head("GET /openai/v1/models HTTP/1.1", f"api-key: {CLIENT_KEY}", "x-long: ")[:-4]
    data = start + b"x" * (HEADER_KB * 1024 - len(start) - 4) + b"\r\n\r\n"
    assert len(data) == HEADER_KB * 1024
    assert exchange(gateway, data).status == 200


def test_a_small_head_with_a_large_body_in_one_packet(pair: Pair) -> None:
    gateway, _ = pair
    assert exchange(gateway, post(CHAT, BODY + b" " * 60_000, key=CLIENT_KEY)).status == 200


@pytest.mark.each_host
@pytest.mark.parametrize("half", [0.5, 0.9])
def test_half_a_head_leaves_no_key_in_the_log(gateway: Gateway, half: float) -> None:
    key = f"half-sent-{int(half * 10)}-c0ffee"
    data = head(f"POST {CHAT}?api-key={key} HTTP/1.1", f"api-key: {key}", f"Authorization: Bearer {key}")
    with Connection(gateway) as connection:
        connection.send(data[: int(len(data) * half)])
        connection.finish()
        connection.rest()
    if gateway.host == "mitmdump":  # the lean host does not log it at all
        gateway.wait_until(lambda: "incomplete or malformed request head" in gateway.log, "told of it")
    assert key not in gateway.log
    assert "c0ffee" not in gateway.log


# --- where two readers could disagree ----------------------------------------------------------------

SMUGGLED = post(CHAT, BODY, key=CLIENT_KEY)


@pytest.mark.each_host
@pytest.mark.parametrize(
    "fields",
    [
        ["Content-Length: {n}", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: chunked", "Content-Length: {n}"],
        ["Content-Length: {n}", "Content-Length: 3"],
        ["Content-Length: {n}, 3"],
        ["Content-Length: +{n}"],
        ["Content-Length: -{n}"],
        ["Content-Length: 0x5"],
        ["Content-Length: {n} 3"],
        ["Content-Length: five"],
        ["Transfer-Encoding: xchunked"],
        ["Transfer-Encoding: chunked, identity"],
        ["Transfer-Encoding: identity, chunked"],
        ["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: chunked", "Transfer-Encoding: identity"],
        ["Transfer-Encoding : chunked"],
        ["X: y\r\n Transfer-Encoding: chunked", "Content-Length: 3"],
        ["X: y\nTransfer-Encoding: chunked", "Content-Length: {n}"],
        ["X: y\rTransfer-Encoding: chunked", "Content-Length: {n}"],
    ],
)
def test_a_length_that_can_be_read_in_two_ways(gateway: Gateway, fields: list[str]) -> None:
    chunked = b"0\r\n\r\n" + SMUGGLED
    told = [field.format(n=len(chunked)) for field in fields]
    data = head(f"POST {CHAT} HTTP/1.1", f"api-key: {CLIENT_KEY}", "Content-Type: application/json", *told)
    with Connection(gateway) as connection:
        connection.send(data + chunked)
        reply = connection.reply()
        assert reply.status == 400, reply
        assert reply.error["code"] == "head_malformed"
        # Nothing of what follows is taken for a request.
        connection.finish()
        assert b"HTTP/1.1 200" not in connection.rest()


def test_the_same_length_twice_is_not_forwarded_twice(pair: Pair) -> None:
    gateway, simulator = pair
    simulator.reset()
    length = f"Content-Length: {len(BODY)}"
    data = head(f"POST {CHAT} HTTP/1.1", f"api-key: {CLIENT_KEY}", length, length) + BODY
    assert exchange(gateway, data).status in (200, 400)
    for seen in simulator.requests():
        assert seen["headers"]["content-length"].isdigit()


@pytest.mark.parametrize(
    "chunk", [b"zz\r\n", b"-5\r\nhello\r\n", b"5\r\nhelloworld\r\n", b"\r\n", b"0x5\r\nhello\r\n"]
)
def test_a_broken_chunk(gateway: Gateway, chunk: bytes) -> None:
    data = head(f"POST {CHAT} HTTP/1.1", f"api-key: {CLIENT_KEY}", "Transfer-Encoding: chunked")
    with Connection(gateway) as connection:
        connection.send(data + chunk + b"0\r\n\r\n" + SMUGGLED)
        connection.finish()
        assert b"HTTP/1.1 200" not in connection.rest()


@pytest.mark.each_host
def test_chunks_and_trailers(pair: Pair) -> None:
    """A body in chunks is fine; what comes after it reaches no backend."""
    gateway, simulator = pair
    simulator.reset()
    chunks = b"".join(b"%x;ext=1\r\n%s\r\n" % (len(part), part) for part in (BODY[:10], BODY[10:]))
    trailers = b"0\r\nx-late: 1\r\napi-key: trailing-c0ffee\r\nhost: elsewhere.example\r\n\r\n"
    fields = (f"api-key: {CLIENT_KEY}", "Transfer-Encoding: chunked", "Trailer: x-late, api-key")
    with Connection(gateway) as connection:
        connection.send(head(f"POST {CHAT} HTTP/1.1", *fields) + chunks + trailers)
        reply = connection.reply()
        assert reply.status == 200, reply
    (seen,) = simulator.requests()
    assert "trailing-c0ffee" not in json.dumps(seen)
    assert "x-late" not in seen["headers"]
    assert "transfer-encoding" not in seen["headers"]
    assert seen["headers"]["content-length"] == str(seen["body_bytes"])
    assert "trailing-c0ffee" not in gateway.log


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_old_clients_are_served(pair: Pair, version: str) -> None:
    gateway, _ = pair
    data = post(CHAT, BODY, "Connection: close", key=CLIENT_KEY).replace(
        b"HTTP/1.1", f"HTTP/{version}".encode()
    )
    with Connection(gateway) as connection:
        connection.send(data)
        assert connection.reply().status == 200
        assert connection.rest() == b""


def test_pipelined_requests_are_answered_in_order(pair: Pair) -> None:
    gateway, simulator = pair
    simulator.reset()
    unknown = json.dumps({**QUESTION, "model": "gpt-9"}).encode()
    good, bad = post(CHAT, BODY, key=CLIENT_KEY), post(CHAT, unknown, key=CLIENT_KEY)
    with Connection(gateway) as connection:
        connection.send(good + bad + good + bad)
        assert [connection.reply().status for _ in range(4)] == [200, 404, 200, 404]
    assert len(simulator.requests()) == 2


@pytest.mark.each_host
def test_an_expectation_is_met_only_for_whom_we_know(pair: Pair) -> None:
    gateway, _ = pair
    expecting = ("Expect: 100-continue", f"Content-Length: {len(BODY)}")
    with Connection(gateway) as connection:
        connection.send(head(f"POST {CHAT} HTTP/1.1", f"api-key: {CLIENT_KEY}", *expecting))
        assert connection.reply().status == 100
        connection.send(BODY)
        assert connection.reply().status == 200
    with Connection(gateway) as connection:
        connection.send(head(f"POST {CHAT} HTTP/1.1", *expecting))
        check(connection.reply(), 401, "401")


def test_a_head_request_gets_no_body(gateway: Gateway) -> None:
    with Connection(gateway) as connection:
        connection.send(head("HEAD /nowhere HTTP/1.1", f"api-key: {CLIENT_KEY}"))
        assert connection.reply(head_only=True).status == 404
        connection.send(head("GET /openai/v1/models HTTP/1.1", f"api-key: {CLIENT_KEY}"))
        assert connection.reply().status == 200


# --- not now -----------------------------------------------------------------------------------------


def test_all_backends_out(pair: Pair) -> None:
    gateway, simulator = pair
    simulator.reset()
    mini = json.dumps({**QUESTION, "model": "gpt-4o-mini"}).encode()
    simulator.fault("429", deployment="gpt-4o-mini", retry_after_seconds=4, times=-1)
    began = time.monotonic()
    first = exchange(gateway, post(CHAT, mini, key=CLIENT_KEY))
    again = exchange(gateway, post(CHAT, mini, key=CLIENT_KEY))
    for reply in (first, again):
        check(reply, 429, "all_backends_out", says="gpt-4o-mini@sweden")
        assert 0 < int(reply.headers["retry-after-ms"]) <= 4000
        assert reply.headers["retry-after"] in ("1", "2", "3", "4")
        assert not re.search(r"127\.0\.0\.1|https?://", reply.error["message"])
        assert simulator.keys["sweden"].encode() not in reply.body
    # The second was answered without asking anybody, and its hint is what was left of the break.
    assert len(simulator.requests()) == 1
    elapsed = 1000 * (time.monotonic() - began)
    assert int(again.headers["retry-after-ms"]) >= int(first.headers["retry-after-ms"]) - elapsed - 1
    simulator.reset()
    time.sleep(int(again.headers["retry-after-ms"]) / 1000)
    assert exchange(gateway, post(CHAT, mini, key=CLIENT_KEY)).status == 200


# --- health ------------------------------------------------------------------------------------------


def test_powerproxys_own_probe_gets_its_204(gateway: Gateway) -> None:
    path = "/powerproxy/health/liveness"
    reply = exchange(gateway, head(f"GET {path} HTTP/1.1"))
    assert (reply.status, reply.body) == (204, b"")
    assert exchange(gateway, head(f"POST {path} HTTP/1.1", "Content-Length: 0")).status == 405


@pytest.mark.each_host
@pytest.mark.parametrize(
    "path", ["/", "/anthropic", "/anthropic/", "/anthropic/api/hello", "/api/hello", "/openai/v1/?a=b"]
)
def test_a_program_may_ask_whether_its_base_address_is_reachable(gateway: Gateway, path: str) -> None:
    before = len(gateway.log)
    with Connection(gateway) as connection:
        for _ in range(2):
            connection.send(head(f"HEAD {path} HTTP/1.1"))
            reply = connection.reply(head_only=True)
            assert (reply.status, reply.headers["content-length"]) == (200, "0")
    assert "Refused" not in gateway.log[before:]
    get = head(f"GET {path} HTTP/1.1")
    assert exchange(gateway, get).status == 401, "only a HEAD is such a question"


@pytest.mark.parametrize(
    "path", ["/openai/v1/models", "/anthropic/v1/messages", "//", "/anthropic/../", "/api/hello/"]
)
def test_any_other_head_needs_a_key(gateway: Gateway, path: str) -> None:
    with Connection(gateway) as connection:
        connection.send(head(f"HEAD {path} HTTP/1.1"))
        assert connection.reply(head_only=True).status == 401


def test_a_head_of_another_server_is_not_answered_in_its_place(gateway: Gateway) -> None:
    with Connection(gateway) as connection:
        connection.send(head("HEAD http://example.com/ HTTP/1.1"))
        assert connection.reply(head_only=True).status == 400


@pytest.mark.each_host
@pytest.mark.parametrize(
    "path",
    ["/health/live", "/healthz", "/health/ready", "/readyz", "/health/liveliness", "/health/readiness"],
)
def test_health_needs_no_key(gateway: Gateway, path: str) -> None:
    reply = exchange(gateway, head(f"GET {path} HTTP/1.1"))
    assert reply.status == 200
    assert reply.headers["cache-control"] == "no-store"
    document = json.loads(reply.body)
    if "status" in document and document["status"] == "ready":
        assert document["calls"] == 0
        names = [backend["name"] for backend in document["backends"]]
        assert names[:2] == ["gpt-4o-ptu@sweden", "gpt-4o-paygo@sweden"]
        assert not re.search(r"127\.0\.0\.1|https?://", reply.body.decode())
    else:
        assert document == {"status": "alive"}
    assert exchange(gateway, head(f"POST {path} HTTP/1.1", "Content-Length: 0")).status == 405
    with Connection(gateway) as connection:
        connection.send(head(f"HEAD {path}?probe=1 HTTP/1.1"))
        assert connection.reply(head_only=True).status == 200
        # The connection is still good.
        connection.send(head(f"GET {path} HTTP/1.1"))
        assert connection.reply().status == 200
