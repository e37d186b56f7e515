"""``r`` in mitmproxy: a replayed flow takes the way of every call."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from mitmproxy import http
from mitmproxy.addons import clientplayback
from mitmproxy.addons.clientplayback import MockServer
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.options import Options
from mitmproxy.proxy import events
from mitmproxy.test import taddons, tflow

from aoai_gateway.inspect import client_replay as playback
from aoai_gateway.proxy.layer import GatewayLayer
from aoai_gateway.runtime.gateway import Gateway
from tests.engine_driver import DEPLOYMENT, config
from tests.proxy.layer_driver import await_it, connect, over_plain_http


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


V1 = "/openai/v1/chat/completions"
CLASSIC = "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21"


def attempt(path: str, body: bytes, **metadata: str) -> http.HTTPFlow:
    flow = tflow.tflow(resp=True)
    flow.request = http.Request.make("POST", f"https://backend.example{path}", body)
    flow.metadata = {
        "gateway_client": "Team 1",
        "gateway_attempt": 1,
        "gateway_deployment": "gpt-4o",
        **metadata,
    }
    return flow


def test_a_failed_attempt_is_replayed_as_its_call() -> None:
    sent = attempt(V1, b'{ "model":"ptu", "n": 1, "messages": []}', gateway_path=V1)
    playback.restore(sent)
    assert sent.request.content == b'{ "model":"gpt-4o", "n": 1, "messages": []}'
    sent = attempt("/prefix" + CLASSIC.replace("gpt-4o", "ptu"), b'{"messages": []}', gateway_path=CLASSIC)
    playback.restore(sent)
    assert sent.request.path == CLASSIC
    assert sent.request.content == b'{"messages": []}'


def test_a_degraded_attempt_asks_for_what_its_client_asked_for() -> None:
    sent = attempt(V1, b'{"model":"mini"}', gateway_path=V1, gateway_asked="gpt-5")
    playback.restore(sent)
    assert sent.request.content == b'{"model":"gpt-5"}'


def test_what_was_edited_into_something_else_is_left_alone() -> None:
    for path, body in ((V1, b"{not json"), ("/elsewhere", b'{"model":"ptu"}')):
        sent = attempt(path, body, gateway_path=path)
        playback.restore(sent)
        assert (sent.request.path, sent.request.content) == (path, body)


def test_a_call_is_replayed_as_it_is() -> None:
    flow = attempt(V1, b'{"model":"ptu"}')
    playback.restore(flow)
    assert flow.request.content == b'{"model":"ptu"}'


def test_a_replay_by_hand_keeps_its_backend(options: Options) -> None:
    playback.install(Gateway())
    flow = attempt(V1, b'{"model":"gpt-4o"}', gateway_only_backend="ptu@a")
    clientplayback.ReplayHandler(flow, options)
    assert flow.metadata == {"gateway_client": "Team 1", "gateway_only_backend": "ptu@a"}


def test_a_replayed_request_is_searched_for_secrets_as_any_other(options: Options) -> None:
    """Its flow may have been loaded from a file, or edited."""
    here = connect(over_plain_http(config("a")), options)
    here.on_hook = await_it
    (client,) = here.gateway.config.clients
    key = client.key[0].get_secret_value()
    flow = tflow.tflow()
    flow.request = http.Request.make(
        "POST",
        f"http://gateway.example{V1}?note={key}",
        json.dumps({"model": DEPLOYMENT, "messages": []}).encode(),
        {"content-type": "application/json", "x-note": f"mine is {key}", "authorization": f"Bearer {key}"},
    )
    flow.response, flow.is_replay = None, "request"
    flow.metadata["gateway_client"] = client.name
    here.layer.connections[here.client] = MockServer(flow, here.layer.context.fork())
    here.feed(events.Start())
    here.run_timers()
    sent = b"".join(here.sent.values())
    assert b"POST /openai/v1/chat/completions" in sent
    assert key.encode() not in sent
    assert key not in flow.request.path
    assert key not in str(flow.request.headers)
