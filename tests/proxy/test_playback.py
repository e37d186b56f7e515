"""``r`` in mitmproxy: a replayed flow takes the way of every call."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from mitmproxy import http
from mitmproxy.addons import clientplayback
from mitmproxy.addons.clientplayback import MockServer
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.options import Options
from mitmproxy.test import taddons, tflow

from aoai_gateway.proxy import playback
from aoai_gateway.proxy.gateway import Gateway
from aoai_gateway.proxy.layer import GatewayLayer


@pytest.fixture
def options(monkeypatch: pytest.MonkeyPatch) -> Iterator[Options]:
    monkeypatch.setattr(clientplayback, "ReplayHandler", clientplayback.ReplayHandler)
    with taddons.context(Proxyserver()) as tctx:
        yield tctx.options


def replayed(options: Options, times: int = 1) -> tuple[http.HTTPFlow, clientplayback.ReplayHandler]:
    for _ in range(times):
        playback.install(Gateway())
    flow = tflow.tflow(resp=True)
    flow.metadata = {"gateway_client": "Team 1", "gateway_outcome": "ok", "other": 1}
    flow.comment, flow.marked = "Team 1: gpt → a@a", ":repeat:"
    return flow, clientplayback.ReplayHandler(flow, options)


@pytest.mark.parametrize("times", [1, 2])
def test_a_replay_goes_through_our_layer_alone(options: Options, times: int) -> None:
    _, handler = replayed(options, times)
    assert isinstance(handler.layer, GatewayLayer)
    assert handler.layer.context.layers == [handler.layer]
    (served,) = handler.layer.connections.values()
    assert isinstance(served, MockServer)


def test_a_replay_forgets_what_was_said_but_not_who_it_is_from(options: Options) -> None:
    flow, _ = replayed(options)
    assert flow.metadata == {"gateway_client": "Team 1", "other": 1}
    assert (flow.comment, flow.marked) == ("", "")
