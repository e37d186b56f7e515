"""The load generator against the real simulator, and against servers that stall."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from aoai_gateway.analysis.reading import Reading, Selection
from aoai_gateway.analysis.records import read, seconds
from aoai_gateway.analysis.report import report
from aoai_gateway.benchmark import command, showing
from aoai_gateway.benchmark.command import main
from aoai_gateway.tokens import Counter
from aoai_gateway.usage.record import ATTEMPT_FIELDS, FIELDS
from aoai_simulator.tokenizer import EncodingTokenizer
from tests.e2e import certificates
from tests.encodings import encodings
from tests.simulator.running import INSTANT, KEY, Running

SPEC = {
    "sweden": {
        "deployments": {
            "gpt-4o": {"model": "gpt-4o", "first_token_seconds": 0.05, "tokens_per_second": 400},
            "small": {"model": "gpt-4o", "requests_per_minute": 60, **INSTANT},
            "ptu": {"model": "gpt-4o", "provisioned_tokens_per_minute": 20_000, **INSTANT},
        }
    }
}
ENV = {"OPENAI_API_KEY": KEY}


@pytest.fixture(autouse=True)
def loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "load_encodings", encodings)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    running = Running(SPEC, tokenizer=EncodingTokenizer(Counter(encodings())))
    yield running.simulator.urls["sweden"]
    running.stop()


def run(capsys: pytest.CaptureFixture[str], *words: str, env: dict[str, str] = ENV) -> dict[str, Any]:
    code = main([*words, "-f", "jsonl"], env)
    lines = capsys.readouterr().out.splitlines()
    summary = json.loads(lines[-1])["summary"]
    assert code == (0 if summary["completed"] else 1)
    return dict(summary)


def records(path: Path) -> list[dict[str, Any]]:
    return [record for _, record in read([path], Selection(), Reading())]


def span(found: list[dict[str, Any]]) -> float:
    """The seconds between the first and the last call."""
    times = [seconds(each["time"]) for each in found]
    return max(times) - min(times)


CUSTOM = ("-s", "custom", "-p", "60", "-m", "20", "--seed", "1")


def test_its_figures_are_those_of_its_records_and_of_the_report(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.jsonl"
    made = run(capsys, url, "-e", "gpt-4o", "-r", "1200", "-d", "2", *CUSTOM, "-o", str(path))
    found = records(path)
    assert made["calls"] == made["completed"] == len(found) > 20
    assert {each["outcome"] for each in found} == {"ok"}
    assert all(each["input_tokens"] == 60 for each in found), "a prompt has the tokens that were asked for"
    assert made["ctx_tpm"] == pytest.approx(30 * 60 * len(found), rel=0.1)
    assert 0.05 <= made["ttft_50th"] < made["e2e_50th"]
    assert 0 < made["tbt_50th"] < 0.1
    reading = Reading()
    said = report(read([path], Selection(), reading), reading, percentile=99)
    assert said["totals"]["requests"] == said["totals"]["served"] == len(found)
    assert said["totals"]["input_tokens"] == 60 * len(found)
    assert said["consumers"][0]["streaming_share"] == 1
    written = [json.loads(line) for line in path.read_text().splitlines()]
    assert {tuple(each) for each in written} == {tuple(FIELDS)}
    assert {tuple(each["attempts"][0]) for each in written} == {ATTEMPT_FIELDS}
    assert path.stat().st_mode & 0o777 == 0o600
    assert KEY not in path.read_text()


def test_throttled_calls_are_counted_by_cause_and_rates_follow_one_another(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    made = run(capsys, url, "-e", "small", "-r", "300,1200", "-d", "1", "--no-stream", *CUSTOM)
    assert made["throttled"] > 0
    assert sum(made["causes"].values()) == made["throttled"]
    slow, fast = made["steps"]
    assert (slow["rate"], fast["rate"]) == (300, 1200)
    assert slow["calls"] < fast["calls"]
    assert made["ttft_avg"] is None, "an answer as a whole has no first token"


def test_a_provisioned_deployment_tells_how_full_it_is(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    made = run(capsys, url, "-e", "ptu", "-r", "600", "-n", "5", *CUSTOM)
    assert made["calls"] == 5
    assert made["util_max"] > 0


def test_consumers_have_their_own_keys_and_shares(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.jsonl"
    who = ("--consumer", "Ann,key=ANN,share=3", "--consumer", "Bob,key=BOB,priority=low")
    made = run(
        capsys, url, "-e", "gpt-4o", "-r", "6000", "-n", "60", *CUSTOM, *who, "-o", str(path),
        env={"ANN": KEY, "BOB": "wrong"},
    )  # fmt: skip
    ann, bob = made["consumers"]
    assert (ann["consumer"], ann["failures"], bob["consumer"]) == ("Ann", 0, "Bob")
    assert bob["causes"] == {"401": bob["calls"]}
    assert ann["calls"] > bob["calls"]
    assert {each["priority"] for each in records(path) if each["client"] == "Bob"} == {"low"}


def test_recorded_calls_are_sent_again_as_they_came(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    run(capsys, url, "-e", "gpt-4o", "-r", "600", "-d", "1", *CUSTOM, "-o", str(first))
    made = run(capsys, url, "-e", "gpt-4o", "--records", str(first), "--speed", "2", "-o", str(second))
    then, now = records(first), records(second)
    assert len(now) == len(then)
    assert sorted(each["input_tokens"] for each in now) == sorted(each["input_tokens"] for each in then)
    assert made["calls"] == len(now)
    # Times are those at which calls were due, also on a busy machine.
    assert span(now) == pytest.approx(span(then) / 2, abs=0.002)


# --- servers that misbehave ------------------------------------------------------------------------------


COMPLETION = b'content-type: application/json\r\nconnection: close\r\n\r\n{"choices":[]}'
"""An answer, after its status."""


@contextmanager
def server(answer: Any, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """A server of one answer to each connection: a coroutine of its writer."""
    loop, ready = asyncio.new_event_loop(), threading.Event()
    found: list[str] = []

    async def serve() -> None:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            await answer(writer)
            writer.close()

        listening = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
        found.append(f"http{'s' if tls else ''}://127.0.0.1:{listening.sockets[0].getsockname()[1]}")
        ready.set()
        async with listening:
            await over.wait()

    over = asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    ready.wait(10)
    try:
        yield found[0]
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(10)
        loop.close()


def test_a_stall_counts_for_every_call_that_falls_into_it(capsys: pytest.CaptureFixture[str]) -> None:
    begun: list[float] = []

    async def stall_for_a_second(writer: asyncio.StreamWriter) -> None:
        now = asyncio.get_running_loop().time()
        begun.append(now)
        await asyncio.sleep(max(0.0, begun[0] + 1 - now))
        await fine(writer)

    # One client alone: a closed loop would send one call in that second, and call the second one fast.
    options = ("-r", "1200", "-n", "20", "-c", "1", "--arrivals", "steady", "--no-stream")
    with server(stall_for_a_second) as url:
        made = run(capsys, url, "-e", "x", *CUSTOM, *options)
    assert made["completed"] == 20
    # The calls were due at 0, 0.05, 0.1 … 0.95 s, and all of them had to wait for the stall's end.
    assert made["e2e_avg"] > 0.5
    assert made["late_max"] > 0.8


class Throttling:
    """Answers 429 to the first calls, with the time to wait in milliseconds."""

    def __init__(self, refusals: int, wait: int) -> None:
        self.refusals, self.wait = refusals, wait

    async def __call__(self, writer: asyncio.StreamWriter) -> None:
        self.refusals -= 1
        head = b"429 Busy\r\nretry-after-ms: %d" % self.wait if self.refusals >= 0 else b"200 OK"
        writer.write(b"HTTP/1.1 " + head + b"\r\n" + COMPLETION)
        await writer.drain()


def test_a_call_is_sent_again_as_the_answer_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.jsonl"
    options = ("-r", "600", "-n", "1", "--no-stream", "-t", "exponential", "-o", str(path))
    with server(Throttling(2, 100)) as url:
        made = run(capsys, url, "-e", "x", *CUSTOM, *options)
    (record,) = records(path)
    assert (made["completed"], made["tries"]) == (1, 3)
    assert [each["status"] for each in record["attempts"]] == [429, 429, 200]
    assert record["duration_ms"] >= 200


def test_an_answer_that_tells_to_wait_for_longer_than_a_caller_would_is_the_last(
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ("-r", "600", "-n", "1", "--no-stream", "-t", "exponential", "--timeout", "5")
    with server(Throttling(2, 6_000)) as url:
        made = run(capsys, url, "-e", "x", *CUSTOM, *options)
    assert (made["throttled"], made["tries"]) == (1, 1)


async def cut_off(writer: asyncio.StreamWriter) -> None:
    piece = b'data: {"choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n'
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
    writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
    await writer.drain()


async def never(writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(1)


@pytest.mark.parametrize(
    ("answer", "patience", "outcome", "cause"),
    [(cut_off, "60", "truncated", "answer broken off"), (never, "0.3", "client_gone", "timeout")],
)
def test_answers_that_do_not_come_whole(
    answer: Any, patience: str, outcome: str, cause: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.jsonl"
    with server(answer) as url:
        made = run(
            capsys, url, "-e", "x", "-r", "6000", "-n", "3", "--timeout", patience, *CUSTOM, "-o", str(path)
        )
    assert made["causes"] == {cause: 3}
    assert {each["outcome"] for each in records(path)} == {outcome}


async def fine(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n" + COMPLETION)
    await writer.drain()


async def nonsense(writer: asyncio.StreamWriter) -> None:
    writer.write(b"this is no HTTP\r\n\r\n")
    await writer.drain()


@pytest.mark.parametrize(
    ("head", "body", "cause"),
    [
        ("200 OK\r\ncontent-type: text/html", "<html>Sign in</html>", "200 without a completion (text/html)"),
        ("200 OK\r\ncontent-type: application/json", "{}", "200 without a completion (application/json)"),
        ("204 No Content", "", "204 without a completion (application/octet-stream)"),
        ("302 Found\r\nlocation: https://login.example/?token=secret", "", "302 to login.example"),
        ("200 OK\r\ncontent-length: 20", "{", "answer broken off"),
    ],
)
def test_a_success_that_is_no_completion_is_a_failure(
    head: str, body: str, cause: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 {head}\r\nconnection: close\r\n\r\n{body}".encode())
        await writer.drain()

    path = tmp_path / "run.jsonl"
    with server(answer) as url:
        made = run(capsys, url, "-e", "x", "-r", "6000", "-n", "2", *CUSTOM, "-o", str(path))
    assert (made["completed"], made["causes"]) == (0, {cause: 2})
    reading = Reading()
    assert report(read([path], Selection(), reading), reading, percentile=99)["totals"]["errors"] == 2


async def hang_up(writer: asyncio.StreamWriter) -> None:
    """Close without a word."""


def test_how_a_connection_ends_is_said_in_words(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with server(hang_up) as url:
        made = run(capsys, url, "-e", "x", "-r", "6000", "-n", "2", *CUSTOM)
    assert made["causes"] == {"closed without an answer": 2}

    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    made = run(capsys, "http://no-such-host.invalid", "-e", "x", "-r", "6000", "-n", "2", *CUSTOM)
    assert made["causes"] == {"unknown host": 2}


def test_a_rate_that_is_not_reached_is_said_and_not_counted_as_if_it_were(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def slow(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.2)
        await fine(writer)

    # 10 calls are due within 0.1 s; one client needs 2 s for them.
    words = ("-e", "x", "-r", "6000", "-d", "0.1", "-c", "1", "--arrivals", "steady", "--no-stream", *CUSTOM)
    with server(slow) as url:
        made = run(capsys, url, *words)
        assert main([url, *words], ENV) == 0
    (step,) = made["steps"]
    assert step["is_behind"]
    assert step["rpm"] == pytest.approx(step["sent_rate"], rel=0.01)
    assert step["rpm"] < 600, "five calls a second are possible, and one client was asked for a hundred"
    said = " ".join(capsys.readouterr().out.split())
    assert "6k calls a minute were asked for, and " in said
    assert "sent: all clients were busy (--clients)." in said


def test_a_certificate_that_is_not_trusted_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = certificates.make(tmp_path)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(made.certificate, made.private_key)
    options = ("-e", "x", "-r", "6000", "-n", "2", "--no-stream", *CUSTOM)
    with server(fine, tls) as url:
        found = run(capsys, url, *options)
        assert (found["failures"], len(found["causes"])) == (2, 1)
        assert next(iter(found["causes"])).startswith("no TLS connection")
        assert run(capsys, url, *options, "--ca", str(made.ca))["completed"] == 2


def test_what_is_no_http_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    with server(nonsense) as url:
        made = run(capsys, url, "-e", "x", "-r", "6000", "-n", "2", *CUSTOM)
    assert (made["calls"], made["failures"]) == (2, 2)


def test_where_nothing_listens_calls_fail_and_say_so(capsys: pytest.CaptureFixture[str]) -> None:
    made = run(capsys, "http://127.0.0.1:9", "-e", "x", "-r", "6000", "-n", "3", *CUSTOM)
    assert (made["failures"], list(made["causes"])) == (3, ["Connection refused"])


# --- the command line -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-e", "x"), "--rate, calls per minute, or --records"),
        (("-e", "x", "-r", "0"), "no number above 0"),
        (("-e", "x", "-r", "1,2"), "several rates need a --duration"),
        (("-e", "x", "-r", "1", "-s", "custom"), "needs --context-tokens"),
        (("-e", "x", "-r", "1", "--speed", "2"), "which --rate replaces"),
        (("-e", "x", "-r", "1", "--consumer", "Ann"), "NAME,key=ENV"),
    ],
)
def test_what_is_wrong_with_a_command_line_is_said(
    words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["http://127.0.0.1:9", *words], ENV)
    assert caught.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("url", ["127.0.0.1:80", "ftp://x", "http://", "http://x/?a=b"])
def test_what_is_no_url_is_said(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([url, "-e", "x", "-r", "60"], ENV)
    assert "is no URL" in capsys.readouterr().err


@pytest.mark.parametrize("path", ["/", "/openai", "/openai/v1", "/openai/v1/"])
def test_an_address_as_sdks_are_given_it_will_do(
    url: str, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    made = run(capsys, url.rstrip("/") + path, "-e", "ptu", "-r", "6000", "-n", "1", *CUSTOM)
    assert made["completed"] == 1


def test_a_file_that_cannot_be_written_is_said_before_a_call_is_sent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "none" / "run.jsonl"
    assert main(["http://127.0.0.1:9", "-e", "x", "-r", "60", "-o", str(path)], ENV) == 1
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", f"aoai-gateway: {path}: No such file or directory\n")


def test_why_no_call_was_served_is_followed_by_what_to_look_at(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([url, "-e", "ptu", "-r", "6000", "-n", "2", *CUSTOM], {"OPENAI_API_KEY": "wrong"}) == 1
    assert "--api-key-env names the variable" in capsys.readouterr().out
    assert main([url, "-e", "none", "-r", "6000", "-n", "2", *CUSTOM], ENV) == 1
    assert "There is no such deployment (--deployment)" in capsys.readouterr().out


@pytest.mark.parametrize(("deployment", "key"), [("gpt-4o", "wrong"), ("none", KEY)])
def test_a_run_ends_early_where_no_call_would_be_served(
    url: str, deployment: str, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (url, "-e", deployment, "-r", "3000", "-d", "86400", *CUSTOM)
    assert main(words, {"OPENAI_API_KEY": key}) == 1
    said = capsys.readouterr().out
    assert "Ended early: each client's first calls were refused, as the others would be." in said
    assert ("401 " if key == "wrong" else "DeploymentNotFound ") in said


def test_a_key_that_is_missing_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["http://127.0.0.1:9", "-e", "x", "-r", "60"], {}) == 1
    assert "the environment has no OPENAI_API_KEY" in capsys.readouterr().err


def test_records_that_cannot_be_read_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["http://x", "-e", "x", "--records", str(tmp_path / "none.jsonl")], ENV) == 1
    assert "none.jsonl: No such file" in capsys.readouterr().err


def test_the_summary_fits_a_terminal(
    url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(showing, "LATE_SECONDS", -1.0)  # as if calls had been late
    assert main([url, "-e", "ptu", "-r", "600", "-n", "4", *CUSTOM], ENV) == 0
    out = capsys.readouterr().out
    assert "4 calls in" in out
    assert "time to first token" in out
    assert "calls were sent more than" in out
    assert max(map(len, out.splitlines())) <= 80
