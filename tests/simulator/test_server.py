"""The server: connections, pacing, limits, the control plane."""

from __future__ import annotations

import asyncio
import base64
import errno
import gzip
import hashlib
import json
import socket
import ssl
import time
import zlib
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from aoai_gateway.config.models import SimulatedEndpoint
from aoai_gateway.tokens import Counter
from aoai_simulator.blackhole import BlackHole, bound_socket
from aoai_simulator.faults import Fault
from aoai_simulator.server import start
from aoai_simulator.settings import Settings
from aoai_simulator.tokenizer import EncodingTokenizer
from tests.e2e import certificates
from tests.encodings import encodings
from tests.simulator.running import CHAT, KEY, SPEC, Answer, Running, events, stream_text, wait_until

HELLO = b'{"messages":[{"role":"user","content":"hello"}]}'
STREAM = b'{"stream":true,"messages":[{"role":"user","content":"say: a b c d e f g h i j"}]}'


def paced(deployment: str) -> str:
    return CHAT.replace("/chat/chat/", f"/{deployment}/chat/")


# Authentication and paths


def token(**claims: Any) -> str:
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()) for part in ({"alg": "RS256"}, claims)]
    return b".".join([*parts, b"signature"]).decode()


@pytest.mark.parametrize(
    ("name", "value", "status"),
    [
        ("api-key", KEY, 200),
        ("authorization", f"Bearer {KEY}", 200),
        ("authorization", f"Bearer {token(aud='x')}", 200),
        ("authorization", f"Bearer {token(exp=1)}", 401),
        ("authorization", "Bearer eyJ.not.claims", 401),
        ("authorization", f"Basic {KEY}", 401),
        ("authorization", "Bearer wrong", 401),
        ("api-key", "wrong", 401),
        ("x-other", "", 401),
    ],
)
def test_credentials(running: Running, name: str, value: str, status: int) -> None:
    with running.connect() as connection:
        head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\n{name}: {value}\r\ncontent-length: {len(HELLO)}\r\n\r\n"
        connection.socket.sendall(head.encode() + HELLO)
        assert connection.receive().status == status


@pytest.mark.parametrize(
    ("target", "body", "status", "code"),
    [
        ("/openai/deployments/chat/chat/completions", {}, 404, "404"),
        ("/openai/deployments/chat/chat/completions?api-version=tomorrow", {}, 404, "404"),
        ("/nothing", {}, 404, "404"),
        (CHAT, b"not json", 400, None),
        (CHAT, b"[1]", 400, None),
        (CHAT, {}, 400, "missing_required_parameter"),
        (CHAT, {"messages": []}, 400, None),
        (CHAT, {"messages": ["text"]}, 400, None),
        (
            CHAT,
            {"messages": [{"role": "user", "content": "x"}], "max_tokens": 0},
            400,
            "integer_below_min_value",
        ),
        (CHAT, {"messages": [{"role": "user", "content": "x"}], "stream_options": {}}, 400, None),
        ("/openai/v1/chat/completions", {"messages": []}, 400, "missing_required_parameter"),
        ("/openai/v1/chat/completions", {"model": "none", "messages": []}, 404, "DeploymentNotFound"),
        ("/openai/v1/embeddings", {"model": "embed", "input": {}}, 400, None),
        ("/openai/v1/embeddings", {"model": "embed", "input": "x", "dimensions": 9999}, 400, None),
        ("/openai/v1/completions", {"model": "chat", "prompt": "x"}, 400, "OperationNotSupported"),
        ("/openai/responses?api-version=2024-10-21", {"model": "chat", "input": "x"}, 400, "BadRequest"),
    ],
)
def test_bad_requests(running: Running, target: str, body: Any, status: int, code: str | None) -> None:
    answer = running.post(target, body)
    assert answer.status == status
    assert answer.error["code"] == code
    assert answer.error["message"]


def test_stream_options_are_unknown_to_old_api_versions(running: Running) -> None:
    body = {"messages": [{"role": "user", "content": "x"}], "stream": True, "stream_options": {}}
    old = running.post(CHAT.replace("2024-10-21", "2024-06-01"), body)
    assert old.status == 400
    assert "stream_options" in old.error["message"]
    assert running.post(CHAT.replace("2024-10-21", "2024-09-01-preview"), body).status == 200


def test_a_prompt_longer_than_the_context(running: Running) -> None:
    answer = running.chat("word " * 110_000)
    assert answer.status == 400
    assert answer.error["code"] == "context_length_exceeded"


def test_the_output_filter_ends_the_stream(running: Running) -> None:
    answer = running.chat("trigger-output-filter", stream=True)
    assert answer.status == 200
    finish = json.loads(events(answer.body)[-2])["choices"][0]
    assert finish["finish_reason"] == "content_filter"
    assert finish["content_filter_results"]["violence"]["filtered"] is True


def test_the_headers_of_an_answer(running: Running) -> None:
    headers = running.chat(deployment="paygo").headers
    assert headers["x-ms-region"] == "Sweden Central"
    assert headers["x-ms-deployment-name"] == "paygo"
    assert headers["apim-request-id"] == headers["x-ms-client-request-id"]
    assert headers["x-ratelimit-limit-tokens"] == "10000"
    assert "azure-openai-deployment-utilization" not in headers
    headers = running.chat(deployment="ptu").headers
    assert headers["azure-openai-deployment-utilization"].endswith("%")
    assert "x-ratelimit-limit-tokens" not in headers
    headers = running.post("/openai/v1/responses", {"model": "chat", "input": "x"}).headers
    assert headers["x-ms-served-model"] == "gpt-4o-2024-11-20"
    assert "x-ms-deployment-name" not in headers


# The wire


def test_a_stream_byte_by_byte(running: Running) -> None:
    answer = running.post(CHAT, STREAM)
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert b"\r" not in answer.body
    assert all(line.startswith(b"data: ") for line in answer.body.split(b"\n") if line)
    first, role, *_, finish, done = events(answer.body)
    assert json.loads(first)["created"] == 0
    assert json.loads(role)["choices"][0]["delta"]["role"] == "assistant"
    assert json.loads(finish)["choices"][0] == {
        "content_filter_results": {},
        "delta": {},
        "finish_reason": "stop",
        "index": 0,
        "logprobs": None,
    }
    assert done == "[DONE]"
    assert "usage" not in answer.body.decode()
    assert stream_text(answer.body) == "a b c d e f g h i j"


def test_usage_and_obfuscation_are_options(running: Running) -> None:
    options = {"include_usage": True, "include_obfuscation": False}
    body = running.chat(stream=True, stream_options=options).body
    chunks = [json.loads(data) for data in events(body)[1:-1]]
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["total_tokens"] > 0
    assert b"obfuscation" not in body
    assert b"obfuscation" in running.chat(stream=True).body


def test_answers_depend_on_the_prompt_only(running: Running) -> None:
    first, again, other = (running.chat(prompt).json for prompt in ("one", "one", "two"))
    assert first["choices"] == again["choices"] != other["choices"]
    assert first["id"] != again["id"]


def test_a_connection_is_kept_alive(running: Running) -> None:
    with running.connect() as connection:
        for body in (HELLO, STREAM, b"{}", HELLO):
            connection.send("POST", CHAT, body)
            connection.receive()
    assert len({entry["connection"] for entry in running.requests()}) == 1


def test_a_client_may_ask_for_the_end_of_the_connection(running: Running) -> None:
    for body in (HELLO, STREAM):
        with running.connect() as connection:
            connection.send("POST", CHAT, body, connection="close")
            answer = connection.receive()
            assert answer.headers["connection"] == "close"
            assert connection.receive_all() == b""


def test_http_1_0_gets_no_chunks(running: Running) -> None:
    with running.connect() as connection:
        head = f"POST {CHAT} HTTP/1.0\r\napi-key: {KEY}\r\ncontent-length: {len(STREAM)}\r\n\r\n"
        connection.socket.sendall(head.encode() + STREAM)
        _, headers = connection.receive_head()
        assert "transfer-encoding" not in headers
        assert connection.receive_all().endswith(b"\n\ndata: [DONE]\n\n")


def test_a_chunked_request_body(running: Running) -> None:
    with running.connect() as connection:
        head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\napi-key: {KEY}\r\ntransfer-encoding: chunked\r\n\r\n"
        parts = [HELLO[:7], HELLO[7:]]
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
        connection.socket.sendall(head.encode() + chunks + b"0\r\n\r\n")
        assert connection.receive().status == 200
    entry = running.last_request()
    assert entry["body_bytes"] == len(HELLO)
    assert entry["body_sha256"] == hashlib.sha256(HELLO).hexdigest()


def test_a_body_of_10_megabytes(running: Running) -> None:
    text = "x" * 10_000_000
    answer = running.post("/openai/v1/embeddings", {"model": "embed", "input": text})
    assert answer.error["code"] == "context_length_exceeded"
    assert running.last_request()["body_bytes"] > 10_000_000


def test_gzip(running: Running) -> None:
    assert "content-encoding" not in running.post(CHAT, HELLO, accept_encoding="gzip").headers
    running.control("POST", "settings", {"gzip": True})
    assert "content-encoding" not in running.post(CHAT, HELLO).headers
    whole = running.post(CHAT, HELLO, accept_encoding="gzip, br")
    assert whole.headers["content-encoding"] == "gzip"
    assert json.loads(gzip.decompress(whole.body))["object"] == "chat.completion"
    stream = running.post(CHAT, STREAM, accept_encoding="gzip")
    assert stream.headers["content-encoding"] == "gzip"
    assert stream_text(zlib.decompress(stream.body, 31)) == "a b c d e f g h i j"


# Pacing


def test_tokens_come_at_the_deployments_speed(running: Running) -> None:
    most = 0
    for _ in range(5):
        begin, writes = time.monotonic(), 0
        with running.connect() as connection:
            connection.send("POST", paced("paced"), STREAM)
            connection.receive_head()
            first = time.monotonic() - begin
            while connection.receive_chunk():
                writes += 1
            total = time.monotonic() - begin
        # The first token after 0.1 s, nine more in 0.09 s, five writes at 20 ms.
        assert 0.1 <= first < total
        assert total >= 0.19
        most = max(most, writes)
        # What is due while a busy machine does something else is one write.
        if most >= 4:
            break
    assert most >= 4


def test_an_answer_that_is_not_streamed_takes_as_long_as_its_tokens(running: Running) -> None:
    begin = time.monotonic()
    running.chat("say: a b c d e f g h i j", "paced")
    assert time.monotonic() - begin >= 0.19


def test_every_frame_can_be_a_write_of_its_own(running: Running) -> None:
    running.control("POST", "settings", {"burst_seconds": 0})
    with running.connect() as connection:
        connection.send("POST", CHAT, STREAM)
        connection.receive_head()
        chunks = list(iter(connection.receive_chunk, b""))
    assert all(chunk.count(b"data: ") == 1 for chunk in chunks)
    assert len(chunks) == 14


# A client that hangs up


@pytest.mark.parametrize("rude", [False, True])
def test_a_client_that_goes_while_it_waits_or_streams_is_noticed_at_once(
    running: Running, rude: bool
) -> None:
    running.control("POST", "settings", {"completion_tokens": 1000})
    for body in (HELLO, STREAM.replace(b"say:", b"tell")):
        with running.connect() as connection:
            connection.send("POST", paced("paced"), body)
            if body is not HELLO:
                connection.receive_head()
            wait_until(lambda: running.control("GET", "active")["in_flight"] == 1)
            if rude:
                option = b"\x01\x00\x00\x00\x00\x00\x00\x00"
                connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, option)
            gone = time.time()
        entry = running.last_request(outcome="client_gone")
        assert entry["ended_at"] - gone < 5, "all of it takes twice as long"
    assert running.control("GET", "active")["in_flight"] == 0


def test_a_client_that_goes_in_the_middle_of_its_body(running: Running) -> None:
    with running.connect() as connection:
        connection.send("POST", CHAT, b"{", content_length="1000")
        wait_until(lambda: running.control("GET", "active")["in_flight"] == 1)
    entry = running.last_request(outcome="client_gone")
    assert entry["status"] is None
    assert entry["body_sha256"] is None


def test_a_client_that_goes_gives_its_unused_tokens_back(running: Running) -> None:
    with running.connect() as connection:
        connection.send("POST", paced("paygo"), STREAM.replace(b"{", b'{"max_tokens":5000,', 1))
        connection.receive()
    used = running.control("GET", "limits")["sweden"]["paygo"]["tokens"]
    assert 10 < used < 50
    running.fault("stall", deployment="paygo", events=5)
    with running.connect() as connection:
        connection.send("POST", paced("paygo"), STREAM.replace(b"{", b'{"max_tokens":5000,', 1))
        connection.receive_head()
        connection.receive_chunk()
        assert running.control("GET", "limits")["sweden"]["paygo"]["tokens"] > 5000
    running.last_request(outcome="client_gone")
    assert used < running.control("GET", "limits")["sweden"]["paygo"]["tokens"] < 2 * used


# Limits


def test_a_payg_deployment_refuses_what_does_not_fit(running: Running) -> None:
    running.control("POST", "limits", {"deployment": "paygo", "set": "full", "seconds": 30})
    answer = running.chat(deployment="paygo")
    assert answer.status == 429
    assert answer.error["code"] == "RateLimitReached"
    assert "token rate limit" in answer.error["message"]
    assert 29 <= int(answer.headers["retry-after"]) <= 31
    running.control("POST", "limits", {"deployment": "paygo", "set": "empty"})
    assert running.chat(deployment="paygo").status == 200


def test_a_request_larger_than_the_limit(running: Running) -> None:
    answer = running.chat(deployment="paygo", max_tokens=20_000)
    assert answer.status == 429
    assert answer.headers["retry-after"] == "86400"


def test_the_estimate_is_prompt_and_max_tokens_for_each_choice(running: Running) -> None:
    assert running.chat(deployment="paygo", max_tokens=2000, n=4).status == 200
    assert running.chat(deployment="paygo", max_tokens=2000, n=5).status == 429


def test_a_provisioned_deployment_refuses_above_100_percent(running: Running) -> None:
    running.control("POST", "limits", {"deployment": "ptu", "set": "full", "seconds": 5})
    answer = running.chat(deployment="ptu")
    assert answer.status == 429
    assert answer.error["code"] == "rate_limit_reached"
    assert 4000 < int(answer.headers["retry-after-ms"]) <= 5000


def test_a_full_provisioned_deployment_spills_over_where_the_request_says_so(running: Running) -> None:
    def spilled(deployment: str) -> Answer:
        target = f"/openai/deployments/{deployment}/chat/completions?api-version=2024-10-21"
        said = {"messages": [{"role": "user", "content": "hello"}]}
        return running.post(target, said, **{"x-ms-spillover-deployment": "paygo"})

    running.control("POST", "limits", {"deployment": "ptu", "set": "full", "seconds": 5})
    answer = spilled("ptu")
    assert answer.status == 200
    assert answer.headers["x-ms-spillover-from-deployment"] == "ptu"
    assert answer.headers["x-ms-spillover-error"] == "429"
    assert answer.headers["x-ms-deployment-name"] == "paygo"
    assert "azure-openai-deployment-utilization" not in answer.headers
    running.control("POST", "limits", {"deployment": "paygo", "set": "full", "seconds": 5})
    failed = spilled("ptu")
    assert failed.status == 429
    assert failed.headers["x-ms-spillover-from-deployment"] == "ptu"
    assert "x-ms-spillover-from-deployment" not in spilled("chat").headers


# The control plane


def test_faults_are_aimed_and_counted(running: Running) -> None:
    running.control(
        "POST",
        "faults",
        [
            {"fault": "500", "deployment": "chat", "times": 2},
            {"fault": "503", "endpoint": "france", "times": -1},
        ],
    )
    assert running.chat(deployment="paced").status == 200
    assert [running.chat().status for _ in range(3)] == [500, 500, 200]
    (left,) = running.control("GET", "faults")
    assert left["fault"] == "503"
    assert running.control("DELETE", "faults") == []


@pytest.mark.parametrize(
    ("method", "path", "body", "words"),
    [
        ("POST", "faults", {"fault": "earthquake"}, "unknown fault 'earthquake'"),
        ("POST", "faults", {}, '"fault" is missing'),
        ("POST", "faults", ["500"], "a fault must be a JSON object"),
        ("POST", "faults", {"fault": "500", "times": 0}, "times must be"),
        ("POST", "faults", {"fault": "500", "tims": 1}, "has no parameter 'tims'"),
        ("POST", "faults", {"fault": "429", "reason": "mood"}, "reason of '429' must be one of"),
        ("POST", "faults", {"fault": "cut", "events": "4"}, "must be a number"),
        ("POST", "faults", {"fault": "cut", "mid_event": 1}, "must be true or false"),
        ("POST", "faults", {"fault": "bad-content-type", "content_type": 1}, "must be a string"),
        ("POST", "faults", {"fault": "500", "endpoint": "spain"}, "unknown endpoint 'spain'"),
        ("POST", "listening", {}, '"on" must be true or false'),
        ("POST", "listening", [], "the body must be a JSON object"),
        ("POST", "limits", {"set": "half"}, '"set" must be'),
        ("POST", "limits", {"set": "full", "seconds": 61}, '"seconds" must be'),
        ("POST", "limits", {"set": "full", "deployment": "none"}, "unknown deployment 'none'"),
        ("POST", "settings", {"colour": "red"}, "unknown setting 'colour'"),
        ("POST", "settings", {"gzip": 1}, "setting 'gzip' cannot be 1"),
        ("POST", "settings", {"completion_tokens": True}, "setting 'completion_tokens' cannot be True"),
    ],
)
def test_what_the_control_plane_does_not_understand(
    running: Running, method: str, path: str, body: Any, words: str
) -> None:
    answer = running.ask(method, path, body)
    assert answer.status == 400
    assert words in answer.json["error"]
    assert running.control("GET", "faults") == []


def test_unknown_control_paths(running: Running) -> None:
    assert running.ask("GET", "nothing").status == 404
    assert running.ask("PUT", "faults", {}).status == 405


def test_the_request_log(running: Running) -> None:
    running.post(CHAT, HELLO, **{"X-Mixed-Case": "Yes"})
    entry = running.last_request(outcome="completed")
    assert entry["endpoint"] == "sweden"
    assert entry["deployment"] == "chat"
    assert entry["operation"] == "chat/completions"
    assert entry["target"] == CHAT
    assert entry["headers"]["x-mixed-case"] == "Yes"
    assert entry["headers"]["api-key"] == KEY
    assert entry["body_sha256"] == hashlib.sha256(HELLO).hexdigest()
    assert entry["received_at"] <= entry["answered_at"] <= entry["ended_at"]
    assert running.control("GET", "requests?deployment=paced") == []
    assert len(running.control("GET", "requests?deployment=chat&outcome=completed")) == 1
    assert running.control("DELETE", "requests") == []
    assert running.requests() == []


def test_the_log_can_be_off(running: Running) -> None:
    running.control("POST", "settings", {"log_requests": False})
    running.chat()
    assert running.requests() == []


def test_active_counts_connections(running: Running) -> None:
    def active() -> dict[str, Any]:
        counts: dict[str, Any] = running.control("GET", "active")
        return counts

    running.control("POST", "listening", {"on": False})
    running.control("POST", "listening", {"on": True})
    wait_until(lambda: active()["connections"] == 0)
    with running.connect(), running.connect("france") as connection:
        wait_until(lambda: active()["connections"] == 2)
        connection.send("POST", CHAT, b"{", content_length="2")
        wait_until(lambda: active()["in_flight"] == 1)
        assert active()["endpoints"]["france"] == {"in_flight": 1, "connections": 1}


def test_an_endpoint_refuses_connections_and_comes_back(running: Running) -> None:
    with running.connect() as connection:
        running.control("POST", "listening", {"endpoint": "sweden", "on": False})
        assert connection.receive_all() == b""
    with pytest.raises(ConnectionRefusedError):
        running.connect()
    assert running.control("GET", "listening") == {"sweden": False, "france": True}
    running.control("POST", "listening", {"endpoint": "sweden", "on": False})
    running.control("POST", "listening", {"endpoint": "sweden", "on": True})
    assert running.chat().status == 200


def test_open_connections_may_survive(running: Running) -> None:
    with running.connect() as connection:
        connection.send("POST", CHAT, HELLO)
        connection.receive()
        running.control("POST", "listening", {"on": False, "close_connections": False})
        connection.send("POST", CHAT, HELLO)
        assert connection.receive().status == 200
    running.control("POST", "reset", {})
    assert running.chat().status == 200


def test_an_endpoint_can_fall_silent_and_come_back(running: Running) -> None:
    running.control("POST", "listening", {"endpoint": "sweden", "on": False, "silently": True})
    with pytest.raises(TimeoutError):
        running.connect(timeout=0.2)
    running.control("POST", "listening", {"endpoint": "sweden", "on": True})
    assert running.chat().status == 200


def test_a_black_hole_never_answers() -> None:
    with closing(BlackHole(bound_socket("127.0.0.1", 0))) as hole:
        for _ in range(5):
            with pytest.raises(TimeoutError):
                socket.create_connection(hole.address, 0.1)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(hole.address, 1)


def test_reset_forgets_everything(running: Running) -> None:
    running.fault("500", times=-1)
    running.control("POST", "settings", {"gzip": True})
    running.control("POST", "limits", {"set": "full"})
    running.post("/openai/v1/responses", {"model": "chat", "input": "x"})
    running.control("POST", "reset", {})
    assert running.control("GET", "faults") == []
    assert running.requests() == []
    assert running.control("GET", "settings")["gzip"] is False
    assert running.control("GET", "limits")["sweden"]["paygo"]["tokens"] == 0


# Start and stop


def test_faults_settings_and_the_count_can_be_given_at_the_start() -> None:
    tokenizer = EncodingTokenizer(Counter(encodings()))
    running = Running(faults=[Fault("503")], settings=Settings(completion_tokens=7), tokenizer=tokenizer)
    try:
        assert running.chat().status == 503
        running.control("POST", "settings", {"completion_tokens": 3})
        running.control("POST", "reset", {})
        usage = running.chat().json["usage"]
        assert usage["completion_tokens"] == 7
        assert usage["prompt_tokens"] == 8
    finally:
        running.stop()


def test_a_completion_can_be_a_share_of_what_its_call_allows() -> None:
    tokenizer = EncodingTokenizer(Counter(encodings()))
    running = Running(settings=Settings(completion_tokens=7), tokenizer=tokenizer)
    try:
        running.control("POST", "settings", {"completion_share": 0.8})
        assert running.chat(max_tokens=100).json["usage"]["completion_tokens"] == 80
        assert running.chat(max_tokens=1).json["usage"]["completion_tokens"] == 1
        assert running.chat().json["usage"]["completion_tokens"] == 7, "it has no bound"
    finally:
        running.stop()


def test_stop_ends_what_is_in_flight() -> None:
    running = Running(faults=[Fault("hang")])
    with running.connect() as connection:
        connection.send("POST", CHAT, HELLO)
        wait_until(lambda: running.control("GET", "active")["in_flight"] == 1)
        running.stop()
        assert connection.receive_all() == b""
    with pytest.raises(ConnectionRefusedError):
        running.connect()


def test_keys_are_generated_and_ports_can_be_chosen() -> None:
    async def once(ports: dict[str, int]) -> tuple[dict[str, str], dict[str, str]]:
        endpoints = {name: SimulatedEndpoint.model_validate(item) for name, item in SPEC.items()}
        simulator = await start(endpoints, ports=ports)
        await simulator.stop()
        return dict(simulator.urls), dict(simulator.keys)

    urls, keys = asyncio.run(once({}))
    assert keys["sweden"] != keys["france"]
    port = int(urls["sweden"].rsplit(":", 1)[1])
    again, others = asyncio.run(once({"sweden": port}))
    assert again["sweden"] == urls["sweden"]
    assert others["sweden"] != keys["sweden"]


def test_without_a_control_plane() -> None:
    running = Running(control_port=None)
    try:
        assert running.simulator.control_url == ""
        assert running.chat().status == 200
    finally:
        running.stop()


def test_a_port_that_is_taken_leaves_nothing_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        running = None
        with pytest.raises(OSError, match="in use"):
            running = Running(ports={"france": taken.getsockname()[1]})
        assert running is None


def test_tls(tmp_path: Path) -> None:
    made = certificates.make(tmp_path)
    running = Running(tls_certificate=made.certificate, tls_private_key=made.private_key)
    try:
        assert running.url.startswith("https://")
        trust = ssl.create_default_context(cafile=made.ca)
        with running.connect() as connection:
            connection.socket = trust.wrap_socket(connection.socket, server_hostname="localhost")
            for body in (HELLO, STREAM):
                connection.send("POST", CHAT, body)
                assert connection.receive().status == 200
            running.fault("reset")
            connection.send("POST", CHAT, HELLO)
            # OpenSSL tells a RST as an end; the socket knows better.
            raw = connection.socket
            wait_until(lambda: raw.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNRESET)
    finally:
        running.stop()
