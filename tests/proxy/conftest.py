"""A client's connection before two plain backends, for tests of answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.test import taddons

from tests.engine_driver import config
from tests.proxy.layer_driver import Connection, await_it, connect, over_plain_http


@pytest.fixture
def made() -> Iterator[Callable[..., Connection]]:
    with taddons.context(Proxyserver()) as tctx:

        def make(**parts: Any) -> Connection:
            here = connect(over_plain_http(config("a", "b", **parts)), tctx.options)
            here.on_hook = await_it
            return here

        yield make


@pytest.fixture
def here(made: Callable[..., Connection]) -> Connection:
    return made()
