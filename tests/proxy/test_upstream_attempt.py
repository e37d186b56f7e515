"""The request that goes over the wire: the client's, but for what must differ."""

from __future__ import annotations

import json
from typing import Any

import pytest
from mitmproxy import http
from mitmproxy.net.http.http1 import assemble_request_head
from mitmproxy.test import tutils

from aoai_gateway.config.models import Aoai, Client, Config, Endpoint, Standin, VirtualDeployment
from aoai_gateway.engine.call import Call, Setup
from aoai_gateway.proxy.upstream_attempt import build_request, without_secrets
from aoai_gateway.routing.backends import RoutingTable
from aoai_gateway.wire.bodies import parse_body
from aoai_gateway.wire.targets import parse_target

CLASSIC = "/openai/deployments/gpt/chat/completions?api-version=2024-10-21"
V1 = "/openai/v1/chat/completions"
BODY = b'{ "model" : "gpt",\n "messages":[{"role":"user","content":"\xc3\xbc \\u00fc"}] }'


def built(
    *fields: tuple[bytes, bytes],
    path: str = V1,
    body: bytes = BODY,
    url: str = "https://res.example/",
    standin: str | None = "gpt-4o-ptu",
    credential: tuple[bytes, bytes] = (b"api-key", b"key-of-res"),
    pattern: str | None = None,
) -> tuple[http.Request, bytes]:
    pools = (VirtualDeployment(name="gpt", standins=(Standin(name=standin),)),) if standin else ()
    endpoint = Endpoint(name="res", url=url, key="key-of-res", virtual_deployments=pools)
    aoai: dict[str, Any] = {"endpoints": (endpoint,)}
    if pattern is not None:
        aoai["forward_http_header_only_if_name_matches"] = pattern
    config = Config(aoai=Aoai(**aoai))
    table = RoutingTable(config)
    target = parse_target("POST", path)
    call = Call("id", Client(name="c", key="key-of-c"), target, Setup(config, table), 0.0, 0.0, {})
    call.body = parse_body(target, "application/json", body)
    call.deployment = call.body.deployment(target)
    shown = tutils.treq(method=b"POST", path=path.encode(), headers=http.Headers(fields), content=body)
    (backend,) = table.backends
    return build_request(call, backend, shown, credential)


def test_the_clients_fields_go_on_byte_for_byte_and_in_order() -> None:
    fields = (
        (b"User-Agent", b"OpenAI/Python 3"),
        (b"X-Odd-CASE", b"  \xff\xfe "),
        (b"x-repeated", b"1"),
        (b"X-Repeated", b"2"),
        (b"content-type", b"application/json"),
    )
    request, content = built(*fields)
    assert request.headers.fields == (
        (b"host", b"res.example"),
        *fields,
        (b"content-length", str(len(content)).encode()),
        (b"api-key", b"key-of-res"),
    )
    assert (request.data.method, request.data.http_version) == (b"POST", b"HTTP/1.1")


def test_only_the_models_bytes_change_in_a_body() -> None:
    _, content = built()
    assert content == BODY.replace(b'"gpt"', b'"gpt-4o-ptu"')


def test_a_body_whose_deployment_is_in_the_path_does_not_change() -> None:
    request, content = built(path=CLASSIC)
    assert content == BODY
    assert request.data.path == b"/openai/deployments/gpt-4o-ptu/chat/completions?api-version=2024-10-21"


def test_an_open_endpoint_gets_what_the_client_sent() -> None:
    request, content = built(path=CLASSIC, standin=None)
    assert (request.data.path, content) == (CLASSIC.encode(), BODY)


@pytest.mark.parametrize(
    "name",
    [
        "Connection",
        "Keep-Alive",
        "Proxy-Connection",
        "TE",
        "Trailer",
        "Transfer-Encoding",
        "Upgrade",
        "Host",
        "Content-Length",
        "Expect",
        "HTTP2-Settings",
        "api-key",
        "Authorization",
        "Cookie",
        "Ocp-Apim-Subscription-Key",
        "Proxy-Authorization",
        "X-Gateway-Backend",
        "x-gateway-anything",
    ],
)
def test_these_fields_are_the_clients_alone(name: str) -> None:
    request, _ = built((name.encode(), b"of-the-client"), (b"x-other", b"1"))
    assert b"of-the-client" not in assemble_request_head(request)
    assert request.headers["x-other"] == "1"


def test_fields_that_connection_names_are_the_clients_alone() -> None:
    request, _ = built(
        (b"Connection", b"close, X-One"),
        (b"connection", b"x-TWO ,"),
        (b"x-one", b"1"),
        (b"X-Two", b"2"),
        (b"x-three", b"3"),
    )
    names = {name for name, _ in request.headers.fields}
    assert names == {b"host", b"x-three", b"content-length", b"api-key"}


def test_there_is_one_host_and_one_length_for_any_headers_of_the_client() -> None:
    request, content = built((b"content-length", b"3"), (b"Host", b"evil.example"), (b"host", b"x"))
    assert request.headers.get_all("host") == ["res.example"]
    assert request.headers.get_all("content-length") == [str(len(content))]


@pytest.mark.parametrize(
    ("pattern", "kept"),
    [
        (None, {b"user-agent", b"x-ms-client", b"content-type"}),
        ("(?i)x-ms-|content-type$", {b"x-ms-client", b"content-type"}),
        ("nothing", set()),
    ],
)
def test_only_fields_with_matching_names_are_forwarded(pattern: str | None, kept: set[bytes]) -> None:
    sent = ((b"user-agent", b"1"), (b"x-ms-client", b"2"), (b"content-type", b"application/json"))
    request, _ = built(*sent, pattern=pattern)
    names = {name for name, _ in request.headers.fields}
    assert names == kept | {b"host", b"content-length", b"api-key"}


def test_field_names_match_in_any_case() -> None:
    request, _ = built((b"X-MS-Client", b"2"), pattern="x-ms-")
    assert "x-ms-client" in request.headers


@pytest.mark.parametrize(
    ("url", "authority", "where"),
    [
        ("https://res.example/", "res.example", ("https", "res.example", 443)),
        ("https://res.example:443/", "res.example", ("https", "res.example", 443)),
        ("https://res.example:8443", "res.example:8443", ("https", "res.example", 8443)),
        ("http://res.example", "res.example", ("http", "res.example", 80)),
        ("http://res.example:443", "res.example:443", ("http", "res.example", 443)),
        ("https://[2001:db8::1]/", "[2001:db8::1]", ("https", "2001:db8::1", 443)),
        ("http://[::1]:8080/", "[::1]:8080", ("http", "::1", 8080)),
    ],
)
def test_where_it_goes(url: str, authority: str, where: tuple[str, str, int]) -> None:
    request, _ = built(url=url)
    assert request.headers["host"] == authority
    assert (request.scheme, request.host, request.port) == where
    assert assemble_request_head(request).startswith(b"POST /openai/v1/chat/completions HTTP/1.1\r\n")


def test_an_endpoints_path_prefix_is_kept() -> None:
    request, _ = built(path=CLASSIC, url="https://apim.example/team/aoai/")
    assert request.path.startswith("/team/aoai/openai/deployments/gpt-4o-ptu/chat/completions?")


def test_a_clients_token_goes_instead_of_our_key() -> None:
    own = (b"authorization", b"Bearer eyJ.a.b")
    request, _ = built((b"authorization", b"Bearer stale"), credential=own)
    assert request.headers.get_all("authorization") == ["Bearer eyJ.a.b"]
    assert "api-key" not in request.headers


def stream(**members: Any) -> bytes:
    return json.dumps({"model": "gpt", "messages": [], "stream": True, **members}).encode()


def test_a_stream_is_not_to_be_compressed() -> None:
    fields = ((b"Accept-Encoding", b"gzip"), (b"accept-encoding", b"br"))
    request, _ = built(*fields, body=stream())
    assert request.headers.get_all("accept-encoding") == ["identity"]
    request, _ = built(body=stream())
    assert request.headers.get_all("accept-encoding") == ["identity"]
    request, _ = built(*fields)
    assert request.headers.get_all("accept-encoding") == ["gzip", "br"]


@pytest.mark.parametrize(
    ("path", "members", "asks"),
    [
        (V1, {}, True),
        (V1, {"stream_options": {"include_usage": False}}, True),
        (V1, {"stream_options": {"include_usage": True}}, False),
        (V1, {"stream": False}, False),
        (CLASSIC, {}, True),
        (CLASSIC.replace("2024-10-21", "2024-06-01"), {}, False),
    ],
)
def test_a_streams_usage_is_asked_for_where_it_can_be(path: str, members: dict[str, Any], asks: bool) -> None:
    before = stream(**members)
    _, content = built(path=path, body=before, standin="gpt")
    asked = json.loads(content)
    if asks:
        assert asked.pop("stream_options") == {"include_usage": True}
        expected = json.loads(before)
        expected.pop("stream_options", None)
        assert asked == expected
    else:
        assert content == before


def test_adding_usage_needs_a_body() -> None:
    target = parse_target("POST", V1)
    config = Config(aoai=Aoai(endpoints=(Endpoint(name="a", url="https://a.example", key="key-of-a"),)))
    setup = Setup(config, RoutingTable(config))
    assert not Call("id", Client(name="c", key="key-of-c"), target, setup, 0.0, 0.0, {}).adds_usage()


def test_what_is_shown_of_it_holds_no_secret() -> None:
    request, content = built((b"x-other", b"1"))
    shown = without_secrets(request, content)
    assert "api-key" not in shown.headers
    assert shown.raw_content == content
    assert request.headers["api-key"] == "key-of-res", "the one that is sent keeps it"
    assert shown.get_state() != request.get_state()
