"""What goes to OpenTelemetry, as a collector reads it: by opentelemetry-proto's own classes."""

from __future__ import annotations

import gzip
import os
import threading
from datetime import UTC, datetime
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    AGGREGATION_TEMPORALITY_CUMULATIVE,
    AGGREGATION_TEMPORALITY_DELTA,
    Metric,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from aoai_gateway.usage import otlp_messages
from aoai_gateway.usage.otlp import OtlpWriter
from aoai_gateway.usage.otlp_http import TIMEOUT_SECONDS, Collector
from aoai_gateway.usage.otlp_messages import Measures, describe
from aoai_gateway.usage.sink import SinkError
from aoai_gateway.usage.writer_process import Otlp
from tests.usage.receiver import Receiver
from tests.usage.records import attempt, record

OTLP = Otlp(endpoint="http://localhost:4318")
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Sent:
    """What a writer would have sent."""

    def __init__(self) -> None:
        self.bodies: dict[str, list[bytes]] = {"traces": [], "metrics": []}

    def __call__(self, signal: str, body: bytes) -> None:
        self.bodies[signal].append(body)

    @property
    def spans(self) -> list[Span]:
        found = [ExportTraceServiceRequest.FromString(body) for body in self.bodies["traces"]]
        return [
            span
            for request in found
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    @property
    def metrics(self) -> dict[str, Metric]:
        """Those of the last export, by name."""
        request = ExportMetricsServiceRequest.FromString(self.bodies["metrics"][-1])
        (resource,) = request.resource_metrics
        (scope,) = resource.scope_metrics
        return {metric.name: metric for metric in scope.metrics}


@pytest.fixture(autouse=True)
def _environment_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)


def says(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


def sent(*records: dict[str, Any], settings: Otlp = OTLP) -> Sent:
    """Return what is sent of these, until the writer is closed."""
    found = Sent()
    writer = OtlpWriter(settings, send=found)
    writer.write(records)
    writer.close()
    return found


def plain(value: AnyValue) -> Any:
    if value.WhichOneof("value") == "array_value":
        return [plain(each) for each in value.array_value.values]
    return getattr(value, value.WhichOneof("value"))


def attributes(about: Any) -> dict[str, Any]:
    found = {each.key: plain(each.value) for each in about.attributes}
    assert len(found) == len(about.attributes), "each has a name of its own"
    return found


def two_attempts(**values: Any) -> dict[str, Any]:
    first = attempt(status=429, failure="status", reason="429", answered_ms=50.0, duration_ms=50.0)
    second = attempt("gpt-4o@france", started_ms=60.0, first_token_ms=200.0, duration_ms=900.0)
    return record(attempts=[first, second], duration_ms=960.0, streaming=True, first_token_ms=260.0, **values)


def test_a_call_is_a_span_and_each_attempt_one_within_it() -> None:
    first, second, call = sent(two_attempts(traceparent=f"00-{TRACE}-{PARENT}-01")).spans
    assert {span.trace_id.hex() for span in (first, second, call)} == {TRACE}
    assert call.parent_span_id.hex() == PARENT
    assert first.parent_span_id == second.parent_span_id == call.span_id
    assert len({span.span_id for span in (first, second, call)}) == 3
    begun = round(datetime(2026, 11, 28, 10, tzinfo=UTC).timestamp()) * 10**9
    assert (call.start_time_unix_nano - begun, call.end_time_unix_nano - begun) == (0, 960_000_000)
    assert second.start_time_unix_nano - begun == 60_000_000
    assert second.end_time_unix_nano - begun == 960_000_000
    assert [(event.name, event.time_unix_nano - begun) for event in second.events] == [
        ("first token", 260_000_000)
    ]
    assert (call.name, first.name) == ("chat gpt-4o", "attempt 1: gpt-4o-ptu@sweden")
    assert (call.kind, first.kind) == (Span.SPAN_KIND_SERVER, Span.SPAN_KIND_CLIENT)
    assert (attributes(first)["error.type"], first.status.code) == ("429", Status.STATUS_CODE_ERROR)
    assert first.status.message == "429"
    assert call.status.code == second.status.code == Status.STATUS_CODE_UNSET
    assert [span.flags for span in (call, first)] == [0x300, 0x100], "only the call's parent is elsewhere"
    said = attributes(call)
    assert said["gen_ai.provider.name"] == "azure.ai.openai"
    assert said["gen_ai.operation.name"] == "chat"
    assert said["gen_ai.request.model"] == "gpt-4o"
    assert said["gen_ai.usage.input_tokens"] == 100
    assert said["gen_ai.request.stream"] is True
    assert said["gen_ai.response.finish_reasons"] == ["stop"]
    assert said["gen_ai.response.time_to_first_chunk"] == 0.26
    assert said["aoai_gateway.call"] == "call-1"


def test_a_call_that_is_like_another_has_its_own_figures() -> None:
    """Attributes that are kept are those of calls of the same kind, and of no other."""
    calls = [
        record(call="a", input_tokens=1, cost=0.5, attempts=[]),
        record(call="b", input_tokens=2, status=500, attempts=[]),
        record(call="c", input_tokens=1, streaming=True, attempts=[]),
    ]
    a, b, c = map(attributes, sent(*calls).spans)
    assert [each["aoai_gateway.call"] for each in (a, b, c)] == ["a", "b", "c"]
    assert [each["gen_ai.usage.input_tokens"] for each in (a, b, c)] == [1, 2, 1]
    assert [each["gen_ai.request.stream"] for each in (a, b, c)] == [False, False, True]
    assert [each.get("error.type") for each in (a, b, c)] == [None, "500", None]
    assert [each.get("aoai_gateway.cost") for each in (a, b, c)] == [0.5, None, None]


def test_all_of_a_large_batch_is_sent_at_once() -> None:
    found = sent(*(record(call=f"call-{number}") for number in range(150)))
    assert len(found.bodies["traces"]) == 1
    of_calls = [span for span in found.spans if span.kind == Span.SPAN_KIND_SERVER]
    calls = [attributes(span)["aoai_gateway.call"] for span in of_calls]
    assert calls == [f"call-{number}" for number in range(150)]


@pytest.mark.parametrize(
    "value",
    ["", "x", "Büro", "y" * 100_000, 0, 128, 2**63 - 1, -1, -(2**63), True, False, 0.25, ("a", 1), ()],
)
def test_attributes_are_what_they_were(value: Any) -> None:
    span = Span()
    describe(span, {"gen_ai.name": value})
    (found,) = Span.FromString(span.SerializeToString()).attributes
    assert found.key == "gen_ai.name"
    assert plain(found.value) == (list(value) if isinstance(value, tuple) else value)
    assert type(plain(found.value)) is (list if isinstance(value, tuple) else type(value))


def test_half_of_a_surrogate_pair_stops_no_export() -> None:
    broken = attempt("x\ud800", failure="status", reason="y\ud800")
    (first, call) = sent(record(model="a\ud800b", deployment="ü\ud800", attempts=[broken])).spans
    assert attributes(call)["gen_ai.response.model"] == "a?b"
    assert (first.name, first.status.message, call.name) == ("attempt 1: x?", "y?", "chat ü?")


def test_what_the_client_does_not_sample_is_not_exported() -> None:
    found = sent(record(traceparent=f"00-{TRACE}-{PARENT}-00"))
    assert found.spans == []
    assert found.metrics, "it is counted all the same"


@pytest.mark.parametrize(
    "said",
    [
        None,
        "nonsense",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-01-more",
        f"00-{TRACE.upper()}-{PARENT}-01",
    ],
)
def test_without_a_usable_traceparent_a_trace_begins_here(said: str | None) -> None:
    attempt_span, call = sent(record(traceparent=said)).spans
    assert not call.parent_span_id
    assert call.trace_id == attempt_span.trace_id
    assert len(call.trace_id) == 16
    assert call.trace_id.hex() != TRACE


def test_a_later_version_of_traceparent_is_read_as_far_as_it_is_known() -> None:
    *_, call = sent(record(traceparent=f"01-{TRACE}-{PARENT}-01-more")).spans
    assert call.trace_id.hex() == TRACE


@pytest.mark.parametrize(
    ("sampler", "argument", "here", "of_a_client"),
    [
        ("parentbased_always_on", "", True, True),
        ("always_off", "", False, False),
        ("parentbased_always_off", "", False, True),
        ("parentbased_traceidratio", "0", False, True),
        ("traceidratio", "0", False, False),
        ("traceidratio", "1", True, True),
        ("traceidratio", "much", True, True),
        ("jaeger_remote", "", True, True),
    ],
)
def test_the_sampler_is_the_environments(
    monkeypatch: pytest.MonkeyPatch, sampler: str, argument: str, here: bool, of_a_client: bool
) -> None:
    says(monkeypatch, {"OTEL_TRACES_SAMPLER": sampler, "OTEL_TRACES_SAMPLER_ARG": argument})
    assert bool(sent(record()).spans) is here
    client = record(traceparent=f"00-{TRACE}-{PARENT}-01")
    assert bool(sent(client).spans) is of_a_client


def test_a_share_of_traces_is_chosen_by_their_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    says(monkeypatch, {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.25"})
    traces = [f"{'1' * 16}{number:02x}{'0' * 14}" for number in range(256)]
    spans = sent(*(record(traceparent=f"00-{trace}-{PARENT}-01", attempts=[]) for trace in traces)).spans
    assert [span.trace_id.hex() for span in spans] == traces[:64]


def test_requests_that_became_no_call_have_no_span() -> None:
    assert sent(record(call=None, attempts=[])).spans == []


# --- metrics --------------------------------------------------------------------------------------------


def test_the_metrics_are_those_of_the_conventions() -> None:
    refused = record(outcome="rejected", status=429, error="quota_exceeded", attempts=[])
    found = sent(two_attempts(), refused | {"input_tokens": None, "output_tokens": None}).metrics
    tokens = found["gen_ai.client.token.usage"]
    points = tokens.histogram.data_points
    assert tokens.unit == "{token}"
    assert {attributes(p)["gen_ai.token.type"]: p.sum for p in points} == {"input": 100, "output": 20}
    durations = found["gen_ai.client.operation.duration"]
    assert (durations.unit, durations.histogram.aggregation_temporality) == (
        "s",
        AGGREGATION_TEMPORALITY_CUMULATIVE,
    )
    by_error = {attributes(p).get("error.type", ""): p for p in durations.histogram.data_points}
    assert sorted(by_error) == ["", "quota_exceeded"]
    assert by_error[""].sum == pytest.approx(0.96)
    (first,) = found["gen_ai.client.operation.time_to_first_chunk"].histogram.data_points
    assert (first.sum, first.min, first.max, first.count) == (pytest.approx(0.26),) * 3 + (1,)


def test_a_value_is_in_the_bucket_whose_bound_it_does_not_exceed() -> None:
    calls = [record(input_tokens=tokens, output_tokens=None) for tokens in (0, 1, 2, 4, 5, 10**9)]
    (point,) = sent(*calls).metrics["gen_ai.client.token.usage"].histogram.data_points
    assert list(point.explicit_bounds)[:3] == [1, 4, 16]
    assert list(point.bucket_counts) == [2, 2, 1, *[0] * 11, 1]
    assert point.count == sum(point.bucket_counts) == 6
    assert (point.min, point.max, point.sum) == (0, 10**9, 10**9 + 12)
    assert point.start_time_unix_nano <= point.time_unix_nano


def test_names_of_deployments_that_clients_make_up_are_no_attributes() -> None:
    missing = [record(deployment=f"made-up-{number}", status=404) for number in range(10)]
    found = sent(*missing, record(deployment="real"), record(deployment="real", status=500)).metrics
    names = {
        attributes(point)["gen_ai.request.model"]
        for metric in found.values()
        for point in metric.histogram.data_points
    }
    assert names == {"(other)", "real"}


def test_series_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otlp_messages, "MEASURED_KINDS", 3)
    found = sent(*(record(model=f"model-{number}") for number in range(10))).metrics
    points = found["gen_ai.client.operation.duration"].histogram.data_points
    assert len(points) == 4
    (rest,) = (point for point in points if "otel.metric.overflow" in attributes(point))
    assert (attributes(rest), rest.count) == ({"otel.metric.overflow": True}, 7)


def resource(found: Sent) -> dict[str, Any]:
    (about,) = ExportTraceServiceRequest.FromString(found.bodies["traces"][0]).resource_spans
    (same,) = ExportMetricsServiceRequest.FromString(found.bodies["metrics"][0]).resource_metrics
    assert about.resource == same.resource
    assert about.scope_spans[0].scope.name == same.scope_metrics[0].scope.name == "aoai_gateway"
    return attributes(about.resource)


def test_each_process_is_an_instance_and_says_what_its_environment_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    says(monkeypatch, {"OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test%20bed, team = a,,=x"})
    said, other = (resource(sent(record())) for _ in range(2))
    assert said["service.name"] == "aoai-gateway"
    assert said["telemetry.sdk.language"] == "python"
    assert (said["deployment.environment.name"], said["team"]) == ("test bed", "a")
    assert said["service.instance.id"] != other["service.instance.id"]
    says(monkeypatch, {"OTEL_RESOURCE_ATTRIBUTES": "service.instance.id=pod-1"})
    assert resource(sent(record()))["service.instance.id"] == "pod-1"


def test_the_configuration_names_the_service_or_else_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    says(monkeypatch, {"OTEL_SERVICE_NAME": "of-environment"})
    assert resource(sent(record()))["service.name"] == "of-environment"
    named = Otlp(endpoint="http://localhost:4318", service="of-file")
    assert resource(sent(record(), settings=named))["service.name"] == "of-file"


@pytest.mark.parametrize(
    ("preference", "temporality"),
    [
        ("", AGGREGATION_TEMPORALITY_CUMULATIVE),
        ("cumulative", AGGREGATION_TEMPORALITY_CUMULATIVE),
        ("Delta", AGGREGATION_TEMPORALITY_DELTA),
        ("lowmemory", AGGREGATION_TEMPORALITY_DELTA),
    ],
)
def test_the_environment_prefers_sums_or_differences(
    monkeypatch: pytest.MonkeyPatch, preference: str, temporality: int
) -> None:
    says(monkeypatch, {"OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": preference})
    found = sent(record()).metrics.values()
    assert {metric.histogram.aggregation_temporality for metric in found} == {temporality}


@pytest.mark.parametrize(
    ("delta", "expected"), [(False, [(1, 2, 2), (1, 3, 3)]), (True, [(1, 2, 2), (2, 3, 1)])]
)
def test_points_are_since_the_start_or_since_the_last_ones(
    delta: bool, expected: list[tuple[int, int, int]]
) -> None:
    measures = Measures(1, delta=delta)
    points = []
    for now, calls in ((2, 2), (3, 1)):
        measures.add([record()] * calls)
        (point,) = measures.take(now)[0].histogram.data_points
        points.append((point.start_time_unix_nano, point.time_unix_nano, point.count))
    assert points == expected
    assert bool(measures.take(4)) is not delta


# --- the way to the collector ---------------------------------------------------------------------------


class Time:
    """A clock that moves by sleeping."""

    def __init__(self) -> None:
        self.now, self.slept = 0.0, list[float]()

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept.append(seconds)


def collector(url: str, time: Time) -> Collector:
    return Collector(url, "traces", {"authorization": "Bearer own"}, sleep=time.sleep, clock=time)


def test_a_collector_gets_what_the_environment_asks_for(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    collector(receiver.url, Time()).send(b"spans")
    environment = {
        "OTEL_EXPORTER_OTLP_HEADERS": "x-team=a%20b,authorization=Bearer other,x-all=1",
        "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "x-team=traces",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
    }
    says(monkeypatch, environment)
    collector(f"{receiver.url}/", Time()).send(b"spans" * 100)
    (_, other, plain_body), (path, said, body) = receiver.got
    assert path == "/v1/traces"
    assert (said["x-team"], said["authorization"]) == ("traces", "Bearer own")
    assert "x-all" not in said, "one variable replaces the other, as the specification has it"
    assert said["content-type"] == other["content-type"] == "application/x-protobuf"
    assert (said["content-encoding"], gzip.decompress(body)) == ("gzip", b"spans" * 100)
    assert ("content-encoding" in other, plain_body) == (False, b"spans")


def test_what_a_collector_cannot_take_now_is_sent_again(receiver: Receiver) -> None:
    receiver.answers = [(503, {}), (429, {"retry-after": "3"}), (502, {})]
    time = Time()
    collector(receiver.url, time).send(b"spans")
    assert [body for _, _, body in receiver.got] == [b"spans"] * 4
    assert time.slept == [1.0, 3.0, 4.0], "the collector's own word counts once"


@pytest.mark.parametrize("status", [400, 401, 404, 301, 500])
def test_what_a_collector_refuses_is_not_sent_again(receiver: Receiver, status: int) -> None:
    receiver.answers = [(status, {"location": f"{receiver.url}/elsewhere"})]
    with pytest.raises(SinkError, match=f"^the collector did not take the traces: {status}$"):
        collector(receiver.url, Time()).send(b"spans")
    assert len(receiver.got) == 1


def test_a_collector_that_is_away_is_given_up_in_time(receiver: Receiver) -> None:
    receiver.answers = [(503, {})] * 20
    time = Time()
    with pytest.raises(SinkError):
        collector(receiver.url, time).send(b"spans")
    assert time.now < TIMEOUT_SECONDS
    receiver.answers = [(503, {"retry-after": "60"})]
    with pytest.raises(SinkError):
        collector(receiver.url, time).send(b"spans")
    assert time.now < TIMEOUT_SECONDS
    gone = Receiver()
    gone.server_close()
    with pytest.raises(SinkError, match=r"did not take the traces: ConnectionError$"):
        collector(gone.url, time).send(b"spans")


def test_a_pause_that_took_too_long_is_no_error_of_its_own(receiver: Receiver) -> None:
    receiver.answers = [(503, {"retry-after": "9"}), (503, {})]
    time = Time()

    def oversleep(seconds: float) -> None:
        time.sleep(seconds + 2)

    late = Collector(receiver.url, "metrics", {}, sleep=oversleep, clock=time)
    with pytest.raises(SinkError, match=r"^the collector did not take the metrics: 503$"):
        late.send(b"metrics")
    assert len(receiver.got) == 2


@pytest.mark.parametrize(
    ("variable", "value", "error"),
    [
        ("CERTIFICATE", "/nowhere/ca.pem", "OSError"),
        ("CLIENT_CERTIFICATE", "/nowhere/own.pem", "OSError"),
        ("HEADERS", "x-team=%E2%82%AC", "UnicodeEncodeError"),
    ],
)
def test_what_the_environment_names_wrongly_is_a_loss_with_a_reason(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, error: str
) -> None:
    """An exception of another kind would end the thread that exports metrics."""
    says(monkeypatch, {f"OTEL_EXPORTER_OTLP_{variable}": value})
    url = receiver.url if variable == "HEADERS" else receiver.url.replace("http:", "https:")
    with pytest.raises(SinkError, match=rf"^the collector did not take the traces: {error}$"):
        collector(url, Time()).send(b"spans")
    assert receiver.got == []


@pytest.mark.parametrize(
    ("said", "seconds"), [("5000", 5), ("10", 1), ("600000", 30), ("", 10), ("5s", 10), ("-1", 10)]
)
def test_the_time_for_an_export_is_the_environments_within_bounds(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, said: str, seconds: int
) -> None:
    says(monkeypatch, {"OTEL_EXPORTER_OTLP_TIMEOUT": said})
    receiver.answers = [(503, {"retry-after": str(seconds - 1)}), (503, {"retry-after": "1"})]
    time = Time()
    with pytest.raises(SinkError):
        collector(receiver.url, time).send(b"spans")
    assert time.slept == ([seconds - 1.0])


def test_a_header_that_cannot_be_read_is_told_without_its_value(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    says(monkeypatch, {"OTEL_EXPORTER_OTLP_HEADERS": 'x-team=a,authorization=Bearer "secret"'})
    collector(receiver.url, Time()).send(b"spans")
    ((_, headers, _),) = receiver.got
    assert headers["x-team"] == "a"
    assert [each.levelname for each in caplog.records] == ["WARNING"]
    assert "OTEL_EXPORTER_OTLP_HEADERS" in caplog.text
    assert "secret" not in caplog.text


def test_a_batch_without_spans_tells_nothing_of_the_collector() -> None:
    writer = OtlpWriter(OTLP, send=Sent())
    assert writer.write([record(call=None, attempts=[])]) is None
    assert writer.write([record(traceparent=f"00-{TRACE}-{PARENT}-00")]) is None
    writer.close()


def test_metrics_that_the_collector_does_not_take_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    tries, refuses = threading.Semaphore(0), threading.Event()
    refuses.set()

    def send(signal: str, body: bytes) -> None:
        tries.release()
        if refuses.is_set():
            raise SinkError("the collector did not take the metrics: 401")

    settings = Otlp(endpoint="http://localhost:4318", traces=False)
    writer = OtlpWriter(settings, send=send, metrics_seconds=0.01)
    assert writer.trouble() == ""
    writer.write([record()])
    for _ in range(3):
        assert tries.acquire(timeout=60)
    assert writer.trouble() == "the collector did not take the metrics: 401"
    refuses.clear()
    for _ in range(2):
        assert tries.acquire(timeout=60)
    writer.close()
    assert writer.trouble() == ""
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]


def test_spans_that_the_collector_does_not_take_are_a_loss() -> None:
    def refuse(signal: str, body: bytes) -> None:
        raise SinkError("the collector did not take them")

    writer = OtlpWriter(OTLP, send=refuse)
    with pytest.raises(SinkError, match="did not take"):
        writer.write([record()])
    writer.close()
