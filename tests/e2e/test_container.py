"""The container's recipe, step by step, without a container: folders of the image are folders of the test."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.deploy.test_wheel import CONFIG
from tests.e2e.processes import CHECKOUT, SCRIPTS, Process, request
from tests.ports import free_port

RECIPE = CHECKOUT / "deploy" / "container" / "Containerfile"


def steps() -> list[tuple[str, str]]:
    """The instructions, with what follows each."""
    text = re.sub(r"^#.*\n", "", RECIPE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in lines)]


def of(name: str) -> list[str]:
    return [rest for each, rest in steps() if each == name]


def test_it_is_slim_without_root_and_installed_from_the_lock_file() -> None:
    assert all("-slim" in each for each in of("FROM"))
    (user,) = of("USER")
    assert int(user.partition(":")[0]) > 0
    assert any("--require-hashes -r /src/requirements.lock" in each for each in of("RUN"))
    assert of("HEALTHCHECK")
    assert of("STOPSIGNAL") == ["SIGTERM"]


def install_quickly(command: list[str]) -> None:
    """Have uv do what pip would take half a minute of the processor's time for; pip finds it done then.

    Where there is no uv, or no network for it, pip does it.
    """
    pip, *words = command
    uv = SCRIPTS / "uv"
    if uv.exists():
        python = Path(pip).with_name("python")
        subprocess.run(
            [uv, "pip", words[0], "--quiet", "--system-certs", "--python", python, *words[1:]],
            check=False,
            timeout=1200,
        )


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image's root: what the first stage copies and runs, in a folder."""
    root = tmp_path_factory.mktemp("image")
    for name, rest in steps()[: [name for name, _ in steps()].index("ENV")]:
        words = [
            word.replace("/src", f"{root}/src").replace("/opt", f"{root}/opt") for word in shlex.split(rest)
        ]
        if name == "COPY" and not rest.startswith("--from"):
            *sources, target = words
            Path(target).mkdir(parents=True, exist_ok=True)
            for source in sources:
                if (CHECKOUT / source).is_dir():
                    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
                    shutil.copytree(CHECKOUT / source, target, dirs_exist_ok=True, ignore=ignored)
                else:
                    shutil.copy(CHECKOUT / source, target)
        elif name == "RUN" and words[0] != "apt-get":
            # Their own packages are downloaded once for all tests on a machine.
            command = [word for word in words if word != "--no-cache-dir"]
            if command[0] == "python":
                command[0] = sys.executable
            if "--require-hashes" in command:
                install_quickly(command)
            done = subprocess.run(command, capture_output=True, text=True, timeout=1200)
            assert done.returncode == 0, done.stderr
    return root


@pytest.fixture
def container(image: Path, tmp_path: Path) -> Iterator[tuple[Process, int]]:
    """Its command, with nothing to write to but one folder."""
    etc, tmp, port = tmp_path / "etc", tmp_path / "tmp", free_port()
    etc.mkdir()
    tmp.mkdir()
    (etc / "gateway.yaml").write_text(yaml.safe_dump(CONFIG))
    words = [word for name in ("ENTRYPOINT", "CMD") for word in json.loads(of(name)[0])]
    words = [word.replace("/etc/aoai-gateway", str(etc)).replace("8080", str(port)) for word in words]
    words[0] = str(image / "opt" / "aoai-gateway" / "bin" / words[0])
    words[words.index("0.0.0.0")] = "127.0.0.1"
    env = {"HOME": str(tmp), "TMPDIR": str(tmp), "PYTHONDONTWRITEBYTECODE": "1"}
    process = Process("container", words, tmp, env=env)
    try:
        process.wait_until(lambda: _is_healthy(image, port), "healthy")
        process.wait_until(lambda: _is_ready(port), "ready")
        yield process, port
    finally:
        process.kill()


def _is_ready(port: int) -> bool:
    return request(f"http://127.0.0.1:{port}/health/ready", seconds=5).status == 200


def _is_healthy(image: Path, port: int) -> bool:
    """Run the health check."""
    (check,) = of("HEALTHCHECK")
    words = json.loads(check[check.index("[") :])
    words = [word.replace("8080", str(port)) for word in words]
    words[0] = str(image / "opt" / "aoai-gateway" / "bin" / words[0])
    env = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return subprocess.run(words, env=env, capture_output=True, timeout=100).returncode == 0


@pytest.mark.timeout(1800)  # it installs all packages
def test_its_command_serves_and_ends(container: tuple[Process, int]) -> None:
    process, port = container
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "say: Hello"}]}
    answer = request(
        f"http://127.0.0.1:{port}/openai/v1/chat/completions",
        "POST",
        headers={"api-key": "key-of-the-tester-1"},
        json_body=body,
    )
    assert answer.status == 200, answer.body
    assert process.stop() == 0, process.log
