"""What is counted for Prometheus, and that alerts and the dashboard ask for nothing else."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from aoai_gateway.admin.metrics import metrics, render
from aoai_gateway.admin.snapshot import snapshot
from aoai_gateway.config.models import Client
from aoai_gateway.engine.attempt import FailureKind
from aoai_gateway.runtime.gateway import Gateway
from aoai_gateway.usage.counts import MOST_DEPLOYMENTS, OTHER, UTILIZATION_SECONDS
from aoai_gateway.usage.metrics import Metrics
from aoai_gateway.wire.usage import Usage
from tests.engine_driver import Answer, Fail, config, throttled, world
from tests.programs import require

PRIORITIES = [{"name": "critical"}, {"name": "batch"}]

DEPLOY = Path(__file__).parents[2] / "deploy"


class Clock:
    """A gateway's clock that stands."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    time = monotonic


class Samples(dict[tuple[str, frozenset[str]], float]):
    """All samples, by name and the values of its labels in any order."""

    def __getitem__(self, key: tuple[str, tuple[str, ...]]) -> float:
        return super().__getitem__((key[0], frozenset(key[1])))


def samples(gateway: Gateway) -> Samples:
    text = asyncio.run(metrics(gateway)).decode()
    families = list(text_string_to_metric_families(text))
    each = [sample for family in families for sample in family.samples]
    return Samples({(sample.name, frozenset(sample.labels.values())): sample.value for sample in each})


def after(*calls: Any, **parts: Any) -> Samples:
    gateway = Gateway()
    gateway.adopt(config("ptu@a", "b", **parts))
    for call in calls:
        gateway.metrics.finished(call)
    return samples(gateway)


def test_a_call_of_a_kind_that_was_seen_counts_as_the_first_one_did() -> None:
    usage = Usage(input_tokens=9, output_tokens=8, total_tokens=17, cached_tokens=4, cached_audio_tokens=2)
    here = world("ptu@a", "b").script(
        a=[
            Answer(usage=usage),
            throttled(retry_after="3"),
            Fail(FailureKind.CONNECT),
            Answer(400),
            Answer(429),
        ],
        b=Answer(usage=Usage(input_tokens=1, output_tokens=0, total_tokens=1)),
    )
    made = [here.call(stream=stream).call for stream in (False, True, False, True, False, True)]
    made.append(world("a").script(a=throttled(retry_after="3")).call().call)
    made.append(world("a").call(gone_at=0).call)
    remembers, forgets = Metrics(), Metrics()
    for call in (*made, *made, *reversed(made)):
        remembers.finished(call)
        forgets._kinds.clear()
        forgets.finished(call)
    found = counted(remembers)
    assert found == counted(forgets)
    assert sum(value for (name, *_), value in found.items() if name == "aoai_gateway_calls_total") == 24
    assert 0 not in {value for (name, *_), value in found.items() if name.endswith("s_total")}


def counted(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """All samples that calls have brought about, by their names and labels."""
    families = text_string_to_metric_families(metrics.text().decode())
    samples = [sample for family in families for sample in family.samples]
    return {
        (each.name, *each.labels.values()): each.value
        for each in samples
        if each.name.startswith("aoai_gateway_") and not each.name.endswith("_created")
    }


def test_a_name_that_turns_out_to_be_a_deployment_has_a_label_from_then_on() -> None:
    here = world("a").script(a=Answer())
    made, unknown = [here.call().call for _ in range(3)], "made up by a client"
    metrics = Metrics()
    for call, served in zip(made, (False, True, True), strict=True):
        call.deployment, call.served = unknown, served
        metrics.finished(call)
    found = {labels[2]: value for (name, *labels), value in counted(metrics).items() if "calls_total" in name}
    assert found == {OTHER: 1, unknown: 2}


def test_a_replayed_call_is_counted_with_its_attempts_tokens_and_cost() -> None:
    usage = Usage(input_tokens=1000, output_tokens=100, total_tokens=1100, cached_tokens=400)
    prices = {"gpt": {"input": 1, "output": 10}}
    here = world("ptu@a", "b", prices=prices).script(a=throttled(retry_after="3"), b=Answer(usage=usage))
    found = after(here.call().call)
    where = ("anybody", "gpt", "b@b")
    assert found["aoai_gateway_calls_total", (*where, "ok")] == 1
    assert found["aoai_gateway_tokens_total", (*where, "input")] == 1000
    assert found["aoai_gateway_tokens_total", (*where, "cached")] == 400
    assert found["aoai_gateway_cost_total", where] == pytest.approx(0.002)
    assert found["aoai_gateway_attempts_total", ("ptu@a", "429")] == 1
    assert found["aoai_gateway_attempts_total", ("b@b", "ok")] == 1
    assert found["aoai_gateway_failovers_total", ("gpt", "429")] == 1
    assert found["aoai_gateway_breaks_opened_total", ("ptu@a",)] == 1
    assert found["aoai_gateway_overhead_seconds_count", ()] == 1
    assert found["aoai_gateway_call_seconds_count", ("gpt", "false")] == 1


def test_refusals_are_counted_by_quota_and_what_became_of_the_call() -> None:
    client = Client(name="limited", key="key-of-limited", max_requests_per_minute=1)
    here = world("a", clients=(client,))
    found = after(here.call(client=client).call, here.call(client=client).call)
    assert (
        found["aoai_gateway_quota_refusals_total", ("limited", "(total)", "requests_per_minute", "refused")]
        == 1
    )
    assert found["aoai_gateway_calls_total", ("limited", "gpt", "", "rejected")] == 1


def test_calls_without_a_backend_are_counted_by_cause() -> None:
    here = world("a").script(a=throttled(retry_after="30"))
    here.call()
    found = after(here.call().call)
    (labels,) = [labels for name, labels in found if name == "aoai_gateway_sheds_total"]
    assert {"gpt", "all_backends_out"} < labels


def test_names_that_clients_make_up_do_not_become_series_without_end() -> None:
    counted, here = Metrics(), world("a")
    call = here.call().call
    for number in range(3 * MOST_DEPLOYMENTS):
        call.deployment = f"made-up-{number}"
        counted.finished(call)
    (calls,) = [family for family in counted.registry.collect() if family.name == "aoai_gateway_calls"]
    names = {sample.labels["deployment"] for sample in calls.samples}
    assert len(names) == MOST_DEPLOYMENTS + 1


def test_names_of_deployments_that_do_not_exist_take_no_place() -> None:
    counted, here = Metrics(), world("a")
    missing = here.script(a=Answer(status=404)).call().call
    for number in range(3 * MOST_DEPLOYMENTS):
        missing.deployment = f"made-up-{number}"
        counted.finished(missing)
    real = world("a").call().call
    counted.finished(real)
    for spelling in ("Mine", "mine", "MINE"):
        real.deployment = spelling
        counted.finished(real)
    (calls,) = [family for family in counted.registry.collect() if family.name == "aoai_gateway_calls"]
    assert {sample.labels["deployment"] for sample in calls.samples} == {OTHER, "gpt", "Mine"}


def test_how_things_stand_is_told_of_backends_and_pools() -> None:
    gateway = Gateway()
    gateway.adopt(config("ptu@a", "b"))
    found = samples(gateway)
    assert found["aoai_gateway_backend_available", ("ptu@a",)] == 1
    assert found["aoai_gateway_deployment_available_backends", ("gpt",)] == 2
    assert found["aoai_gateway_ready", ()] == 1
    assert found["aoai_gateway_trouble", ("pool_empty",)] == 0


def test_a_line_is_told_by_class_whether_or_not_calls_stand_in_it() -> None:
    gateway = Gateway()
    gateway.adopt(config("a", priorities=PRIORITIES))
    document = asyncio.run(snapshot(gateway))
    (deployment,) = document["deployments"]
    deployment["line"]["classes"] = [{"priority": "batch", "waiting": 3, "longest_wait_seconds": 1.0}]
    text = render(gateway.metrics.registry, document).decode()
    (family,) = (f for f in text_string_to_metric_families(text) if f.name == "aoai_gateway_queue_length")
    assert {(s.labels["deployment"], s.labels["priority"]): s.value for s in family.samples} == {
        ("gpt", "critical"): 0,
        ("gpt", "batch"): 3,
    }


def test_how_full_a_provisioned_backend_says_to_be_is_told_as_long_as_it_is_news() -> None:
    here = world("ptu@a").script(a=Answer(headers={"azure-openai-deployment-utilization": "87.5%"}))
    clock = Clock()
    gateway = Gateway(clock)
    gateway.adopt(config("ptu@a"))
    gateway.metrics.finished(here.call().call)
    name = "aoai_gateway_backend_utilization_ratio"
    assert samples(gateway)[name, ("ptu@a",)] == 0.875
    clock.now += UTILIZATION_SECONDS
    assert (name, frozenset({"ptu@a"})) not in samples(gateway)


def test_the_process_is_told_as_every_exporter_does() -> None:
    found = samples(Gateway())
    assert found["process_resident_memory_bytes", ()] > 1e6
    assert found["process_open_fds", ()] > 0
    assert found["process_cpu_seconds_total", ()] > 0


def test_a_client_that_is_gone_and_a_dropped_connection_are_told_apart() -> None:
    here = world("a", "b").script(a=Fail(FailureKind.DROPPED))
    found = after(here.call().call, here.call(gone_at=0).call)
    assert found["aoai_gateway_attempts_total", ("a@a", "dropped")] == 1
    assert sum(value for (name, labels), value in found.items() if "client_gone" in labels) == 1


# --- alerts and dashboard -------------------------------------------------------------------------------


def known_names() -> set[str]:
    """The names under which Prometheus has our metrics."""
    gateway = Gateway()
    gateway.adopt(config("a"))
    text = asyncio.run(metrics(gateway)).decode()
    names = set()
    for family in text_string_to_metric_families(text):
        names.add(family.name)
        if family.type == "counter":
            names.add(family.name + "_total")
        if family.type == "histogram":
            names |= {family.name + end for end in ("_bucket", "_sum", "_count")}
    return names


def expressions() -> Iterator[str]:
    for group in yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text())["groups"]:
        yield from (rule["expr"] for rule in group["rules"])
    dashboard = json.loads((DEPLOY / "grafana/dashboard.json").read_text())
    for panel in dashboard["panels"]:
        yield from (target["expr"] for target in panel["targets"])
    for variable in dashboard["templating"]["list"]:
        yield variable.get("definition", "")


def test_alerts_and_the_dashboard_name_only_metrics_that_exist() -> None:
    asked = {name for text in expressions() for name in re.findall(r"\baoai_gateway_\w+", text)}
    assert len(asked) > 20
    assert asked <= known_names()


def test_each_alert_says_what_to_do() -> None:
    (group,) = yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text())["groups"]
    for rule in group["rules"]:
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert len(rule["annotations"]["action"]) > 40


def test_prometheus_itself_takes_the_rules_the_configuration_and_the_metrics(tmp_path: Path) -> None:
    promtool = require("promtool")
    for words in (("rules", "alerts.yml"), ("config", "prometheus.yml")):
        done = subprocess.run(
            [promtool, "check", *words],
            cwd=DEPLOY / "prometheus",
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert done.returncode == 0, done.stderr + done.stdout
    gateway = Gateway()
    gateway.adopt(config("a"))
    gateway.metrics.finished(world("a").call().call)
    text = asyncio.run(metrics(gateway))
    done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, timeout=200)
    assert done.returncode == 0, done.stderr + done.stdout


def test_the_dashboards_queries_are_promql(tmp_path: Path) -> None:
    promtool = require("promtool")
    queries = [text for text in expressions() if text and not text.startswith("label_values")]
    rules = [
        {
            "record": f"test:{number}".replace(":", "_"),
            "expr": re.sub(r"\$__rate_interval", "5m", re.sub(r"\$(instance|deployment)", ".*", text)),
        }
        for number, text in enumerate(queries)
    ]
    path = tmp_path / "queries.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = subprocess.run(
        [promtool, "check", "rules", str(path)], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr + done.stdout
