"""The process of a writer: takes batches from its standard input until that ends, when the gateway does.

What it has to say goes to its standard output, in lines of JSON: of each batch ``lost`` and ``error``, of
itself its ``trouble``, and what is for the gateway's ``log``.
"""

from __future__ import annotations

import json
import logging
import pickle
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, BinaryIO, override

import msgspec

from aoai_gateway import child_process
from aoai_gateway.usage.sink import reason
from aoai_gateway.usage.writer_process import FRAME, LogAnalytics, Otlp

if TYPE_CHECKING:
    from collections.abc import Callable

    from aoai_gateway.usage.sink import Record, Writer
    from aoai_gateway.usage.writer_process import Elsewhere

logger = logging.getLogger(__name__)

TROUBLE_SECONDS = 1.0
"""The time between two looks whether something is wrong with the writer though batches are written."""


def main() -> None:
    """Work until the input ends."""
    requests, said = child_process.begin()
    serve(requests, said, writer_of)


def writer_of(settings: Elsewhere) -> Writer[Record]:
    """Make the writer; only its own family of packages is loaded."""
    match settings:
        case Otlp():
            from aoai_gateway.usage.otlp import OtlpWriter

            return OtlpWriter(settings)
        case LogAnalytics():
            from aoai_gateway.usage.log_analytics import LogAnalyticsWriter

            return LogAnalyticsWriter(settings)


def serve(
    requests: BinaryIO,
    said: BinaryIO,
    make: Callable[[Elsewhere], Writer[Record]],
) -> None:
    """Write each batch, and say what became of it."""
    voice = _Voice(said)
    logging.basicConfig(level=logging.WARNING, handlers=[_ToGateway(voice)], force=True)
    packed = _message(requests)
    if packed is None:
        return
    writer = make(pickle.loads(packed))  # noqa: S301 - written by the gateway itself
    watch = _TroubleWatch(getattr(writer, "trouble", str), voice)
    while (batch := _message(requests)) is not None:
        lost, error = None, None
        try:
            lost = writer.write(records_of(batch))
        except Exception as problem:
            error = reason(problem)
        watch.look()
        voice.say(lost=lost, error=error)
    writer.close()
    watch.end()


def records_of(lines: bytes) -> list[Record]:
    """Read a batch."""
    try:
        found: list[Record] = _DECODER.decode_lines(lines)
    except msgspec.DecodeError:
        # It does not take half of a surrogate pair, which a name that a client has made up may hold.
        found = [json.loads(line) for line in lines.splitlines()]
    return found


_DECODER = msgspec.json.Decoder()


def _message(requests: BinaryIO) -> bytes | None:
    """Read a message; None at the end, and of one that its sender has not ended."""
    head = requests.read(FRAME.size)
    if len(head) < FRAME.size:
        return None
    (size,) = FRAME.unpack(head)
    found = requests.read(size)
    return found if len(found) == size else None


class _Voice:
    """Says things to the gateway; for several threads. A gateway that has ended hears nothing."""

    def __init__(self, said: BinaryIO) -> None:
        self._said = said
        self._lock = threading.Lock()

    def say(self, **members: object) -> None:
        line = json.dumps(members).encode() + b"\n"
        with self._lock, suppress(OSError, ValueError):
            self._said.write(line)
            self._said.flush()


class _ToGateway(logging.Handler):
    """Hands messages to the gateway's log."""

    def __init__(self, voice: _Voice) -> None:
        super().__init__()
        self._voice = voice

    @override
    def emit(self, record: logging.LogRecord) -> None:
        self._voice.say(log=[record.name, record.levelno, record.getMessage()])


class _TroubleWatch:
    """Tells the gateway of the trouble that a writer reports, when that changes."""

    def __init__(self, trouble: Callable[[], str], voice: _Voice) -> None:
        self._trouble, self._voice, self._told = trouble, voice, ""
        self._over = threading.Event()
        self._lock = threading.Lock()
        threading.Thread(target=self._watch, name="trouble", daemon=True).start()

    def look(self) -> None:
        """Look now."""
        with self._lock:
            trouble = self._trouble()
            if trouble != self._told:
                self._told = trouble
                self._voice.say(trouble=trouble)

    def end(self) -> None:
        """Look no more."""
        self._over.set()

    def _watch(self) -> None:
        while not self._over.wait(TROUBLE_SECONDS):
            self.look()
