"""One gateway and its backends for many tests: every test gets a lane of its own.

Processes are what costs time, and breaks are what tests would disturb each other with. A gateway remembers
a break by the names of endpoint and standin, so the same simulated resources are configured under many
names: a *lane* is a virtual deployment with endpoints that no other test uses.
"""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tests.e2e import json_lines
from tests.e2e.processes import Answer, Gateway, Host, Simulator, eventually
from tests.e2e.replay.scripted import ScriptedBackend
from tests.e2e.settings import API_VERSION, CLIENT_KEY

_INSTANT = {"first_token_seconds": 0, "tokens_per_second": 0}

SPEC: dict[str, Any] = {
    "west": {
        "region": "West Europe",
        "deployments": {"ptu": {"model": "gpt-4o", **_INSTANT}, "paygo": {"model": "gpt-4o", **_INSTANT}},
    },
    "east": {"region": "East US 2", "deployments": {"spare": {"model": "gpt-4o", **_INSTANT}}},
}

PTU, PAYGO, SPARE = "ptu@west", "paygo@west", "spare@east"
"""The backends of a lane, in the order in which they are tried; the first two share an endpoint."""

SCRIPTED = "any@script"
"""The backend that answers what the test has written down for it."""

PROMPT = "say: It was answered after all."
TEXT = "It was answered after all."
"""What every simulated backend answers to `PROMPT`."""

CONNECT_SECONDS = 1.0
IDLE_SECONDS = 1.0
PREAMBLE_SECONDS = 1.5
ERROR_BODY_SECONDS = 1.0
DEFAULT_BREAK_SECONDS = 2
LONGEST_BREAK_SECONDS = 90
BODY_MB = 16
GONE_SECONDS = 10.0
"""How long a backend may work on for a client that has hung up: not long, but machines are busy at times.

Nothing else ends these calls so soon: a connection is waited for 15 s, and what hangs, hangs for ever.
"""

Kind = str
_KINDS: Mapping[Kind, int] = {"plain": 260, "patient": 12, "scripted": 20, "solo": 20}


class Lane(NamedTuple):
    """A virtual deployment for one test.

    Kinds: ``plain`` (`PTU`, `PAYGO`, `SPARE`); ``patient`` (the same, with the default 15 s for a
    connection); ``scripted`` (`SCRIPTED`, `SPARE`); ``solo`` (`SCRIPTED` alone).
    """

    deployment: str

    @property
    def path(self) -> str:
        """Where its chat completions are asked for."""
        return f"/openai/deployments/{self.deployment}/chat/completions?api-version={API_VERSION}"


def where(headers: Mapping[str, str]) -> str:
    """Which backend an answer says that it comes from, without its lane's number."""
    return re.sub(r"-[a-z]+-\d+$", "", headers["x-gateway-backend"])


def chat(*, stream: bool = False, prompt: str = PROMPT, **members: Any) -> dict[str, Any]:
    """Make the body of a chat completion."""
    return {"messages": [{"role": "user", "content": prompt}], "stream": stream, **members}


def text_of(answer: Answer) -> str:
    """The text of an answer to a chat completion, streamed or not; a stream must have come to its end."""
    if "event-stream" not in answer.headers.get("content-type", ""):
        return str(answer.json()["choices"][0]["message"]["content"])
    *chunks, last = events_of(answer.body)
    assert last == "[DONE]"
    choices = [choice for chunk in chunks for choice in json.loads(chunk)["choices"]]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


def events_of(body: bytes) -> list[str]:
    """The data of a stream's events."""
    return [line[5:].strip() for line in body.decode().splitlines() if line.startswith("data:")]


class Caller:
    """A client with one keep-alive connection, that says exactly what it is told to."""

    def __init__(self, port: int) -> None:
        self.http = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    def post(
        self, path: str, body: Any, headers: Mapping[str, str] | None = None, *, key: str = CLIENT_KEY
    ) -> Answer:
        """Post a body (a value is sent as JSON) and read the answer to its end."""
        self.send(path, body, headers, key=key)
        return self.answer()

    def send(
        self, path: str, body: Any, headers: Mapping[str, str] | None = None, *, key: str = CLIENT_KEY
    ) -> None:
        """Send a request and don't wait for its answer."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        fixed = {"api-key": key, "content-type": "application/json"}
        self.http.request("POST", path, body=content, headers={**fixed, **(headers or {})})

    def answer(self) -> Answer:
        """Read an answer to its end, or as far as it came before it was cut."""
        response = self.http.getresponse()
        names = {name.lower(): value for name, value in response.getheaders()}
        try:
            body = response.read()
        except http.client.IncompleteRead as cut:
            body = cut.partial
        return Answer(response.status, names, body)

    def chat(
        self,
        lane: Lane,
        *,
        stream: bool = False,
        headers: Mapping[str, str] | None = None,
        seconds: float | None = None,
        key: str = CLIENT_KEY,
        **members: Any,
    ) -> Answer:
        """Ask for a completion; ``seconds``: what it tells the gateway that it waits for an answer."""
        waits = {"x-stainless-read-timeout": str(seconds)} if seconds is not None else {}
        body = chat(stream=stream, **members)
        return self.post(lane.path, body, {**waits, **(headers or {})}, key=key)

    def close(self) -> None:
        """Hang up."""
        self.http.close()


class Stage:
    """A gateway on one of the hosts, the simulator and the scripted backend behind it."""

    def __init__(
        self,
        host: Host,
        simulator: Simulator,
        scripted: ScriptedBackend,
        folder: Path,
        *,
        home: Path,
        **replay: float,
    ) -> None:
        """Start the gateway; ``replay``: what of that section is to be otherwise than it is said above."""
        self.simulator = simulator
        self.scripted = scripted
        self.usage_path = folder / "usage.jsonl"
        self._numbers: dict[Kind, Iterator[int]] = {kind: iter(range(n)) for kind, n in _KINDS.items()}
        self._callers: list[Caller] = []
        self._read = (0, 0)
        self._replay = replay
        self.gateway = Gateway(host, self._configuration(), folder, home=home)

    def _configuration(self) -> dict[str, Any]:
        lanes = [(kind, f"{kind}-{number}") for kind, count in _KINDS.items() for number in range(count)]
        return {
            "aoai": {"endpoints": [e for kind, lane in lanes for e in self._endpoints(kind, lane)]},
            "clients": [{"name": "Tester", "key": CLIENT_KEY}],
            "limits": {"body_mb": BODY_MB},
            "replay": {
                "idle_seconds": IDLE_SECONDS,
                "preamble_seconds": PREAMBLE_SECONDS,
                "error_body_seconds": ERROR_BODY_SECONDS,
                **self._replay,
            },
            "breaks": {"default_seconds": DEFAULT_BREAK_SECONDS, "ceiling_seconds": LONGEST_BREAK_SECONDS},
            "usage_log": str(self.usage_path),
        }

    def _endpoints(self, kind: Kind, lane: str) -> list[dict[str, Any]]:
        west, east = self.simulator.urls["west"], self.simulator.urls["east"]
        keys = self.simulator.keys
        spare = self._endpoint("east", lane, east, keys["east"], ["spare"])
        if kind == "solo":
            return [self._endpoint("script", lane, self.scripted.url, "k", ["any"])]
        if kind == "scripted":
            return [self._endpoint("script", lane, self.scripted.url, "k", ["any"]), spare]
        first = self._endpoint("west", lane, west, keys["west"], ["ptu", "paygo"])
        if kind == "plain":
            first["connections"] = {"timeouts": {"connect": CONNECT_SECONDS}}
        return [first, spare]

    def _endpoint(self, name: str, lane: str, url: str, key: str, standins: list[str]) -> dict[str, Any]:
        pool = {"name": lane, "standins": [{"name": standin} for standin in standins]}
        return {"name": f"{name}-{lane}", "url": url, "key": key, "virtual_deployments": [pool]}

    # --- what a test uses ------------------------------------------------------------------------------

    def lane(self, kind: Kind = "plain") -> Lane:
        """Return a lane that is not used yet."""
        return Lane(f"{kind}-{next(self._numbers[kind])}")

    def caller(self) -> Caller:
        """Return a client with a connection of its own; it is closed with the test."""
        caller = Caller(self.gateway.port)
        self._callers.append(caller)
        return caller

    def fault(self, kind: str, backend: str = PTU, *, times: int = 1, **how: Any) -> None:
        """Let a fault strike the next calls to a backend."""
        deployment, _, endpoint = backend.partition("@")
        self.simulator.fault(kind, endpoint=endpoint, deployment=deployment, times=times, **how)

    def entries(self) -> list[dict[str, Any]]:
        """What has arrived at the simulated backends, in order."""
        return self.simulator.requests()

    def asked(self) -> list[str]:
        """The simulated backends that were asked, in order."""
        return [f"{entry['deployment']}@{entry['endpoint']}" for entry in self.entries()]

    def connections(self, endpoint: str) -> int:
        """How many connections to a simulated endpoint are open."""
        return int(self.simulator.active()["endpoints"][endpoint]["connections"])

    def direct(self, backend: str, body: Any) -> Answer:
        """Ask a simulated backend for a chat completion without the gateway."""
        deployment, _, endpoint = backend.partition("@")
        caller = Caller(int(self.simulator.urls[endpoint].rpartition(":")[2]))
        try:
            return caller.post(Lane(deployment).path, body, key=self.simulator.keys[endpoint])
        finally:
            caller.close()

    def records(self, lane: Lane) -> list[dict[str, Any]]:
        """The usage records of a lane's calls so far."""
        records = json_lines.read(self.usage_path)
        return [record for record in records if record["deployment"] == lane.deployment]

    def record(self, lane: Lane, count: int = 1) -> dict[str, Any]:
        """Wait for a lane's usage records, and give the last; there must be no more than ``count``."""
        found = eventually(lambda: len(self.records(lane)) >= count and self.records(lane), "usage record")
        assert len(found) == count, found
        return found[-1]  # type: ignore[no-any-return]

    # --- between tests ---------------------------------------------------------------------------------

    def begin(self) -> None:
        """Be as new, but for the breaks of lanes that are used up."""
        self.simulator.reset()
        self.scripted.reset()
        self._read = (len(self.gateway.stdout), len(self.gateway.stderr))

    def finish(self) -> None:
        """Tidy up after a test; shows what the gateway has logged, which must be no traceback."""
        for caller in self._callers:
            caller.close()
        self._callers.clear()
        out, err = self._read
        news = self.gateway.stdout[out:] + self.gateway.stderr[err:]
        print(news)
        assert self.gateway.exit_code is None, "the gateway has ended"
        assert "Traceback" not in news


@contextmanager
def running_stage(
    host: Host, simulator: Simulator, folder: Path, home: Path, **replay: float
) -> Iterator[Stage]:
    """Run a stage; its gateway must end in an orderly way."""
    scripted = ScriptedBackend()
    stage = Stage(host, simulator, scripted, folder, home=home, **replay)
    yield stage
    code = stage.gateway.stop()
    scripted.close()
    assert code == 0, stage.gateway.log
