"""Secrets: what is one, how it is shown, and which one lets a client in."""

import pytest

from aoai_gateway.wire.secrets import (
    Credential,
    client_credential,
    redact_target,
    strip_secret_query,
)

JWT = "eyJhbGciOiJSUzI1NiJ9.eyJhcHBpZCI6IngifQ.c2ln-_"


@pytest.mark.parametrize(
    ("headers", "query", "credential"),
    [
        ({}, "", None),
        ({"api-key": "k1"}, "", Credential("key", "k1")),
        ({"api-key": " k1 "}, "", Credential("key", "k1")),
        ({"authorization": "Bearer k2"}, "", Credential("key", "k2")),
        ({"authorization": "bEARER   k2"}, "", Credential("key", "k2")),
        ({"authorization": f"Bearer {JWT}"}, "", Credential("jwt", JWT)),
        ({"authorization": "Bearer eyJ.x"}, "", Credential("key", "eyJ.x")),
        ({"authorization": "Bearer a.b.c"}, "", Credential("key", "a.b.c")),
        ({"api-key": "k1", "authorization": f"Bearer {JWT}"}, "api-key=k3", Credential("key", "k1")),
        ({"api-key": "", "authorization": "Bearer k2"}, "", Credential("key", "k2")),
        ({"authorization": "Basic dTpw"}, "", None),
        ({"authorization": "Bearer"}, "", None),
        ({"authorization": "Bearer two words"}, "", None),
        ({}, "a=b&api-key=k%2B3", Credential("key", "k+3")),
        ({}, "api-key=", None),
        ({}, "api-key=k&" * 100, None),
        ({}, "x-api-key=k", None),
    ],
)
def test_the_clients_credential(headers: dict[str, str], query: str, credential: Credential | None) -> None:
    assert client_credential(headers, query) == credential


def test_a_credentials_repr_hides_it() -> None:
    assert "hunter2" not in repr(Credential("key", "hunter2"))


@pytest.mark.parametrize(
    ("target", "shown"),
    [
        ("/openai/v1/models", "/openai/v1/models"),
        ("/x?api-version=1&api-key=hunter2&b=c", "/x?api-version=1&api-key=***&b=c"),
        ("/x?API-KEY=hunter2", "/x?API-KEY=***"),
        ("/x?api%2Dkey=hunter2&&", "/x?api%2Dkey=***&&"),
        ("/x?sig=hunter2&token=hunter2&key=hunter2", "/x?sig=***&token=***&key=***"),
        ("/x?subscription-key=hunter2&access_token=hunter2", "/x?subscription-key=***&access_token=***"),
        ("/x?api-key=hunter2?&x", "/x?api-key=***&x"),
        ("/x?key", "/x?key"),
        ("/x?", "/x?"),
    ],
)
def test_targets_are_shown_without_secrets(target: str, shown: str) -> None:
    assert redact_target(target) == shown


@pytest.mark.parametrize(
    ("target", "sent"),
    [
        ("/x?a=1&api-key=k&b=%20", "/x?a=1&b=%20"),
        ("/x?api-key=k", "/x"),
        ("/x?Api%2DKey=k&a", "/x?a"),
        ("/x?monkey=1&&", "/x?monkey=1&&"),
        ("/x?a=1", "/x?a=1"),
        ("/x", "/x"),
    ],
)
def test_the_clients_key_is_not_sent_on(target: str, sent: str) -> None:
    assert strip_secret_query(target) == sent


def test_a_key_in_the_query_is_known_in_any_spelling() -> None:
    assert strip_secret_query("/a?api-%6bey=S&x=1") == "/a?x=1"
    assert strip_secret_query("/a?%61pi%2Dkey=S") == "/a"
    assert strip_secret_query("/a?x=%20") == "/a?x=%20"
