"""Every fault of the simulator, and what a client gets: the expected outcomes, and the calls that try them.

    python -m tests.e2e.fault_matrix

tries all of them; `test_fault_matrix.py` tries each fault in each setting once. The table in
docs/reference/faults.md is made from `EXPECTED` (`tests.docs.generated`).
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tests.e2e.processes import READY_PATH, Answer, Gateway, Simulator, eventually
from tests.e2e.replay.stage import TEXT, Caller, chat, events_of
from tests.redis_server import RedisServer

type Redis = Literal["up", "frozen", "down"]
type Beside = Literal["another", "none"]
"""Whether the pool has another backend than the one with the fault."""

CLASSES = ("critical", "standard", "batch")
REDIS: tuple[Redis, ...] = ("up", "frozen", "down")
WORKERS = (1, 2)

FIRST = "its answer"
OTHER = "the other one's answer"


class Row(NamedTuple):
    """A fault, and what the client gets, not streaming and streaming: with another backend, and with none."""

    kind: str
    how: Mapping[str, Any]
    about: str
    whole: tuple[str, str]
    stream: tuple[str, str]


def both(with_another: str, with_none: str) -> dict[str, tuple[str, str]]:
    return {"whole": (with_another, with_none), "stream": (with_another, with_none)}


BROKEN_OFF = "502 upstream_disconnected"
OUT = "429 all_backends_out"
PART = "a part, and the error upstream_disconnected"

EXPECTED: tuple[Row, ...] = (
    Row("429", {}, "429 with hints", **both(OTHER, OUT)),
    Row("429-no-hints", {}, "429 without hints", **both(OTHER, OUT)),
    Row("429-ms-zero", {}, "429 with `retry-after-ms: 0`", **both(OTHER, OUT)),
    Row("429-late-body", {}, "429 whose body comes late", **both(OTHER, OUT)),
    Row("retry-after-86400", {}, "429 for a day", **both(OTHER, OUT)),
    Row("401", {}, "401: the gateway's key is wrong", **both(OTHER, OUT)),
    Row("403", {}, "403: the network is closed", **both(OTHER, OUT)),
    Row("408", {}, "408", **both(OTHER, "408 Timeout")),
    Row("500", {}, "500", **both(OTHER, "500 InternalServerError")),
    Row("502", {}, "502", **both(OTHER, "502 BadGateway")),
    Row("503", {}, "503", **both(OTHER, "503 ServiceUnavailable")),
    Row("504", {}, "504", **both(OTHER, "504 GatewayTimeout")),
    Row("529", {}, "529: overloaded", **both(OTHER, OUT)),
    Row("huge-error-body", {}, "500 with a body of 1 MB", **both(OTHER, BROKEN_OFF)),
    Row(
        "content_filter", {}, "400 of the content filter", **both("400 content_filter", "400 content_filter")
    ),
    Row("reset", {}, "the connection is reset", **both(OTHER, BROKEN_OFF)),
    Row("hang", {}, "no answer comes", **both(OTHER, "504 upstream_timeout")),
    Row("drop-after-idle", {"when": "request"}, "an idle connection is closed", **both(FIRST, FIRST)),
    Row("slow-first-token", {"seconds": 0.3}, "the answer begins late, in time", **both(FIRST, FIRST)),
    Row(
        "slow-first-token",
        {"seconds": 30.0},
        "the answer begins too late",
        **both(OTHER, "504 upstream_timeout"),
    ),
    Row("in-200-refusal", {}, "a refusal inside a 200", **both(OTHER, OUT)),
    Row("cut", {"events": 1}, "cut off before the first content", **both(OTHER, BROKEN_OFF)),
    Row("cut", {"events": 5}, "cut off later", whole=(OTHER, BROKEN_OFF), stream=(PART, PART)),
    Row(
        "stall",
        {"events": 5},
        "silent from the middle on",
        whole=(OTHER, "504 upstream_timeout"),
        stream=(PART, PART),
    ),
    Row("malformed-sse", {"form": "crlf"}, "events with CRLF", **both(FIRST, FIRST)),
    Row("malformed-sse", {"form": "bad-json"}, "an event that is no JSON", **both(FIRST, FIRST)),
    Row("bad-content-type", {}, "no `content-type`", **both(FIRST, FIRST)),
)
"""The outcome is the same in each class, with one worker or two, and with Redis up, frozen or down."""

SILENT = ("hang", "slow-first-token")
"""Only the client's patience ends these."""
PATIENCE_SECONDS = 3.0

CALLS_AT_ONCE = 16

_INSTANT = {"model": "gpt-4o", "first_token_seconds": 0, "tokens_per_second": 0}


def key_of(cls: str) -> str:
    return f"key-of-{cls}-5a20"


@dataclass(frozen=True)
class Case:
    """One call of the matrix."""

    row: int
    stream: bool
    beside: Beside
    cls: str
    workers: int
    redis: Redis

    @property
    def target(self) -> str:
        """The simulated deployment that has the fault."""
        return f"d{self.row}-{'s' if self.stream else 'w'}-{self.beside}-{self.cls}-{self.workers}"

    @property
    def lane(self) -> str:
        """The virtual deployment, of this case alone: breaks of others are none of its own."""
        return f"{self.target}-{self.redis}"

    @property
    def expected(self) -> str:
        row = EXPECTED[self.row]
        return (row.stream if self.stream else row.whole)[self.beside == "none"]


def cases() -> list[Case]:
    """All of the matrix."""
    besides: tuple[Beside, ...] = ("another", "none")
    return [
        Case(*values)
        for values in itertools.product(range(len(EXPECTED)), (False, True), besides, CLASSES, WORKERS, REDIS)
    ]


def a_part(every: Iterable[Case]) -> list[Case]:
    """Take some of the matrix: each fault in each way with each state of Redis, and the rest in turn."""
    taken = []
    for case in every:
        turn = case.row + case.stream + (case.beside == "none") + REDIS.index(case.redis)
        if case.cls == CLASSES[turn % len(CLASSES)] and case.workers == WORKERS[turn % len(WORKERS)]:
            taken.append(case)
    return taken


class Setting:
    """A simulator, a Redis, and a gateway for each number of workers."""

    def __init__(self, chosen: Sequence[Case], folder: Path, home: Path) -> None:
        self._exit = ExitStack()
        self._chosen = chosen
        self.simulator = Simulator(_spec(chosen), folder)
        self._exit.callback(self.simulator.kill)
        self.redis = RedisServer(folder)
        self.redis.start()
        self._exit.callback(self.redis.stop)
        self.gateways = {}
        for workers in sorted({case.workers for case in chosen}):
            own = folder / str(workers)
            own.mkdir()
            config = self._config([case for case in chosen if case.workers == workers], workers)
            gateway = _Gateway(config, own, home, workers)
            self._exit.callback(gateway.kill)
            self.gateways[workers] = gateway
        for gateway in self.gateways.values():
            gateway.wait_until(gateway.is_ready, "ready")

    def close(self) -> None:
        """End all of it."""
        self.redis.wake()
        self._exit.close()

    def _config(self, chosen: Sequence[Case], workers: int) -> dict[str, Any]:
        urls, keys = self.simulator.urls, self.simulator.keys
        endpoints = []
        for case in chosen:
            pool = {"name": case.lane, "standins": [{"name": case.target}]}
            faulty = {"name": f"faulty-{case.lane}", "url": urls["faulty"], "key": keys["faulty"]}
            endpoints.append({**faulty, "virtual_deployments": [pool]})
        spare = [
            {"name": case.lane, "standins": [{"name": "spare"}]}
            for case in chosen
            if case.beside == "another"
        ]
        endpoints.append(
            {"name": "sound", "url": urls["sound"], "key": keys["sound"], "virtual_deployments": spare}
        )
        clients = [
            {"name": cls, "key": key_of(cls), "priority": cls, "max_tokens_per_minute": 50_000_000}
            for cls in CLASSES
        ]
        return {
            "aoai": {"endpoints": endpoints},
            "clients": clients,
            "priorities": [{"name": cls} for cls in CLASSES],
            "replay": {"idle_seconds": 3.0, "preamble_seconds": 2.0},
            "state": self.redis.url,
            "state_prefix": f"matrix-{workers}",
        }

    def run(self) -> dict[Case, str]:
        """Make all calls; gives what came of each."""
        found: dict[Case, str] = {}
        for redis in REDIS:
            self._have_redis(redis)
            now = [case for case in self._chosen if case.redis == redis]
            self._queue_faults(now)
            with ThreadPoolExecutor(CALLS_AT_ONCE) as pool:
                found |= dict(zip(now, pool.map(self._call, now), strict=True))
            self._see_that_it_was_so(redis, now)
        return found

    def _have_redis(self, redis: Redis) -> None:
        if redis == "frozen":
            self.redis.stun()
        elif redis == "down":
            self.redis.wake()
            self.redis.stop()

    def _see_that_it_was_so(self, redis: Redis, now: Sequence[Case]) -> None:
        """See that the faults have struck, and that the gateways have noticed how Redis is."""
        struck = {entry["deployment"] for entry in self.simulator.requests() if entry["fault"]}
        assert struck == {case.target for case in now}
        expected = "shared" if redis == "up" else "degraded since"
        for gateway in self.gateways.values():
            # Where the machine has kept Redis from answering for a moment, it is back soon.
            eventually(
                lambda gateway=gateway: (
                    gateway.request("GET", READY_PATH).json()["state"].startswith(expected)
                ),
                expected,
            )

    def _queue_faults(self, now: Sequence[Case]) -> None:
        self.simulator.reset()
        for case in now:
            row = EXPECTED[case.row]
            self.simulator.fault(
                row.kind,
                endpoint="faulty",
                deployment=case.target,
                times=1 if case.beside == "another" else -1,
                **row.how,
            )

    def _call(self, case: Case) -> str:
        row = EXPECTED[case.row]
        caller = Caller(self.gateways[case.workers].port)
        silent = row.kind in SILENT and case.expected != FIRST
        headers = {"x-stainless-read-timeout": str(PATIENCE_SECONDS)} if silent else {}
        path = f"/openai/deployments/{case.lane}/chat/completions?api-version=2024-10-21"
        outcomes = []
        try:
            # The second call of a connection finds that the backend has closed its own.
            for _ in range(2 if row.kind == "drop-after-idle" else 1):
                answer = caller.post(path, chat(stream=case.stream), headers, key=key_of(case.cls))
                outcomes.append(outcome(answer))
        except OSError as error:
            outcomes.append(type(error).__name__)
        finally:
            caller.close()
        return " and then ".join(dict.fromkeys(outcomes))


def outcome(answer: Answer) -> str:
    """Say what a client got."""
    if answer.status != 200:
        try:
            code = answer.json()["error"]["code"]
        except (ValueError, KeyError, TypeError):
            code = "without a code"
        return f"{answer.status} {code}"
    backend = FIRST if answer.headers["x-gateway-backend"].partition("@")[2] != "sound" else OTHER
    if b"data:" not in answer.body[:200]:
        try:
            text = answer.json()["choices"][0]["message"]["content"]
        except ValueError:
            return "a part, and no error"
        return backend if text == TEXT else "another text"
    return _outcome_of_stream(answer.body, backend)


def _outcome_of_stream(body: bytes, backend: str) -> str:
    text, error = "", ""
    events = events_of(body)
    for event in events:
        try:
            chunk = json.loads(event)
        except ValueError:
            continue
        error = chunk["error"]["code"] if "error" in chunk else error
        text += "".join(choice["delta"].get("content") or "" for choice in chunk.get("choices", ()))
    if error:
        return f"a part, and the error {error}" if text else f"the error {error}"
    if events[-1] != "[DONE]":
        return "a part, and no error"
    return backend


class _Gateway(Gateway):
    def __init__(self, config: Any, folder: Path, home: Path, workers: int) -> None:
        self._workers = workers
        super().__init__("serve", config, folder, home=home, wait=False, forked=workers == 1)

    def _command(self, scripts: Any) -> list[str | Path]:
        command = super()._command(scripts)
        return command if self._workers == 1 else [*command[:-1], "--workers", str(self._workers), "--"]


def _spec(chosen: Iterable[Case]) -> dict[str, Any]:
    targets = dict.fromkeys(case.target for case in chosen)
    return {
        "faulty": {"region": "Sweden Central", "deployments": dict.fromkeys(targets, _INSTANT)},
        "sound": {"region": "France Central", "deployments": {"spare": _INSTANT}},
    }


def differences(found: Mapping[Case, str]) -> Iterator[str]:
    """Say which outcomes are not as expected."""
    for case, got in found.items():
        if got != case.expected:
            row = EXPECTED[case.row]
            yield f"{row.about} ({row.kind}), {case}: {got}, and not {case.expected}"


def main() -> int:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        del os.environ[name]
    with tempfile.TemporaryDirectory() as folder:
        setting = Setting(cases(), Path(folder), Path(folder))
        try:
            found = setting.run()
        finally:
            setting.close()
    wrong = list(differences(found))
    print("\n".join([*wrong, f"{len(found) - len(wrong)} of {len(found)} are as expected."]))
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
