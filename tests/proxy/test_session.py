"""Realtime sessions in the layer: the handshake and its replay, messages, quotas, and how a session ends."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.proxy import events
from mitmproxy.test import taddons
from wsproto.connection import Connection as Socket
from wsproto.connection import ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage
from wsproto.utilities import generate_accept_token

from aoai_gateway.config.models import Standin, VirtualDeployment
from aoai_gateway.proxy.stream_events import GatewayLeaves
from aoai_gateway.runtime.stream_hooks import Awaited, GatewayAskHook
from aoai_gateway.wire import session_messages
from aoai_gateway.wire.bodies import parse_body
from aoai_gateway.wire.operations import RESPONSES_SOCKET
from aoai_gateway.wire.targets import Target
from tests.engine_driver import ANYBODY, config
from tests.proxy.layer_driver import Connection, connect, listen
from tests.proxy.web_socket import HANDSHAKE, KEY, Talk

USAGE = {
    "total_tokens": 100,
    "input_tokens": 60,
    "output_tokens": 40,
    "input_token_details": {
        "text_tokens": 20,
        "audio_tokens": 40,
        "cached_tokens": 10,
        "cached_tokens_details": {"text_tokens": 4, "audio_tokens": 6},
    },
    "output_token_details": {"text_tokens": 10, "audio_tokens": 30},
}


@pytest.fixture
def made() -> Iterator[Callable[..., Talk]]:
    with taddons.context(Proxyserver()) as tctx:

        def make(*backends: str, **parts: Any) -> Talk:
            plain = config(*(backends or ("a", "b")), **parts)
            endpoints = tuple(e.but(url=f"http://{e.name}.example/") for e in plain.aoai.endpoints)
            return Talk(connect(plain.but(aoai=plain.aoai.but(endpoints=endpoints)), tctx.options))

        yield make


@pytest.fixture
def records(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The records that are written."""
    from aoai_gateway.runtime import gateway
    from aoai_gateway.usage.record import usage_record

    written: list[dict[str, Any]] = []

    def write_down(self: gateway.Gateway, call: Any, *_: Any) -> dict[str, Any]:
        written.append(usage_record(call))
        return written[-1]

    monkeypatch.setattr(gateway.Gateway, "write_down", write_down)
    return written


def limited(**limits: Any) -> dict[str, Any]:
    return {"clients": (ANYBODY.but(**limits),)}


def begun(talk: Talk, host: str = "a") -> Talk:
    talk.ask()
    talk.accept(host)
    assert talk.head().startswith("HTTP/1.1 101 ")
    return talk


def response(talk: Talk, ident: str, usage: dict[str, Any] = USAGE) -> None:
    talk.tell(type="response.created", response={"id": ident})
    talk.tell(type="response.done", response={"id": ident, "status": "completed", "usage": usage})


# --- the handshake -------------------------------------------------------------------------------------


def test_messages_go_both_ways(made: Callable[..., Talk], records: list[dict[str, Any]]) -> None:
    talk = made("real@a", "b")
    talk.ask("/openai/v1/realtime?model=gpt&api-key=key-of-anybody", key=None)
    head = talk.here.sent["a.example"].decode()
    assert head.startswith("GET /openai/v1/realtime?model=real HTTP/1.1\r\n")
    assert "upgrade: websocket" in head
    assert "connection: Upgrade" in head
    assert "key-of-anybody" not in head
    assert "api-key: key-of-a\r\n" in head
    talk.accept("a")
    head = talk.head().lower()
    assert head.startswith("http/1.1 101 ")
    assert "upgrade: websocket" in head
    assert "x-gateway-backend: real@a" in head
    talk.tell(type="session.created", session={"model": "real", "id": "sess_1"})
    assert talk.told() == [{"type": "session.created", "session": {"model": "gpt", "id": "sess_1"}}]
    talk.say(type="session.update", session={"model": "gpt"})
    assert talk.heard() == [{"type": "session.update", "session": {"model": "real"}}]
    talk.say(type="input_audio_buffer.append", audio="AAAA")
    assert talk.heard() == [{"type": "input_audio_buffer.append", "audio": "AAAA"}]
    response(talk, "resp_1")
    assert [each["type"] for each in talk.told()] == ["response.created", "response.done"]
    talk.send(CloseConnection(1000))
    assert talk.told() == [1000]
    assert talk.heard() == [1000]
    assert talk.here.at_rest
    assert not talk.here.gateway.sessions
    (record,) = records
    assert (record["operation"], record["outcome"], record["status"]) == ("realtime", "ok", 101)
    assert (record["input_tokens"], record["output_tokens"], record["cached_tokens"]) == (60, 40, 10)
    assert (record["input_audio_tokens"], record["output_audio_tokens"]) == (40, 30)
    assert record["cached_audio_tokens"] == 6
    assert (record["messages_in"], record["messages_out"], record["responses"]) == (2, 3, 1)
    assert (record["close_code"], record["closed_by"]) == (1000, "client")


@pytest.mark.parametrize("status", [429, 500, 503, 401])
def test_a_refused_handshake_is_replayed(made: Callable[..., Talk], status: int) -> None:
    talk = made()
    talk.ask()
    assert not talk.here.received
    talk.here.respond("a", status)
    assert not talk.here.received
    talk.accept("b")
    assert "x-gateway-attempts: 2" in talk.head()
    talk.say(type="x")
    assert talk.heard() == [{"type": "x"}]


def test_a_backend_that_hangs_at_the_handshake_is_left(made: Callable[..., Talk]) -> None:
    talk = made()
    talk.ask()
    talk.here.run_timers(6)
    talk.accept("b")
    assert talk.head().startswith("HTTP/1.1 101 ")


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 x\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 101 x\r\nupgrade: websocket\r\nsec-websocket-accept: wrong\r\n\r\n",
    ],
)
def test_what_is_no_websocket_there_is_left(made: Callable[..., Talk], answer: bytes) -> None:
    talk = made()
    talk.ask()
    talk.here.answer("a", answer)
    talk.accept("b")
    assert talk.head().startswith("HTTP/1.1 101 ")


def test_no_backend_is_left(made: Callable[..., Talk]) -> None:
    talk = made()
    talk.ask()
    talk.here.respond("a", 429)
    talk.here.respond("b", 429)
    assert talk.here.result()[0] == 429


def test_the_preview_form(made: Callable[..., Talk]) -> None:
    talk = made("real@a")
    talk.ask("/openai/realtime?api-version=2025-04-01-preview&deployment=gpt")
    head = talk.here.sent["a.example"]
    assert head.startswith(
        b"GET /openai/realtime?api-version=2025-04-01-preview&deployment=real HTTP/1.1\r\n"
    )


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/openai/v1/realtime?model=other", 404),
        ("/openai/v1/realtime?model=gpt&deployment=other", 400),
        ("/openai/v1/realtime?model=a%2Fb", 404),
        ("/openai/v1/embeddings", 405),
        ("/openai/v1/files", 400),
    ],
)
def test_targets_that_are_refused(made: Callable[..., Talk], path: str, status: int) -> None:
    talk = made()
    talk.ask(path)
    assert talk.here.result()[0] == status
    assert not talk.here.sent


@pytest.mark.parametrize("left", range(len(HANDSHAKE)))
def test_what_is_no_handshake_is_refused(made: Callable[..., Talk], left: int) -> None:
    talk = made()
    talk.ask(handshake=tuple(line for line in HANDSHAKE if line != HANDSHAKE[left]))
    assert talk.here.result()[0] == 426
    assert not talk.here.sent


def test_a_wrong_key_is_refused_before_the_upgrade(made: Callable[..., Talk]) -> None:
    talk = made()
    talk.ask(key="wrong")
    assert talk.here.result()[0] == 401


@pytest.mark.parametrize(
    ("path", "fields", "left"),
    [
        ("&api-key=key-of-anybody", (), None),
        ("&authorization=Bearer%20key-of-anybody", (), None),
        ("", ("sec-websocket-protocol: realtime, openai-insecure-api-key.key-of-anybody, x",), "realtime, x"),
        ("", ("sec-websocket-protocol: openai-insecure-api-key.key-of-anybody",), None),
        ("", ("sec-websocket-protocol: authorization, key-of-anybody, realtime",), "realtime"),
        ("", ("authorization: Bearer key-of-anybody",), None),
    ],
)
def test_where_keys_stand(
    made: Callable[..., Talk], path: str, fields: tuple[str, ...], left: str | None
) -> None:
    talk = made()
    seen: list[Any] = []
    talk.here.on_hook = lambda hook: seen.extend(hook.args())
    talk.ask(f"/openai/v1/realtime?model=gpt{path}", *fields, key=None)
    head = talk.here.sent["a.example"].decode()
    assert "key-of-anybody" not in head
    assert "authorization" not in head.lower()
    offered = [line for line in head.split("\r\n") if line.lower().startswith("sec-websocket-protocol")]
    assert [line.partition(": ")[2] for line in offered] == ([left] if left else [])


def test_extensions_are_not_passed_on(made: Callable[..., Talk]) -> None:
    talk = made()
    talk.ask("/openai/v1/realtime?model=gpt", "sec-websocket-extensions: permessage-deflate")
    assert b"extensions" not in talk.here.sent["a.example"].lower()
    talk.accept("a", "sec-websocket-extensions: permessage-deflate")
    assert "extensions" not in talk.head().lower()


# --- messages ------------------------------------------------------------------------------------------


def test_pings_and_a_backends_binary_messages_pass(made: Callable[..., Talk]) -> None:
    talk = begun(made())
    talk.reply(BytesMessage(b"[1]"))
    assert talk.told() == [[1]]
    talk.send(Ping(b"p"))
    assert b"p" in talk.here.sent["a.example"][-8:] or talk.here.sent["a.example"]


def test_binary_messages_of_a_client_end_the_session(made: Callable[..., Talk]) -> None:
    talk = begun(made())
    talk.send(BytesMessage(b'{"type": "response.create"}', message_finished=False))
    told, code = talk.told()
    assert (told["error"]["code"], code) == ("message_not_text", 1003)
    assert talk.heard() == [1000]
    other = opened(again(talk))
    other.send(BytesMessage(b'{"type": "response.create"}'))
    assert other.told()[-1] == 1003
    assert not other.here.sent


def test_keys_of_ours_are_masked_in_frames_that_are_no_messages(made: Callable[..., Talk]) -> None:
    talk = begun(made())
    talk.reply(Ping(b"ping key-of-a"))
    talk.reply(Pong(b"pong key-of-a"))
    talk.reply(CloseConnection(1001, "the key-of-a is over"))
    assert b"pong" in talk.here.received
    assert b"the ******** is over" in talk.here.received
    assert b"key-of-a" not in talk.here.received


def test_a_backends_own_limits_are_not_told(made: Callable[..., Talk]) -> None:
    talk = begun(made())
    talk.tell(type="rate_limits.updated", rate_limits=[{"name": "tokens", "limit": 1, "remaining": 1}])
    assert talk.told() == []


def test_keys_of_ours_are_masked(made: Callable[..., Talk]) -> None:
    talk = begun(made())
    talk.tell(type="error", error={"message": "the key key-of-a is wrong"})
    assert "key-of-a" not in json.dumps(talk.told())


@pytest.mark.parametrize("text", ["no json", "[]", '{"type": "a", "type": "b"}'])
def test_what_is_no_message_goes_nowhere(made: Callable[..., Talk], text: str) -> None:
    talk = begun(made())
    talk.send(TextMessage(text))
    assert talk.heard() == []
    (told,) = talk.told()
    assert told["type"] == "error"
    assert told["error"]["code"] == "message_malformed"
    talk.say(type="x")
    assert talk.heard() == [{"type": "x"}]


def test_a_message_that_is_too_large_ends_the_session(
    made: Callable[..., Talk], records: list[dict[str, Any]]
) -> None:
    talk = made(limits={"message_mb": 1})
    begun(talk)
    piece = "x" * 300_000
    for _ in range(3):
        talk.send(TextMessage(piece, message_finished=False))
    assert talk.told() == []
    talk.send(TextMessage(piece, message_finished=False))
    told, code = talk.told()
    assert told["error"]["code"] == "message_too_large"
    assert code == 1009
    assert records[0]["error"] == "message_too_large"


def test_names_of_other_deployments(made: Callable[..., Talk]) -> None:
    talk = begun(made(clients=(ANYBODY.but(deployments_allowed=("gpt",)),)))
    talk.say(type="session.update", session={"input_audio_transcription": {"model": "whisper-1"}})
    assert len(talk.heard()) == 1
    talk.say(type="session.update", session={"audio": {"input": {"transcription": {"model": "other"}}}})
    assert talk.heard() == []
    assert talk.told()[0]["error"]["code"] == "DeploymentNotAllowed"


def two_deployments(talk: Talk) -> Talk:
    """Have the endpoint offer another deployment beside `gpt`."""
    before = talk.here.gateway.config
    (endpoint,) = before.aoai.endpoints
    other = VirtualDeployment(name="large", standins=(Standin(name="big"),))
    more = endpoint.but(virtual_deployments=(*endpoint.virtual_deployments, other))
    talk.here.gateway.adopt(before.but(aoai=before.aoai.but(endpoints=(more,))))
    return talk


def test_a_session_of_responses_has_one_deployment(made: Callable[..., Talk]) -> None:
    talk = opened(two_deployments(made("real@a")))
    create(talk)
    talk.accept("a")
    talk.heard()
    completed(talk)
    talk.told()
    create(talk, model="large")
    assert talk.heard() == []
    (told,) = talk.told()
    assert (told["status"], told["error"]["code"]) == (400, "message_malformed")
    create(talk, model="nowhere")
    assert talk.heard() == []
    assert talk.told()[0]["error"]["code"] == "DeploymentNotFound"
    create(talk)
    assert [each["model"] for each in talk.heard()] == ["real"]


def test_a_name_that_is_no_deployment_is_refused(made: Callable[..., Talk]) -> None:
    talk = begun(two_deployments(made("real@a")))
    talk.say(type="session.update", session={"audio": {"input": {"transcription": {"model": "large"}}}})
    assert "big" in json.dumps(talk.heard())
    for model in ("whisper-1", "gpt-4o-transcribe", "gpt-4o-mini-transcribe-2025-12-15"):
        talk.say(type="session.update", session={"input_audio_transcription": {"model": model}})
        assert model in json.dumps(talk.heard())
    for session in ({"model": "secret"}, {"audio": {"input": {"transcription": {"model": "secret"}}}}):
        talk.say(type="session.update", session=session)
        assert talk.heard() == []
        assert talk.told()[0]["error"]["code"] == "DeploymentNotFound"


class Perform:
    """Lets the session go on when it gives way, and counts how often it does."""

    def __init__(self, talk: Talk) -> None:
        self.times = 0
        self._clock = talk.here.clock
        talk.here.on_hook = self
        talk.here.gateway.clock = self  # type: ignore[assignment]  # each look at it takes a millisecond

    def __call__(self, hook: Any) -> None:
        if isinstance(hook, GatewayAskHook) and isinstance(hook.data, Awaited):
            self.times += 1
            hook.data.performed = True
            hook.data._awaitable.close()  # type: ignore[attr-defined]  # it is a coroutine

    def monotonic(self) -> float:
        self._clock.now += 0.001
        return self._clock.now

    def time(self) -> float:
        return self._clock.time()


def test_others_have_their_turn_between_many_messages(made: Callable[..., Talk]) -> None:
    talk = begun(made())
    talk.here.layer.streams[1]._here.clock = performed = Perform(talk)  # type: ignore[assignment]
    talk.feed(b"".join(talk.client.send(TextMessage("{}")) for _ in range(500)))
    assert len(talk.heard()) == 500
    assert performed.times > 50


@pytest.mark.parametrize("side", ["client", "backend"])
def test_large_messages_go_through_whole(
    made: Callable[..., Talk], side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = begun(made())
    performed = Perform(talk)
    talk.here.layer.streams[1]._here.clock = performed  # type: ignore[assignment]
    text = "key-of-a ä" * 100_000
    if side == "client":
        read = parse_body(session_messages.LARGE, "application/json", b'{"type": "x"}', short=True)
        monkeypatch.setattr(talk.here.gateway.reader, "parse", lambda *_, **__: read)
        talk.send(TextMessage(json.dumps({"audio": text})))
        assert talk.heard() == [{"audio": text}]
    else:
        talk.tell(type="response.output_audio.delta", delta=text)
        (told,) = talk.told()
        assert "key-of-a" not in told["delta"]
        assert len(told["delta"]) == len(text)
    assert performed.times >= 2


@pytest.mark.parametrize("kind", ["input_audio_buffer.append", "session.update"])
def test_large_messages_are_read_elsewhere(
    made: Callable[..., Talk], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = begun(made())
    raw = json.dumps({"audio": "x" * 200_000, "type": kind})
    read = parse_body(session_messages.LARGE, "application/json", raw.encode(), short=True)
    monkeypatch.setattr(talk.here.gateway.reader, "parse", lambda *_, **__: read)
    talk.send(TextMessage(raw))
    if kind == "session.update":
        assert talk.heard() == []
        assert talk.told()[0]["error"]["code"] == "message_malformed"
    else:
        assert len(talk.heard()) == 1


def test_limits_bound_what_a_response_may_have(made: Callable[..., Talk]) -> None:
    talk = begun(made(**limited(request_limits={"max_tokens": 50, "action": "clamp"})))
    talk.say(type="response.create")
    assert talk.heard() == [{"type": "response.create", "response": {"max_output_tokens": 50}}]
    talk.say(type="response.create", response={"max_output_tokens": 20})
    assert talk.heard() == [{"type": "response.create", "response": {"max_output_tokens": 20}}]
    talk.say(type="session.update", session={"max_response_output_tokens": 100, "voice": "x"})
    (sent,) = talk.heard()
    assert sent["session"] == {"max_response_output_tokens": 50, "voice": "x"}
    talk.say(type="response.create")
    assert talk.heard() == [{"type": "response.create"}]
    talk.say(type="session.update", session={"type": "transcription"})
    assert talk.heard() == [{"type": "session.update", "session": {"type": "transcription"}}]


CLAMPED = {"request_limits": {"max_tokens": 50, "action": "clamp"}}
UPDATED = {"type": "session.update", "session": {"max_output_tokens": 20}}


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        ({"response": {"max_output_tokens": "inf"}}, {"response": {"max_output_tokens": 50}}),
        ({"response": {"max_output_tokens": 0}}, {"response": {"max_output_tokens": 50}}),
        ({"response": {"max_output_tokens": None}}, {"response": {"max_output_tokens": 50}}),
        (
            {"response": {"max_output_tokens": 1, "max_response_output_tokens": 9_999}},
            {"response": {"max_output_tokens": 50, "max_response_output_tokens": 50}},
        ),
        (
            {"response": {"max_output_tokens": 1, "max_response_output_tokens": "inf"}},
            {"response": {"max_output_tokens": 50, "max_response_output_tokens": 50}},
        ),
        ({"session": {"max_output_tokens": 1}}, {"session": {"max_output_tokens": 1}}),
        (
            {"session": {"max_output_tokens": 1}, "response": {"max_output_tokens": 60}},
            {"session": {"max_output_tokens": 1}, "response": {"max_output_tokens": 50}},
        ),
    ],
)
def test_no_form_of_a_bound_evades_the_limits(
    made: Callable[..., Talk], asked: dict[str, Any], sent: dict[str, Any]
) -> None:
    talk = begun(made(**limited(**CLAMPED)))
    talk.say(**UPDATED)
    assert talk.heard() == [UPDATED]
    talk.say(type="response.create", **asked)
    assert talk.heard() == [{"type": "response.create", **sent}]


def test_settings_keep_the_lower_bound_that_the_client_has_set(made: Callable[..., Talk]) -> None:
    talk = begun(made(**limited(**CLAMPED)))
    talk.say(**UPDATED)
    talk.say(type="session.update", session={"voice": "x"})
    assert talk.heard() == [UPDATED, {"type": "session.update", "session": {"voice": "x"}}]
    talk.say(type="session.update", session={"max_output_tokens": "inf"}, response={"max_output_tokens": 1})
    (sent,) = talk.heard()
    assert sent["session"] == {"max_output_tokens": 50}


def test_a_preview_has_its_own_name_for_the_bound(made: Callable[..., Talk]) -> None:
    talk = made("a", **limited(**CLAMPED))
    talk.ask("/openai/realtime?api-version=2025-04-01-preview&deployment=gpt")
    talk.accept("a")
    talk.head()
    talk.say(type="response.create")
    assert talk.heard() == [{"type": "response.create", "response": {"max_response_output_tokens": 50}}]


@pytest.mark.parametrize("is_set_up", [False, True])
def test_limits_bound_no_message_that_is_not_read_whole(
    made: Callable[..., Talk], monkeypatch: pytest.MonkeyPatch, is_set_up: bool
) -> None:
    talk = begun(made(**limited(request_limits={"max_tokens": 50, "action": "clamp"})))
    if is_set_up:
        talk.say(**UPDATED)
        assert talk.heard() == [UPDATED]
    raw = json.dumps({"type": "response.create", "response": {"instructions": "x" * 200_000}})
    read = parse_body(session_messages.LARGE, "application/json", raw.encode(), short=True)
    monkeypatch.setattr(talk.here.gateway.reader, "parse", lambda *_, **__: read)
    talk.send(TextMessage(raw))
    assert talk.heard() == []
    assert talk.told()[0]["error"]["code"] == "message_malformed"


def test_limits_refuse_what_a_response_may_not_have(made: Callable[..., Talk]) -> None:
    talk = begun(made(**limited(request_limits={"max_tokens": 50, "action": "reject"})))
    talk.say(type="response.create", response={"max_output_tokens": 51})
    assert talk.told()[0]["error"]["code"] == "parameter_over_limit"
    assert talk.heard() == []


@pytest.mark.parametrize("size", [65_536, 6])
def test_a_client_that_sends_too_much_ahead_is_left(
    made: Callable[..., Talk], size: int, records: list[dict[str, Any]]
) -> None:
    talk = opened(made(limits={"message_mb": 1}))
    talk.here.hanging.add("a.example")
    talk.here.hanging.add("b.example")
    create(talk)
    for _ in range(5_000):
        talk.here.feed(events.DataReceived(talk.here.client, b"\x8a" + bytes(size - 1)))
    told, code = talk.told()
    assert (told["error"]["code"], code) == ("message_too_large", 1009)
    queued = talk.here.layer.streams[1]._paused_event_queue
    assert sum(len(each.data) for each in queued if hasattr(each, "data")) <= 2 * 1024 * 1024
    talk.here.run_timers(1)
    assert not talk.here.client.connected
    talk.here.run_timers(120)
    assert talk.here.at_rest
    assert records[0]["outcome"] == "client_gone"


def test_a_session_that_waits_takes_so_much_and_no_more(
    made: Callable[..., Talk], records: list[dict[str, Any]]
) -> None:
    talk = begun(made(limits={"message_mb": 1}))
    Perform(talk)
    talk.here.layer.streams[1]._here.clock = talk.here.gateway.clock
    talk.here.takes_time = GatewayAskHook
    message = json.dumps({"type": "x", "text": "x" * 200})
    some = b"".join(talk.client.send(TextMessage(message)) for _ in range(5))
    for _ in range(3_000):
        talk.here.feed(events.DataReceived(talk.here.client, some))
    queued = talk.here.layer.streams[1]._paused_event_queue
    assert sum(len(each.data) for each in queued if hasattr(each, "data")) <= 2 * 1024 * 1024
    talk.here.takes_time = ()
    talk.here.feed(events.HookCompleted(talk.here.hooks[-1]))
    told, code = talk.told()
    assert (told["error"]["code"], code) == ("message_too_large", 1009)
    assert records[0]["error"] == "message_too_large"
    assert talk.here.at_rest


# --- quotas --------------------------------------------------------------------------------------------


def left(talk: Talk) -> int:
    """The tokens that the client has left, as a next handshake would be told."""
    gateway = talk.here.gateway
    from aoai_gateway.quota.quotas import Decision, Quota, Reservation

    client = gateway.config.clients[0]
    quota = Quota(None, client.max_tokens_per_minute)
    decision = gateway.state.reserve(Reservation("look", client.name, (quota,), 0, 0), gateway.unix_time())
    assert isinstance(decision, Decision)
    return decision.standings[0].remaining


def test_responses_are_counted_to_the_token(made: Callable[..., Talk]) -> None:
    talk = begun(made(**limited(max_tokens_per_minute=10_000)))
    assert left(talk) == 10_000
    talk.say(type="response.create", response={"max_output_tokens": 700})
    assert left(talk) == 9_300
    response(talk, "resp_1")
    assert left(talk) == 9_900
    response(talk, "resp_2")  # the server began it by itself
    assert left(talk) == 9_800
    talk.tell(
        type="conversation.item.input_audio_transcription.completed",
        usage={"type": "tokens", "total_tokens": 7, "input_tokens": 5, "output_tokens": 2},
    )
    talk.say(type="response.create")
    talk.tell(type="error", error={"code": "conversation_already_has_active_response"})
    assert left(talk) == 9_800
    talk.send(CloseConnection(1000))
    assert left(talk) == 9_793


def test_a_response_that_is_not_waited_for_counts_as_booked(made: Callable[..., Talk]) -> None:
    talk = begun(made(**limited(max_tokens_per_minute=10_000)))
    talk.say(type="response.create", response={"max_output_tokens": 700})
    talk.tell(type="response.created", response={"id": "resp_1"})
    talk.here.hang_up()
    assert left(talk) == 9_300


def test_the_session_ends_with_the_budget(made: Callable[..., Talk], records: list[dict[str, Any]]) -> None:
    talk = begun(made(**limited(max_tokens_per_minute=600)))
    response(talk, "resp_1")
    talk.told()
    talk.say(type="response.create")
    told, code = talk.told()
    assert told["type"] == "error"
    assert told["error"]["code"] == "quota_exceeded"
    assert code == 1008
    assert talk.heard() == [1000]
    (record,) = records
    assert (record["outcome"], record["error"], record["status"]) == ("rejected", "quota_exceeded", 101)
    assert record["input_tokens"] == 60
    assert record["closed_by"] == "gateway"
    assert record["refused_by"]["quota"] == "tokens_per_minute"


def test_a_response_of_the_servers_own_accord_ends_it_too(made: Callable[..., Talk]) -> None:
    talk = begun(made(**limited(max_tokens_per_minute=600)))
    response(talk, "resp_1")
    talk.told()
    talk.tell(type="response.created", response={"id": "resp_2"})
    assert [each if isinstance(each, int) else each["type"] for each in talk.told()] == ["error", 1008]


def test_a_client_that_may_wait_keeps_its_session(made: Callable[..., Talk]) -> None:
    waits = {"when_exceeded": {"action": "wait", "seconds": 5}}
    talk = begun(made(**limited(max_tokens_per_minute=600, **waits)))
    response(talk, "resp_1")
    talk.told()
    talk.say(type="response.create")
    assert [each["error"]["code"] for each in talk.told()] == ["quota_exceeded"]
    talk.tell(type="response.created", response={"id": "resp_2"})
    assert talk.heard() == [{"type": "response.cancel", "response_id": "resp_2"}]
    talk.here.clock.now += 61
    talk.say(type="response.create")
    assert [each["type"] for each in talk.heard()] == ["response.create"]


def test_no_budget_no_session(made: Callable[..., Talk]) -> None:
    talk = made(**limited(max_tokens_per_minute=600, max_requests_per_minute=2))
    begun(talk)
    response(talk, "resp_1", {"total_tokens": 600, "input_tokens": 300, "output_tokens": 300})
    other = Talk(Connection(talk.here.gateway, talk.here.clock, talk.here.layer.context.options))
    other.ask()
    assert other.here.result()[0] == 429


def test_a_backends_capacity_is_taken_by_responses_alone(made: Callable[..., Talk]) -> None:
    talk = begun(made(("a", {"tokens_per_minute": 10_000})))
    gateway = talk.here.gateway
    assert gateway.setup is not None
    (backend,) = gateway.setup.table.pool("gpt") or ()
    capacity = gateway.engine.scheduler.capacities.of(backend, "gpt")

    def free() -> float | None:
        return capacity.headroom(talk.here.clock.now)

    assert free() == 1
    talk.tell(type="response.created", response={"id": "resp_1"})
    assert free() == 0.9488
    talk.tell(type="response.done", response={"id": "resp_1", "usage": USAGE})
    assert free() == 0.99
    talk.send(CloseConnection(1000))
    assert free() == 0.99


def test_a_budget_in_money_is_spent_by_kinds_of_tokens(made: Callable[..., Talk]) -> None:
    prices = {"gpt": {"input": 10, "output": 20, "audio_input": 100, "audio_output": 200}}
    talk = begun(made(prices=prices, **limited(max_cost_per_day=0.02)))
    response(talk, "resp_1")
    # 20 * 10 + 40 * 100 + 10 * 20 + 30 * 200 = 10,400 millionths, and more than half of it is gone.
    talk.told()
    talk.say(type="response.create", response={"max_output_tokens": 500})
    told, code = talk.told()
    assert (told["error"]["code"], code) == ("budget_exceeded", 1008)
    assert "0.0096 left" in told["error"]["message"]


TRANSCRIBED = {
    "type": "conversation.item.input_audio_transcription.completed",
    "usage": {"type": "tokens", "total_tokens": 70, "input_tokens": 50, "output_tokens": 20},
}


@pytest.mark.parametrize("then", ["nothing", "a response"])
def test_transcriptions_are_paid_for(made: Callable[..., Talk], then: str) -> None:
    prices = {"gpt": {"input": 10, "output": 20}}
    talk = begun(made(prices=prices, **limited(max_cost_per_day=0.02)))
    talk.tell(**TRANSCRIBED)
    if then == "a response":
        plain = {"total_tokens": 10, "input_tokens": 10, "output_tokens": 0}
        response(talk, "resp_1", plain)
        assert spent(talk) == 50 * 10 + 20 * 20 + 10 * 10
    talk.send(CloseConnection(1000))
    assert spent(talk) == 50 * 10 + 20 * 20 + (100 if then == "a response" else 0)


def spent(talk: Talk) -> int:
    """What is gone of a client's budget of 0.02 for a day, in millionths."""
    gateway = talk.here.gateway
    from aoai_gateway.quota.quotas import Decision, Reservation, budget_of

    budget = budget_of(gateway.config.clients[0])
    assert budget is not None
    decision = gateway.state.reserve(
        Reservation("look", "anybody", (budget,), 0, 0, cost=0), gateway.unix_time()
    )
    assert isinstance(decision, Decision)
    return 20_000 - decision.standings[0].remaining


@pytest.mark.parametrize("how", ["is left", "is closed", "tells its usage"])
def test_a_live_session_is_charged(made: Callable[..., Talk], how: str) -> None:
    prices = {"gpt": {"input": 10, "output": 20}}
    talk = made("a", prices=prices, **limited(max_tokens_per_minute=10_000, max_cost_per_day=0.02))
    talk.ask("/openai/v1/live")
    talk.head()
    talk.say(type="session.start", session={"model": "gpt"})
    talk.accept("a")
    talk.tell(type="session.started", session={"model": "a"})
    booked, cost = 10_000 - left(talk), spent(talk)
    assert booked > 11
    assert cost > 170
    if how == "tells its usage":
        talk.tell(type="session.closed", usage={"input_tokens": 5, "output_tokens": 6, "total_tokens": 11})
        booked, cost = 11, 5 * 10 + 6 * 20
    if how == "is left":
        talk.here.hang_up()
    else:
        talk.reply(CloseConnection(1000))
    assert (10_000 - left(talk), spent(talk)) == (booked, cost)


def test_a_live_session_ends_with_the_gateway(made: Callable[..., Talk]) -> None:
    talk = made("a")
    talk.ask("/openai/v1/live")
    talk.head()
    talk.say(type="session.start", session={"model": "gpt"})
    talk.accept("a")
    talk.tell(type="session.started", session={"model": "a"})
    talk.told()
    talk.here.feed(GatewayLeaves(at_once=False))
    told, code = talk.told()
    assert (told["error"]["code"], code) == ("session_moved", 1001)


@pytest.mark.parametrize("many", [1, 70])
def test_a_session_that_ends_takes_nothing_of_a_backend_any_more(
    made: Callable[..., Talk], many: int
) -> None:
    talk = begun(made(("a", {"tokens_per_minute": 1_000_000})))
    gateway = talk.here.gateway
    assert gateway.setup is not None
    (backend,) = gateway.setup.table.pool("gpt") or ()
    capacity = gateway.engine.scheduler.capacities.of(backend, "gpt")
    for number in range(many):
        talk.tell(type="response.created", response={"id": f"resp_{number}"})
    assert 0 < len(capacity._bookings) <= 65
    talk.send(CloseConnection(1000))
    assert not capacity._bookings


# --- the end -------------------------------------------------------------------------------------------


def test_a_client_that_hangs_up(made: Callable[..., Talk], records: list[dict[str, Any]]) -> None:
    talk = begun(made())
    talk.here.hang_up()
    assert talk.heard() == [1001]
    assert records[0]["outcome"] == "client_gone"
    assert talk.here.at_rest


def test_a_backend_that_hangs_up(made: Callable[..., Talk], records: list[dict[str, Any]]) -> None:
    talk = begun(made())
    talk.here.hang_up("a")
    told, code = talk.told()
    assert told["error"]["code"] == "session_disconnected"
    assert code == 1011
    assert records[0]["outcome"] == "truncated"
    talk.here.run_timers(1)
    assert talk.here.at_rest


def test_a_backend_that_closes(made: Callable[..., Talk], records: list[dict[str, Any]]) -> None:
    talk = begun(made())
    talk.reply(CloseConnection(1001, "session_expired"))
    assert talk.told() == [1001]
    assert records[0]["outcome"] == "ok"
    assert records[0]["closed_by"] == "backend"


def test_bytes_that_are_no_frame(made: Callable[..., Talk]) -> None:
    talk = begun(made())
    talk.feed(b"\xff" * 10)
    assert talk.told() == [1002]
    assert talk.heard() == [1002]


@pytest.mark.parametrize(("seconds", "said"), [(301, "Nothing was said"), (3_601, "has lasted")])
def test_a_session_has_an_end(made: Callable[..., Talk], seconds: float, said: str) -> None:
    talk = begun(made())
    for _ in range(int(seconds // 200)):
        talk.here.run_timers(200)
        talk.say(type="x")
    if seconds < 400:
        talk.told()
        talk.here.run_timers(seconds)
    told, code = [each for each in talk.told() if each != 1000][-2:] if seconds < 400 else (None, None)
    if seconds > 400:
        talk.here.run_timers(400)
        told, code = talk.told()
    assert said in told["error"]["message"]
    assert code == 1001


def test_an_idle_session_ends_with_the_gateway(made: Callable[..., Talk]) -> None:
    talk = begun(made())
    talk.here.feed(GatewayLeaves(at_once=False))
    told, code = talk.told()
    assert told["error"]["code"] == "session_moved"
    assert code == 1001


def test_a_handshake_that_ends_late_hears_of_the_gateways_end(made: Callable[..., Talk]) -> None:
    talk = made()
    talk.ask()
    talk.here.gateway.sessions_end = True
    talk.accept("a")
    assert talk.head().startswith("HTTP/1.1 101 ")
    told, code = talk.told()
    assert (told["error"]["code"], code) == ("session_moved", 1001)


@pytest.mark.parametrize("late", [True, False])
def test_a_session_without_a_first_message_ends_with_the_gateway(
    made: Callable[..., Talk], late: bool
) -> None:
    talk = made()
    talk.here.gateway.sessions_end = late
    opened(talk)
    if not late:
        talk.here.feed(GatewayLeaves(at_once=False))
    told, code = talk.told()
    assert (told["error"]["code"], code) == ("session_moved", 1001)
    talk.here.run_timers(1)
    assert talk.here.at_rest


def test_a_first_response_is_waited_for(made: Callable[..., Talk]) -> None:
    talk = opened(made())
    create(talk)
    talk.here.gateway.sessions_end = True
    talk.accept("a")
    completed(talk)
    assert [each if isinstance(each, int) else each["type"] for each in talk.told()][-3:] == [
        "response.completed",
        "error",
        1001,
    ]


def test_a_response_under_way_is_waited_for(made: Callable[..., Talk]) -> None:
    talk = begun(made())
    talk.tell(type="response.created", response={"id": "resp_1"})
    talk.here.feed(GatewayLeaves(at_once=False))
    assert len(talk.told()) == 1
    talk.tell(type="response.done", response={"id": "resp_1"})
    assert [each if isinstance(each, int) else each["type"] for each in talk.told()] == [
        "response.done",
        "error",
        1001,
    ]


def test_a_bug_ends_the_session(made: Callable[..., Talk], monkeypatch: pytest.MonkeyPatch) -> None:
    from aoai_gateway.proxy.session_meaning import SessionMeaning

    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("a bug")

    talk = begun(made())
    monkeypatch.setattr(SessionMeaning, "told", broken)
    talk.tell(type="x")
    assert not talk.here.client.connected
    assert talk.here.at_rest


# --- short-lived secrets -------------------------------------------------------------------------------

SECRET = "ek_0123456789abcdef0123456789abcdef"


def mint(talk: Talk, body: dict[str, Any], host: str = "a") -> dict[str, Any]:
    """Have a secret made by a backend, and give what the client is told."""
    raw = json.dumps(body).encode()
    head = (
        "POST /openai/v1/realtime/client_secrets HTTP/1.1",
        "host: gw",
        "api-key: key-of-anybody",
        "content-type: application/json",
        f"content-length: {len(raw)}",
    )
    here = talk.here
    here.feed(events.DataReceived(here.client, "\r\n".join((*head, "", "")).encode() + raw))
    told_of = {"model": {"a": "real", "b": "other"}[host]}
    here.respond(host, 200, json.dumps({"value": SECRET, "expires_at": 1, "session": told_of}).encode())
    status, told = here.result()
    assert status == 200
    decoded: dict[str, Any] = json.loads(told)
    return decoded


def again(talk: Talk) -> Talk:
    """Another connection to the same gateway."""
    here = talk.here
    return Talk(Connection(here.gateway, here.clock, here.layer.context.options))


@pytest.mark.parametrize(
    "body",
    [
        {"session": {"type": "realtime", "model": "gpt"}},
        {"model": "gpt"},
        {"session": {"type": "transcription", "audio": {"input": {"transcription": {"model": "gpt"}}}}},
    ],
)
def test_a_secret_opens_a_session_where_it_was_made(
    made: Callable[..., Talk], body: dict[str, Any], records: list[dict[str, Any]]
) -> None:
    talk = made("real@a", "other@b")
    seen: list[Any] = []
    talk.here.on_hook = lambda hook: seen.extend(hook.args())
    talk.here.hanging.clear()
    talk.here.refusing.add("a.example")
    minted = mint(talk, body, "b")
    assert (minted["value"], minted["session"]["model"]) == (SECRET, "gpt")
    sent = talk.here.sent["b.example"]
    assert b'"model": "other"' in sent
    other = again(talk)
    shown = f"sec-websocket-protocol: realtime, openai-insecure-api-key.{SECRET}"
    other.ask("/openai/v1/realtime", shown, key=None)
    assert "a.example" not in other.here.sent
    head = other.here.sent["b.example"].decode()
    assert f"authorization: Bearer {SECRET}" in head
    assert "api-key" not in head
    other.accept("b")
    assert other.head().startswith("HTTP/1.1 101 ")
    other.send(CloseConnection(1000))
    assert records[-1]["client"] == "anybody"
    assert records[-1]["deployment"] == "gpt"


def test_a_secret_is_on_no_flow(made: Callable[..., Talk]) -> None:
    talk = made("a")
    flows: list[Any] = []

    class Listener:
        def response(self, flow: Any) -> None:
            flows.append(flow.response.content)

    del talk.here.gateway.heard.refresh  # which the driver has stopped
    listen(talk.here.gateway, Listener())
    assert mint(talk, {"session": {"model": "gpt"}})["value"] == SECRET
    (content,) = flows
    assert SECRET.encode() not in content
    assert b'"value": "secret-' in content


def test_a_secret_is_good_for_realtime_alone(made: Callable[..., Talk]) -> None:
    talk = made("a")
    mint(talk, {"session": {"model": "gpt"}})
    other = again(talk)
    other.here.ask(key=SECRET)
    assert other.here.result()[0] == 403
    unknown = again(talk)
    unknown.ask(key=SECRET.replace("0", "1"))
    assert unknown.here.result()[0] == 401


# --- sessions that the first message opens -------------------------------------------------------------

RESPONSES = "/openai/v1/responses"
RESPONSE = {"id": "resp_0123456789abcdef0123", "model": "real"}
RESPONSE_USAGE = {"input_tokens": 30, "output_tokens": 12, "total_tokens": 42}


def create(talk: Talk, **members: Any) -> None:
    talk.say(type="response.create", **{"model": "gpt", "input": "hi", "store": False, **members})


def opened(talk: Talk) -> Talk:
    """Open a session; its client's handshake is accepted at once."""
    talk.ask(RESPONSES)
    head = talk.head()
    assert head.startswith("HTTP/1.1 101 ")
    assert generate_accept_token(KEY).decode() in head
    assert not talk.here.sent
    return talk


def completed(talk: Talk, ident: str = RESPONSE["id"]) -> None:
    talk.tell(type="response.created", response={"id": ident, "model": "real"})
    talk.tell(type="response.output_text.delta", delta="yes")
    talk.tell(type="response.completed", response={"id": ident, "model": "real", "usage": RESPONSE_USAGE})


def test_responses_over_a_websocket(made: Callable[..., Talk], records: list[dict[str, Any]]) -> None:
    talk = opened(made("real@a", **limited(max_tokens_per_minute=10_000)))
    create(talk, max_output_tokens=100)
    assert talk.here.sent["a.example"].startswith(b"GET /openai/v1/responses HTTP/1.1\r\n")
    talk.accept("a")
    (sent,) = talk.heard()
    assert (sent["type"], sent["model"], sent["input"]) == ("response.create", "real", "hi")
    talk.tell(type="response.created", response=RESPONSE)
    assert talk.told() == []  # it may still be refused
    talk.tell(type="response.output_text.delta", delta="yes")
    created, delta = talk.told()
    assert created["response"]["model"] == "gpt"
    assert delta["delta"] == "yes"
    talk.tell(type="response.completed", response={**RESPONSE, "usage": RESPONSE_USAGE})
    assert left(talk) == 9_958
    create(talk, previous_response_id=RESPONSE["id"], model="GPT")
    assert talk.heard()[0]["model"] == "real"
    completed(talk, "resp_1123456789abcdef0123")
    assert left(talk) == 9_916
    talk.send(CloseConnection(1000))
    (record,) = records
    assert (record["operation"], record["outcome"], record["responses"]) == ("responses.connect", "ok", 2)
    assert (record["input_tokens"], record["output_tokens"], record["messages_in"]) == (60, 24, 2)
    assert talk.here.gateway.engine.affinity.home(RESPONSE["id"], talk.here.clock.now) == "a"
    assert talk.here.at_rest


@pytest.mark.parametrize("early", [True, False])
def test_a_refused_first_message_is_replayed(made: Callable[..., Talk], early: bool) -> None:
    talk = opened(made("real@a", "other@b"))
    create(talk)
    talk.accept("a")
    assert talk.heard()[0]["model"] == "real"
    if early:
        talk.tell(type="response.created", response=RESPONSE)
    talk.tell(type="error", status=429, error={"code": "rate_limit_exceeded", "message": "slow down"})
    talk.here.run_timers()
    assert talk.told() == []
    talk.backend = Socket(ConnectionType.SERVER)
    talk.accept("b")
    assert talk.heard()[0]["model"] == "other"
    completed(talk)
    assert [each["type"] for each in talk.told()][-1] == "response.completed"


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        ("openai-insecure-api-key.key-of-anybody, realtime, x", "realtime"),
        ("openai-insecure-api-key.key-of-anybody", None),
    ],
)
def test_a_browser_gets_a_subprotocol(made: Callable[..., Talk], offered: str, chosen: str | None) -> None:
    talk = made()
    talk.ask(RESPONSES, f"sec-websocket-protocol: {offered}", key=None)
    fields = dict(line.split(": ", 1) for line in talk.head().split("\r\n")[1:])
    assert fields.get("sec-websocket-protocol") == chosen


def test_a_refused_handshake_leads_to_the_next_backend(made: Callable[..., Talk]) -> None:
    talk = opened(made())
    create(talk)
    talk.here.respond("a", 503)
    talk.accept("b")
    completed(talk)
    assert len(talk.told()) == 3


def test_no_backend_opens_it(made: Callable[..., Talk], records: list[dict[str, Any]]) -> None:
    talk = opened(made())
    create(talk)
    talk.here.respond("a", 429)
    talk.here.respond("b", 429)
    told, code = talk.told()
    assert (told["type"], told["status"], code) == ("error", 429, 1008)
    assert told["error"]["code"] == records[0]["error"]
    assert talk.here.at_rest
    assert not talk.here.gateway.sessions


@pytest.mark.parametrize(
    ("first", "code"),
    [
        ({"model": "other"}, "DeploymentNotFound"),
        ({"model": None}, "missing_deployment"),
        ({"max_output_tokens": "x"}, "invalid_body"),
    ],
)
def test_a_first_message_that_is_refused(made: Callable[..., Talk], first: dict[str, Any], code: str) -> None:
    talk = opened(made())
    create(talk, **first)
    told, closed = talk.told()
    assert (told["error"]["code"], closed) == (code, 1008)
    assert not talk.here.sent


def test_another_first_message_is_none(made: Callable[..., Talk]) -> None:
    talk = opened(made())
    talk.say(type="response.cancel")
    (told,) = talk.told()
    assert told["error"]["code"] == "message_malformed"
    create(talk)
    talk.accept("a")
    assert len(talk.heard()) == 1


def test_others_have_their_turn_before_there_is_a_session(made: Callable[..., Talk]) -> None:
    talk = opened(made())
    performed = Perform(talk)
    talk.here.layer.streams[1]._here.clock = performed  # type: ignore[assignment]
    talk.feed(b"".join(talk.client.send(Ping()) for _ in range(500)))
    assert performed.times > 50


def test_others_have_their_turn_while_a_large_first_message_goes_out(
    made: Callable[..., Talk], monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = opened(made("real@a"))
    text = "xä€" * 500_000
    raw = json.dumps({"type": "response.create", "model": "gpt", "input": text}, ensure_ascii=False)
    target = Target(RESPONSES_SOCKET, "v1")
    monkeypatch.setattr(
        talk.here.gateway.reader, "parse", lambda *_, **__: parse_body(target, None, raw.encode())
    )
    talk.send(TextMessage(raw))
    performed = Perform(talk)
    talk.here.layer.streams[1]._here.clock = performed  # type: ignore[assignment]
    talk.accept("a")
    (sent,) = talk.heard()
    assert (sent["model"], sent["input"]) == ("real", text)
    assert performed.times >= 2


def test_a_client_that_never_says_what_it_wants_is_left(made: Callable[..., Talk]) -> None:
    talk = opened(made())
    talk.feed(b"".join(talk.client.send(TextMessage("")) for _ in range(500)))
    *told, code = talk.told()
    assert code == 1008
    assert 1 < len(told) < 10
    talk.here.run_timers(1)
    assert talk.here.at_rest


def test_what_comes_before_the_backend_has_answered_waits(made: Callable[..., Talk]) -> None:
    talk = opened(made())
    create(talk)
    talk.say(type="response.steer")
    talk.accept("a")
    assert [each["type"] for each in talk.heard()] == ["response.create"]
    talk.tell(type="response.output_text.delta", delta="yes")
    assert [each["type"] for each in talk.heard()] == ["response.steer"]


def test_a_client_that_sends_too_much_before_there_is_a_session(
    made: Callable[..., Talk], records: list[dict[str, Any]]
) -> None:
    talk = opened(made(limits={"message_mb": 1}))
    create(talk)
    for _ in range(20):
        talk.send(BytesMessage(bytes(60_000), message_finished=False))
    told, code = talk.told()
    assert (told["error"]["code"], code) == ("message_too_large", 1009)
    assert records[0]["outcome"] == "client_gone"
    assert records[0]["attempts"][0]["failure"] is None
    assert talk.here.at_rest


@pytest.mark.parametrize("cut", ["key-", "key-of-", "k"])
def test_no_byte_is_lost_where_the_session_begins(made: Callable[..., Talk], cut: str) -> None:
    talk = opened(made("a"))
    create(talk)
    talk.accept("a")
    frames = [
        talk.backend.send(TextMessage(json.dumps({"type": "response.output_text.delta", "delta": text})))
        for text in ("yes", "the key-of-a, a key-of-any")
    ]
    at = frames[1].index(cut.encode()) + len(cut)
    talk.here.answer("a", frames[0] + frames[1][:at])
    talk.here.answer("a", frames[1][at:])
    assert [each["delta"] for each in talk.told()] == ["yes", "the ********, a ********ny"]


def test_a_client_that_leaves_before_there_is_a_session(
    made: Callable[..., Talk], records: list[dict[str, Any]]
) -> None:
    talk = opened(made())
    talk.here.hang_up()
    assert talk.here.at_rest
    assert records == []
    other = opened(again(talk))
    create(other)
    other.here.hang_up()
    assert records[0]["outcome"] == "client_gone"
    assert other.here.at_rest


def test_a_client_that_says_nothing(made: Callable[..., Talk]) -> None:
    talk = opened(made())
    talk.here.run_timers(301)
    told, code = talk.told()
    assert (told["error"]["code"], code) == ("session_expired", 1001)
    talk.here.run_timers(1)
    assert talk.here.at_rest


def test_limits_hold_for_each_response(made: Callable[..., Talk]) -> None:
    limits = {"max_tokens": 50, "action": "clamp"}
    talk = opened(made(**limited(request_limits=limits)))
    create(talk, max_output_tokens=100)
    talk.accept("a")
    assert talk.heard()[0]["max_output_tokens"] == 50
    completed(talk)
    create(talk, max_output_tokens=200)
    assert talk.heard()[0]["max_output_tokens"] == 50


def test_a_live_session(made: Callable[..., Talk], records: list[dict[str, Any]]) -> None:
    talk = made("real@a", **limited(max_tokens_per_minute=10_000))
    talk.ask("/openai/v1/live")
    talk.head()
    talk.say(type="session.start", session={"model": "gpt"})
    talk.accept("a")
    assert talk.heard() == [{"type": "session.start", "session": {"model": "real"}}]
    talk.tell(type="session.started", session={"model": "real"})
    talk.tell(type="session.closed", usage={"input_tokens": 5, "output_tokens": 6, "total_tokens": 11})
    talk.reply(CloseConnection(1000))
    assert records[0]["operation"] == "live.connect"
    assert (records[0]["input_tokens"], records[0]["output_tokens"]) == (5, 6)
    assert left(talk) == 9_989
