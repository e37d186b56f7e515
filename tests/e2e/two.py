"""Two gateway processes that share their counters and breaks in one Redis."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.e2e import json_lines
from tests.e2e.processes import READY_PATH, START_SECONDS, Answer, Gateway, Simulator, eventually
from tests.e2e.settings import configuration
from tests.redis_groups import Group
from tests.redis_server import RedisServer

CHAT = "/openai/v1/chat/completions"
TEXT = "It was answered after all, in ten words or so."
HELLO = {
    "model": "gpt-4o",
    "max_tokens": 20,
    "messages": [{"role": "user", "content": f"say: {TEXT}"}],
}
HOWS = ("killed", "stunned")
"""In which way Redis is lost."""


def key_of(client: str) -> str:
    return f"key-of-{client.replace(' ', '-')}-41d0"


def client(name: str, **limits: Any) -> dict[str, Any]:
    return {"name": name, "key": key_of(name), **limits}


TRIES = 5
"""How often what two gateways share is looked at where the machine keeps Redis from answering meanwhile."""

HASTY: dict[str, Any] = {"action": "wait", "seconds": 4}
PATIENT = {"action": "wait", "seconds": 10}
AGAIN: dict[str, dict[str, Any]] = {
    "crowd": {"max_tokens_per_minute": 12_000},
    "known": {"max_requests_per_minute": 5, "max_tokens_per_day": 100_000},
    "patient": {"max_requests_per_minute": 1, "when_exceeded": PATIENT},
    "hasty": {"max_requests_per_minute": 1, "when_exceeded": HASTY},
    "leaving": {"max_requests_per_minute": 1, "when_exceeded": PATIENT},
    "crashing": {"max_tokens_per_day": 1000},
    **{f"later {how}": {"max_requests_per_minute": 4} for how in HOWS},
}
"""Clients of which there is another one for each try, see `Two.steadily`."""

CLIENTS = [
    client("team"),
    client("busy", max_tokens_per_minute=10_000_000),
    *(client(f"team {how}", max_requests_per_minute=4) for how in HOWS),
    *(client(f"{name}-{number}", **limits) for name, limits in AGAIN.items() for number in range(TRIES)),
]
"""Every test has clients of its own: the processes are shared, and so are the counters."""

LOST = "Shared state lost"
BACK = "Shared state is back"
LATE = ": no answer in "
"""In a line with `LOST`: the time-out was the reason."""

_INSTANT = {"model": "gpt-4o", "first_token_seconds": 0, "tokens_per_second": 0}
ENDPOINTS = {
    "sweden": {"region": "Sweden Central", "deployments": {"ptu": _INSTANT}},
    "norway": {
        "region": "Norway East",
        "deployments": dict.fromkeys(("told-1", "told-2", "untold-1", "untold-2"), _INSTANT),
    },
}
POOLS = {
    "sweden": {"gpt-4o": ["ptu"]},
    # For breaks, which outlast a test.
    "norway": {"told": ["told-1", "told-2"], "untold": ["untold-1", "untold-2"]},
}


class Two:
    """Two gateways before one simulator and one Redis."""

    def __init__(self, simulator: Simulator, server: RedisServer | Group, folder: Path, home: Path) -> None:
        self.prefix = f"two-{folder.name}"
        self._simulator = simulator
        self._state = server.state
        self._folder = folder
        self._home = home
        self._logs: list[Path] = []
        self._started: list[Gateway] = []
        self.gateways: list[Gateway] = []

    def start(self, *names: str) -> list[Gateway]:
        """Start gateways, all at the same time."""
        started = []
        for name in names:
            log = self._folder / f"usage-{name}.jsonl"
            config = configuration(
                self._simulator.urls,
                self._simulator.keys,
                pools=POOLS,
                clients=CLIENTS,
                usage_log=str(log),
                state=self._state,
                state_prefix=self.prefix,
            )
            gateway = Gateway("serve", config, self._folder, home=self._home, name=name, wait=False)
            started.append(gateway)
            self.gateways.append(gateway)
            self._started.append(gateway)
            self._logs.append(log)
        for gateway in started:
            gateway.wait_until(gateway.is_ready, "ready")
        return started

    @contextmanager
    def another(self, name: str) -> Iterator[Gateway]:
        """Have one more gateway, which is killed in the end if it has not been before."""
        known = list(self.gateways)
        try:
            (started,) = self.start(name)
            yield started
        finally:
            for gateway in self.gateways[len(known) :]:
                gateway.kill()
            self.gateways[:] = known

    def call(self, number: int, client: str, **body: Any) -> Answer:
        """Send a call to one of the two."""
        return self.gateways[number % 2].request("POST", CHAT, key=key_of(client), json_body=HELLO | body)

    def states(self) -> list[str]:
        """What each says of its counters."""
        return [gateway.request("GET", READY_PATH).json()["state"] for gateway in self.gateways]

    def wait_for_state(self, state: str) -> None:
        """Wait until both say so: a lost server needs a successor, and to be asked again."""
        eventually(
            lambda: all(s.startswith(state) for s in self.states()), f"{state} counters", START_SECONDS
        )

    def lines_with(self, words: str) -> list[int]:
        """In how many lines of its log each has these words."""
        return [len(lines) for lines in self.said(words)]

    def said(self, words: str) -> list[list[str]]:
        """The lines with these words that each has in its log."""
        return [[line for line in gateway.log.splitlines() if words in line] for gateway in self.gateways]

    def wait_until_all_is_told(self) -> None:
        """Wait until each has said that Redis is back, as often as it has said that it is lost."""
        eventually(lambda: self.lines_with(BACK) == self.lines_with(LOST), "news of each return")

    def steadily(self, name: str, play: Callable[[str], None]) -> None:
        """Play a scene as a client of that name while the counters are shared.

        On a busy machine Redis may not answer in its second, and each counts alone for a moment, as it
        should. What was seen then says nothing, and the scene is played again as another client.
        """
        for number in range(TRIES):
            self.wait_for_state("shared")
            before = self._losses()
            try:
                play(f"{name}-{number}")
            except AssertionError:
                if self._losses() == before or number == TRIES - 1:
                    raise
            else:
                return

    def _losses(self) -> int:
        """How often any of them has lost Redis, those included that are gone."""
        return sum(gateway.log.count(LOST) for gateway in self._started)

    def records(self, client: str, count: int) -> list[list[dict[str, Any]]]:
        """The usage records of a client at each of them, once there are so many in all."""

        def read() -> list[list[dict[str, Any]]]:
            found = [[r for r in json_lines.read(log) if r["client"] == client] for log in self._logs]
            return found if sum(map(len, found)) >= count else []

        return eventually(read, f"{count} records")  # type: ignore[no-any-return]


@contextmanager
def running_two(simulator: Simulator, server: RedisServer | Group, folder: Path, home: Path) -> Iterator[Two]:
    two = Two(simulator, server, folder, home)
    try:
        two.start("north", "south")
        yield two
        for gateway in two.gateways:
            gateway.send()
        for gateway in two.gateways:
            assert gateway.wait() == 0, gateway.log
    finally:
        for gateway in two.gateways:
            gateway.kill()
            print(gateway.log)
