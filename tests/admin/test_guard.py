"""Who may look, and who may switch."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from aoai_gateway.admin.guard import holder_of, may_change, may_see
from aoai_gateway.config.sections import Holder

TOKEN = SecretStr("a-token-of-some-length")
HERE = {"host": "127.0.0.1:8090"}
JSON = {"content-type": "application/json"}


def status(refusal: object) -> int | None:
    return getattr(refusal, "status", None)


@pytest.mark.parametrize("host", ["127.0.0.1:8090", "localhost", "LOCALHOST:1", "[::1]:8090", "127.9.9.9"])
def test_without_a_token_this_machine_may_see(host: str) -> None:
    assert may_see({"host": host}, ()) is None


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1,evil.example",
        "localhost.",
        "127.1",
        "0x7f.0.0.1",
        "127.0.0.1.nip.io",
        "localhost:x",
        "localhost:123456",
        "evil@localhost",
        " localhost",
        "",
        "evil.example",
        "evil.example:8090",
        "127.0.0.1.evil.example",
        "10.0.0.1",
        "user@127.0.0.1",
        "[::1",
        "a b",
    ],
)
def test_without_a_token_no_other_name_is_served(host: str) -> None:
    assert status(may_see({"host": host}, ())) == 403
    assert status(may_change({"host": host} | JSON, ())) == 403


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (f"Bearer {TOKEN.get_secret_value()}", None),
        (f"bearer  {TOKEN.get_secret_value()}", None),
        (TOKEN.get_secret_value(), 401),
        (f"Basic {TOKEN.get_secret_value()}", 401),
        ("Bearer a-token-of-some-lengthX", 401),
        ("Bearer é", 401),
        ("", 401),
    ],
)
def test_a_token_must_be_shown_for_each_host(shown: str, expected: int | None) -> None:
    for host in ("127.0.0.1:8090", "gateway.internal"):
        assert status(may_see({"host": host, "authorization": shown}, [(Holder(), TOKEN)])) == expected


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (JSON, None),
        ({"content-type": "application/json; charset=utf-8"}, None),
        ({}, 415),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        (JSON | {"origin": "http://127.0.0.1:8090"}, None),
        (JSON | {"origin": "http://127.0.0.1:8091"}, 403),
        (JSON | {"origin": "https://evil.example"}, 403),
        (JSON | {"origin": "null"}, 403),
        (JSON | {"sec-fetch-site": "same-origin"}, None),
        (JSON | {"sec-fetch-site": "cross-site"}, 403),
        (JSON | {"sec-fetch-site": "same-site"}, 403),
    ],
)
def test_pages_of_others_change_nothing(headers: dict[str, str], expected: int | None) -> None:
    assert status(may_change(HERE | headers, ())) == expected


def test_what_may_not_see_may_not_change() -> None:
    assert status(may_change(HERE | JSON, [(Holder(), TOKEN)])) == 401


def test_a_token_for_reading_changes_nothing() -> None:
    tokens = [(Holder(), TOKEN), (Holder("Ann", read_only=True), SecretStr("the-token-of-ann-1234"))]
    ann = HERE | JSON | {"authorization": "Bearer the-token-of-ann-1234"}
    assert may_see(ann, tokens) is None
    assert status(may_change(ann, tokens)) == 403
    assert may_change(HERE | JSON | {"authorization": f"Bearer {TOKEN.get_secret_value()}"}, tokens) is None
    assert holder_of(ann, tokens) == Holder("Ann", read_only=True)
    assert holder_of(HERE, tokens) is None
