"""The admin listener of a real gateway: who may ask, what it says, and what its switches do to real calls."""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.e2e.processes import Answer, Gateway, Host, Simulator, request
from tests.e2e.replay.stage import eventually
from tests.e2e.settings import CLIENT_KEY, configuration
from tests.e2e.shared import Pair, running

pytestmark = pytest.mark.e2e

TOKEN = "token-of-the-status-page-77"
CHAT = {"model": "gpt-4o", "max_tokens": 20, "messages": [{"role": "user", "content": "Hello"}]}


class Admin:
    """The status page of a gateway, and the terminal's commands for it."""

    def __init__(self, gateway: Gateway, token: str | None = None) -> None:
        gateway.wait_until(lambda: "Status page at" in gateway.log, "showing its status page")
        (found,) = re.findall(r"Status page at (http://\S+)/", gateway.log)
        self.gateway, self.url, self.token = gateway, str(found), token

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        sent = {"authorization": f"Bearer {self.token}"} if self.token else {}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        return request(self.url + path, method, headers=sent, json_body=body)

    def status(self) -> dict[str, Any]:
        answer = self.ask("GET", "/api/status")
        assert answer.status == 200, answer.body
        return dict(answer.json())

    def post(self, what: str, **body: Any) -> Answer:
        return self.ask("POST", f"/api/{what}", body)

    def run(self, *words: str, code: int = 0, **env: str) -> str:
        """Run a command of the terminal; gives what it prints."""
        command = [sys.executable, "-P", "-m", "aoai_gateway.app.cli", *words, "--url", self.url]
        environment = {
            **os.environ,
            **({"AOAI_GATEWAY_ADMIN_TOKEN": self.token} if self.token else {}),
            **env,
        }
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=200, check=False
        )
        assert done.returncode == code, done.stderr
        return done.stdout if code == 0 else done.stderr


def ask(gateway: Gateway, **changes: Any) -> Answer:
    return gateway.request("POST", "/openai/v1/chat/completions", key=CLIENT_KEY, json_body=CHAT | changes)


def backend(answer: Answer) -> str | None:
    return answer.headers.get("x-gateway-backend")


def named(items: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {item["name"]: item for item in items}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Iterator[Pair]:
    """A gateway with its status page."""
    with running("serve", tmp_path_factory.mktemp("admin"), home, admin={"port": 0}) as started:
        yield started


@pytest.fixture
def admin(pair: Pair) -> Iterator[Admin]:
    made = Admin(pair.gateway)
    yield made
    for each in made.status()["by_hand"]["switched_off"]:
        made.post("switch", **each, on=True)
    made.post("breaks/close")


# --- what it says ------------------------------------------------------------------------------------------


def test_calls_are_counted(admin: Admin) -> None:
    before = sum(admin.status()["traffic"]["answers"])
    assert ask(admin.gateway).status == 200
    eventually(lambda: sum(admin.status()["traffic"]["answers"]) == before + 1, "the call is counted")
    status = admin.status()
    assert sum(named(status["clients"])["Tester"]["recent"]["calls"]) >= 1
    assert sum(named(status["backends"])["gpt-4o-ptu@sweden"]["recent"]["attempts"]) >= 1
    assert sum(status["traffic"]["tokens_in"]) > 0
    assert status["gateway"]["status"] == "ready"
    assert status["gateway"]["config_file"] == str(admin.gateway.config_path)


def test_a_break_is_shown_with_its_reason(admin: Admin, pair: Pair) -> None:
    pair.simulator.fault("503", endpoint="sweden", deployment="gpt-4o-ptu", times=2)
    assert backend(ask(admin.gateway)) == "gpt-4o-paygo@sweden"
    assert named(admin.status()["backends"])["gpt-4o-ptu@sweden"]["status"] == "ok", "it may be the call"
    assert backend(ask(admin.gateway, user="other")) == "gpt-4o-paygo@sweden"
    found = named(admin.status()["backends"])["gpt-4o-ptu@sweden"]
    assert found["status"] == "break"
    assert found["classes"][0]["break"]["reason"].startswith("503")
    assert 0 < found["classes"][0]["break"]["seconds_left"] <= 10


def test_the_page_and_the_probes(admin: Admin) -> None:
    page = admin.ask("GET", "/")
    assert page.status == 200
    assert page.headers["content-type"].startswith("text/html")
    assert b"<title>aoai-gateway</title>" in page.body
    for path in ("/", "/api/status", "/nothing", "/health/ready"):
        answer = admin.ask("GET", path)
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")
        assert "etag" not in answer.headers
    assert admin.ask("GET", "/health/ready").json()["status"] == "ready"
    assert admin.ask("GET", "/nothing").status == 404
    refused = admin.ask("DELETE", "/api/status")
    assert (refused.status, refused.headers["allow"]) == (405, "GET")
    assert "error" in refused.json()
    assert admin.ask("GET", "/api/switch").status == 405


def test_nothing_secret_is_in_any_answer(admin: Admin, pair: Pair) -> None:
    ask(admin.gateway)
    text = b"".join(admin.ask("GET", path).body for path in ("/", "/api/status", "/health/ready")).decode()
    for secret in (CLIENT_KEY, *pair.simulator.keys.values(), *pair.simulator.urls.values()):
        assert secret not in text


# --- what it does ------------------------------------------------------------------------------------------


def test_a_break_by_hand_and_its_end(admin: Admin) -> None:
    assert admin.post("breaks/open", name="gpt-4o-ptu@sweden", seconds=60, reason="slow").status == 200
    assert backend(ask(admin.gateway)) == "gpt-4o-paygo@sweden"
    assert admin.post("breaks/open", name="sweden", seconds=60).status == 200
    assert backend(ask(admin.gateway)) == "gpt-4o-france@france"
    assert admin.post("breaks/close", name="gpt-4o-ptu@sweden").status == 200
    assert backend(ask(admin.gateway)) == "gpt-4o-ptu@sweden"


def test_an_endpoint_and_a_standin_are_switched(admin: Admin) -> None:
    admin.post("switch", kind="standin", name="gpt-4o-ptu@sweden", on=False)
    assert backend(ask(admin.gateway)) == "gpt-4o-paygo@sweden"
    admin.post("switch", kind="endpoint", name="sweden", on=False)
    assert backend(ask(admin.gateway)) == "gpt-4o-france@france"
    admin.post("switch", kind="endpoint", name="sweden", on=True)
    assert backend(ask(admin.gateway)) == "gpt-4o-paygo@sweden"
    admin.post("switch", kind="standin", name="gpt-4o-ptu@sweden", on=True)
    assert backend(ask(admin.gateway)) == "gpt-4o-ptu@sweden"


def test_a_client_is_switched(admin: Admin) -> None:
    admin.post("switch", kind="client", name="Tester", on=False)
    assert ask(admin.gateway).status == 401
    admin.post("switch", kind="client", name="Tester", on=True)
    assert ask(admin.gateway).status == 200


def test_what_is_off_stays_off_when_the_file_is_saved(admin: Admin, pair: Pair) -> None:
    admin.post("switch", kind="endpoint", name="sweden", on=False)
    urls, keys = pair.simulator.urls, pair.simulator.keys
    loaded = admin.gateway.log.count("was reloaded")
    admin.gateway.write(configuration(urls, keys, admin={"port": 0}, drain_seconds=29))
    eventually(lambda: admin.gateway.log.count("was reloaded") > loaded, "the file is reloaded")
    assert backend(ask(admin.gateway)) == "gpt-4o-france@france"


@pytest.mark.parametrize(
    ("what", "body", "status", "said"),
    [
        ("switch", {"kind": "endpoint", "name": "swedn", "on": False}, 404, "the configuration has sweden"),
        ("switch", {"kind": "plane", "name": "x", "on": False}, 409, "cannot be switched"),
        ("switch", {"kind": "endpoint", "name": "sweden", "on": "no"}, 400, "must be true or false"),
        ("switch", {"kind": "endpoint", "on": False}, 400, '"name" must be a text'),
        ("breaks/open", {"name": "swedn", "seconds": 5}, 404, 'did you mean "sweden"?'),
        ("breaks/open", {"name": "sweden", "seconds": "5"}, 400, "must be a number"),
        ("breaks/open", {"name": "sweden", "seconds": -5}, 409, "at most 86400"),
        ("breaks/open", {"name": "sweden", "seconds": 10**400}, 409, "at most 86400"),
        ("breaks/open", {"name": "sweden", "seconds": -(10**400)}, 409, "at most 86400"),
        ("breaks/open", {"name": "sweden", "seconds": float("nan")}, 400, "NaN, which JSON does not have"),
        ("breaks/open", {"name": "sweden", "seconds": 5, "reason": 5}, 400, '"reason" must be a text'),
        ("breaks/open", {"name": "sweden", "seconds": 5, "reason": "a \ud800"}, 400, "of a surrogate pair"),
        ("breaks/open", {"name": "a \ud800", "seconds": 5}, 400, "half of a surrogate pair"),
        ("breaks/close", {"name": "france"}, 409, "france has no break"),
        ("breaks/close", [], 400, "it is not an object"),
    ],
)
def test_what_is_not_understood(admin: Admin, what: str, body: Any, status: int, said: str) -> None:
    answer = admin.ask("POST", f"/api/{what}", body)
    assert (answer.status, said in answer.json()["error"]["message"]) == (status, True), answer.body
    # What was refused was not done.
    assert backend(ask(admin.gateway)) == "gpt-4o-ptu@sweden"


def test_bad_bodies(admin: Admin) -> None:
    headers = {"content-type": "application/json"}
    for body in (b"", b"{", b"[" * 5000, b'"x"', b"\xff"):
        answer = request(f"{admin.url}/api/switch", "POST", headers=headers, body=body)
        assert answer.status == 400, body[:10]
    assert ask(admin.gateway).status == 200


# --- strangers' pages --------------------------------------------------------------------------------------

SWITCH = {"kind": "client", "name": "Tester", "on": False}


def raw(url: str, method: str, path: str, headers: Mapping[str, str], body: bytes = b"") -> int:
    """Send a request with just these headers; gives the status."""
    where = urlsplit(url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=10)
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in {"content-length": str(len(body)), **headers}.items():
        connection.putheader(name, value)
    connection.endheaders(body)
    status = connection.getresponse().status
    connection.close()
    return status


def test_a_name_that_was_made_to_resolve_to_this_machine_is_refused(admin: Admin) -> None:
    for path in ("/", "/api/status"):
        assert raw(admin.url, "GET", path, {"host": "evil.example"}) == 403
    assert raw(admin.url, "GET", "/api/status", {"host": "localhost:1"}) == 200
    sent = {"host": "evil.example", "content-type": "application/json"}
    assert raw(admin.url, "POST", "/api/switch", sent, json.dumps(SWITCH).encode()) == 403
    assert ask(admin.gateway).status == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/json", "origin": "https://evil.example"}, 403),
        ({"content-type": "application/json", "sec-fetch-site": "cross-site"}, 403),
    ],
)
def test_a_strangers_page_changes_nothing(admin: Admin, headers: dict[str, str], status: int) -> None:
    sent = {"host": urlsplit(admin.url).netloc, **headers}
    assert raw(admin.url, "POST", "/api/switch", sent, json.dumps(SWITCH).encode()) == status
    assert raw(admin.url, "OPTIONS", "/api/switch", sent) == 405
    assert ask(admin.gateway).status == 200


# --- the terminal ------------------------------------------------------------------------------------------


def test_the_terminal_shows_and_switches(admin: Admin) -> None:
    assert re.search(r"gpt-4o-ptu@sweden .* ok", admin.run("status"))
    assert json.loads(admin.run("status", "--json"))["gateway"]["status"] == "ready"
    assert "a break of 60 s was opened" in admin.run("break", "open", "sweden", "--seconds", "60")
    assert backend(ask(admin.gateway)) == "gpt-4o-france@france"
    assert re.search(r"gpt-4o-ptu@sweden .* (60|5\d) s .*whole endpoint", admin.run("status"))
    assert "its break was closed" in admin.run("break", "close", "sweden")
    admin.run("break", "open", "gpt-4o-ptu@sweden")
    admin.run("break", "close", "--all")
    admin.run("switch", "off", "standin", "gpt-4o-ptu@sweden")
    assert backend(ask(admin.gateway)) == "gpt-4o-paygo@sweden"
    admin.run("switch", "on", "standin", "gpt-4o-ptu@sweden")
    assert 'did you mean "sweden"?' in admin.run("break", "open", "swedn", code=1)


# --- the listener itself -----------------------------------------------------------------------------------


@pytest.fixture
def host() -> Host:
    """What follows does not depend on the host."""
    return "serve"


@pytest.mark.parametrize("host", ["mitmdump"])
def test_the_other_hosts_have_it_too(start_gateway: Callable[..., Gateway], simulator: Simulator) -> None:
    gateway = start_gateway(simulator, admin={"port": 0})
    admin = Admin(gateway)
    assert admin.post("switch", kind="endpoint", name="sweden", on=False).status == 200
    assert backend(ask(gateway)) == "gpt-4o-france@france"
    assert named(admin.status()["backends"])["gpt-4o-france@france"]["status"] == "ok"


def test_with_a_token(start_gateway: Callable[..., Gateway], simulator: Simulator) -> None:
    # The address is one that others can reach, too.
    admin_section = {"host": "0.0.0.0", "port": 0, "token": "${ADMIN_TOKEN}"}
    gateway = start_gateway(simulator, admin=admin_section, env={"ADMIN_TOKEN": TOKEN})
    admin = Admin(gateway, TOKEN)
    assert admin.status()["gateway"]["status"] == "ready"
    assert admin.post("switch", **SWITCH).status == 200
    assert ask(gateway).status == 401
    assert "switched on again" in admin.run("switch", "on", "client", "Tester")
    for token in (None, "token-of-the-status-page-78"):
        stranger = Admin(gateway, token)
        answer = stranger.ask("GET", "/api/status")
        assert (answer.status, answer.headers["www-authenticate"][:6]) == (401, "Bearer")
        assert stranger.post("switch", **SWITCH).status == 401
        assert stranger.ask("GET", "/").status == 200, "the page asks for the token, and holds nothing"
        assert stranger.ask("GET", "/health/live").status == 200
    assert "AOAI_GATEWAY_ADMIN_TOKEN" in Admin(gateway).run("status", code=1, AOAI_GATEWAY_ADMIN_TOKEN="")
    assert ask(gateway).status == 200
    assert TOKEN not in gateway.log


def test_a_port_that_is_taken_stops_nothing(
    start_gateway: Callable[..., Gateway], simulator: Simulator
) -> None:
    first = start_gateway(simulator, name="first", admin={"port": 0})
    port = urlsplit(Admin(first).url).port
    second = start_gateway(simulator, name="second", admin={"port": port})
    second.wait_until(lambda: "There is no status page" in second.log, "saying that there is none")
    assert f"127.0.0.1:{port} cannot be listened on" in second.log
    assert ask(second).status == 200


def test_a_file_with_errors_is_shown_until_it_is_mended(
    start_gateway: Callable[..., Gateway], simulator: Simulator
) -> None:
    gateway = start_gateway(simulator, admin={"port": 0})
    admin = Admin(gateway)
    good = configuration(simulator.urls, simulator.keys, admin={"port": 0})
    gateway.write(good | {"lissten": {}})
    eventually(lambda: admin.status()["gateway"]["config_errors"], "the errors are shown")
    assert 'did you mean "listen"?' in admin.status()["gateway"]["config_errors"][0]
    gateway.write(good | {"admin": {"port": 0, "token": TOKEN}})
    eventually(lambda: not admin.status()["gateway"]["config_errors"], "the errors are gone")
    assert "The section admin takes effect when the gateway is restarted." in gateway.log


def test_without_it(start_gateway: Callable[..., Gateway], simulator: Simulator) -> None:
    gateway = start_gateway(simulator, admin={"enabled": False})
    assert ask(gateway).status == 200
    assert "tatus page" not in gateway.log
    gateway.wait_until(lambda: f"Ready at {gateway.url}" in gateway.log, "said to be ready")


def test_a_warning_is_told_once_however_often_the_file_is_saved(
    start_gateway: Callable[..., Gateway], simulator: Simulator
) -> None:
    gateway = start_gateway(simulator, admin={"port": 0}, region="westeurope")
    known = configuration(simulator.urls, simulator.keys, admin={"port": 0}, region="westeurope")
    for number, more in enumerate(({"drain_seconds": 5}, {"unique_prefix": "a"}), 1):
        gateway.write(known | more)
        gateway.wait_until(lambda times=number: gateway.log.count("was reloaded") == times, "reloaded")
    assert gateway.log.count("without meaning here: region\n") == 1
    assert gateway.log.count("without meaning here: region and unique_prefix\n") == 1
