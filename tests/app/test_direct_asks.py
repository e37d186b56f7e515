"""What streams ask is performed directly; all other hooks go mitmproxy's way."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.layers.http import HttpRequestHook
from mitmproxy.proxy.server import ConnectionHandler, TimeoutWatchdog
from mitmproxy.test import tflow

from aoai_gateway.app import direct_asks
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

        direct_asks.install(performing)
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
