"""Each alert in Prometheus' own rule tester: figures with which it fires, and with which it does not."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from tests.programs import require

RULES = Path(__file__).parents[2] / "deploy" / "prometheus" / "alerts.yml"

MINUTES = 30
"""The minutes after which an alert fires or not."""


class Scene(NamedTuple):
    """What a metric was, minute by minute, as promtool writes it, while an alert is to fire and while not."""

    series: str
    firing: str
    quiet: str


SCENES = {
    "GatewayDown": Scene('up{job="aoai-gateway",instance="a"}', "0x60", "1x60"),
    "DeploymentHasNoBackend": Scene(
        'aoai_gateway_deployment_available_backends{deployment="gpt"}', "0x60", "1x60"
    ),
    "DeploymentFails": Scene('aoai_gateway_trouble{kind="failing",instance="a"}', "1x60", "1x20 0x40"),
    "BackendOut": Scene('aoai_gateway_backend_available{backend="a"}', "0x60", "0x20 1x40"),
    "ManyCallsRefused": Scene(
        'aoai_gateway_calls_total{deployment="gpt",outcome="backends_out"}', "0+10x60", "0x60"
    ),
    "QueueStands": Scene('aoai_gateway_longest_wait_seconds{deployment="gpt"}', "31x60", "29x60"),
    "QuotaNearlyUsed": Scene(
        'aoai_gateway_quota_used_ratio{client="a",deployment="gpt",quota="tokens_per_month"}',
        "0.95x60",
        "0.5x60",
    ),
    "UsageRecordsLost": Scene('aoai_gateway_sink_dropped_total{sink="x"}', "0x28 5x40", "5x60"),
    "SharedStateLost": Scene('aoai_gateway_shared_state_lost{instance="a"}', "1x60", "0x60"),
    "ExpiresSoon": Scene('aoai_gateway_expiry_seconds{name="key"}', "86400x60", "8640000x60"),
    "ConfigurationNotLoaded": Scene('aoai_gateway_trouble{kind="configuration"}', "1x60", "0x60"),
    "EventLoopLags": Scene(
        'aoai_gateway_loop_lag_seconds_bucket{instance="a",le="0.25"}', "0x60", "0+120x60"
    ),
    "GatewayIsSlow": Scene('aoai_gateway_overhead_seconds_bucket{instance="a",le="0.1"}', "0x60", "0+120x60"),
    # The first one of a client makes the series, which is not there before.
    "GatewayBug": Scene('aoai_gateway_calls_total{client="a",outcome="bug"}', "_x28 1x40", "1x60"),
}

BESIDE = {
    'aoai_gateway_calls_total{deployment="gpt",outcome="ok"}': "0+90x60",
    'aoai_gateway_loop_lag_seconds_bucket{instance="a",le="1"}': "0+120x60",
    'aoai_gateway_loop_lag_seconds_bucket{instance="a",le="+Inf"}': "0+120x60",
    'aoai_gateway_overhead_seconds_bucket{instance="a",le="1"}': "0+120x60",
    'aoai_gateway_overhead_seconds_bucket{instance="a",le="+Inf"}': "0+120x60",
}
"""Series of a gateway to which nothing happens."""

ALSO = (
    (
        "QuotaNearlyUsed",
        Scene(
            'aoai_gateway_quota_used_ratio{client="a",deployment="(total)",quota="cost_per_month"}',
            "0.95x60",
            "0.5x60",
        ),
    ),
    ("GatewayBug", Scene('aoai_gateway_calls_total{client="a",outcome="bug"}', "1x28 2x40", "2x60")),
    (
        "GatewayBug",
        Scene('aoai_gateway_early_answers_total{status="500",error="internal_error"}', "_x28 1x40", "1x60"),
    ),
)
"""Second scenes."""


def rules() -> dict[str, Any]:
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    return {rule["alert"]: rule for rule in group["rules"]}


def test_there_is_a_scene_for_each_alert() -> None:
    assert set(SCENES) == set(rules())


@pytest.mark.parametrize(("alert", "scene"), [*SCENES.items(), *ALSO])
def test_an_alert_fires_when_it_should_and_not_otherwise(alert: str, scene: Scene, tmp_path: Path) -> None:
    look(alert, {scene.series: scene.firing}, 1, tmp_path)
    look(alert, {scene.series: scene.quiet}, 0, tmp_path)


def look(alert: str, series: dict[str, str], fires: int, folder: Path) -> None:
    """Check how many times an alert fires."""
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in (BESIDE | series).items()],
        "promql_expr_test": [
            {
                "expr": f'count(ALERTS{{alertname="{alert}",alertstate="firing"}}) or vector(0)',
                "eval_time": f"{MINUTES}m",
                "exp_samples": [{"value": fires, "labels": "{}"}],
            }
        ],
    }
    path = folder / "test.yml"
    path.write_text(
        yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": [test]})
    )
    words = [require("promtool"), "test", "rules", str(path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
