"""Streams that come in a coding, though none was asked for: what is true of plain ones is true of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from mitmproxy.proxy import commands, events

from aoai_gateway.engine.attempt import FailureKind
from aoai_gateway.engine.call import Call, Outcome
from aoai_gateway.proxy.unfolding import MOST_WAITING
from aoai_gateway.runtime.stream_hooks import GatewayAskHook
from tests.coded_streams import CODINGS
from tests.proxy.layer_driver import Connection, await_it

ROLE = b'data: {"model":"gpt","choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n'
TEXT = b'data: {"model":"gpt","choices":[{"index":0,"delta":{"content":"word %d"},"finish_reason":null}]}\n\n'
TEXTS = [TEXT % number for number in range(20)]
STOP = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":5,"total_tokens":8}}\n\n'
DONE = b"data: [DONE]\n\n"
WHOLE = [ROLE, *TEXTS, STOP, USAGE, DONE]
REFUSAL = b'data: {"error":{"code":"429","message":"too many"}}\n\n'
END = b"0\r\n\r\n"

NAMES = pytest.mark.parametrize("name", CODINGS)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data) if data else b""


def head(coding: str, framing: str = "transfer-encoding: chunked") -> bytes:
    fields = ["content-type: text/event-stream", f"content-encoding: {coding}", framing]
    return "\r\n".join(["HTTP/1.1 200 OK", *fields, "", ""]).encode()


def call_of(here: Connection) -> Call:
    """The one call under way."""
    (call,) = here.gateway.calls.values()
    return call


def text_of(here: Connection) -> bytes:
    """The events that the client has got; its answer says nothing of a coding."""
    first, _, body = here.received.partition(b"\r\n\r\n")
    assert b"content-encoding" not in first.lower()
    assert b"content-length" not in first.lower()
    return b"".join(body.split(b"\r\n")[1::2])


@NAMES
def test_events_come_as_they_are_flushed(here: Connection, name: str) -> None:
    coding, encode = CODINGS[name]
    here.ask(stream=True, stream_options={"include_usage": True})
    call = call_of(here)
    sent = b""
    here.answer("a", head(coding))
    parts = list(encode(WHOLE))
    for part, event in zip(parts, WHOLE, strict=False):
        here.answer("a", chunk(part))
        sent += event
        assert text_of(here) == (sent if sent != ROLE else b""), "the begin is held back"
    here.answer("a", b"".join(map(chunk, parts[len(WHOLE) :])) + END)
    assert here.received.endswith(END)
    assert text_of(here) == b"".join(WHOLE)
    assert call.usage is not None
    assert (call.outcome, call.usage.total_tokens) == (Outcome.OK, 8)
    assert here.at_rest


@NAMES
@pytest.mark.parametrize("framing", ["transfer-encoding: chunked", "content-length: {}"])
def test_all_of_it_in_one_read(here: Connection, name: str, framing: str) -> None:
    coding, encode = CODINGS[name]
    here.ask(stream=True)
    call, body = call_of(here), b"".join(encode(WHOLE))
    is_chunked = "chunked" in framing
    here.answer("a", head(coding, framing.format(len(body))) + (chunk(body) + END if is_chunked else body))
    assert text_of(here) == b"".join(each for each in WHOLE if each != USAGE), "it did not ask for usage"
    assert here.received.endswith(END)
    assert call.outcome is Outcome.OK
    assert here.at_rest


def test_nothing_is_asked_for(here: Connection) -> None:
    here.ask(stream=True)
    assert b"accept-encoding: identity\r\n" in here.sent["a.example"].lower()


@NAMES
def test_secrets_are_masked_across_its_pieces(here: Connection, name: str) -> None:
    coding, encode = CODINGS[name]
    secret = "key-of-a"
    said = TEXTS[0].replace(b"word 0", secret.encode())
    for border in range(len(secret) + 1):
        here.ask(stream=True)
        at = said.index(secret.encode()) + border
        here.answer("a", head(coding))
        for part in encode([TEXTS[0], said[:at], said[at:], STOP, DONE]):
            here.answer("a", chunk(part))
        here.answer("a", END)
        assert secret.encode() not in here.received
        assert text_of(here) == TEXTS[0] + said.replace(secret.encode(), b"*" * len(secret)) + STOP + DONE
        here.received = b""


@NAMES
def test_the_standins_name_becomes_the_one_that_was_asked_for(here: Connection, name: str) -> None:
    coding, encode = CODINGS[name]
    here.ask(stream=True)
    said = [event.replace(b'"model":"gpt"', b'"model":"a"') for event in (ROLE, *TEXTS)]
    here.answer("a", head(coding) + b"".join(map(chunk, encode([*said, STOP, DONE]))) + END)
    assert text_of(here) == b"".join([ROLE, *TEXTS, STOP, DONE])


def test_it_does_not_take_the_short_way(here: Connection) -> None:
    """That reads chunks as they come, and these have to be decoded first."""
    coding, encode = CODINGS["gzip"]
    here.ask(stream=True)
    first, second, *_ = encode(TEXTS)
    here.answer("a", head(coding) + chunk(first))
    assert here.layer.take(chunk(second), here.server("a")) is None
    here.answer("a", chunk(second))
    assert text_of(here) == TEXTS[0] + TEXTS[1]


@NAMES
def test_a_refusal_before_content_is_replayed(here: Connection, name: str) -> None:
    coding, encode = CODINGS[name]
    here.ask(stream=True)
    call = call_of(here)
    here.answer("a", head(coding) + b"".join(map(chunk, encode([ROLE, REFUSAL]))))
    assert here.received == b""
    assert call.attempts[0].failure is FailureKind.REFUSED_IN_STREAM
    here.answer("b", head(coding) + b"".join(map(chunk, encode(WHOLE))) + END)
    assert text_of(here) == b"".join(each for each in WHOLE if each != USAGE)
    assert here.at_rest


@pytest.mark.parametrize("coding", ["compress", "gzip, br", "aes128gcm"])
def test_an_unknown_coding_is_the_backends_fault(here: Connection, coding: str) -> None:
    here.ask(stream=True)
    call = call_of(here)
    here.answer("a", head(coding) + chunk(b"whatever it is"))
    assert here.received == b""
    assert (call.attempts[0].failure, call.attempts[0].reason) == (
        FailureKind.PROTOCOL,
        "its stream is in an unknown coding",
    )
    here.answer("b", head("identity") + b"".join(map(chunk, WHOLE)) + END)
    assert here.received.endswith(END)


@NAMES
def test_what_is_not_in_its_coding_is_replayed(here: Connection, name: str) -> None:
    here.ask(stream=True)
    call = call_of(here)
    here.answer("a", head(CODINGS[name][0]) + chunk(b"\xff" * 100))
    assert here.received == b""
    assert call.attempts[0].failure is FailureKind.DROPPED
    here.answer("b", head("identity") + b"".join(map(chunk, WHOLE)) + END)
    assert here.received.endswith(END)
    assert here.at_rest


@NAMES
def test_what_breaks_in_its_midst_ends_like_a_broken_stream(here: Connection, name: str) -> None:
    coding, encode = CODINGS[name]
    here.ask(stream=True)
    call = call_of(here)
    parts = list(encode(WHOLE))
    here.answer("a", head(coding) + b"".join(map(chunk, parts[:5])))
    here.answer("a", chunk(b"\xff" * 100) + b"".join(map(chunk, parts[5:])) + END)
    assert text_of(here).startswith(b"".join(WHOLE[:5]))
    assert b"upstream_disconnected" in here.received
    assert not here.received.endswith(END)
    assert DONE not in here.received
    assert call.outcome is Outcome.TRUNCATED
    assert not here.server("a").connected
    here.run_timers(1)
    assert here.at_rest


@NAMES
@pytest.mark.parametrize("has_ended", [False, True])
def test_half_of_a_coding_is_whole_only_where_the_stream_says_so(
    here: Connection, name: str, has_ended: bool
) -> None:
    coding, encode = CODINGS[name]
    here.ask(stream=True)
    call = call_of(here)
    *parts, last = encode([*WHOLE[:-1], DONE if has_ended else b": nothing\n\n"])
    if name == "gzip of several members":
        parts.append(last[: -1 if has_ended else -12])
    here.answer("a", head(coding) + b"".join(map(chunk, parts)) + END)
    assert (b"upstream_disconnected" in here.received) is not has_ended
    assert call.outcome is (Outcome.OK if has_ended else Outcome.TRUNCATED)


@NAMES
def test_a_bomb_ends_like_a_broken_stream(here: Connection, name: str) -> None:
    coding, encode = CODINGS[name]
    here.ask(stream=True)
    call = call_of(here)
    bomb = b"data: " + bytes(64 * 1024 * 1024)
    here.answer("a", head(coding) + b"".join(map(chunk, encode([TEXTS[0], bomb]))))
    assert b"upstream_disconnected" in here.received
    assert len(here.received) < 8 * 1024 * 1024
    assert call.outcome is Outcome.TRUNCATED


# --- files ---------------------------------------------------------------------------------------------


def ask_for_file(here: Connection) -> None:
    first = "GET /openai/v1/files/file-0123456789abcdef01234567/content HTTP/1.1"
    lines = (first, "host: gw", "api-key: key-of-anybody", "accept-encoding: gzip", "", "")
    here.feed(events.DataReceived(here.client, "\r\n".join(lines).encode()))


def file_head(coding: str, *fields: str, status: int = 200) -> bytes:
    lines = [
        f"HTTP/1.1 {status} OK",
        "content-type: text/plain",
        f"content-encoding: {coding}",
        *fields,
        "",
        "",
    ]
    return "\r\n".join(lines).encode()


@NAMES
def test_a_file_goes_out_as_text(made: Callable[..., Connection], name: str) -> None:
    coding, encode = CODINGS[name]
    here = made()
    ask_for_file(here)
    assert b"accept-encoding: identity\r\n" in here.sent["a.example"].lower()
    coded = b"".join(encode([b"first key-of-a ", b"second"]))
    here.answer("a", file_head(coding, f"content-length: {len(coded)}") + coded[:-4])
    here.answer("a", coded[-4:])
    assert text_of(here) == b"first ******** second"
    assert here.received.endswith(END)


def test_half_a_file_is_cut(here: Connection) -> None:
    ask_for_file(here)
    coded = b"".join(CODINGS["gzip"][1]([b"first", b"second"]))[:-1]
    here.answer("a", file_head("gzip", f"content-length: {len(coded)}") + coded)
    assert text_of(here) == b"firstsecond"
    assert not here.received.endswith(END)
    assert not here.client.connected


@pytest.mark.parametrize(("coding", "status"), [("gzip", 206), ("compress", 200)])
def test_what_cannot_be_decoded_of_a_file_passes_as_it_came(
    here: Connection, coding: str, status: int
) -> None:
    ask_for_file(here)
    here.answer("a", file_head(coding, "content-length: 6", status=status) + b"\xffcoded")
    first, _, body = here.received.partition(b"\r\n\r\n")
    assert f"content-encoding: {coding}".encode() in first
    assert body == b"\xffcoded"


def test_nothing_is_whole(here: Connection) -> None:
    ask_for_file(here)
    here.answer("a", file_head("gzip", "content-length: 0"))
    assert here.received.endswith(END)
    assert here.client.connected
    assert here.at_rest


# --- turns ---------------------------------------------------------------------------------------------


def held_turn(here: Connection) -> list[commands.StartHook]:
    """Have the event loop give no turns from here on; gives what waits for them."""
    waiting: list[commands.StartHook] = []
    here.takes_time = GatewayAskHook
    here.on_hook = lambda hook: waiting.append(hook) if isinstance(hook, GatewayAskHook) else None
    return waiting


def give_turn(here: Connection, waiting: list[commands.StartHook]) -> None:
    hook = waiting.pop(0)
    await_it(hook)
    here.feed(events.HookCompleted(hook))


def test_much_of_it_takes_turns_and_its_order_is_kept(here: Connection) -> None:
    coding, encode = CODINGS["gzip"]
    here.ask(stream=True)
    call, parts = call_of(here), list(encode([TEXTS[0], *TEXTS * 300, STOP, DONE]))
    waiting = held_turn(here)
    here.answer("a", head(coding) + chunk(b"".join(parts[:-2])))
    assert len(waiting) == 1
    so_far = len(here.received)
    here.answer("a", b"".join(map(chunk, parts[-2:])) + END)
    assert len(here.received) == so_far, "it waits for its turn"
    while waiting:
        give_turn(here, waiting)
    assert text_of(here) == b"".join([TEXTS[0], *TEXTS * 300, STOP, DONE])
    assert call.outcome is Outcome.OK
    assert here.at_rest


def test_a_client_that_leaves_meanwhile_is_gone(here: Connection) -> None:
    coding, encode = CODINGS["gzip"]
    here.ask(stream=True)
    call = call_of(here)
    waiting = held_turn(here)
    here.answer("a", head(coding) + b"".join(map(chunk, encode([TEXTS[0], *TEXTS * 300]))))
    here.hang_up()
    give_turn(here, waiting)
    assert not waiting
    assert call.outcome is Outcome.CLIENT_GONE
    assert not here.server("a").connected
    assert here.at_rest


def test_what_waits_for_its_turn_has_a_bound(here: Connection) -> None:
    coding, encode = CODINGS["gzip"]
    here.ask(stream=True)
    call = call_of(here)
    waiting = held_turn(here)
    here.answer("a", head(coding) + b"".join(map(chunk, encode([TEXTS[0], *TEXTS * 300]))))
    (stream,) = here.layer.streams.values()
    for _ in range(4 * MOST_WAITING // 10_000):
        here.answer("a", chunk(b"x" * 10_000))
    kept = sum(len(event.data) for event in stream._paused_event_queue if hasattr(event, "data"))
    assert kept <= MOST_WAITING
    while waiting:
        give_turn(here, waiting)
    here.run_timers()
    assert b"upstream_disconnected" in here.received
    assert call.outcome is Outcome.TRUNCATED
