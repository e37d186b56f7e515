"""The last minutes of traffic, counted with a clock by hand."""

from __future__ import annotations

import pytest

from aoai_gateway.config.models import Client
from aoai_gateway.engine.call import Outcome
from aoai_gateway.usage.traffic import BUCKET_SECONDS, BUCKETS, MINUTES, Ring, Traffic, quantile
from aoai_gateway.wire.usage import Usage
from tests.engine_driver import NO_CONNECTION, Answer, throttled, world

USAGE = Usage(input_tokens=10, output_tokens=5, total_tokens=15)


def test_a_call_counts_where_it_ended() -> None:
    traffic = Traffic()
    traffic.finished(world("a").script(a=Answer(usage=USAGE)).call().call, 1000.0)
    report = traffic.report(1000.0 + BUCKET_SECONDS)
    assert report["answers"][-2:] == [1, 0]
    assert report["calls"] == report["answers"]
    assert (report["tokens_in"][-2], report["tokens_out"][-2]) == (10, 5)
    assert sum(report["refused"]) == sum(report["errors"]) == sum(report["gone"]) == 0
    assert all(len(report[key]) == BUCKETS for key in ("calls", "p50_ms", "waiting", "in_flight"))


def test_what_is_older_than_the_ring_is_forgotten() -> None:
    traffic = Traffic()
    traffic.finished(world("a").call().call, 1000.0)
    span = BUCKET_SECONDS * BUCKETS
    assert sum(traffic.report(1000.0 + span - BUCKET_SECONDS)["calls"]) == 1
    assert sum(traffic.report(1000.0 + span)["calls"]) == 0
    # ... and so it is where its place in the ring is taken again.
    traffic.finished(world("a").call().call, 1000.0 + span)
    assert sum(traffic.report(1000.0 + span)["calls"]) == 1


def test_each_end_has_its_own_count() -> None:
    traffic = Traffic()
    refused = world("a").script(a=throttled(retry_after="3")).call().call
    assert refused.status == 429
    failed = world("a").script(a=Answer(500)).call().call
    gone = world("a").call().call
    gone.outcome, gone.status = Outcome.CLIENT_GONE, 429
    for call in (refused, failed, gone):
        traffic.finished(call, 0.0)
    report = traffic.report(0.0)
    assert [report[key][-1] for key in ("answers", "refused", "errors", "gone", "calls")] == [0, 1, 1, 1, 3]


def test_failed_attempts_by_kind_and_backend() -> None:
    traffic = Traffic()
    trace = world("a", "b", "c").script(a=throttled(retry_after="1"), b=NO_CONNECTION).call()
    traffic.finished(trace.call, 0.0)
    report = traffic.report(0.0)
    assert {kind: each[-1] for kind, each in report["failed_attempts"].items()} == {"429": 1, "connect": 1}
    assert report["replayed"][-1] == 1
    found = {
        name: (sum(each["attempts"]), sum(each["failed"])) for name, each in traffic.backends(0.0).items()
    }
    assert found == {"a@a": (1, 1), "b@b": (1, 1), "c@c": (1, 0)}


def test_clients_by_the_minute() -> None:
    traffic = Traffic()
    for now in (0.0, 59.0, 60.0):
        here = world("a").script(a=Answer(usage=USAGE))
        traffic.finished(here.call(client=Client(name="Team", key="k")).call, now)
    (found,) = traffic.clients(60.0).values()
    assert found["calls"] == [0] * (MINUTES - 2) + [2, 1]
    assert found["tokens"][-2:] == [30, 15]
    assert sum(found["refused"]) == 0


def test_the_most_that_were_under_way() -> None:
    traffic = Traffic()
    for in_flight, waiting in ((3, 0), (7, 2), (1, 1)):
        traffic.seen(in_flight=in_flight, waiting=waiting, now=5.0)
    report = traffic.report(5.0)
    assert (report["in_flight"][-1], report["waiting"][-1]) == (7, 2)


def test_latencies_are_kept_to_a_tenth() -> None:
    traffic = Traffic()
    for takes in (0.1,) * 19 + (8.0,):
        call = world("a").call().call
        call.ended = call.started + takes
        traffic.finished(call, 0.0)
    report = traffic.report(0.0)
    assert report["p50_ms"][-1] == pytest.approx(100, rel=0.1)
    assert report["p95_ms"][-1] == pytest.approx(100, rel=0.1)
    traffic.finished(call, 0.0)
    assert traffic.report(0.0)["p95_ms"][-1] == pytest.approx(8000, rel=0.1)
    assert report["p50_ms"][0] is None


def test_a_quantile_of_nothing() -> None:
    assert quantile({}, 0.5) is None


def test_how_much_of_the_last_bucket_has_passed() -> None:
    assert Traffic().report(BUCKET_SECONDS * 7 + 2.5)["age_seconds"] == 2.5


def test_a_ring_of_any_length() -> None:
    ring: Ring[list[int]] = Ring(2.0, 3, list)
    for now in (0.0, 1.9, 2.0, 7.0):
        ring.at(now).append(int(now))
    assert ring.spans(7.0) == [[2], None, [7]]
    assert ring.spans(13.0) == [None, None, None]
