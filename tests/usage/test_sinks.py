"""All sinks of a gateway, while their configuration changes."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from aoai_gateway.config.models import Config
from aoai_gateway.config.sinks import LogAnalyticsSink, OtlpSink, UsageSinks
from aoai_gateway.runtime.gateway import Gateway
from aoai_gateway.usage import sinks as module
from aoai_gateway.usage.sink import Line, Record, Sink
from aoai_gateway.usage.sinks import MOST_HELD, AnySink, Batch, Sinks
from aoai_gateway.usage.writer_process import LogAnalytics, Otlp


class Collecting:
    def __init__(self) -> None:
        self.records: list[Record] = []

    def write(self, records: Sequence[Record | Line]) -> int:
        self.records += [json.loads(each) if isinstance(each, bytes) else each for each in records]
        return 0

    def close(self) -> None:
        """Nothing is open."""


def config(folder: str) -> Config:
    """Name standard output, and a folder for CSV."""
    endpoint = {"name": "a", "url": "https://a.example/", "key": "key-of-a"}
    sinks = {"stdout": True, "csv": {"folder": folder}}
    return Config.model_validate({"aoai": {"endpoints": [endpoint]}, "usage_sinks": sinks})


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> dict[str, Collecting]:
    """The writers of all sinks, by their names."""
    made: dict[str, Collecting] = {}

    def writer(key: module.UsageSink | str) -> Collecting:
        return made.setdefault(module.name_of(key), Collecting())

    monkeypatch.setattr(module, "_writer", writer)
    return made


def test_a_change_while_a_record_is_put_disturbs_neither(
    written: dict[str, Collecting], monkeypatch: pytest.MonkeyPatch
) -> None:
    sinks, put, gone = Sinks(), Sink.put, list[AnySink]()
    sinks.adopt(config("one"))

    def change_and_put(sink: AnySink, records: Sequence[Any]) -> None:
        if not gone:
            gone.extend(sinks.adopt(config("two")))
        put(sink, records)

    monkeypatch.setattr(Sink, "put", change_and_put)
    sinks.put([{"n": 0}])
    sinks.put([{"n": 1}])
    sinks.close([*gone, *sinks.take_all()])
    assert {name: [r["n"] for r in writer.records] for name, writer in written.items()} == {
        "stdout": [0, 1],
        "one": [0],
        "two": [1],
    }


def test_records_from_before_the_first_configuration_wait_for_its_sinks(
    written: dict[str, Collecting], caplog: pytest.LogCaptureFixture
) -> None:
    # mitmproxy's own tools listen before the gateway has put its configuration in force.
    sinks = Sinks()
    for n in range(MOST_HELD - 1):
        sinks.put([{"n": n}])
    sinks.put([{"n": n} for n in range(MOST_HELD - 1, MOST_HELD + 2)])
    sinks.adopt(config("one"))
    assert "2 usage records from before there was a configuration are lost: 1,000 are kept" in caplog.text
    sinks.put([{"n": -1}])
    sinks.close(sinks.take_all())
    sinks.put([{"n": -2}])
    sinks.adopt(config("two"))
    sinks.close(sinks.take_all())
    first = [*range(MOST_HELD), -1]
    assert {name: [r["n"] for r in writer.records] for name, writer in written.items()} == {
        "stdout": first,
        "one": first,
        "two": [],
    }


def test_records_that_come_while_held_ones_are_handed_over_go_after_them(
    written: dict[str, Collecting], monkeypatch: pytest.MonkeyPatch
) -> None:
    sinks, hand_over = Sinks(), Batch.hand_over
    newer: list[threading.Thread] = []

    def put_meanwhile(batch: Batch) -> None:
        if not newer:
            assert not sinks.for_records, "a batch of the event loop's would go before them"
            newer.append(threading.Thread(target=sinks.put, args=([{"n": 1}],)))
            newer[0].start()
            newer[0].join(0.1)
            assert newer[0].is_alive(), "it waits for its turn"
        hand_over(batch)

    monkeypatch.setattr(Batch, "hand_over", put_meanwhile)
    sinks.put([{"n": 0}])
    sinks.adopt(config("one"))
    newer[0].join()
    sinks.close(sinks.take_all())
    assert {name: [r["n"] for r in writer.records] for name, writer in written.items()} == {
        "stdout": [0, 1],
        "one": [0, 1],
    }


def test_while_new_sinks_are_made_the_old_ones_take_records(
    written: dict[str, Collecting], monkeypatch: pytest.MonkeyPatch
) -> None:
    sinks, make = Sinks(), module._writer
    sinks.adopt(config("one"))

    def slow(key: module.UsageSink | str) -> Collecting:
        sinks.put([{"n": 0}])
        made = make(key)
        assert isinstance(made, Collecting)
        return made

    monkeypatch.setattr(module, "_writer", slow)
    sinks.close(sinks.adopt(config("two")))
    assert [len(written[name].records) for name in ("one", "two")] == [1, 0]
    sinks.close(sinks.take_all())
    assert len(written["stdout"].records) == 1


def test_if_a_sink_cannot_be_made_all_stays_as_it_was(
    written: dict[str, Collecting], monkeypatch: pytest.MonkeyPatch
) -> None:
    sinks = Sinks()
    sinks.adopt(config("one"))

    def fail(key: module.UsageSink | str) -> Collecting:
        raise ImportError("no such module")

    monkeypatch.setattr(module, "_writer", fail)
    with pytest.raises(ImportError):
        sinks.adopt(config("two"))
    sinks.put([{"n": 0}])
    sinks.close(sinks.take_all())
    assert [len(written[name].records) for name in ("stdout", "one")] == [1, 1]


def test_counts_stay_when_a_sink_is_replaced_or_closed(written: dict[str, Collecting]) -> None:
    sinks = Sinks()
    sinks.adopt(config("one"))
    sinks.put([{"n": 0}])
    for folder in ("two", "one"):
        sinks.close(sinks.adopt(config(folder)))
        sinks.put([{"n": 1}])
    sinks.close(sinks.take_all())
    assert sinks.counts() == {"stdout": (3, 0), "one": (2, 0), "two": (1, 0)}


def test_the_metrics_have_the_counts_of_all_sinks(written: dict[str, Collecting]) -> None:
    gateway = Gateway()
    gateway.sinks.adopt(config("one"))
    gateway.sinks.put([{"n": 0}])
    gateway.sinks.close(gateway.sinks.take_all())
    said = gateway.metrics.text().decode()
    assert 'aoai_gateway_sink_records_total{sink="one"} 1.0' in said
    assert 'aoai_gateway_sink_dropped_total{sink="one"} 0.0' in said


def test_two_sinks_of_one_name_are_one_in_the_metrics(written: dict[str, Collecting], tmp_path: Path) -> None:
    path = str(tmp_path / "usage.jsonl")
    gateway = Gateway()
    gateway.sinks.adopt(
        config("one").but(usage_log=path, usage_sinks=UsageSinks.model_validate({"jsonl": {"path": path}}))
    )
    gateway.sinks.put([{"n": 0}])
    gateway.sinks.close(gateway.sinks.take_all())
    assert gateway.metrics.text().decode().count("aoai_gateway_sink_records_total{") == 1


def test_what_the_configuration_says_goes_elsewhere() -> None:
    otlp = {"endpoint": "https://c.example/", "key": "collectors", "traces": False, "metrics_seconds": 5}
    table = {"endpoint": "https://x.example/", "rule_id": "dcr-1", "stream": "s"}
    principal = {"tenant_id": "t", "client_id": "c", "client_secret": "principals"}
    assert module.elsewhere(OtlpSink.model_validate(otlp)) == Otlp(
        "https://c.example/", "collectors", traces=False, metrics=True, metrics_seconds=5, service=None
    )
    named = module.elsewhere(OtlpSink.model_validate(otlp | {"service": "aoai-gateway"}))
    assert isinstance(named, Otlp)
    assert named.service == "aoai-gateway", "what is said holds against the environment"
    assert "collectors" not in repr(named)
    found = module.elsewhere(LogAnalyticsSink.model_validate(table | principal))
    assert found == LogAnalytics("https://x.example/", "dcr-1", "s", "t", "c", "principals")
    assert "principals" not in repr(found)
