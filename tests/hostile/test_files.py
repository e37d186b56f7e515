"""What is written of calls is for its owner's eyes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.e2e.processes import Gateway, eventually
from tests.e2e.raw import exchange, post
from tests.e2e.settings import CLIENT_KEY
from tests.hostile.scripted import ScriptedBackend

pytestmark = pytest.mark.e2e

PATH = "/openai/v1/chat/completions"
BODY = b'{"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}'


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.fixture(autouse=True)
def usual_modes() -> Iterator[None]:
    """Have processes create files that all can read, if they say nothing else."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def backend() -> Iterator[ScriptedBackend]:
    backend = ScriptedBackend()
    yield backend
    backend.close()


class Appending(Gateway):
    """One that goes on with a file of flows."""

    def _command(self, scripts: Sequence[str | Path]) -> list[str | Path]:
        *command, dump = super()._command(scripts)
        return [*command, f"+{dump}"]


def run(
    host: str, folder: Path, backend: ScriptedBackend, *options: str, kind: type[Gateway] = Gateway
) -> None:
    """Have a gateway write down one call."""
    url = f"http://127.0.0.1:{backend.port}"
    config = {
        "aoai": {"endpoints": [{"name": "only", "url": url, "key": "backend-key-1"}]},
        "clients": [{"name": "Tester", "key": CLIENT_KEY}],
        "usage_log": str(folder / "usage.jsonl"),
    }
    gateway = kind(host, config, folder, home=folder, arguments=options)  # type: ignore[arg-type]
    try:
        assert exchange(gateway, post(PATH, BODY, key=CLIENT_KEY)).status == 200
        eventually((folder / "usage.jsonl").exists, "the usage log")
        assert gateway.stop() == 0
    finally:
        gateway.kill()


def test_a_usage_log(tmp_path: Path, backend: ScriptedBackend) -> None:
    run("serve", tmp_path, backend)
    assert mode(tmp_path / "usage.jsonl") == 0o600


def test_mitmproxys_own_files(tmp_path: Path, backend: ScriptedBackend) -> None:
    run("mitmdump", tmp_path, backend, "--set", f"hardump={tmp_path / 'flows.har'}")
    names = ("usage.jsonl", "gateway.flows", "flows.har")
    assert {name: oct(mode(tmp_path / name)) for name in names} == dict.fromkeys(names, "0o600")


def test_a_file_of_flows_that_goes_on(tmp_path: Path, backend: ScriptedBackend) -> None:
    """A group that may read it is meant to, perhaps; others are not."""
    dump = tmp_path / "gateway.flows"
    dump.touch()
    dump.chmod(0o644)
    run("mitmdump", tmp_path, backend, kind=Appending)
    assert mode(dump) == 0o640
