"""Signals, and files that are none: the process lives on, says what it saw, and ends when told to."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.e2e.processes import CHECKOUT, READY_PATH, Gateway, eventually, request
from tests.e2e.raw import exchange, post
from tests.e2e.settings import CLIENT_KEY
from tests.e2e.shared import running
from tests.hostile.scripted import ScriptedBackend

HOSTS = ("serve", "mitmdump")
PATH = "/openai/v1/chat/completions"
BODY = b'{"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}'


@pytest.fixture(scope="module", params=HOSTS)
def gateway(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder: Path = tmp_path_factory.mktemp(f"life-{request.param}")
    with running(request.param, folder, folder) as pair:
        yield pair.gateway


class Capturing(Gateway):
    """One that captures to a device which is always full."""

    def _command(self, scripts: Sequence[str | Path]) -> list[str | Path]:
        return super()._command(["--capture", "/dev/full", *scripts])


def call(gateway: Gateway) -> int:
    return exchange(gateway, post(PATH, BODY, key=CLIENT_KEY)).status


def test_sighup_reloads(gateway: Gateway) -> None:
    text = gateway.config_path.read_text()
    try:
        gateway.config_path.write_text(text + "\n# changed\n")
        gateway.send(signal.SIGHUP)
        eventually(lambda: "was reloaded" in gateway.log, "a word of the reload")
        gateway.config_path.write_text("aoai: nonsense\n")
        gateway.send(signal.SIGHUP)
        eventually(lambda: "has errors; the configuration in force stays" in gateway.log, "a word of errors")
        assert call(gateway) == 200
    finally:
        gateway.config_path.write_text(text)
    before = gateway.log.count("was reloaded")
    gateway.send(signal.SIGHUP)
    eventually(lambda: gateway.log.count("was reloaded") > before, "the old one is back")


def test_sigusr1_tells_how_things_stand(gateway: Gateway) -> None:
    gateway.send(signal.SIGUSR1)
    eventually(lambda: "0 calls are under way, 0 wait" in gateway.log, "the state in the log")
    assert call(gateway) == 200


def test_sigusr2_tells_where_its_threads_are(gateway: Gateway) -> None:
    gateway.send(signal.SIGUSR2)
    eventually(lambda: "Current thread" in gateway.stderr or "Thread 0x" in gateway.stderr, "the stacks")
    assert call(gateway) == 200


@pytest.mark.parametrize("kind", ["FIFO", "folder", "device", "socket", "endless"])
def test_no_file_where_the_configuration_was(gateway: Gateway, kind: str, tmp_path: Path) -> None:
    path, kept = gateway.config_path, gateway.config_path.with_suffix(".kept")
    path.rename(kept)
    listener = socket.socket(socket.AF_UNIX)
    said = gateway.log.count("the configuration in force stays")
    try:
        if kind == "FIFO":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
        elif kind == "device":
            path.symlink_to("/dev/zero")
        elif kind == "socket":
            os.chdir(path.parent)
            listener.bind(path.name)
        else:
            # A sparse file, which takes no room.
            with path.open("wb") as file:
                file.truncate(1 << 36)
        gateway.send(signal.SIGHUP)
        eventually(lambda: gateway.log.count("the configuration in force stays") > said, "a word of it")
        assert call(gateway) == 200
    finally:
        listener.close()
        os.chdir(CHECKOUT)
        path.rmdir() if path.is_dir() else path.unlink()
        kept.rename(path)
    before = gateway.log.count("was reloaded")
    gateway.send(signal.SIGHUP)
    eventually(lambda: gateway.log.count("was reloaded") > before, "the watcher still looks")


def test_it_ends_while_its_configuration_is_a_fifo(tmp_path: Path) -> None:
    with running("serve", tmp_path, tmp_path) as pair:
        pair.gateway.config_path.unlink()
        os.mkfifo(pair.gateway.config_path)
        # Without a signal: the watcher finds it by itself.
        eventually(lambda: "is a named pipe, not a file" in pair.gateway.log, "a word of it")
        assert call(pair.gateway) == 200
        assert pair.gateway.stop(10) == 0


def test_a_policy_file_that_is_a_fifo(gateway: Gateway) -> None:
    folder = gateway.config_path.parent / "policies"
    folder.mkdir()
    fifo = folder / "clients.yaml"
    os.mkfifo(fifo)
    try:
        said = gateway.log.count("is a named pipe, not a file")
        gateway.send(signal.SIGHUP)
        eventually(lambda: gateway.log.count("is a named pipe, not a file") > said, "a word of it")
        assert request(f"http://127.0.0.1:{gateway.port}{READY_PATH}").status == 200
    finally:
        fifo.unlink()
        folder.rmdir()
        gateway.send(signal.SIGHUP)


def test_check_does_not_wait_for_a_fifo(tmp_path: Path) -> None:
    (tmp_path / "policies").mkdir()
    os.mkfifo(tmp_path / "policies" / "clients.yaml")
    (tmp_path / "gateway.yaml").write_text("aoai: {endpoints: []}\n")
    words = [sys.executable, "-m", "aoai_gateway.app.cli", "check", str(tmp_path / "gateway.yaml")]
    found = subprocess.run(words, capture_output=True, text=True, timeout=200, check=False)
    assert found.returncode == 1
    assert "is a named pipe, not a file" in found.stderr


def test_a_full_disk_for_captures_is_told(tmp_path: Path) -> None:
    backend = ScriptedBackend()
    gateway = Capturing(
        "serve",
        {
            "aoai": {
                "endpoints": [
                    {"name": "only", "url": f"http://127.0.0.1:{backend.port}", "key": "backend-key-1"}
                ]
            },
            "clients": [{"name": "Tester", "key": CLIENT_KEY}],
            "admin": {"enabled": False},
        },
        tmp_path,
        home=tmp_path,
    )
    try:
        for _ in range(3):
            assert call(gateway) == 200
        eventually(lambda: "could not be written to /dev/full: No space left" in gateway.log, "a word of it")
        assert gateway.stop() == 0
        assert "3 flows are missing in /dev/full" in gateway.log
    finally:
        gateway.kill()
        backend.close()
