"""All sinks of a gateway: one record goes to each of them."""

from __future__ import annotations

import importlib.util
import logging
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aoai_gateway.config.sinks import CsvSink, JsonLinesSink, LogAnalyticsSink, OtlpSink, RecordPrompts
from aoai_gateway.usage.csv_files import CsvWriter
from aoai_gateway.usage.lines import JsonLinesWriter, StdoutWriter, line_of
from aoai_gateway.usage.prompts import MOST_WAITING, PromptWriter, weight
from aoai_gateway.usage.sink import GATHER_SECONDS, LineSink, Sink
from aoai_gateway.usage.writer_process import LogAnalytics, Otlp, ProcessWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from aoai_gateway.config.models import Config
    from aoai_gateway.config.sinks import UsageSink
    from aoai_gateway.usage.sink import Line, Record, Writer
    from aoai_gateway.usage.writer_process import Elsewhere

logger = logging.getLogger(__name__)

type AnySink = Sink[Record] | LineSink

type Key = UsageSink | RecordPrompts | str
"""What the configuration says of a sink; of standard output and of ``usage_log``, the name."""

MEGABYTE = 1_000_000

EXTRAS = {"otlp": ("otel", ("opentelemetry.sdk", "opentelemetry.proto", "requests"))}
"""What a kind of sink needs: the extra of this package, and the modules that it brings."""

MOST_HELD = 1_000
"""Records from before the first configuration that are kept for its sinks."""

REQUEST_SECONDS = 1.0
"""The time for which the records of a request to elsewhere gather."""


class Batch:
    """Records on their way to sinks.

    Each is made a line as it comes, while a processor's caches hold it: that takes a half of the time.
    """

    def __init__(self, sinks: Sequence[AnySink]) -> None:
        self._sinks = sinks
        lines = [isinstance(sink, LineSink) for sink in sinks]
        self._takes_lines, self._takes_records = any(lines), not all(lines)
        self._lines: list[Line] = []
        self._records: list[Record] = []

    def add(self, record: Record) -> None:
        """Take a record, which is not changed from now on. Raises TypeError as `line_of` does."""
        if self._takes_lines:
            self._lines.append(line_of(record))
        if self._takes_records:
            self._records.append(record)

    def hand_over(self) -> None:
        """Give all of them to the sinks; never blocks."""
        for sink in self._sinks:
            if isinstance(sink, LineSink):
                sink.put(self._lines)
            else:
                sink.put(self._records)


class Sinks:
    """The sinks of the configuration in force. Those that it still names live on when it changes."""

    def __init__(self) -> None:
        self._open: dict[Key, AnySink] = {}
        self.for_records: dict[Key, AnySink] = {}
        """Those that usage records go to."""
        self.prompts: tuple[RecordPrompts, Sink[Record]] | None = None
        """The settings of prompts' sink, and the sink."""
        self._held: list[Record] | None = []
        """Records from before there is a configuration; None once there was one."""
        self._counted: list[AnySink] = []
        """All that are open, or about to be closed."""
        self._ended: dict[str, tuple[int, int]] = {}
        """The records that closed sinks wrote and lost, by the sink's name."""
        self._lost = 0
        """Records from before there is a configuration that were too many to be held."""
        self._lock = threading.Lock()
        """Guards these four, which are read and changed in several threads."""

    def __iter__(self) -> Iterator[AnySink]:
        return iter(self._open.values())

    def batch(self) -> Batch:
        """Return what gathers the next records for the sinks that are open now."""
        return Batch(tuple(self.for_records.values()))

    def put(self, records: Iterable[Record]) -> None:
        """Give records to all; never blocks. Raises TypeError, before one has any, as `line_of` does."""
        found = list(records)
        with self._lock:
            if self._held is not None:
                room = MOST_HELD - len(self._held)
                self._held += found[:room]
                self._lost += len(found[room:])
                return
        _put(found, self.for_records)

    def records_prompts_of(self, client: str) -> bool:
        """Whether a client's prompts are written down."""
        return self.prompts is not None and client in self.prompts[0].clients

    def put_prompt(self, record: Record) -> None:
        """Have a prompt written (:func:`~aoai_gateway.usage.prompts.prompt_of`); never blocks."""
        if self.prompts is not None:
            self.prompts[1].put([record])

    def adopt(self, config: Config) -> list[AnySink]:
        """Open what a configuration names. Returns the sinks that are no longer wanted, to be closed.

        If one cannot be opened, all stays as it was, and its error is raised.
        """
        wanted: dict[Key, None] = dict.fromkeys(config.usage_sinks.named().values())
        if config.usage_sinks.stdout:
            wanted["stdout"] = None
        if config.usage_log is not None:
            wanted[config.usage_log] = None
        if config.record_prompts is not None:
            wanted[config.record_prompts] = None
        before = self._open
        made: dict[Key, AnySink] = {}
        try:
            for key in wanted:
                if key not in before:
                    made[key] = _made(key)
        except BaseException:
            self.close(list(made.values()))
            raise
        sinks = {key: before.get(key) or made[key] for key in wanted}
        with self._lock:
            self._counted += made.values()
            held, self._held = self._held, None
            if held:
                # Before the sinks are those in use: newer records, of any thread, go after these.
                _put(held, _for_records(sinks))
            self._use(sinks)
        if self._lost:
            logger.warning(
                "%s usage records from before there was a configuration are lost: %s are kept.",
                f"{self._lost:,}",
                f"{MOST_HELD:,}",
            )
            self._lost = 0
        return [sink for key, sink in before.items() if key not in wanted]

    def _use(self, sinks: dict[Key, AnySink]) -> None:
        prompts = [
            (key, sink)
            for key, sink in sinks.items()
            if isinstance(key, RecordPrompts) and not isinstance(sink, LineSink)
        ]
        # Records come in from another thread meanwhile: they find all of the old ones, or all of the new.
        self.prompts = prompts[0] if prompts else None
        self.for_records = _for_records(sinks)
        self._open = sinks

    def counts(self) -> dict[str, tuple[int, int]]:
        """Return by name how many records were written and lost, also by sinks that are closed."""
        with self._lock:
            found = dict(self._ended)
            for sink in self._counted:
                written, dropped = found.get(sink.name, (0, 0))
                found[sink.name] = written + sink.written, dropped + sink.dropped
        return found

    def take_all(self) -> list[AnySink]:
        """Return all of them, to be closed: no record goes to them from now on."""
        sinks = list(self)
        self._use({})
        return sinks

    def close(self, sinks: list[AnySink]) -> None:
        """Close sinks of these, one after the other; blocks for some seconds at most."""
        for sink in sinks:
            sink.close()
            with self._lock:
                if sink in self._counted:
                    self._counted.remove(sink)
                    written, dropped = self._ended.get(sink.name, (0, 0))
                    self._ended[sink.name] = written + sink.written, dropped + sink.dropped


def _for_records(sinks: Mapping[Key, AnySink]) -> dict[Key, AnySink]:
    """Return those of sinks that usage records go to."""
    return {key: sink for key, sink in sinks.items() if not isinstance(key, RecordPrompts)}


def _put(records: Iterable[Record], sinks: Mapping[Key, AnySink]) -> None:
    batch = Batch(tuple(sinks.values()))
    for record in records:
        batch.add(record)
    batch.hand_over()


def name_of(key: Key) -> str:
    """Name a sink for people: where it writes to."""
    match key:
        case str():
            return key
        case JsonLinesSink() | RecordPrompts():
            return str(key.path)
        case CsvSink():
            return str(key.folder)
        case OtlpSink():
            return f"otlp {key.endpoint}"
        case LogAnalyticsSink():
            return f"log_analytics {key.endpoint}"


def missing_extra(key: str) -> str | None:
    """Name the extra that has to be installed for a sink of ``usage_sinks``; None if all is there."""
    extra, modules = EXTRAS.get(key, ("", ()))
    return None if all(map(_is_there, modules)) else extra


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _made(key: Key) -> AnySink:
    if isinstance(key, RecordPrompts):
        prompts = PromptWriter(key, JsonLinesWriter(key.path, **_rotation(key)))
        return Sink(name_of(key), prompts, weigh=weight, most=MOST_WAITING)
    writer = _writer(key)
    # What else a writer does than to write records, it answers for itself.
    trouble: Callable[[], str] = getattr(writer, "trouble", str)
    hurry: Callable[[], object] = getattr(writer, "hurry", lambda: None)
    make = Sink if isinstance(key, CsvSink) else LineSink
    return make(name_of(key), writer, gather_seconds=_gather_seconds(key), trouble=trouble, hurry=hurry)


def _gather_seconds(key: UsageSink | str) -> float:
    """Return for how long records gather: longer where each batch is a request of its own."""
    return REQUEST_SECONDS if isinstance(key, OtlpSink | LogAnalyticsSink) else GATHER_SECONDS


def _writer(key: UsageSink | str) -> Writer[Any]:
    match key:
        case "stdout":
            return StdoutWriter()
        case str():
            return JsonLinesWriter(Path(key))
        case JsonLinesSink():
            return JsonLinesWriter(key.path, **_rotation(key))
        case CsvSink():
            return CsvWriter(key.folder, **_rotation(key))
        case OtlpSink() | LogAnalyticsSink():
            return ProcessWriter(elsewhere(key))


def _rotation(key: JsonLinesSink | CsvSink | RecordPrompts) -> dict[str, Any]:
    """Return what a writer of files is told of their rotation."""
    return {
        "rotate_bytes": round(key.rotate_mb * MEGABYTE),
        "daily": key.rotate_daily,
        "keep": key.keep,
    }


def elsewhere(key: OtlpSink | LogAnalyticsSink) -> Elsewhere:
    """Say in plain values where a writer in a process of its own writes to."""
    secret = key.secret.get_secret_value() if key.secret is not None else None
    match key:
        case OtlpSink():
            return Otlp(
                key.endpoint,
                secret,
                key.traces,
                key.metrics,
                key.metrics_seconds,
                key.service if "service" in key.model_fields_set else None,
            )
        case LogAnalyticsSink():
            return LogAnalytics(key.endpoint, key.rule_id, key.stream, key.tenant_id, key.client_id, secret)
