"""The terminal's commands, against a listener that is made up."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from aoai_gateway.admin import commands
from aoai_gateway.app import cli
from aoai_gateway.config import switches


class Asked(BaseHTTPRequestHandler):
    """Keeps what it was asked, and answers with what a test says."""

    seen: ClassVar[list[tuple[str, str, str | None, Any]]] = []
    answer: ClassVar[tuple[int, bytes]] = (200, b"{}")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        sent = json.loads(body) if body else None
        self.seen.append((self.command, self.path, self.headers.get("authorization"), sent))
        status, content = self.answer
        self.send_response(status)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST  # noqa: N815 - http.server's name

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
        pass


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.delenv("AOAI_GATEWAY_ADMIN_TOKEN", raising=False)
    Asked.seen, Asked.answer = [], (200, b'{"done": "it was done"}')
    server = HTTPServer(("127.0.0.1", 0), Asked)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("words", "path", "body"),
    [
        ("break open a@b", "breaks/open", {"name": "a@b", "seconds": 300.0, "reason": ""}),
        (
            "break open b --seconds 60 --reason slow",
            "breaks/open",
            {"name": "b", "seconds": 60.0, "reason": "slow"},
        ),
        ("break close a@b", "breaks/close", {"name": "a@b"}),
        ("break close --all", "breaks/close", {}),
        ("switch off client Team", "switch", {"kind": "client", "name": "Team", "on": False}),
        ("switch on standin a@b", "switch", {"kind": "standin", "name": "a@b", "on": True}),
    ],
)
def test_what_is_asked(
    url: str,
    words: str,
    path: str,
    body: Any,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AOAI_GATEWAY_ADMIN_TOKEN", "the-token")
    assert cli.main([*words.split(), "--url", url]) == 0
    assert Asked.seen == [("POST", f"/api/{path}", "Bearer the-token", body)]
    assert capsys.readouterr().out == "it was done\n"


def test_status_as_json(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    Asked.answer = (200, b'{"gateway": {"in_flight": 3}}')
    assert cli.main(["status", "--json", "--url", url + "/"]) == 0
    assert json.loads(capsys.readouterr().out) == {"gateway": {"in_flight": 3}}
    assert Asked.seen == [("GET", "/api/status", None, None)]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((409, b'{"error": {"message": "It has no break."}}'), "aoai-gateway: It has no break."),
        ((401, b'{"error": {"message": "Show it."}}'), "Show it. Set it as AOAI_GATEWAY_ADMIN_TOKEN."),
        ((200, b"<html>"), "is not a gateway's status page (status 200)"),
        ((404, b'{"error": "?"}'), "is not a gateway's status page (status 404)"),
    ],
)
def test_what_goes_wrong_is_said(
    url: str, answer: tuple[int, bytes], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Asked.answer = answer
    assert cli.main(["break", "close", "x", "--url", url]) == 1
    assert said in capsys.readouterr().err


CONFIG = """\
aoai: {{endpoints: [{{name: a, url: 'https://a.example/', key: '{key}'}}]}}
clients: [{{name: a, key: b}}]
admin: {{{admin}}}
"""


@pytest.mark.parametrize("key", ["k", "${SET_FOR_THE_GATEWAY_ALONE}"])
@pytest.mark.parametrize("words", ["status --json", "break open b", "switch off client a"])
def test_a_configuration_names_address_and_token(url: str, words: str, key: str, tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    port = url.rpartition(":")[2]
    path.write_text(CONFIG.format(key=key, admin=f"port: {port}, token: its-token-is-so-long, host: 0.0.0.0"))
    assert cli.main([*words.split(), "--config", str(path)]) == 0
    assert [seen[2] for seen in Asked.seen] == ["Bearer its-token-is-so-long"]


def test_the_token_of_the_environment_comes_first(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AOAI_GATEWAY_ADMIN_TOKEN", "the-token")
    path = tmp_path / "gateway.yaml"
    path.write_text(
        CONFIG.format(key="k", admin=f"port: {url.rpartition(':')[2]}, token: its-token-is-so-long")
    )
    assert cli.main(["status", "--json", "--config", str(path)]) == 0
    assert [seen[2] for seen in Asked.seen] == ["Bearer the-token"]


@pytest.mark.parametrize(
    ("admin", "said"),
    [
        ("enabled: false", "has no status page"),
        ("port: 0", "say --url"),
        ("port: many", 'admin.port: is "many", but a whole number is expected'),
        ("token: '${NOT_SET_ANYWHERE}'", "admin.token: the environment variable NOT_SET_ANYWHERE is not set"),
    ],
)
def test_a_configuration_that_names_none(
    admin: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(CONFIG.format(key="k", admin=admin))
    assert cli.main(["status", "--config", str(path)]) == 1
    assert said in capsys.readouterr().err


def test_a_configuration_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status", "--config", str(tmp_path / "no.yaml")]) == 1
    assert "no.yaml:1: cannot be read: no such file" in capsys.readouterr().err
    assert cli.main(["status", "--config", "a", "--url", "http://b"]) == 2


def test_no_gateway_is_running(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status", "--url", "http://127.0.0.1:1"]) == 1
    err = capsys.readouterr().err
    assert "no gateway's status page answers at http://127.0.0.1:1" in err
    assert "--url" in err


@pytest.mark.parametrize("url", ["127.0.0.1:8090", "ftp://x", "http://", "http://x:99999"])
def test_an_address_that_is_none(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status", "--url", url]) == 1
    assert f"--url {url}: write it like http://127.0.0.1:8090" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    ["break", "break close", "break close x --all", "break open", "switch off x y", "switch off client"],
)
def test_a_command_line_that_is_wrong(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words.split()) == 2
    assert "usage: aoai-gateway" in capsys.readouterr().err


def test_the_kinds_are_those_that_can_be_switched() -> None:
    assert commands.KINDS == switches.KINDS


def test_they_start_quickly() -> None:
    """At three in the morning an operator does not wait for the import of a proxy that is not needed."""
    code = (
        "import sys; from aoai_gateway.app import cli; cli.main(['status', '--url', 'x']); "
        "print([name for name in ('mitmproxy', 'pydantic', 'tornado') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
