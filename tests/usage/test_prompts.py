"""Prompts that are written down: only what was asked for, redacted, and never at the cost of traffic."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from aoai_gateway.config.sinks import RecordPrompts
from aoai_gateway.usage.lines import JsonLinesWriter
from aoai_gateway.usage.prompts import LARGEST_BODY, PromptWriter, prompt_of, weight
from aoai_gateway.usage.sink import Sink
from aoai_gateway.usage.sinks import Sinks
from aoai_gateway.wire.masking import KnownSecrets
from tests.engine_driver import config, world
from tests.usage.test_sink import Hanging

SECRET = "sk-very-secret-key-0123"
ENDLESS = "(?:a|aa)+$"


def settings(path: Path, *redact: str) -> RecordPrompts:
    return RecordPrompts(path=path, clients=("anybody",), redact=redact)


def written(
    path: Path, body: Any, *redact: str, secrets: tuple[KnownSecrets, ...] = (), seconds: float = 1.0
) -> dict[str, Any]:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    call = world("a").call(messages=[]).call
    prompt = prompt_of(call, secrets)
    assert prompt is not None
    record = prompt | {"body": raw}
    PromptWriter(settings(path, *redact), JsonLinesWriter(path), seconds=seconds).write([record])
    (line,) = [json.loads(line) for line in path.read_text().splitlines()]
    return dict(line)


def test_a_prompt_is_written_with_what_tells_whose_it_is(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    messages = [{"role": "user", "content": [{"type": "text", "text": "Grüße"}]}]
    line = written(path, {"model": "gpt", "messages": messages, "temperature": 1, "user": "Ann"})
    assert line["prompt"] == {"messages": messages}
    assert (line["client"], line["deployment"], line["operation"]) == ("anybody", "gpt", "chat.completions")
    assert line["call"].startswith("call at")
    assert (line["schema"], line["left_out"]) == (1, None)
    assert path.stat().st_mode & 0o777 == 0o600


def test_patterns_are_redacted_wherever_they_stand(tmp_path: Path) -> None:
    body = {
        "input": ["Ann@x.example", {"Bob@x.example": ["call +49 123 456"]}],
        "instructions": "To Eve@x.example",
    }
    line = written(tmp_path / "p", body, r"\b\w+@[\w.]+\b", r"\+\d[\d ]{6,}")
    assert line["prompt"] == {
        "instructions": "To [redacted]",
        "input": ["[redacted]", {"[redacted]": ["call [redacted]"]}],
    }


def test_known_secrets_are_masked_without_any_pattern(tmp_path: Path) -> None:
    secrets = (KnownSecrets([SECRET]),)
    written(tmp_path / "p", {"prompt": f"my key is {SECRET}"}, secrets=secrets)
    assert SECRET not in (tmp_path / "p").read_text()


def test_pictures_and_audio_are_not_written(tmp_path: Path) -> None:
    data = "QUJD" * 1000
    body = {
        "messages": [{"url": f"data:image/png;base64,{data}"}, {"data": data}, {"text": "a word " * 1000}]
    }
    line = written(tmp_path / "p", body)
    picture, audio, text = line["prompt"]["messages"]
    assert (picture["url"], audio["data"]) == ("[4,022 characters of data]", "[4,000 characters of data]")
    assert text["text"].startswith("a word")


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"no JSON", "no JSON"),
        (b"[1]", "no JSON"),
        (b'{"input": ' + b"[" * 60_000 + b"]" * 60_000 + b"}", "no JSON"),
        (b'{"input": ' + b"[" * 900 + b"]" * 900 + b"}", "no JSON"),
        (b'{"input": "' + b"x" * LARGEST_BODY + b'"}', "more than 1,048,576 bytes"),
        (b'{"input": [' + b"[]," * 349_000 + b"0]}", "more than 32,000 lists, objects and commas"),
        (b'{"input": {' + b'"a":1,' * 174_000 + b'"b":0}}', "more than 32,000 lists, objects and commas"),
    ],
    ids=["text", "a list", "deep", "rather deep", "large", "many lists", "many members"],
)
def test_what_cannot_be_read_is_left_out(body: bytes, why: str, tmp_path: Path) -> None:
    line = written(tmp_path / "p", body)
    if line["prompt"] is None:
        assert why in line["left_out"]
    else:
        assert body.count(b"[") == 900, "that deep is not too deep for every stack"


def test_a_large_prompt_of_few_values_is_written(tmp_path: Path) -> None:
    said = "Dear Ann, a sentence of prose has a comma or two, and is this long. " * 10_000
    assert written(tmp_path / "p", {"input": said}, "Ann")["prompt"]["input"].startswith("Dear [redacted],")


def test_integers_too_long_to_be_any_are_written_as_they_came(tmp_path: Path) -> None:
    """Python takes a time that grows with the square of their digits, twice."""
    long = "7" * 500
    line = written(tmp_path / "p", f'{{"input": [-12, {long}, -{long}]}}'.encode())
    assert line["prompt"] == {"input": [-12, long, f"-{long}"]}


def test_what_a_pattern_takes_too_long_for_is_left_out_and_holds_nothing_up(tmp_path: Path) -> None:
    found: list[dict[str, Any]] = []
    work = threading.Thread(
        target=lambda: found.append(written(tmp_path / "p", {"input": "a" * 60 + "b"}, ENDLESS, seconds=0.3))
    )
    work.start()
    longest, last = 0.0, time.thread_time()
    # What this process works meanwhile, since other processes take turns, too.
    before = time.process_time()
    while work.is_alive():
        time.sleep(0.001)
        now = time.process_time()
        longest, before = max(longest, now - before), now
    work.join(60)
    assert found[0]["prompt"] is None
    assert found[0]["left_out"] == "it could not be redacted within 0.3 s"
    assert longest < 0.25, "other threads run meanwhile"
    assert time.thread_time() - last < 0.3


def test_bodies_that_wait_have_a_bound() -> None:
    stuck = Hanging()
    sink = Sink("prompts", stuck, weigh=weight, most=250)
    for _ in range(5):
        sink.put([{"body": b"x" * 100}])
    assert (sink.waiting, sink.dropped) == (2, 3)
    stuck.goes_on.set()
    while sink.waiting:
        time.sleep(0.001)
    sink.put([{"body": b"x" * 200}])
    sink.close()
    assert (sink.written, sink.dropped) == (3, 3)


def test_only_named_clients_are_written_down(tmp_path: Path) -> None:
    path = str(tmp_path / "prompts.jsonl")
    prompts = {"path": path, "clients": ["Ann"]}
    here = config("a").but(record_prompts=RecordPrompts.model_validate(prompts))
    assert here.record_prompts is not None
    sinks = Sinks()
    sinks.adopt(here)
    assert sinks.records_prompts_of("Ann")
    assert not sinks.records_prompts_of("Bob")
    assert not sinks.for_records
    assert [sink.name for sink in sinks] == [path]
    (gone,) = sinks.adopt(config("a"))
    sinks.close([gone])
    assert not sinks.records_prompts_of("Ann")


def test_what_has_no_prompt_is_not_written_down() -> None:
    cancelled = world("a").call(b"", path="/openai/v1/responses/resp_0123456789abcdef0/cancel").call
    assert prompt_of(cancelled, ()) is None


def test_the_members_of_claudes_messages_are_a_prompt(tmp_path: Path) -> None:
    body = {"system": "Be kind to Ann", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 5}
    line = written(tmp_path / "p", body, "Ann")
    assert line["prompt"] == {"system": "Be kind to [redacted]", "messages": body["messages"]}
