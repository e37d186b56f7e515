"""A gateway before a simulator, and client programs that other projects wrote."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import home
from tests.e2e.processes import Gateway
from tests.e2e.settings import POOLS, SPEC
from tests.e2e.shared import running
from tests.npm import install
from tests.programs import in_ci, require

__all__ = ["home"]

ROOT = Path(__file__).parents[2]
NODE_FOLDER = Path(__file__).parent / "node"

CLAUDE = "claude-sonnet-5"
SONNET = {"model": CLAUDE, "first_token_seconds": 0, "tokens_per_second": 0}
WITH_CLAUDE = {
    "sweden": {**SPEC["sweden"], "deployments": {**SPEC["sweden"]["deployments"], "sonnet": SONNET}},
    "france": SPEC["france"],
}
CLAUDES_POOLS = {**POOLS, "sweden": {**POOLS["sweden"], CLAUDE: ["sonnet"]}}


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("clients")
    with running("serve", folder, home, spec=WITH_CLAUDE, pools=CLAUDES_POOLS) as pair:
        yield pair.gateway


@pytest.fixture(scope="session")
def clients_python() -> str:
    """The Python of an environment of their own: they bring half of PyPI."""
    path = Path(os.environ.get("AOAI_GATEWAY_CLIENTS", ROOT / ".venv-clients")) / "bin" / "python"
    if not path.exists():
        reason = f"there is no {path}; CONTRIBUTING.md says how to make it"
        if in_ci():
            pytest.fail(reason)
        pytest.skip(reason)
    return str(path)


@pytest.fixture(scope="session")
def node() -> str:
    """The program; the packages are installed when they are not there yet."""
    program = require("node")
    install(NODE_FOLDER, "ai")
    return program
