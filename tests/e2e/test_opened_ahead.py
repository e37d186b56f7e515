"""Connections to backends that are there before calls need them: who gets them, and what never happens."""

from __future__ import annotations

import json
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e import json_lines
from tests.e2e.certificates import Certificates, make
from tests.e2e.echo_tls import TIMED_OUT, UNASKED, EchoBackend, Talk
from tests.e2e.processes import Gateway, Host, eventually, request
from tests.e2e.raw import Connection, Reply, post
from tests.e2e.settings import CLIENT_KEY
from tests.ports import free_port

CHAT = "/openai/v1/chat/completions"
BREAKS = {"default_seconds": 0.01, "floor_seconds": 0.01, "ceiling_seconds": 0.01}
DECIDES = Path(__file__).parent / "addons" / "decide_on_connections.py"


class Place:
    """A gateway before backends that say back what they are asked."""

    def __init__(self, gateway: Gateway, backends: list[EchoBackend], folder: Path, admin: int) -> None:
        self.gateway, self.backends, self._folder, self._admin = gateway, backends, folder, admin

    @property
    def backend(self) -> EchoBackend:
        return self.backends[0]

    def ask(self, text: str, path: str = CHAT, **members: Any) -> Reply:
        """Send a call on a connection of its own."""
        with Connection(self.gateway) as connection:
            connection.send(self.message(text, path, **members))
            return connection.reply()

    @staticmethod
    def message(text: str, path: str = CHAT, **members: Any) -> bytes:
        content = (
            {"input": text} if "responses" in path else {"messages": [{"role": "user", "content": text}]}
        )
        return post(path, json.dumps({"model": "gpt-4o", **content, **members}).encode(), key=CLIENT_KEY)

    def one_ahead(self) -> Talk:
        """Have a connection opened ahead, and give it as the backend sees it."""
        if not self.backend.talks:
            assert self.ask("first").status == 200
        eventually(lambda: self.opened_ahead() == len(self.backend.idle()) == 1, "a connection ahead")
        return self.backend.idle()[0]

    def has_none_left(self) -> bool:
        """Whether there is no connection to any backend."""
        return not any(backend.open() for backend in self.backends)

    def records(self) -> list[dict[str, Any]]:
        return json_lines.read(self._folder / "usage.jsonl")

    def opened_ahead(self) -> int:
        """Return how many the gateway holds for the first backend."""
        return int(self.status()["endpoints"][0]["opened_ahead"])

    def status(self) -> dict[str, Any]:
        return request(f"http://127.0.0.1:{self._admin}/api/status").json()  # type: ignore[no-any-return]


type Start = Callable[..., Place]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def start(host: Host, tmp_path: Path, home: Path, made: Certificates) -> Iterator[Start]:
    """Start a gateway; ``ahead``: how many connections it may open ahead, None leaves it at what it is."""
    places: list[Place] = []

    def begin(
        backends: int = 1, ahead: int | None = 1, addons: tuple[Path, ...] = (), **sections: Any
    ) -> Place:
        behind = [EchoBackend(made) for _ in range(backends)]
        endpoints = [
            {
                "name": f"e{number}",
                "url": each.url,
                "key": "k",
                "virtual_deployments": [{"name": "gpt-4o", "standins": [{"name": "real"}]}],
                **({} if ahead is None else {"connections": {"opened_ahead": ahead}}),
            }
            for number, each in enumerate(behind)
        ]
        admin = free_port()
        config = {
            "aoai": {"endpoints": endpoints, "trusted_ca": str(made.ca)},
            "clients": [{"name": "Tester", "key": CLIENT_KEY}],
            "admin": {"port": admin},
            "breaks": BREAKS,
            "usage_log": str(tmp_path / "usage.jsonl"),
            **sections,
        }
        gateway = Gateway(host, config, tmp_path, home=home, addons=addons)
        places.append(Place(gateway, behind, tmp_path, admin))
        return places[-1]

    yield begin
    for place in places:
        try:
            assert place.gateway.stop() == 0
            assert "Traceback" not in place.gateway.log, place.gateway.log
            eventually(place.has_none_left, "all connections end with the gateway")
        finally:
            place.gateway.kill()
            for backend in place.backends:
                backend.close()


def said(reply: Reply) -> str:
    assert reply.status == 200, reply
    return json.loads(reply.body)["choices"][0]["message"]["content"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("host", ["serve", "mitmdump"])
def test_the_next_client_gets_the_one_that_is_there_and_no_other_does(start: Start) -> None:
    place = start()
    ahead = place.one_ahead()
    for number in range(4):
        assert said(place.ask(f"call {number}")) == f"call {number}"
        assert ahead.asked == [f"call {number}"], "the call came on it"
        ahead = place.one_ahead()
    assert all(len(talk.asked) <= 1 for talk in place.backend.talks), "none serves two clients"


def test_a_client_keeps_its_connection(start: Start) -> None:
    place = start()
    ahead = place.one_ahead()
    with Connection(place.gateway) as connection:
        for number in range(5):
            connection.send(place.message(f"call {number}"))
            assert said(connection.reply()) == f"call {number}"
    assert ahead.asked == [f"call {number}" for number in range(5)]
    eventually(lambda: ahead.ended, "it ends with its client")


def test_a_stream_comes_on_one_whole(start: Start) -> None:
    place = start()
    ahead = place.one_ahead()
    reply = place.ask("words", stream=True)
    assert (reply.body.count(b'"words "'), reply.body.endswith(b"data: [DONE]\n\n")) == (6, True)
    assert ahead.asked == ["words"]


def test_the_status_tells_how_many_there_are(start: Start) -> None:
    place = start()
    assert place.opened_ahead() == 0
    place.one_ahead()
    metrics = request(f"http://127.0.0.1:{place._admin}/metrics").body.decode()
    assert 'aoai_gateway_connections_opened_ahead{endpoint="e0"} 1.0' in metrics


def test_without_any_there_is_one_connection_for_each_client(start: Start) -> None:
    place = start(ahead=0)
    for number in range(3):
        said(place.ask(f"call {number}"))
    assert len(place.backend.talks) == 3


def test_where_an_addon_decides_on_connections_it_decides_on_all(start: Start) -> None:
    place = start(addons=(DECIDES,))
    for number in range(3):
        said(place.ask(f"call {number}"))
    assert len(place.backend.talks) == 3
    assert place.gateway.log.count("decided on a connection") == 3


@pytest.mark.parametrize("reset", [False, True])
def test_one_that_the_backend_has_closed_is_used_for_nothing(start: Start, reset: bool) -> None:
    place = start()
    for _ in range(3):
        ahead = place.one_ahead()
        place.backend.end(ahead, reset=reset)
        assert said(place.ask("next")) == "next"
        assert ahead.asked == []
    eventually(lambda: len(place.records()) == 4, "records")
    assert {(each["outcome"], len(each["attempts"])) for each in place.records()} == {("ok", 1)}


@pytest.mark.parametrize("unasked", [UNASKED, TIMED_OUT])
def test_what_a_backend_says_before_it_is_asked_reaches_no_client(start: Start, unasked: bytes) -> None:
    place = start()
    for number in range(3):
        ahead = place.one_ahead()
        place.backend.say(ahead, unasked)
        assert said(place.ask(f"call {number}")) == f"call {number}"
        assert ahead.asked == []
        eventually(lambda ahead=ahead: ahead.ended, "it is closed")
    eventually(lambda: len(place.records()) == 4, "records")
    assert {(each["outcome"], len(each["attempts"])) for each in place.records()} == {("ok", 1)}


def test_a_call_that_finds_it_closing_is_sent_again_and_no_backend_is_blamed(start: Start) -> None:
    place = start(backends=2)
    ahead = place.one_ahead()
    place.backend.slams = 1
    assert said(place.ask("again")) == "again"
    assert ahead.asked == ["again"]
    assert place.backend.asked.count("again") == 2, "once more at the same backend, on a new connection"
    assert place.backends[1].asked == []
    eventually(lambda: len(place.records()) == 2, "records")
    assert [len(each["attempts"]) for each in place.records()] == [1, 1]
    assert place.status()["backends"][0]["status"] == "ok"


def test_a_call_that_leaves_something_behind_has_a_new_connection(start: Start) -> None:
    place = start()
    ahead = place.one_ahead()
    place.ask("background", "/openai/v1/responses", background=True)
    assert "background" in place.backend.asked
    assert ahead.asked == []


def test_another_configuration_begins_without_any(start: Start) -> None:
    place = start()
    ahead = place.one_ahead()
    config = yaml.safe_load(place.gateway.config_path.read_text())
    config["aoai"]["endpoints"][0]["connections"] = {"opened_ahead": 0}
    place.gateway.write(config)
    eventually(lambda: ahead.ended, "it is closed")
    before = len(place.backend.talks)
    for number in range(3):
        said(place.ask(f"call {number}"))
    assert len(place.backend.talks) == before + 3


def test_a_backend_whose_certificate_is_not_trusted_gets_no_call(start: Start, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    place = start()
    place.one_ahead()
    impostor = EchoBackend(make(other))
    config = yaml.safe_load(place.gateway.config_path.read_text())
    config["aoai"]["endpoints"][0]["url"] = impostor.url
    place.gateway.write(config)
    eventually(lambda: place.ask("secret").status != 200, "the other backend is asked")
    assert place.ask("secret").status in (429, 502, 503)
    assert impostor.asked == []
    impostor.close()


# --- many at once --------------------------------------------------------------------------------------

WAYS = ("say",) * 30 + ("late",) * 5 + ("throttle", "fail", "drop", "halve", "poison")
SAID = re.compile(r"\w+: \d{4}-[0-9a-f]{16}-\d")


def one_of_many(place: Place, number: int, begun: dict[str, float]) -> str:
    """Send calls that say what no other says, and see that nothing else comes back.

    Calls that fail open breaks, in which others are refused; those come again, on a new connection.
    """
    dice = random.Random(number)
    how = dice.choice(WAYS)
    text = f"{how}: {number:04}-{dice.getrandbits(64):016x}"
    streams, leaves, turns = dice.random() < 0.5, dice.random() < 0.1, dice.randint(1, 3)
    begun[f"{number:04}"] = time.monotonic()
    for _ in range(100):
        with Connection(place.gateway, seconds=60) as connection:
            for turn in range(turns):
                mine = f"{text}-{turn}"
                connection.send(place.message(mine, stream=streams))
                if leaves:
                    time.sleep(dice.random() * 0.05)
                    return "left"
                try:
                    reply = connection.reply()
                except (OSError, AssertionError, ValueError):
                    return "cut"  # a stream that a backend has broken off
                expected = {mine} if reply.status == 200 else set()
                assert set(SAID.findall(reply.body.decode())) == expected, (mine, reply)
                assert b"of another client" not in reply.body
                if reply.status != 200:
                    break
            else:
                return "answered"
        if how in ("throttle", "fail", "drop", "halve"):
            return "refused"
        time.sleep(0.1)
    raise AssertionError(f"{mine} was refused 100 times: {reply}")


@pytest.mark.parametrize("ahead", [None, 2])
def test_each_of_hundreds_gets_its_own_answer_and_no_other(start: Start, ahead: int | None) -> None:
    place = start(backends=2, ahead=ahead, replay={"max_attempts": 3})
    config, begun = yaml.safe_load(place.gateway.config_path.read_text()), dict[str, float]()

    def disturb(number: int) -> str:
        """Close connections that carry nothing, and reload, meanwhile."""
        time.sleep(0.05 * number)
        for backend in place.backends:
            for talk in backend.idle():
                backend.end(talk, reset=bool(number % 2))
        if number % 5 == 0:
            config["replay"]["max_attempts"] = 3 + number % 2
            place.gateway.write(config)
            place.gateway.send(signal.SIGHUP)
        return "disturbed"

    with ThreadPoolExecutor(48) as threads:
        jobs = [threads.submit(one_of_many, place, number, begun) for number in range(200)]
        jobs += [threads.submit(disturb, number) for number in range(20)]
        outcomes = Counter(job.result(120) for job in jobs)
    assert outcomes["answered"] > 130, outcomes
    assert outcomes["disturbed"] == 20
    taken = [talk for backend in place.backends for talk in backend.talks if talk.asked and talk.ready]
    were_ahead = 0
    for talk in taken:
        # All calls on one connection are those of one client's connection, whose number they begin with.
        (number,) = {text.split(": ")[1].partition("-")[0] for text in talk.asked}
        assert talk.ready is not None
        were_ahead += talk.ready < begun[number]
    assert were_ahead > 0
    eventually(
        lambda: all(len(backend.open()) == len(backend.idle()) for backend in place.backends),
        "what clients had is closed",
    )
    bound = 8 if ahead is None else ahead
    assert all(len(backend.idle()) <= bound for backend in place.backends)
