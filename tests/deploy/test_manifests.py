"""The files of deploy/ that are no programs: what they refer to is there, and their times fit together."""

from __future__ import annotations

import configparser
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from aoai_gateway.config.loader import load
from aoai_gateway.config.models import Config
from tests.e2e.processes import CHECKOUT
from tests.programs import require

DEPLOY = CHECKOUT / "deploy"
MANIFEST = DEPLOY / "kubernetes" / "gateway.yaml"
KEYS = {
    "AOAI_SWEDEN_KEY": "a-key-of-sweden-1234",
    "TEAM1_KEY": "a-key-of-team-1-1234",
    "ADMIN_TOKEN": "a-token-of-the-page-1234",
}


def manifests() -> dict[str, dict[str, Any]]:
    return {each["kind"]: each for each in yaml.safe_load_all(MANIFEST.read_text())}


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """The configuration in the ConfigMap."""
    file = tmp_path / "gateway.yaml"
    file.write_text(manifests()["ConfigMap"]["data"]["gateway.yaml"])
    loaded = load(file, env=KEYS)
    assert not loaded.warnings
    return loaded.config


def test_labels_select_the_pods() -> None:
    found = manifests()
    labels = found["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert found["Service"]["spec"]["selector"] == labels
    for kind in ("Deployment", "PodDisruptionBudget"):
        assert found[kind]["spec"]["selector"]["matchLabels"] == labels
    target = found["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", found["Deployment"]["metadata"]["name"])


def container() -> tuple[dict[str, Any], dict[str, Any]]:
    """The pod's specification, and that of its container."""
    pod = manifests()["Deployment"]["spec"]["template"]["spec"]
    return pod, pod["containers"][0]


def test_the_ports_and_the_folder_are_those_of_the_configuration(config: Config) -> None:
    pod, gateway = container()
    ports = {port["name"]: port["containerPort"] for port in gateway["ports"]}
    assert ports == {"http": config.listen.port, "admin": config.admin.port}
    for probe in ("readinessProbe", "livenessProbe", "startupProbe"):
        assert gateway[probe]["httpGet"]["port"] in ports
    assert manifests()["Service"]["spec"]["ports"][0]["targetPort"] in ports
    mounts = {mount["mountPath"]: mount["name"] for mount in gateway["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert set(mounts.values()) == set(volumes)
    assert gateway["args"][2] == "/etc/aoai-gateway/gateway.yaml"
    assert volumes[mounts["/etc/aoai-gateway"]]["configMap"]["name"] == "aoai-gateway"


def test_a_pod_has_time_to_leave(config: Config) -> None:
    pod, gateway = container()
    unready = config.drain.unready_seconds
    assert unready is not None
    assert pod["terminationGracePeriodSeconds"] > unready + config.drain_seconds
    probe = gateway["readinessProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] < unready


def test_the_container_is_confined() -> None:
    pod, gateway = container()
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert gateway["securityContext"]["readOnlyRootFilesystem"] is True
    assert gateway["securityContext"]["allowPrivilegeEscalation"] is False


def test_replicas_share_their_state(config: Config) -> None:
    assert config.store is not None


def test_the_unit_gives_time_to_drain() -> None:
    # systemd allows a key several times, and nothing here has one twice.
    unit = configparser.ConfigParser(delimiters="=", interpolation=None, strict=True)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(DEPLOY / "systemd" / "aoai-gateway.service")
    defaults = Config.model_fields["drain_seconds"].default
    assert float(unit["Service"]["TimeoutStopSec"]) > defaults + 5
    assert unit["Service"]["KillMode"] == "mixed"
    assert "--workers auto" in unit["Service"]["ExecStart"]


def test_haproxy_reads_its_file() -> None:
    subprocess.run(
        [require("haproxy"), "-c", "-f", DEPLOY / "haproxy" / "haproxy.cfg"], check=True, timeout=200
    )


def test_nginx_reads_its_file(tmp_path: Path) -> None:
    ours = DEPLOY / "nginx" / "aoai-gateway.conf"
    file = tmp_path / "nginx.conf"
    folders = "".join(
        f"{kind}_temp_path {tmp_path}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    file.write_text(
        f"pid {tmp_path}/pid; error_log {tmp_path}/log; events {{}}\n"
        f"http {{ access_log off; {folders} include {ours}; }}\n"
    )
    subprocess.run([require("nginx"), "-t", "-c", file, "-p", tmp_path], check=True, timeout=200)
