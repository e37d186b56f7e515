"""Streams that ask are answered directly, and fields checked without exceptions; the rest is mitmproxy's."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from mitmproxy.http import Headers, Message, MessageData, Request, Response
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.layers.http import HttpRequestHook
from mitmproxy.proxy.server import ConnectionHandler, TimeoutWatchdog
from mitmproxy.test import tflow

from aoai_gateway.app import mitmproxy_shortcuts
from aoai_gateway.runtime.stream_hooks import Ask, Awaited, GatewayAskHook


class Handler(ConnectionHandler):
    """A connection that notes what it hears."""

    def __init__(self) -> None:
        self.timeout_watchdog = TimeoutWatchdog(60, self._never)
        self.handled: list[commands.StartHook] = []
        self.events: list[events.Event] = []
        self.can_time_out: bool | None = None

    async def _never(self) -> None:
        raise AssertionError("the connection is not idle")

    async def handle_hook(self, hook: commands.StartHook) -> None:
        self.handled.append(hook)

    async def server_event(self, event: events.Event) -> None:
        self.events.append(event)


@pytest.fixture(autouse=True)
def _unchanged_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ConnectionHandler, "hook_task", ConnectionHandler.hook_task)


def run(hook: Any, perform: Any) -> Handler:
    async def story() -> Handler:
        handler = Handler()

        async def performing(ask: Ask) -> None:
            handler.can_time_out = handler.timeout_watchdog.can_timeout.is_set()
            await perform(ask)

        mitmproxy_shortcuts.ask_directly(performing)
        await handler.hook_task(hook)
        assert handler.timeout_watchdog.can_timeout.is_set()
        return handler

    return asyncio.run(story())


def test_what_a_stream_waits_for_is_awaited_and_the_stream_goes_on() -> None:
    async def answer() -> int:
        await asyncio.sleep(0)
        return 7

    asked = Awaited(answer())
    handler = run(GatewayAskHook(asked), lambda ask: ask.perform(None))
    assert (asked.result, asked.performed) == (7, True)
    assert not handler.handled, "no addon is asked"
    assert handler.can_time_out is False, "the connection is not idle meanwhile"
    (event,) = handler.events
    assert isinstance(event, events.HookCompleted)
    assert event.command.data is asked


def test_a_fault_is_logged_and_the_stream_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(ask: Ask) -> None:
        raise RuntimeError("a fault")

    asked = Ask(HttpRequestHook(tflow.tflow()))
    with caplog.at_level(logging.ERROR):
        handler = run(GatewayAskHook(asked), broken)
    assert len(handler.events) == 1
    assert not asked.performed, "which the stream takes for a fault of the gateway's own"
    assert "RuntimeError" in caplog.text


def test_other_hooks_go_to_the_addons() -> None:
    async def never(ask: Ask) -> None:
        raise AssertionError("it is no ask")

    hook = HttpRequestHook(tflow.tflow())
    handler = run(hook, never)
    assert handler.handled == [hook]
    assert len(handler.events) == 1


@pytest.fixture(params=["mitmproxy's", "ours"])
def check(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Which check messages are made with."""
    monkeypatch.setattr(MessageData, "__post_init__", mitmproxy_shortcuts._check_fields)
    if request.param == "ours":
        mitmproxy_shortcuts.check_fields_quickly()
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
    monkeypatch.setattr(MessageData, "__post_init__", mitmproxy_shortcuts._check_fields)
    mitmproxy_shortcuts.check_fields_quickly()
    made: list[Message] = [request(), response()]
    made.clear()
    assert gc.collect() == 0
