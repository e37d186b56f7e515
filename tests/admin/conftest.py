"""A gateway without a proxy around it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from aoai_gateway.config.models import Config
from aoai_gateway.runtime.gateway import Gateway


@pytest.fixture
def gateway_with() -> Callable[[Config], Gateway]:
    """Return a function that gives a gateway in which a configuration is in force."""

    def make(config: Config) -> Gateway:
        gateway = Gateway()
        gateway.adopt(config)
        return gateway

    return make
