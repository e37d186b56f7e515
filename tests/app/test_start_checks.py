"""What a configuration needs of the machine that it starts on."""

from __future__ import annotations

import shlex
import socket
import sys
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from aoai_gateway.app import start_checks
from aoai_gateway.config.models import Config
from aoai_gateway.usage import sinks
from tests.e2e import certificates
from tests.ports import free_port

NOW = datetime.now(UTC)
ENDPOINTS = {"endpoints": [{"name": "a", "url": "https://a.example/", "key": "key-of-a"}]}


def config(**parts: object) -> Config:
    return Config.model_validate({"aoai": ENDPOINTS, **parts})


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    made = certificates.make(tmp_path_factory.mktemp("certificates"))
    return made.certificate, made.private_key


def test_nothing_is_needed_by_default() -> None:
    assert start_checks.errors(config()) == start_checks.warnings(config()) == []


@pytest.fixture
def no_proxy_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


PAST_A_PROXY = (
    "aoai.endpoints: these endpoints are reached directly, past the proxy that {} names: a; "
    "if that is right, list their hosts in NO_PROXY"
)


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"HTTPS_PROXY": "http://proxy.example:3128"}, "HTTPS_PROXY"),
        ({"https_proxy": "http://proxy.example:3128"}, "https_proxy"),
        ({"ALL_PROXY": "socks5://proxy.example:1080"}, "ALL_PROXY"),
        ({"HTTPS_PROXY": "http://proxy.example:3128", "NO_PROXY": ".example"}, None),
        ({"HTTP_PROXY": "http://proxy.example:3128"}, None),
        ({"HTTPS_PROXY": ""}, None),
    ],
)
@pytest.mark.usefixtures("no_proxy_variables")
def test_a_proxy_that_endpoints_are_not_reached_through_is_warned_of(
    variables: dict[str, str], told: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert start_checks.warnings(config()) == ([PAST_A_PROXY.format(told)] if told else [])


@pytest.mark.parametrize(
    ("url", "listed", "is_told"),
    [
        ("https://10.0.0.5", "10.0.0.0/8", False),
        ("https://10.0.0.5", "10.0.0.5", False),
        ("https://10.0.0.5", "192.168.0.0/16, fd00::/8", True),
        ("https://[fd00::5]:8443", "fd00::/8", False),
        ("https://[fd00::5]:8443", "[fd00::5]:8443", False),
        ("https://[fd00::5]:8443", "[fd00::5]:443", True),
        ("https://mine.openai.azure.com", "*.openai.azure.com", False),
        ("https://mine.openai.azure.com", ".openai.azure.com", False),
        ("https://mine.openai.azure.com", "localhost,OpenAI.Azure.com", False),
        ("https://mine.openai.azure.com", "mine.openai.azure.com:443", False),
        ("https://mine.openai.azure.com", "mine.openai.azure.com:8443", True),
        ("https://mine.openai.azure.com", "other.openai.azure.com,azure.co,,.", True),
        ("https://mine.openai.azure.com", "*", False),
        ("http://[::1]:8000", "", False),
        ("http://127.0.0.1:8000", "", False),
        ("http://localhost:8000", "", False),
    ],
)
@pytest.mark.usefixtures("no_proxy_variables")
def test_endpoints_that_no_proxy_lists_or_that_are_on_this_machine_are_not_warned_of(
    url: str, listed: str, is_told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", listed)
    here = config(aoai={"endpoints": [{"name": "a", "url": url, "key": "key-of-a"}]})
    assert start_checks.warnings(here) == ([PAST_A_PROXY.format("ALL_PROXY")] if is_told else [])


@pytest.mark.usefixtures("no_proxy_variables")
def test_a_disabled_endpoint_is_not_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    (a,) = ENDPOINTS["endpoints"]
    b = {"name": "b", "url": "https://b.example/", "key": "key-of-b", "enabled": False}
    assert start_checks.warnings(config(aoai={"endpoints": [a, b]})) == [PAST_A_PROXY.format("HTTPS_PROXY")]


def test_a_certificate_that_is_valid_is_fine(files: tuple[Path, Path]) -> None:
    certificate, key = files
    here = config(listen={"certificate": str(certificate), "private_key": str(key)})
    assert start_checks.errors(here) == []


@pytest.mark.parametrize(("days", "said"), [(10_000, "expired on"), (-10_000, "is not valid before")])
def test_a_certificate_is_judged_by_the_time(files: tuple[Path, Path], days: int, said: str) -> None:
    certificate, key = files
    here = config(listen={"certificate": str(certificate), "private_key": str(key)})
    (found,) = start_checks.errors(here, NOW + timedelta(days=days))
    assert found.startswith(f"listen.certificate: {said}")


def test_one_that_expires_soon_is_warned_of(files: tuple[Path, Path]) -> None:
    certificate, key = files
    here = config(listen={"certificate": str(certificate), "private_key": str(key)})
    read = start_checks._read(here)
    assert read is not None
    end = read.not_valid_after_utc
    (found,) = start_checks.warnings(here, end - timedelta(days=3))
    assert "in 3 days" in found
    assert start_checks.warnings(here, end - timedelta(days=30)) == []
    assert start_checks.warnings(here, end + timedelta(days=1)) == [], "that is an error"


def test_a_key_of_another_certificate_is_an_error(files: tuple[Path, Path], tmp_path: Path) -> None:
    other = certificates.make(tmp_path).private_key
    here = config(listen={"certificate": str(files[0]), "private_key": str(other)})
    (found,) = start_checks.errors(here)
    assert "does not fit its private key" in found


def test_certificates_for_the_store_are_looked_at(files: tuple[Path, Path], tmp_path: Path) -> None:
    certificate, key = map(str, files)
    other = str(certificates.make(tmp_path).private_key)

    def found(**tls: str) -> list[str]:
        return start_checks.errors(config(state={"host": "redis.example", "tls": tls}))

    assert found(ca=certificate, certificate=certificate, private_key=key) == []
    assert found(ca=key) == ["state.tls.ca: is not a PEM file of certificates"]
    for wrong in ({"private_key": other}, {}):
        (said,) = found(certificate=certificate, **wrong)
        assert said.startswith("state.tls.certificate: does not fit its private key")


@pytest.mark.parametrize("exists", [True, False])
def test_a_log_that_cannot_be_written_is_an_error(
    tmp_path: Path, exists: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "usage.jsonl"
    if exists:
        log.touch()
    # The tests may run as root, to whom everything is allowed.
    monkeypatch.setattr(start_checks.os, "access", lambda path, mode: False)
    (found,) = start_checks.errors(config(usage_log=str(log)))
    assert found.startswith("usage_log: ")
    assert found.endswith("cannot be written by this user")


def test_a_budget_file_that_is_none_is_an_error(tmp_path: Path) -> None:
    budgets = tmp_path / "budgets.json"
    assert start_checks.errors(config(budget_file=str(budgets))) == []
    for content in ("not JSON", '{"version": 99}', '{"version": 1, "budgets": [1]}'):
        budgets.write_text(content)
        (found,) = start_checks.errors(config(budget_file=str(budgets)))
        assert found.startswith(f"budget_file: {budgets} is not a budget file")


def test_authorities_that_cannot_be_read_are_an_error(files: tuple[Path, Path], tmp_path: Path) -> None:
    here = tmp_path / "ca.pem"
    here.write_text("no certificate")
    (found,) = start_checks.errors(config(aoai={**ENDPOINTS, "trusted_ca": str(here)}))
    assert found == "aoai.trusted_ca: is not a PEM file of certificates"
    here.write_bytes(files[0].read_bytes())
    assert start_checks.errors(config(aoai={**ENDPOINTS, "trusted_ca": str(here)})) == []


# --- ports --------------------------------------------------------------------------------------------------


def listening(port: int, admin: int = 0, host: str = "127.0.0.1") -> Config:
    return config(listen={"port": port, "host": host}, admin={"port": admin})


def test_free_ports_are_fine() -> None:
    assert start_checks.ports(listening(free_port(), free_port())) == ([], [])
    assert start_checks.ports(listening(0)) == ([], [])


def test_a_port_that_is_taken_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        errors, warnings = start_checks.ports(listening(port))
    assert errors[0].startswith(f"listen.port: 127.0.0.1:{port} is in use by another process.")
    assert warnings == []


def test_an_address_of_another_machine_is_an_error() -> None:
    (found,), _ = start_checks.ports(listening(free_port(), host="192.0.2.1"))
    assert found.startswith("listen.port: can't listen on 192.0.2.1:")


def test_a_status_page_that_there_will_not_be_is_a_warning() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        errors, (warning,) = start_checks.ports(listening(free_port(), port))
    assert errors == []
    assert warning.startswith(f"admin.port: 127.0.0.1:{port} cannot be listened on")


class Alive(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b'{"status": "alive"}'
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        pass


def test_the_file_of_a_gateway_that_runs_can_be_checked() -> None:
    with HTTPServer(("127.0.0.1", 0), Alive) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        errors, warnings = start_checks.ports(listening(server.server_port, server.server_port))
        server.shutdown()
        thread.join()
    assert errors == []
    assert warnings == [
        f"listen.port: a gateway runs at 127.0.0.1:{server.server_port}; a second one needs another port"
    ]


def test_a_file_that_can_be_written_is_fine(tmp_path: Path) -> None:
    assert start_checks.errors(config(usage_log=str(tmp_path / "usage.jsonl"))) == []
    assert not (tmp_path / "usage.jsonl").exists(), "looking makes no file"


@pytest.mark.parametrize("key", ["affinity_file", "budget_file"])
def test_an_affinity_file_that_is_none_is_an_error(tmp_path: Path, key: str) -> None:
    said = tmp_path / ("kept.affinity" if key == "affinity_file" else "kept.json")
    made = config(**{key: str(said)})
    assert made.affinity_path == tmp_path / "kept.affinity"
    assert start_checks.errors(made) == []
    (tmp_path / "kept.affinity").write_text("something else\n")
    (found,) = start_checks.errors(made)
    assert found.startswith(f"affinity_file: {tmp_path / 'kept.affinity'}: is not a file of the gateway's")
    shared = config(**{key: str(said), "state": "redis://localhost:6379/0"})
    assert start_checks.errors(shared) == []


def test_a_file_of_prompts_is_for_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    here = config(record_prompts={"path": str(path), "clients": ["Team"]})
    assert start_checks.errors(here) == []
    path.touch(mode=0o600)
    assert start_checks.errors(here) == []
    path.chmod(0o640)
    assert start_checks.errors(here) == [
        f"record_prompts.path: others than its owner may read {path}; chmod 600 it"
    ]


def test_a_missing_extra_is_named_by_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sinks, "_is_there", lambda module: False)
    (found,) = start_checks.errors(config(usage_sinks={"otlp": {"endpoint": "http://127.0.0.1:4318"}}))
    command = shlex.split(found.removeprefix("usage_sinks.otlp: needs more packages: "))
    assert command[:4] == [sys.executable, "-m", "pip", "install"]
    assert [Requirement(each).name for each in command[4:]] == [
        "opentelemetry-proto",
        "opentelemetry-api",
        "opentelemetry-sdk",
        "requests",
    ]


def test_what_powerproxy_writes_to_needs_no_extra() -> None:
    assert not sinks.EXTRAS.keys() & {"csv", "stdout", "log_analytics"}
