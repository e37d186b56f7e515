"""mitmproxy's messages check their fields as they always do, but for the exceptions."""

import gc
from collections.abc import Iterator
from typing import Any

import pytest
from mitmproxy.http import Headers, Message, MessageData, Request, Response

from aoai_gateway.app import message_types


@pytest.fixture(params=["mitmproxy's", "ours"])
def check(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Which check messages are made with."""
    monkeypatch.setattr(MessageData, "__post_init__", message_types._check_fields)
    if request.param == "ours":
        message_types.install()
    return str(request.param)


def request(**fields: Any) -> Request:
    usual: dict[str, Any] = {
        "host": "a", "port": 1, "method": b"POST", "scheme": b"", "authority": b"", "path": b"/",
        "http_version": b"HTTP/1.1", "headers": Headers(), "content": None, "trailers": None,
        "timestamp_start": 1.0, "timestamp_end": None,
    }  # fmt: skip
    return Request(**usual | fields)


def response(**fields: Any) -> Response:
    usual: dict[str, Any] = {
        "http_version": b"HTTP/1.1", "status_code": 200, "reason": b"", "headers": Headers(),
        "content": None, "trailers": None, "timestamp_start": 1.0, "timestamp_end": None,
    }  # fmt: skip
    return Response(**usual | fields)


@pytest.mark.parametrize(
    "fields", [{}, {"content": b"x"}, {"trailers": Headers()}, {"timestamp_end": 2.0}, {"timestamp_start": 1}]
)
def test_right_types_pass(check: str, fields: dict[str, Any]) -> None:
    for message in (request(**fields), response(**fields)):
        assert all(getattr(message.data, name) == value for name, value in fields.items())


@pytest.mark.parametrize(
    ("make", "fields", "said"),
    [
        (request, {"port": "80"}, "Expected <class 'int'> for port, but got <class 'str'>."),
        (request, {"timestamp_start": "now"}, "Expected <class 'float'> for timestamp_start"),
        (request, {"content": 5}, "Expected bytes | None for content, but got <class 'int'>."),
        (response, {"status_code": None}, "Expected <class 'int'> for status_code"),
        (response, {"timestamp_end": "now"}, "Expected float | None for timestamp_end"),
    ],
)
def test_wrong_types_are_told(check: str, make: Any, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(TypeError) as raised:
        make(**fields)
    assert said in str(raised.value)


def test_copies_are_checked_too(check: str) -> None:
    one = response(content=b"x")
    assert one.copy().data == one.data


@pytest.fixture
def only_by_hand() -> Iterator[None]:
    gc.disable()
    gc.collect()
    yield
    gc.enable()


def test_nothing_is_left_to_the_garbage_collector(
    only_by_hand: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MessageData, "__post_init__", message_types._check_fields)
    message_types.install()
    made: list[Message] = [request(), response()]
    made.clear()
    assert gc.collect() == 0
