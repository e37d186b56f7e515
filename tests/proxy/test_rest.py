"""What a connection is at, and what one of a process that ends is told."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.proxy import events
from mitmproxy.test import taddons

from aoai_gateway.proxy.http1 import Rest
from tests.engine_driver import config
from tests.proxy.layer_driver import Connection, connect

PROBE = b"GET /health/ready HTTP/1.1\r\nhost: gw\r\n\r\n"


@pytest.fixture
def here() -> Iterator[Connection]:
    with taddons.context(Proxyserver()) as tctx:
        plain = config("a")
        endpoints = tuple(each.but(url="http://a.example/") for each in plain.aoai.endpoints)
        yield connect(plain.but(aoai=plain.aoai.but(endpoints=endpoints)), tctx.options)


def test_a_connection_rests_before_and_after_a_call_and_not_within(here: Connection) -> None:
    begun = here.clock.now
    assert here.layer.rest == Rest(begun, unused=True)
    here.run_timers(7)
    assert here.layer.rest == Rest(begun, unused=True)
    here.ask()
    assert here.layer.rest is None
    here.run_timers(1)
    here.respond("a", 200)
    assert here.result()[0] == 200
    assert here.layer.rest == Rest(begun + 8, unused=False)


def test_with_the_first_byte_of_a_head_it_rests_no_more(here: Connection) -> None:
    here.feed(events.DataReceived(here.client, b"P"))
    assert here.layer.rest is None


def test_a_body_that_comes_is_no_rest(here: Connection) -> None:
    head = b"POST /openai/v1/chat/completions HTTP/1.1\r\nhost: gw\r\napi-key: key-of-anybody\r\n"
    here.feed(events.DataReceived(here.client, head + b"content-length: 9\r\n\r\n{"))
    assert not here.gateway.calls
    assert here.layer.rest is None


@pytest.mark.parametrize("has_successor", [False, True])
def test_one_that_was_replaced_is_ready_still_and_ends_its_connections(
    here: Connection, has_successor: bool
) -> None:
    here.gateway.leaving, here.gateway.has_successor = True, has_successor
    here.feed(events.DataReceived(here.client, PROBE))
    assert b"connection: close" in here.received
    status, body = here.result()
    assert (status, json.loads(body)["status"]) == ((200, "ready") if has_successor else (503, "draining"))
