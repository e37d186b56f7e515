"""The wheel alone: built, unpacked, and run from an empty folder, with nothing of the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.e2e.processes import CHECKOUT, Process, request
from tests.ports import free_port

CONFIG = {
    "admin": {"enabled": False},
    "aoai": {
        "endpoints": [
            {
                "name": "sweden",
                "simulated": {"deployments": {"gpt-4o": {"model": "gpt-4o", "first_token_seconds": 0}}},
                "virtual_deployments": [{"name": "gpt-4o", "standins": [{"name": "gpt-4o"}]}],
            }
        ]
    },
    "clients": [{"name": "Tester", "key": "key-of-the-tester-1", "max_tokens_per_minute": 10_000}],
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, made of what git would hand out."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (source / name).write_bytes((CHECKOUT / name).read_bytes())
    for file in sorted((CHECKOUT / "addons").rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts and "egg-info" not in str(file):
            copy = source / file.relative_to(CHECKOUT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
    build = f"from setuptools.build_meta import build_wheel; build_wheel({str(folder)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True, timeout=200)
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that it was unpacked into."""
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def environment(installed: Path) -> dict[str, str]:
    return {"PYTHONPATH": str(installed), "HOME": str(installed), "PYTHONDONTWRITEBYTECODE": "1"}


def test_every_file_of_the_packages_is_in_it(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        there = set(archive.namelist())
    wanted = {
        str(file.relative_to(CHECKOUT / "addons"))
        for package in ("aoai_gateway", "aoai_simulator")
        for file in (CHECKOUT / "addons" / package).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert wanted - there == set()
    assert not any(name.startswith(("tests", "gateway.py")) for name in there)


def test_it_says_what_it_needs(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (each for each in archive.namelist() if each.endswith(".dist-info/METADATA"))
        metadata = archive.read(name).decode()
    assert "Requires-Dist: mitmproxy<12.4,>=12.2" in metadata
    assert "License-File: LICENSE" in metadata


@pytest.fixture
def gateway(installed: Path, tmp_path: Path) -> Iterator[tuple[Process, str]]:
    (tmp_path / "gateway.yaml").write_text(yaml.safe_dump(CONFIG))
    port = free_port()
    words = ["serve", "--config", "gateway.yaml", "--port", str(port)]
    command = [sys.executable, "-P", "-m", "aoai_gateway.app.cli", *words]
    process = Process("gateway", command, tmp_path, env=environment(installed))
    url = f"http://127.0.0.1:{port}"
    try:
        process.wait_until(lambda: _is_ready(url), "ready")
        yield process, url
    finally:
        process.kill()


def _is_ready(url: str) -> bool:
    try:
        return request(f"{url}/health/ready", seconds=5).status == 200
    except OSError:
        return False


def test_it_serves(gateway: tuple[Process, str], installed: Path) -> None:
    process, url = gateway
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "say: Hello"}]}
    headers = {"api-key": "key-of-the-tester-1"}
    answer = request(f"{url}/openai/v1/chat/completions", "POST", headers=headers, json_body=body)
    assert answer.status == 200, answer.body
    assert answer.json()["choices"][0]["message"]["content"] == "Hello"
    maps = Path(f"/proc/{process.pid}/environ").read_bytes()
    assert str(installed).encode() in maps
    assert process.stop() == 0


@pytest.mark.parametrize(
    ("module", "words", "said"),
    [
        ("aoai_gateway.app.cli", ["--version"], "aoai-gateway 0.2.0"),
        ("aoai_gateway.app.cli", ["--help"], "usage: aoai-gateway"),
        ("aoai_simulator", ["--help"], "usage"),
    ],
)
def test_its_commands_run(installed: Path, tmp_path: Path, module: str, words: list[str], said: str) -> None:
    look = f"import {module.partition('.')[0]} as m; print(m.__file__)"
    env = {**os.environ, **environment(installed)}
    found = subprocess.run(
        [sys.executable, "-P", "-c", look], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=200
    )
    assert found.stdout.startswith(str(installed)), "it is the wheel that runs"
    done = subprocess.run(
        [sys.executable, "-P", "-m", module, *words],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert said in done.stdout


def test_check_reads_a_configuration(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "gateway.yaml").write_text(json.dumps({**CONFIG, "listen": {"port": 0}}))
    done = subprocess.run(
        [sys.executable, "-P", "-m", "aoai_gateway.app.cli", "check", "gateway.yaml"],
        cwd=tmp_path,
        env={**os.environ, **environment(installed)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
