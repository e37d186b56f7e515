"""A writer of usage records in a process of its own, for what is made of many records at great cost.

Spans, and requests with rows, take several times as long as the record itself. In a thread of the gateway
they would take that time from calls, and some more, since threads take turns. So lines of records go through
a pipe, a batch at a time, and a process beside the gateway makes of them what is wanted, and sends it.

The sink's thread waits for what becomes of each batch, so a sink of this kind is bounded, counts, hangs and
ends as any other does. The process ends by itself after the gateway, having written what it was given, unless
it is killed with it: so it is where the gateway is a container's first process, or the main one of a systemd
unit with ``KillMode=mixed``.
"""

from __future__ import annotations

import json
import logging
import pickle
import queue
import signal
import struct
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

from aoai_gateway import child_process
from aoai_gateway.usage.sink import SinkError

if sys.platform == "linux":
    import fcntl

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aoai_gateway.usage.sink import Line

logger = logging.getLogger(__name__)

# Where a process writes to, in plain values: the configuration's own models would bring the library that
# validates them, 14 MB, and half of the time that it takes to start.

SERVICE = "aoai-gateway"


@dataclass(frozen=True, slots=True)
class Otlp:
    """A collector of OpenTelemetry's, as `config.sinks.OtlpSink` describes it."""

    endpoint: str
    key: str | None = field(default=None, repr=False)
    traces: bool = True
    metrics: bool = True
    metrics_seconds: float = 60
    service: str | None = None
    """The configuration's; None if it names none, so that the environment may."""


@dataclass(frozen=True, slots=True)
class LogAnalytics:
    """A table of Log Analytics, as `config.sinks.LogAnalyticsSink` describes it."""

    endpoint: str
    rule_id: str
    stream: str
    tenant_id: str | None = None
    client_id: str | None = None
    client_secret: str | None = field(default=None, repr=False)


type Elsewhere = Otlp | LogAnalytics

FRAME = struct.Struct("!I")
"""Before each message to the process: its bytes. The first one holds settings, and each later one lines."""

COMMAND = child_process.command_of("aoai_gateway.usage.writer_child")

PATIENCE_SECONDS = 90.0
"""The time for a batch. A process that takes longer is ended.

Writers begin no request with records after the first 60 s of it, and each request has time limits of its own.
So this is for what these do not bound: a token that takes many slow requests, or before which Entra ID asks
for a pause; a name server; an answer that comes byte by byte.
"""

END_SECONDS = 4.0
"""The time for the last batch when the sink is closed."""

PIPE_BYTES = 1 << 20
"""Room in the pipe to the process; Linux gives so much to all users, up to a bound for each."""

LAST_SECONDS = 1.0
"""The time in which a process that has ended its work is gone, and a killed one is heard no more."""

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 60.0
"""Before a process that has failed starts again; twice as long each time."""


class ProcessWriter:
    """Writes lines where ``settings`` say, in a process that is started again when it has ended."""

    def __init__(self, settings: Elsewhere, *, patience: float = PATIENCE_SECONDS) -> None:
        self._settings, self._patience = settings, patience
        self._over = threading.Event()
        self._pause = 0.0
        self._process = _Process(settings)

    @property
    def pid(self) -> int:
        """That of the process."""
        return self._process.pid

    def write(self, records: Sequence[Line]) -> int | None:
        """Have a batch written. Raises SinkError if it was not, or if nothing is known of it."""
        if self._process.has_ended():
            self._start_again()
        watch = threading.Timer(self._patience, self._process.kill)
        watch.daemon = True
        watch.start()
        try:
            said = self._process.ask(b"".join(records), self._patience + LAST_SECONDS)
        except EOFError:
            raise SinkError(f"its process {self._process.end()}") from None
        finally:
            watch.cancel()
        self._pause = 0.0
        if said["error"] is not None:
            raise SinkError(said["error"])
        lost: int | None = said["lost"]
        return lost

    def trouble(self) -> str:
        """Return the trouble that the writer reports, empty without any."""
        return self._process.trouble

    def hurry(self) -> None:
        """Have it started again without a pause from now on; for another thread than that of the sink."""
        self._over.set()

    def close(self) -> None:
        """Have it end what it has begun, for some seconds at most."""
        self._process.close()

    def _start_again(self) -> None:
        """Start it anew, after a pause if the last one has done nothing. The batch waits meanwhile."""
        # Its pipe may hold what could not be sent: let go here, it is not written once more by a collector.
        self._process.end()
        self._over.wait(self._pause)
        self._pause = min(max(2 * self._pause, FIRST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)
        self._process = _Process(self._settings)


def _widen(pipe: IO[bytes]) -> None:
    """Give a pipe room for a batch, where that can be had: else a thread waits for its turn every 64 KiB."""
    if sys.platform == "linux":
        with suppress(OSError):
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)


class _Process:
    """One life of the process. Used by the sink's thread, beside one that hears what the process says."""

    def __init__(self, settings: Elsewhere) -> None:
        self.trouble = ""
        self._answers: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        """What it says of each batch; None once it has ended."""
        self._process = subprocess.Popen(  # noqa: S603 - this Python, a module of ours
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # Its libraries read much of the environment, as they did in this process.
            env=child_process.environment(with_secrets=True),
        )
        self.pid = self._process.pid
        assert self._process.stdin is not None
        _widen(self._process.stdin)
        threading.Thread(target=self._hear, name="usage writer's process", daemon=True).start()
        with suppress(OSError):
            self._send(pickle.dumps(settings))

    def ask(self, batch: bytes, seconds: float) -> dict[str, Any]:
        """Hand it a batch; returns ``lost`` and ``error``.

        Raises EOFError if it has ended before, or if nothing was heard of the batch for so many seconds.
        """
        with suppress(OSError):  # It has ended, and so the answers have.
            self._send(batch)
        said = None
        with suppress(queue.Empty):
            said = self._answers.get(timeout=seconds)
        if said is None:
            raise EOFError
        return said

    def has_ended(self) -> bool:
        """Whether it can be asked no more."""
        return self._process.poll() is not None

    def end(self) -> str:
        """See that it ends, and say how it has ended."""
        try:
            code = self._process.wait(LAST_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            code = self._process.wait()
        self._let_go()
        return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"

    def close(self) -> None:
        """Let it end, and see that it does."""
        self._let_go()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.end()

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    def _let_go(self) -> None:
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()

    def _send(self, what: bytes) -> None:
        requests = self._process.stdin
        assert requests is not None
        requests.write(FRAME.pack(len(what)))
        requests.write(what)
        requests.flush()

    def _hear(self) -> None:
        """Take what it says, until it ends."""
        assert self._process.stdout is not None
        try:
            with self._process.stdout as said:
                for line in said:
                    # Handlers of the log may raise; mitmproxy's even exits when its terminal is gone.
                    with suppress(Exception, SystemExit):
                        self._take(line)
        finally:
            self._answers.put(None)

    def _take(self, line: bytes) -> None:
        """Take a line: of a batch, of its trouble, or for the log."""
        try:
            told = json.loads(line)
        except ValueError:
            told = None
        match told:
            case {"log": [str(name), int(level), str(text)]}:
                logging.getLogger(name).log(level, "%s", text)
            case {"trouble": str(trouble)}:
                self.trouble = trouble
            case {"lost": _, "error": _}:
                self._answers.put(told)
            case _:
                # It was killed amid this line, most likely. Else `ask` bounds the wait for an answer.
                logger.warning("A usage log's process (%d) has said what cannot be read.", self.pid)
