"""What every test shares: no proxy of the machine's own before loopback, and the order of the suite."""

from __future__ import annotations

import os

import pytest

for _name in ("http_proxy", "https_proxy", "all_proxy"):
    os.environ.pop(_name, None)
    os.environ.pop(_name.upper(), None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what starts real processes, and run it last: a broken unit says more, and says it sooner."""
    for item in items:
        if "e2e" in item.path.parts:
            item.add_marker(pytest.mark.e2e)
    items.sort(key=lambda item: item.get_closest_marker("e2e") is not None)


@pytest.fixture(scope="session")
def in_ci() -> bool:
    """Whether something missing on this machine is a failure rather than a skip."""
    return os.environ.get("CI", "").lower() not in ("", "0", "false")
