"""Each fault, as a client sees it byte by byte."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from tests.simulator.running import CHAT, Connection, Running, events, stream_text, wait_until

STREAM = json.dumps({"stream": True, "messages": [{"role": "user", "content": "say: a b c d e f"}]}).encode()
PLAIN = json.dumps({"messages": [{"role": "user", "content": "hello"}]}).encode()
RESPONSES = "/openai/v1/responses"


def stream(running: Running) -> Any:
    return running.post(CHAT, STREAM)


def nothing_comes(connection: Connection) -> None:
    """Listen for a moment, which a busy machine only makes longer."""
    connection.socket.settimeout(0.2)
    with pytest.raises(TimeoutError):
        connection.receive_all()


# Refusals and errors


@pytest.mark.parametrize(
    ("parameters", "code", "words"),
    [
        ({}, "RateLimitReached", "exceeded the token rate limit"),
        ({"reason": "requests"}, "RateLimitReached", "exceeded the call rate limit"),
        ({"form": "old"}, "429", "have exceeded token rate limit of your current OpenAI S0 pricing tier"),
        ({"form": "old", "reason": "requests"}, "429", "have exceeded call rate limit"),
        ({"form": "apim"}, "429", "Rate limit is exceeded. Try again in 60 seconds."),
        ({"reason": "ptu"}, "rate_limit_reached", "on your Provisioned-Managed deployment"),
        ({"reason": "capacity"}, "no_capacity", "currently experiencing high demand"),
    ],
)
def test_429_in_the_forms_that_azure_has(
    running: Running, parameters: dict[str, str], code: str, words: str
) -> None:
    running.fault("429", **parameters)
    answer = running.post(CHAT, PLAIN)
    assert answer.status == 429
    assert answer.error["code"] == code
    assert words in answer.error["message"]
    assert int(answer.headers["retry-after-ms"]) > 0
    assert running.post(CHAT, PLAIN).status == 200


def test_429_with_a_hint_of_ones_own(running: Running) -> None:
    running.fault("429", retry_after_seconds=1.5)
    answer = running.post(CHAT, PLAIN)
    assert answer.headers["retry-after-ms"] == "1500"
    assert answer.headers["retry-after"] == "2"


def test_429_without_hints_has_none(running: Running) -> None:
    running.fault("429-no-hints")
    answer = running.post(CHAT, PLAIN)
    assert answer.status == 429
    assert not [name for name in answer.headers if "retry" in name or "ratelimit" in name]


def test_429_with_zero_milliseconds_is_the_capture(running: Running) -> None:
    running.fault("429-ms-zero")
    headers = running.post(CHAT, PLAIN).headers
    assert headers["retry-after"] == "1"
    assert headers["retry-after-ms"] == "0"
    assert headers["x-ratelimit-remaining-tokens"] == "0"
    assert headers["x-ratelimit-reset-tokens"] == "0"


def test_429_with_a_late_body_sends_its_head_first(running: Running) -> None:
    running.fault("429-late-body", body_seconds=0.2)
    begin = time.monotonic()
    with running.connect() as connection:
        connection.send("POST", CHAT, PLAIN)
        status, headers = connection.receive_head()
        body = connection.receive_body(headers)
    assert status == 429
    assert time.monotonic() - begin >= 0.2
    assert json.loads(body)["error"]["code"] == "RateLimitReached"


def test_a_day_as_hint(running: Running) -> None:
    running.fault("retry-after-86400")
    assert running.post(CHAT, PLAIN).headers["retry-after"] == "86400"


@pytest.mark.parametrize("kind", ["401", "403", "408", "500", "502", "503", "504"])
@pytest.mark.parametrize("body", [PLAIN, STREAM])
def test_error_statuses(running: Running, kind: str, body: bytes) -> None:
    running.fault(kind)
    answer = running.post(CHAT, body)
    assert answer.status == int(kind)
    assert answer.error["message"]


def test_a_503_may_carry_a_hint(running: Running) -> None:
    running.fault("503", retry_after_seconds=2)
    assert running.post(CHAT, PLAIN).headers["retry-after-ms"] == "2000"


def test_content_filter(running: Running) -> None:
    running.fault("content_filter")
    answer = running.post(CHAT, PLAIN)
    assert answer.status == 400
    assert answer.error["code"] == "content_filter"
    assert answer.error["innererror"]["code"] == "ResponsibleAIPolicyViolation"


def test_a_huge_error_body(running: Running) -> None:
    running.fault("huge-error-body", bytes=3_000_000, status=503)
    answer = running.post(CHAT, PLAIN)
    assert answer.status == 503
    assert len(answer.body) > 3_000_000


def test_an_error_can_be_late(running: Running) -> None:
    running.fault("500", after_seconds=0.2)
    begin = time.monotonic()
    assert running.post(CHAT, PLAIN).status == 500
    assert time.monotonic() - begin >= 0.2


# The connection


def test_reset_before_the_head(running: Running) -> None:
    running.fault("reset")
    with running.connect() as connection:
        connection.send("POST", CHAT, PLAIN)
        with pytest.raises(ConnectionResetError):
            connection.receive_all()
    assert running.last_request(outcome="reset")["status"] is None


def test_reset_may_be_an_orderly_close(running: Running) -> None:
    running.fault("reset", how="fin")
    with running.connect() as connection:
        connection.send("POST", CHAT, PLAIN)
        assert connection.receive_all() == b""


def test_a_hanging_call_ends_when_the_client_goes(running: Running) -> None:
    running.fault("hang")
    with running.connect() as connection:
        connection.send("POST", CHAT, PLAIN)
        wait_until(lambda: running.control("GET", "active")["in_flight"] == 1)
        nothing_comes(connection)
        gone = time.time()
    entry = running.last_request(outcome="client_gone")
    assert entry["ended_at"] >= gone
    wait_until(lambda: running.control("GET", "active")["in_flight"] == 0)


def test_a_hang_can_come_after_the_head(running: Running) -> None:
    running.fault("hang", after_head=True)
    with running.connect() as connection:
        connection.send("POST", CHAT, STREAM)
        status, headers = connection.receive_head()
        assert status == 200
        assert headers["content-type"].startswith("text/event-stream")
        nothing_comes(connection)


def test_an_idle_connection_is_dropped_after_the_answer(running: Running) -> None:
    running.fault("drop-after-idle")
    with running.connect() as connection:
        connection.send("POST", CHAT, PLAIN)
        answer = connection.receive()
        assert answer.status == 200
        assert "connection" not in answer.headers
        assert connection.receive_all() == b""


@pytest.mark.parametrize("how", ["fin", "rst"])
def test_an_idle_connection_is_dropped_as_the_next_request_comes(running: Running, how: str) -> None:
    running.fault("drop-after-idle", when="request", how=how)
    with running.connect() as connection:
        connection.send("POST", CHAT, STREAM)
        assert connection.receive().status == 200
        time.sleep(0.05)
        connection.send("POST", CHAT, PLAIN)
        try:
            assert connection.receive_all() == b""
        except ConnectionResetError:
            assert how == "rst"
    assert running.last_request(outcome="dropped")["status"] is None
    assert running.post(CHAT, PLAIN).status == 200


def test_a_fault_can_strike_while_the_body_is_on_its_way(running: Running) -> None:
    running.fault("429", deployment="chat", before_body=True)
    with running.connect() as connection:
        connection.send("POST", CHAT, PLAIN[:10], content_length=str(len(PLAIN)))
        assert connection.receive().status == 429
        connection.socket.sendall(PLAIN[10:])
        # The rest was read and thrown away: the connection goes on.
        connection.send("POST", CHAT, PLAIN)
        assert connection.receive().status == 200


def test_a_reset_can_strike_while_the_body_is_on_its_way(running: Running) -> None:
    running.fault("reset", before_body=True)
    with running.connect() as connection:
        connection.send("POST", CHAT, b"{", content_length="1000000")
        with pytest.raises(ConnectionResetError):
            connection.receive_all()


# The answer


def test_a_slow_first_token(running: Running) -> None:
    running.fault("slow-first-token", seconds=0.3)
    begin = time.monotonic()
    with running.connect() as connection:
        connection.send("POST", CHAT, STREAM)
        connection.receive_head()
        assert time.monotonic() - begin >= 0.3
    running.fault("slow-first-token", seconds=0.3)
    begin = time.monotonic()
    assert running.post(CHAT, PLAIN).status == 200
    assert time.monotonic() - begin >= 0.3


def test_a_slow_first_token_may_come_after_the_head(running: Running) -> None:
    for seconds in (0.5, 2, 8):  # a busy machine may take half a second for the head alone
        running.fault("slow-first-token", seconds=seconds, head_first=True)
        with running.connect() as connection:
            begin = time.monotonic()
            connection.send("POST", CHAT, STREAM)
            connection.receive_head()
            took = time.monotonic() - begin
            connection.receive_chunk()
            assert time.monotonic() - begin >= seconds
        if took < seconds:
            return
    pytest.fail("the head came with the first token")


def test_a_refusal_inside_a_200_of_chat(running: Running) -> None:
    running.fault("in-200-refusal")
    answer = stream(running)
    assert answer.status == 200
    assert answer.headers["retry-after"] == "4"
    filters, role, refusal = (json.loads(data) for data in events(answer.body))
    assert filters["prompt_filter_results"]
    assert role["choices"][0]["delta"] == {"content": "", "refusal": None, "role": "assistant"}
    assert refusal["error"]["code"] == "rate_limit_exceeded"


@pytest.mark.parametrize(
    ("order", "kinds"),
    [
        ("error-first", ["response.created", "error", "response.failed"]),
        ("failed-first", ["response.created", "response.in_progress", "response.failed", "error"]),
    ],
)
def test_a_refusal_inside_a_200_of_responses(running: Running, order: str, kinds: list[str]) -> None:
    running.fault("in-200-refusal", order=order, big=True)
    answer = running.post(RESPONSES, {"model": "chat", "input": "hello", "stream": True})
    assert answer.headers["retry-after"] == "4"
    assert answer.headers["x-ratelimit-remaining-tokens"] == "-27689"
    seen = [json.loads(data) for data in events(answer.body)]
    assert [event["type"] for event in seen] == kinds
    assert [event["sequence_number"] for event in seen] == list(range(len(kinds)))
    assert answer.body.startswith(b"event: response.created\ndata: ")
    assert len(answer.body.split(b"\n\n")[0]) > 16 * 1024
    error = next(event for event in seen if event["type"] == "error")
    assert error["error"]["type"] == "too_many_requests"
    assert error["error"]["headers"] == {"x-ms-fe-error": "true"}
    failed = next(event for event in seen if event["type"] == "response.failed")
    assert (failed["response"]["error"] is None) == (order == "failed-first")


def test_a_refusal_inside_a_200_is_a_plain_429_without_a_stream(running: Running) -> None:
    running.fault("in-200-refusal")
    assert running.post(CHAT, PLAIN).status == 429


@pytest.mark.parametrize("how", ["fin", "rst"])
def test_a_cut_stream_has_no_end(running: Running, how: str) -> None:
    running.fault("cut", events=4, how=how)
    received = b""
    with running.connect() as connection:
        connection.send("POST", CHAT, STREAM)
        try:
            while data := connection.socket.recv(65536):
                received += data
        except ConnectionResetError:
            assert how == "rst"
    assert received.count(b"data: ") == 4
    assert b"[DONE]" not in received
    assert not received.endswith(b"0\r\n\r\n")
    assert running.last_request(outcome="cut")["events"] == 4


def test_a_cut_in_the_middle_of_an_event(running: Running) -> None:
    running.fault("cut", events=3, mid_event=True)
    with running.connect() as connection:
        connection.send("POST", CHAT, STREAM)
        received = connection.receive_all()
    assert received.count(b"data: ") == 4
    assert not received.rstrip(b"\r\n").endswith(b"}")


def test_a_cut_can_look_like_an_end(running: Running) -> None:
    running.fault("cut", events=4, how="clean")
    answer = stream(running)
    assert len(events(answer.body)) == 4
    assert "[DONE]" not in answer.body.decode()


def test_a_whole_answer_can_be_cut(running: Running) -> None:
    running.fault("cut")
    with running.connect() as connection:
        connection.send("POST", CHAT, PLAIN)
        _, headers = connection.receive_head()
        assert len(connection.receive_all()) < int(headers["content-length"])


def test_a_stream_can_stall(running: Running) -> None:
    running.fault("stall", events=3)
    with running.connect() as connection:
        connection.send("POST", CHAT, STREAM)
        connection.receive_head()
        assert connection.receive_chunk().count(b"data: ") == 3
        nothing_comes(connection)
    assert running.last_request(outcome="client_gone")["fault"] == "stall"


@pytest.mark.parametrize(
    ("form", "bad"),
    [
        ("bad-json", b'data: {"choices":[{"delta":{"content":\n\n'),
        ("bad-utf8", b"\xff\xfe"),
        ("html", b"<html>"),
    ],
)
def test_malformed_events(running: Running, form: str, bad: bytes) -> None:
    running.fault("malformed-sse", form=form, events=3)
    body = stream(running).body
    assert bad in body
    assert body.endswith(b"data: [DONE]\n\n")


def test_events_with_crlf_are_odd_but_legal(running: Running) -> None:
    running.fault("malformed-sse", form="crlf")
    body = stream(running).body
    assert body.count(b"\n") == body.count(b"\r\n") > 10
    assert stream_text(body.replace(b"\r\n", b"\n")) == "a b c d e f"


@pytest.mark.parametrize("content_type", ["", "application/octet-stream"])
@pytest.mark.parametrize("body", [PLAIN, STREAM])
def test_a_bad_content_type(running: Running, content_type: str, body: bytes) -> None:
    running.fault("bad-content-type", content_type=content_type)
    answer = running.post(CHAT, body)
    assert answer.status == 200
    assert answer.headers.get("content-type", "") == content_type


def test_a_faulty_answer_still_counts_against_the_limits(running: Running) -> None:
    running.fault("cut", deployment="paygo")
    with running.connect() as connection:
        connection.send("POST", CHAT.replace("/chat/chat", "/paygo/chat"), STREAM)
        connection.receive_all()
    used = running.control("GET", "limits")["sweden"]["paygo"]
    assert used["requests"] == 1
    assert used["tokens"] > 0
