"""Hours of mixed traffic with faults, and a look at what is left of it.

    python -m tests.soak.soak --seconds 7200 --workers 2

Callers with keep-alive connections send streams and others, large and small, in three classes, hang up now
and then, and send nonsense; backends throttle, fail, and break off. In rounds: traffic, then a rest. After
each rest nothing that belongs to calls may be left, and memory must not have grown with the number of
rounds. The suite runs some seconds of it (`test_soak.py`).
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.e2e.certificates import make
from tests.e2e.processes import Gateway, Simulator, eventually
from tests.e2e.settings import configuration

SPEC = {
    name: {
        "region": region,
        "deployments": {
            "gpt-4o": {"model": "gpt-4o", "first_token_seconds": 0.01, "tokens_per_second": 2000},
        },
    }
    for name, region in (("sweden", "Sweden Central"), ("france", "France Central"))
}
POOLS = {name: {"gpt-4o": ["gpt-4o"]} for name in SPEC}
CLASSES = ("critical", "standard", "batch")
PRIORITIES = [{"name": name, "breaks": {"ceiling_seconds": 3}, "wait": {"seconds": 10}} for name in CLASSES]
"""Breaks that end within a rest."""

FAULTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("429", {"retry_after_seconds": 1}),
    ("500", {}),
    ("503", {}),
    ("reset", {}),
    ("cut", {"events": 2}),
    ("in-200-refusal", {"retry_after": 1}),
    ("malformed-sse", {}),
    ("huge-error-body", {}),
    ("slow-first-token", {"seconds": 0.5}),
)
PATHS = ("/openai/v1/chat/completions", "/openai/v1/responses")
REST_SECONDS = 60.0
"""For breaks to end, connections to time out or be closed, and leases to be given back."""

LEAST_CALLS = 40
"""That are answered well in a round, so that everything is loaded in the first one."""

GROWTH_KILOBYTES = 8_192
"""By which a process may be larger than after the first round."""

EXPECTED = frozenset({200, 400, 401, 404, 408, 413, 429, 499, 500, 502, 503, 504})


def key_of(cls: str) -> str:
    return f"key-of-{cls}-91c4"


class Traffic:
    """Callers, for a time."""

    def __init__(self, port: int, simulator: Simulator, seed: int) -> None:
        self.statuses: Counter[int | str] = Counter()
        self._port = port
        self._simulator = simulator
        self._dice = random.Random(seed)

    def _goes_on(self, end: float) -> bool:
        """Whether it is not over: a slow machine takes longer to have done enough for a comparison."""
        return time.monotonic() < end or self.statuses[200] < LEAST_CALLS

    def run(self, seconds: float, callers: int = 6) -> None:
        end = time.monotonic() + seconds
        threads = [
            threading.Thread(target=self._call, args=(end, random.Random(self._dice.random())))
            for _ in range(callers)
        ]
        threads.append(threading.Thread(target=self._break, args=(end,)))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(seconds + 60)
            assert not thread.is_alive(), "every call ends"
        self._simulator.clear_faults()

    def _break(self, end: float) -> None:
        while self._goes_on(end):
            kind, how = self._dice.choice(FAULTS)
            self._simulator.fault(kind, times=self._dice.randint(1, 3), **how)
            time.sleep(self._dice.uniform(0.1, 0.5))

    def _call(self, end: float, dice: random.Random) -> None:
        here = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        while self._goes_on(end):
            try:
                self._one(here, dice)
            except (OSError, http.client.HTTPException) as error:
                # A stream that a backend broke off is cut, so that it does not look complete.
                self.statuses[type(error).__name__] += 1
                here.close()
        here.close()

    def _one(self, here: http.client.HTTPConnection, dice: random.Random) -> None:
        path, stream = dice.choice(PATHS), dice.random() < 0.6
        text = "say: " + "word " * dice.choice((3, 30, 300, 3000))
        content = (
            {"input": text}
            if path.endswith("responses")
            else {"messages": [{"role": "user", "content": text}]}
        )
        body = json.dumps({"model": "gpt-4o", "stream": stream, **content})
        key = key_of(dice.choice(CLASSES))
        if dice.random() < 0.03:
            body, key = dice.choice((("{", key), (body, "no key"), (body.replace("gpt-4o", "none"), key)))
        here.request("POST", path, body, {"api-key": key, "content-type": "application/json"})
        if dice.random() < 0.05:
            self.statuses["hung up"] += 1
            here.close()
            return
        answer = here.getresponse()
        if stream and dice.random() < 0.05:
            answer.read(20)
            self.statuses["hung up"] += 1
            here.close()
            return
        answer.read()
        self.statuses[answer.status] += 1


@dataclass
class Soak:
    """A gateway under traffic, in rounds."""

    gateway: Gateway
    simulator: Simulator
    folder: Path
    processes: int
    begun: dict[str, dict[str, Any]] = field(default_factory=dict)
    statuses: Counter[int | str] = field(default_factory=Counter)

    def round(self, seconds: float, seed: int) -> dict[str, dict[str, Any]]:
        """Send traffic, rest, and give what each process holds then."""
        traffic = Traffic(self.gateway.port, self.simulator, seed)
        traffic.run(seconds)
        self.statuses += traffic.statuses
        unexpected = {s for s in traffic.statuses if isinstance(s, int)} - EXPECTED
        assert not unexpected, traffic.statuses
        end = time.monotonic() + REST_SECONDS
        while True:
            found = self.found()
            if not any(any(left(each).values()) for each in found.values()):
                return found
            assert time.monotonic() < end, {name: left(each) for name, each in found.items()}

    def found(self) -> dict[str, dict[str, Any]]:
        """What each process has written down, since now."""
        since = time.time()

        def read() -> dict[str, dict[str, Any]]:
            found = {file.stem: json.loads(file.read_text()) for file in self.folder.glob("*.json")}
            fresh = {name: each for name, each in found.items() if each["at"] > since}
            return fresh if len(fresh) == self.processes else {}

        return eventually(read, "all processes write")  # type: ignore[no-any-return]

    def check(self, first: dict[str, dict[str, Any]], last: dict[str, dict[str, Any]]) -> None:
        """Compare what is held after two rounds."""
        assert first.keys() == last.keys(), "no process has ended"
        for name, then in first.items():
            now = last[name]
            # A connection to the store, or a timer that runs, more or less.
            for what in ("tasks", "sockets"):
                assert now["held"][what] <= then["held"][what] + 3, (what, then, now)
            assert now["rss"] <= then["rss"] + GROWTH_KILOBYTES, (then, now)
        for words in ("Traceback", "never retrieved", "RuntimeWarning", "Task was destroyed"):
            assert words not in self.gateway.log, self.gateway.log


def left(found: dict[str, Any]) -> dict[str, int]:
    """What a process holds that belongs to calls."""
    return {name: count for name, count in found["held"].items() if name not in ("tasks", "sockets")}


@contextmanager
def soaking(folder: Path, home: Path, workers: int, *, https: bool) -> Iterator[Soak]:
    """Start a gateway that is counted. ``https``: whether backends speak it."""
    counts = folder / "counts"
    counts.mkdir()
    made = make(folder)
    words = ["--tls-cert", made.certificate, "--tls-key", made.private_key] if https else []
    simulator = Simulator(SPEC, folder, arguments=words, ca=made.ca if https else None)
    clients = [
        {"name": cls, "key": key_of(cls), "priority": cls, "max_tokens_per_minute": 2_000_000}
        for cls in CLASSES
    ]
    sections: dict[str, Any] = {
        "clients": clients,
        "priorities": PRIORITIES,
        "breaks": {"default_seconds": 1},
    }
    if https:
        sections["aoai"] = {"trusted_ca": str(made.ca)}
    config = configuration(simulator.urls, simulator.keys, pools=POOLS, **sections)
    addon = Path(__file__).with_name("count_state.py")
    gateway = _Gateway(workers, config, folder, home, addon, counts)
    try:
        gateway.wait_until(gateway.is_ready, "ready")
        yield Soak(gateway, simulator, counts, workers)
        assert gateway.stop() == 0, gateway.log
    finally:
        gateway.kill()
        simulator.kill()


class _Gateway(Gateway):
    def __init__(
        self, workers: int, config: Any, folder: Path, home: Path, addon: Path, counts: Path
    ) -> None:
        self._workers = workers
        env = {"SOAK_FOLDER": str(counts)}
        super().__init__(
            "serve", config, folder, home=home, addons=[addon], env=env, wait=False, forked=False
        )

    def _command(self, scripts: Any) -> list[str | Path]:
        command = super()._command(scripts)
        return [*command[:-1], "--workers", str(self._workers), "--"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--http", action="store_true", help="backends speak http, not https")
    parser.add_argument("--round", type=float, default=60, help="seconds of traffic in each round")
    args = parser.parse_args()
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        del os.environ[name]
    with (
        tempfile.TemporaryDirectory() as folder,
        soaking(Path(folder), Path(folder), args.workers, https=not args.http) as soak,
    ):
        end, first, number = time.monotonic() + args.seconds, None, 0
        while first is None or time.monotonic() < end:
            found = soak.round(args.round, number)
            first, number = first or found, number + 1
            memory = {name: each["rss"] // 1024 for name, each in found.items()}
            print(f"round {number}: MiB {memory}, {dict(soak.statuses)}", flush=True)
            soak.check(first, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
