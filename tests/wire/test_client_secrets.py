"""Secrets that are made for one session."""

from __future__ import annotations

import json

import pytest

from aoai_gateway.wire.bodies import parse_body
from aoai_gateway.wire.gateway_error import GatewayError
from aoai_gateway.wire.secrets import (
    Grant,
    client_credential,
    digest_of,
    looks_minted,
    minted_in,
    redact_target,
    without_secret_protocols,
)
from aoai_gateway.wire.targets import parse_target

SECRET = "ek_0123456789abcdef"


def test_where_a_secret_stands() -> None:
    assert minted_in(json.dumps({"value": SECRET}).encode()) == SECRET
    assert minted_in(json.dumps({"client_secret": {"value": SECRET}}).encode()) == SECRET


@pytest.mark.parametrize(
    "answer",
    [b"", b"[]", b"{}", b'{"value": 7}', b'{"value": "short"}', b'{"value": "' + b"x" * 2_000 + b'"}'],
)
def test_answers_without_one(answer: bytes) -> None:
    assert minted_in(answer) is None


def test_a_digest_says_nothing_of_the_secret() -> None:
    assert digest_of(SECRET) == digest_of(SECRET)
    assert digest_of(SECRET) != digest_of(SECRET + "0")
    assert "0123456789abcdef" not in digest_of(SECRET)
    assert looks_minted(SECRET)
    assert not looks_minted("sk-" + SECRET)
    assert not looks_minted("ek_" + "x" * 5_000)


def test_a_grant_is_read_as_it_was_written() -> None:
    grant = Grant("sweden", 'a "client"', "gpt")
    assert Grant.read(grant.written()) == grant
    for odd in ("", "sweden", "[]", '["a", "b"]', "7"):
        assert Grant.read(odd) is None


@pytest.mark.parametrize(
    ("offered", "kept", "key"),
    [
        ("realtime", "realtime", None),
        ("realtime, openai-insecure-api-key.abc", "realtime", "abc"),
        ("OpenAI-Insecure-API-Key.abc,x", "x", "abc"),
        ("authorization, abc, realtime", "realtime", "abc"),
        ("authorization.abc", "", "abc"),
        ("bearer.abc, api-key.def", "", "abc"),
        (",, ,", "", None),
        ("authorization", "", None),
    ],
)
def test_keys_among_subprotocols(offered: str, kept: str, key: str | None) -> None:
    assert without_secret_protocols(offered) == kept
    found = client_credential({"sec-websocket-protocol": offered})
    assert (found.value if found is not None else None) == key


def test_tokens_in_the_query() -> None:
    token = "eyJhbGciOiJIUzI1NiJ9.eyJhIjoxfQ.c2ln"
    found = client_credential({}, f"model=x&authorization=Bearer+{token}")
    assert found is not None
    assert (found.kind, found.value) == ("jwt", token)
    assert redact_target(f"/x?authorization=Bearer+{token}&a=b") == "/x?authorization=***&a=b"


FORM = "multipart/form-data; boundary=b"


def form(session: str) -> bytes:
    return (
        '--b\r\nContent-Disposition: form-data; name="sdp"\r\n\r\nv=0\r\n--b\r\n'
        f'Content-Disposition: form-data; name="session"\r\n\r\n{session}\r\n--b--\r\n'
    ).encode()


@pytest.mark.parametrize(
    "session",
    [
        '{"type": "realtime", "model": "gpt", "instructions": "ä"}',
        '{"instructions": "ä", "model" :"gpt"}',
        '{"type": "transcription", "audio": {"input": {"transcription": {"model": "gpt"}}}}',
    ],
)
def test_the_deployment_of_a_call(session: str) -> None:
    target = parse_target("POST", "/openai/v1/realtime/calls")
    body = parse_body(target, FORM, form(session))
    assert body.deployment(target) == "gpt"
    assert body.edited(model="real-1") == form(session.replace("gpt", "real-1"))


@pytest.mark.parametrize(
    "session", ["", "[]", '{"model": "a", "model": "b"}', '{"a": "' + "x" * 140_000 + '"}']
)
def test_a_session_of_a_call_that_is_none(session: str) -> None:
    with pytest.raises(GatewayError) as refused:
        parse_body(parse_target("POST", "/openai/v1/realtime/calls"), FORM, form(session))
    assert refused.value.status == 400


def test_a_call_without_a_session() -> None:
    target = parse_target("POST", "/openai/v1/realtime/calls")
    assert parse_body(target, "application/sdp", b"v=0").deployment(target) == ""
    assert parse_body(target, FORM, form("{}")).deployment(target) == ""
