"""The lean gateway's log: a line with date, level and event each, as text or JSON.

::

    2026-11-29T09:30:00.123Z WARNING backend.broken: gpt-4o@sweden is in a break for 10.0 s: 429 (call …)
    {"time":"2026-11-29T09:30:00.123Z","level":"warning","event":"backend.broken","message":"…","backend":"…"}

A message that names no event of its own has the module that wrote it as its event (``runtime.state_sync``),
which is as stable. mitmproxy's own tools keep mitmproxy's format.
"""

from __future__ import annotations

import json
import logging
import sys
from typing import TYPE_CHECKING, TextIO, cast

from mitmproxy.addons.termlog import TermLogHandler

from aoai_gateway.whole_lines import WholeLines
from aoai_gateway.wire.spans import rfc3339

if TYPE_CHECKING:
    from aoai_gateway.config.models import Log

OWN = "aoai_gateway."

DETAILS = {
    "backend": "backend",
    "endpoint": "endpoint",
    "deployment": "deployment",
    "call": "call",
    "client_name": "client",
    "priority": "priority",
}
"""What a message may say of its subject besides its words, and the member of a line of JSON that it becomes.

A record's ``client`` is an address to mitmproxy, which shows it before the message.
"""


class TextFormatter(logging.Formatter):
    """Lines for people."""

    def format(self, record: logging.LogRecord) -> str:
        """Make a line; of an exception, several."""
        text = f"{time_of(record)} {record.levelname:<7} {event_of(record)}: {record.getMessage()}"
        trace = trace_of(self, record)
        return f"{text}\n{trace}" if trace else text


class JsonFormatter(logging.Formatter):
    """Lines for programs."""

    def format(self, record: logging.LogRecord) -> str:
        """Make a line of a record of any content."""
        line = {
            "time": time_of(record),
            "level": record.levelname.lower(),
            "event": event_of(record),
            "message": record.getMessage(),
        }
        line |= {
            member: value
            for name, member in DETAILS.items()
            if (value := getattr(record, name, None)) is not None
        }
        peer = getattr(record, "client", None)
        if isinstance(peer, tuple) and peer:
            line["address"] = peer[0]
        trace = trace_of(self, record)
        if trace:
            line["exception"] = trace
        return json.dumps(line, default=str)


def formatter_of(log: Log) -> logging.Formatter:
    """Make the formatter that is configured."""
    return JsonFormatter() if log.format == "json" else TextFormatter()


def apply(log: Log) -> None:
    """Have the process's log written as configured, from now on."""
    logging.getLogger().setLevel(log.level.upper())
    for handler in logging.getLogger().handlers:
        if isinstance(handler, TermLogHandler):
            handler.setFormatter(formatter_of(log))
            handler.setLevel(log.level.upper())


def write_whole_lines() -> None:
    """Have mitmproxy's log written a line at a time, from now on: usage records go to the same file."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, TermLogHandler) and not isinstance(handler.file, WholeLines):
            # Of a file, the handler uses ``write`` alone.
            handler.file = cast("TextIO", WholeLines(cast("TextIO", handler.file)))


class StdoutHandler(logging.StreamHandler[TextIO]):
    """Writes the log of a process without mitmproxy."""


def write_to_stdout(log: Log) -> None:
    """Have the log of a process without mitmproxy written as configured, from now on."""
    write_no_more()
    handler = StdoutHandler(cast("TextIO", WholeLines(sys.stdout)))
    handler.setFormatter(formatter_of(log))
    logging.getLogger().addHandler(handler)
    logging.getLogger().setLevel(log.level.upper())


def write_no_more() -> None:
    """Leave the log to mitmproxy, in a process that was forked off one that writes it itself."""
    root = logging.getLogger()
    root.handlers[:] = [each for each in root.handlers if not isinstance(each, StdoutHandler)]


def time_of(record: logging.LogRecord) -> str:
    """Return a record's time, RFC 3339 in UTC, to the millisecond."""
    return rfc3339(record.created, "milliseconds")


def event_of(record: logging.LogRecord) -> str:
    """Return the stable name of what a record tells of."""
    event = getattr(record, "event", None)
    return event if isinstance(event, str) else record.name.removeprefix(OWN)


def trace_of(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    """Return an exception's text, as it was made safe when the record was made."""
    if record.exc_text:
        return record.exc_text
    return formatter.formatException(record.exc_info) if record.exc_info else ""
