"""The real thing: gateway and simulator processes, with what a test wants to know of them."""

from __future__ import annotations

import http.client
import json
import os
import signal
import ssl
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

import yaml

from tests.e2e.forked import Forked
from tests.ports import free_port

CHECKOUT = Path(__file__).parents[2]
SCRIPTS = Path(sysconfig.get_path("scripts"))
READY_PATH = "/health/ready"

Host = Literal["mitmdump", "serve"]

START_SECONDS = 120.0
"""How long a process may take until it is ready; two cores may be busy with something else."""

STOP_SECONDS = 120.0
"""How long it may take to end: after SIGTERM, when nothing is running in it, or by itself after its start."""

WAIT_SECONDS = 55.0
"""How long anything else is waited for that comes at once on a machine with nothing else to do.

A wait that is in vain is a failure, so patience costs nothing, up to a minute: then windows of quotas and
breaks end by themselves. Where a test is about how soon something happens, it says so itself.
"""


def eventually(condition: Callable[[], Any], what: str, seconds: float = WAIT_SECONDS) -> Any:
    """Wait until a condition holds, and return what it gave."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.01)
    return found


class Answer(NamedTuple):
    """An HTTP answer, read to its end."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case; of a repeated one, the last."""
    body: bytes

    def json(self) -> Any:
        """Decode the body."""
        return json.loads(self.body)


def request(
    url: str,
    method: str = "GET",
    *,
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
    json_body: Any = None,
    ca: Path | None = None,
    seconds: float = 30,
) -> Answer:
    """Send one request on a connection of its own; an SDK is not always what a test needs."""
    where = urlsplit(url)
    sent = dict(headers or {})
    if json_body is not None:
        body = json.dumps(json_body).encode()
        sent.setdefault("content-type", "application/json")
    connection: http.client.HTTPConnection
    if where.scheme == "https":
        context = ssl.create_default_context(cafile=ca)
        connection = http.client.HTTPSConnection(
            where.hostname or "", where.port, timeout=seconds, context=context
        )
    else:
        connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=seconds)
    try:
        target = where.path + (f"?{where.query}" if where.query else "")
        connection.request(method, target, body=body, headers=sent)
        answer = connection.getresponse()
        names = {name.lower(): value for name, value in answer.getheaders()}
        try:
            body = answer.read()
        except http.client.IncompleteRead as error:
            # An answer that was cut; whether it was is for other tests to see.
            body = error.partial
        return Answer(answer.status, names, body)
    finally:
        connection.close()


class Process:
    """A child process in a group of its own, with its output in files."""

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        folder: Path,
        *,
        env: Mapping[str, str] | None = None,
        forked: bool = False,
    ) -> None:
        """Start it; `forked`: the quick way, see `tests.e2e.forked`."""
        self.name = name
        self.stdout_path = folder / f"{name}.stdout"
        self.stderr_path = folder / f"{name}.stderr"
        self._process: subprocess.Popen[bytes] | Forked
        words = [str(word) for word in command]
        env = {**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})}
        with self.stdout_path.open("wb") as stdout, self.stderr_path.open("wb") as stderr:
            if forked:
                self._process = Forked(
                    words, cwd=folder, env=env, stdout=self.stdout_path, stderr=self.stderr_path
                )
                return
            self._process = subprocess.Popen(
                words,
                cwd=folder,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def stdout(self) -> str:
        """What it has written to standard output so far."""
        return self.stdout_path.read_text(errors="replace")

    @property
    def stderr(self) -> str:
        """What it has written to standard error so far."""
        return self.stderr_path.read_text(errors="replace")

    @property
    def log(self) -> str:
        """Everything that it has said so far."""
        return f"--- {self.name}: stdout\n{self.stdout}\n--- {self.name}: stderr\n{self.stderr}"

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative if a signal ended it."""
        return self._process.poll()

    def wait_until(self, condition: Callable[[], bool], what: str, seconds: float = START_SECONDS) -> None:
        """Wait for a condition; fails with the log when the process ends or the time is over."""
        deadline = time.monotonic() + seconds
        while not condition():
            if self.exit_code is not None:
                raise AssertionError(f"{self.name} ended with {self.exit_code}, not {what}\n{self.log}")
            if time.monotonic() > deadline:
                raise AssertionError(f"{self.name} was not {what} after {seconds} s\n{self.log}")
            time.sleep(0.02)

    def send(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def wait(self, seconds: float = STOP_SECONDS) -> int:
        """Wait for its end and return the exit code; fails with the log if it takes longer."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} still ran after {seconds} s\n{self.log}") from None

    def stop(self, seconds: float = STOP_SECONDS) -> int:
        """Send SIGTERM and wait for the end; returns the exit code."""
        self.send()
        return self.wait(seconds)

    def kill(self) -> None:
        """End it and its children, at once; harmless when it has ended."""
        if self.exit_code is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(60)


class Simulator(Process):
    """A simulator process; its endpoints by name, and its control plane.

    Unless `arguments` say otherwise it counts by bytes, and so tells other numbers than the gateway does.
    """

    def __init__(
        self,
        spec: Mapping[str, Any],
        folder: Path,
        *,
        name: str = "simulator",
        arguments: Sequence[str | Path] = (),
        ca: Path | None = None,
    ) -> None:
        spec_path = folder / f"{name}.json"
        spec_path.write_text(json.dumps(spec))
        super().__init__(
            name,
            [
                sys.executable,
                "-P",
                "-m",
                "aoai_simulator",
                "--count",
                "bytes",
                "--spec",
                spec_path,
                *arguments,
            ],
            folder,
            forked=True,
        )
        self.ca = ca
        self.wait_until(lambda: "\n" in self.stdout, "ready")
        ready = json.loads(self.stdout.splitlines()[0])
        self.urls: dict[str, str] = ready["urls"]
        self.keys: dict[str, str] = ready["keys"]
        self.control_url: str = ready["control_url"].rstrip("/")

    def control(self, method: str, what: str, body: Any = None) -> Any:
        """Ask the control plane, which is on a port of its own and never faulty."""
        answer = request(f"{self.control_url}/_simulator/{what}", method, json_body=body)
        assert answer.status < 300, f"{method} {what}: {answer.status} {answer.body!r}"
        return json.loads(answer.body) if answer.body else None

    def fault(
        self, kind: str, *, endpoint: str = "*", deployment: str = "*", times: int = 1, **how: Any
    ) -> None:
        """Queue a fault for the next `times` matching requests (-1: until cleared)."""
        self.control(
            "POST",
            "faults",
            {"endpoint": endpoint, "deployment": deployment, "fault": kind, "times": times, **how},
        )

    def clear_faults(self) -> None:
        """Behave again."""
        self.control("DELETE", "faults")

    def requests(self) -> list[dict[str, Any]]:
        """Return what has arrived so far, in order."""
        return self.control("GET", "requests")  # type: ignore[no-any-return]

    def active(self) -> dict[str, Any]:
        """Return how many calls are in flight, and how many connections are open."""
        return self.control("GET", "active")  # type: ignore[no-any-return]

    def listening(self, on: bool, *, endpoint: str = "*", silently: bool = False) -> None:
        """Refuse connections or accept them again; `silently`: attempts to connect get no answer at all."""
        self.control("POST", "listening", {"endpoint": endpoint, "on": on, "silently": silently})

    def reset(self) -> None:
        """Forget requests, faults and filled windows."""
        self.control("POST", "reset")


class Gateway(Process):
    """A gateway process on one of the hosts, listening on a port of its own."""

    def __init__(
        self,
        host: Host,
        config: Mapping[str, Any],
        folder: Path,
        *,
        home: Path,
        name: str = "gateway",
        addons: Sequence[Path] = (),
        arguments: Sequence[str | Path] = (),
        env: Mapping[str, str] | None = None,
        ca: Path | None = None,
        wait: bool = True,
        forked: bool = True,
    ) -> None:
        """Start it, and wait until it is ready unless told otherwise.

        Args:
            host: ``mitmdump`` (with ``-s addons/gateway.py``) or ``serve`` (the lean host).
            config: the configuration; the port is chosen here.
            folder: gets the configuration, the output and, from mitmdump, the dump file.
            home: the process's home folder: mitmproxy keeps its authority and a person's settings there.
            name: of these files.
            addons: other scripts to load beside the gateway.
            arguments: mitmproxy's own options, as ``--set name=value`` and the like.
            env: on top of this process's environment.
            ca: what a client must trust when the configuration names a certificate.
            wait: whether to return only when it is ready.
            forked: whether to start it the quick way, which is no command, see `tests.e2e.forked`.

        """
        self.host = host
        self.port = free_port()
        self.ca = ca
        scheme = "https" if config.get("listen", {}).get("certificate") else "http"
        self.url = f"{scheme}://localhost:{self.port}" if ca else f"{scheme}://127.0.0.1:{self.port}"
        self.config_path = folder / f"{name}.yaml"
        self.dump_path = folder / f"{name}.flows" if host == "mitmdump" else None
        self.write(config)
        command = self._command([word for addon in addons for word in ("-s", addon)])
        env = {"HOME": str(home), **(env or {})}
        super().__init__(name, [*command, *arguments], folder, env=env, forked=forked)
        if wait:
            self.wait_until(self.is_ready, "ready")

    def _command(self, scripts: Sequence[str | Path]) -> list[str | Path]:
        if self.host == "serve":
            return [
                sys.executable, "-P", "-m", "aoai_gateway.app.cli", "serve",
                "--config", self.config_path, "--port", str(self.port), *scripts, "--",
            ]  # fmt: skip
        assert self.dump_path is not None
        return [
            SCRIPTS / "mitmdump", "-s", CHECKOUT / "addons" / "gateway.py", *scripts,
            "--set", f"gateway_config={self.config_path}",
            "--listen-host", "127.0.0.1", "--listen-port", str(self.port),
            "-w", self.dump_path,
        ]  # fmt: skip

    def is_ready(self) -> bool:
        """Say whether it reports to be ready."""
        try:
            return self.request("GET", READY_PATH, seconds=5).status == 200
        except OSError:
            return False

    def write(self, config: Mapping[str, Any]) -> None:
        """Save the configuration as an editor does that replaces the file; a running gateway reloads it."""
        draft = self.config_path.with_suffix(".draft")
        # Many gateways run at once in tests, and the admin listener has one port by default.
        document = {"admin": {"enabled": False}, **config}
        draft.write_text(yaml.safe_dump(document, sort_keys=False))
        draft.replace(self.config_path)

    def request(
        self,
        method: str,
        path: str,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        json_body: Any = None,
        seconds: float = 30,
    ) -> Answer:
        """Send one request on a connection of its own, with `key` as its api-key."""
        sent = dict(headers or {}) | ({"api-key": key} if key else {})
        return request(
            self.url + path, method, headers=sent, body=body, json_body=json_body, ca=self.ca, seconds=seconds
        )
