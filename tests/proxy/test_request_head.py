"""Who may come in, by the head of a request alone."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest
from mitmproxy import http
from mitmproxy.test import tflow, tutils

from aoai_gateway.config.models import Client, Config
from aoai_gateway.identity.identify import Identified
from aoai_gateway.proxy.heads import HeaderIndex
from aoai_gateway.proxy.request_head import (
    AcceptedRequest,
    accept_replayed,
    accept_request,
    body_limit,
    check_request,
    credential_in,
    is_spooled,
    place,
    strip_known,
    strip_secrets,
)
from aoai_gateway.runtime.gateway import Gateway
from aoai_gateway.wire.gateway_error import GatewayError
from aoai_gateway.wire.masking import KnownSecrets
from tests.engine_driver import config

KEY = {"api-key": "key-of-anybody"}
TOKEN = "eyJhbGciOiJub25lIn0.eyJzdWIiOiIxIn0.c2ln"
PATH = "/openai/v1/chat/completions"
SECRET = "Kq7/w+Zr93=xPLk2"
SECRETS = (KnownSecrets([SECRET]), KnownSecrets(["token-of-this-call"]))
ENTRA = Client(name="entra", uses_entra_id_auth=True)


def gateway(*clients: Client, **parts: Any) -> Gateway:
    made = Gateway()
    configuration: Config = config("a", **parts)
    made.adopt(configuration.but(clients=(*configuration.clients, *clients)))
    return made


def request(
    fields: dict[str, str] | None = None, *, path: str = PATH, method: bytes = b"POST", **but: Any
) -> http.Request:
    headers = http.Headers([(n.encode(), v.encode()) for n, v in ({"host": "gw"} | (fields or {})).items()])
    given = {"headers": headers, "path": path.encode(), "method": method, "host": "", "port": 0}
    return tutils.treq(**given, scheme=but.pop("scheme", b""), authority=but.pop("authority", b""), **but)


def let_in(asked: http.Request, at: Gateway | None = None, *, tls: bool = False) -> AcceptedRequest:
    connection = tflow.tclient_conn()
    connection.tls = tls
    at = at or gateway(ENTRA)
    setup = at.in_force()
    identified = at.identify(setup.config, credential_in(setup, asked, connection))
    assert isinstance(identified, Identified)
    accepted = accept_request(at, setup, asked, identified)
    target, head = check_request(at, accepted.setup, asked), HeaderIndex(asked.headers.fields)
    body_limit(accepted.setup, head, spooled=is_spooled(at, head, target))
    return accepted


def refused(asked: http.Request, at: Gateway | None = None) -> tuple[int, str]:
    with pytest.raises(GatewayError) as caught:
        let_in(asked, at)
    return caught.value.status, caught.value.code


# --- who ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        (KEY, PATH),
        ({"authorization": "Bearer key-of-anybody"}, PATH),
        ({"Authorization": "bearer  key-of-anybody"}, PATH),
        ({}, PATH + "?api-key=key-of-anybody"),
    ],
)
def test_a_key_identifies_its_client_and_is_taken_out(fields: dict[str, str], path: str) -> None:
    asked = request(fields, path=path)
    accepted = let_in(asked)
    assert (accepted.client.name, accepted.token) == ("anybody", None)
    assert "key-of" not in f"{asked.get_state()}"


def test_a_token_identifies_the_entra_client_and_is_passed_on() -> None:
    asked = request({"authorization": f"Bearer {TOKEN}"})
    accepted = let_in(asked)
    assert (accepted.client.name, accepted.token) == ("entra", TOKEN)
    assert TOKEN not in f"{asked.get_state()}"
    assert TOKEN not in repr(accepted)


@pytest.mark.parametrize(
    "fields",
    [{}, {"api-key": ""}, {"api-key": "key-of-nobody"}, {"authorization": "Basic a2V5"}, {"api-key": "\xff"}],
)
def test_strangers_are_a_401(fields: dict[str, str]) -> None:
    status, _ = refused(request(fields))
    assert status == 401


def test_a_token_without_an_entra_client_is_a_401() -> None:
    assert refused(request({"authorization": f"Bearer {TOKEN}"}), gateway())[0] == 401


def test_a_client_that_is_switched_off_is_a_stranger() -> None:
    off = Client(name="off", key="key-of-off", enabled=False)
    assert refused(request({"api-key": "key-of-off"}), gateway(off))[0] == 401


# --- what --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("but", "status"),
    [
        ({"scheme": b"http", "authority": b"evil.example"}, 400),
        ({"method": b"CONNECT", "authority": b"evil.example:443"}, 400),
        ({"path": "/"}, 404),
        ({"path": "/v1/chat/completions"}, 404),
        ({"path": "/openai/v1/realtime"}, 405),
        ({"path": "/openai/deployments"}, 501),
        ({"method": b"PATCH"}, 405),
    ],
)
def test_odd_requests_are_refused(but: dict[str, Any], status: int) -> None:
    assert refused(request(KEY, **but))[0] == status


@pytest.mark.parametrize(
    "fields",
    [
        {"host": ""},
        {"host": "a b"},
        {"host": "a/b"},
        {"host": "x" * 300},
        {"upgrade": "websocket"},
        {"upgrade": "h2c, WebSocket/13"},
        {"content-encoding": "compress"},
    ],
)
def test_odd_fields_are_refused(fields: dict[str, str]) -> None:
    assert refused(request(KEY | fields))[0] == 400


@pytest.mark.parametrize("name", [b"Content-Encoding", b"Content-Type"])
def test_what_the_body_is_is_said_once(name: bytes) -> None:
    asked = request(KEY)
    asked.headers.fields += ((name, b"identity"), (name.lower(), b"identity"))
    assert refused(asked) == (400, "head_malformed")


@pytest.mark.parametrize("offer", ["h2c", "TLS/1.0, h2c", "HTTP/3.0"])
def test_an_offered_protocol_is_ignored(offer: str) -> None:
    asked = request(
        KEY | {"connection": "Upgrade, HTTP2-Settings", "upgrade": offer, "http2-settings": "AAM"}
    )
    assert let_in(asked)
    assert "upgrade" not in asked.headers
    assert "http2-settings" not in asked.headers


def test_http_1_0_needs_no_host() -> None:
    asked = request(KEY, http_version=b"HTTP/1.0")
    del asked.headers["host"]
    assert let_in(asked)
    asked.headers["host"] = "a/b"
    asked.headers["api-key"] = "key-of-anybody"
    assert refused(asked)[0] == 400


def test_the_host_is_said_once() -> None:
    asked = request(KEY)
    asked.headers.fields += ((b"Host", b"other"),)
    assert refused(asked)[0] == 400
    asked.headers.fields = ((b"api-key", b"key-of-anybody"),)
    assert refused(asked)[0] == 400


@pytest.mark.parametrize("host", ["gw", "gw:8080", "[::1]:8080", "10.0.0.1", "Gw_1.example"])
def test_any_valid_host_will_do(host: str) -> None:
    assert let_in(request(KEY | {"host": host}))


@pytest.mark.parametrize(("length", "fits"), [(1024 * 1024, True), (1024 * 1024 + 1, False)])
def test_a_body_above_the_limit_is_refused_by_its_announcement(length: int, fits: bool) -> None:
    at = gateway(limits={"body_mb": 1})
    asked = request(KEY | {"content-length": str(length)})
    if fits:
        let_in(asked, at)
    else:
        assert refused(asked, at)[0] == 413


def test_strangers_learn_nothing_but_that() -> None:
    assert refused(request({}, path="/openai/v1/files"))[0] == 401


# --- when --------------------------------------------------------------------------------------------


def test_without_a_configuration_no_request_comes_in() -> None:
    assert refused(request(KEY), Gateway()) == (503, "unavailable")


def test_while_draining_no_request_comes_in() -> None:
    at = gateway()
    at.draining = True
    assert refused(request(KEY), at) == (503, "unavailable")


def test_with_a_certificate_plain_http_is_refused(tmp_path) -> None:  # type: ignore[no-untyped-def]
    pem = tmp_path / "gw.pem"
    pem.write_text("")
    at = gateway(listen={"certificate": pem})
    assert refused(request(KEY), at) == (400, "invalid_target")
    assert let_in(request(KEY), at, tls=True)


# --- replays -----------------------------------------------------------------------------------------


def test_a_replayed_flow_comes_in_as_its_client() -> None:
    accepted = accept_replayed(gateway(ENTRA), request(), {"gateway_client": "anybody"})
    assert (accepted.client.name, accepted.token, accepted.only_backend) == ("anybody", None, None)


def test_a_replay_by_hand_goes_to_one_backend() -> None:
    metadata = {"gateway_client": "anybody", "gateway_only_backend": "ptu@a"}
    assert accept_replayed(gateway(ENTRA), request(), metadata).only_backend == "ptu@a"


@pytest.mark.parametrize("name", ["", "nobody", "entra"])
def test_a_replayed_flow_without_a_client_does_not(name: str) -> None:
    with pytest.raises(GatewayError) as caught:
        accept_replayed(gateway(ENTRA), request(), {"gateway_client": name})
    assert caught.value.status == 401


def test_a_request_is_shown_where_it_came_in() -> None:
    asked, connection = request(KEY), tflow.tclient_conn()
    connection.sockname = ("10.0.0.9", 8080)
    place(asked, connection)
    assert asked.url.startswith("http://10.0.0.9:8080/openai/")
    assert asked.headers["host"] == "gw"


def test_secrets_are_taken_out_of_a_clients_request() -> None:
    secret = http.Headers(
        ((b"API-Key", b"k"), (b"x", b"1"), (b"authorization", b"Bearer t"), (b"Cookie", b"c"))
    )
    request = tutils.treq(headers=secret)
    strip_secrets(request)
    assert request.headers.fields == ((b"x", b"1"),)


@pytest.mark.parametrize(
    ("target", "left"),
    [
        (f"{PATH}?api_key={quote(SECRET, safe='')}", PATH),
        (f"{PATH}?a=1&token={SECRET.replace('+', '%2B')}&b=2", f"{PATH}?a=1&b=2"),
        (f"{PATH}?a=x{SECRET}y", PATH),
        (f"{PATH}?{SECRET}", PATH),
        (f"{PATH}?a=%4Bq7/w%2BZr93%3dxPLk2", PATH),
        (f"{PATH};k={SECRET}", f"{PATH};k={'*' * 16}"),
        (f"{PATH}?a=1", f"{PATH}?a=1"),
        (f"{PATH}?", f"{PATH}?"),
        ("/%4Bq7/w%2BZr93%3dxPLk2", "/" + "*" * 22),
    ],
)
def test_a_target_is_stripped(target: str, left: str) -> None:
    request = tutils.treq(path=target.encode())
    strip_known(request, SECRETS)
    assert request.path == left


def test_fields_of_any_name_are_stripped() -> None:
    fields = [(b"x-any", f"it is {SECRET}".encode()), (SECRET.encode(), b"1"), (b"x-fine", b"fine")]
    request = tutils.treq(headers=http.Headers(fields))
    strip_known(request, SECRETS)
    assert request.headers.fields == ((b"x-fine", b"fine"),)
