"""A workbench that listens, without a gateway around it: what it shows is put there by tests."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from mitmproxy.addons.intercept import Intercept
from mitmproxy.test import taddons
from tornado import netutil, web
from tornado.httpclient import AsyncHTTPClient, HTTPResponse
from tornado.httpserver import HTTPServer

from aoai_gateway.admin.guard import Refusal
from aoai_gateway.config.models import Config
from aoai_gateway.engine.call import Setup
from aoai_gateway.routing.backends import RoutingTable
from aoai_gateway.tokens import Counter
from aoai_gateway.workbench.bench import Bench
from aoai_gateway.workbench.calls import Calls
from aoai_gateway.workbench.case_files import CaseFiles
from aoai_gateway.workbench.handlers import rules
from aoai_gateway.workbench.runs import Runs
from tests.encodings import encodings


def made_setup() -> Setup:
    """Two endpoints with the deployments ``gpt-4o`` and ``mini``, and the client ``Bot``."""

    def endpoint(name: str, *virtual: str) -> dict[str, Any]:
        pools = [{"name": each, "standins": [{"name": f"{each}-{name}"}]} for each in virtual]
        url = f"https://{name}.example"
        return {"name": name, "url": url, "key": "key-of-endpoint", "virtual_deployments": pools}

    document = {
        "aoai": {"endpoints": [endpoint("a", "gpt-4o", "mini"), endpoint("b", "gpt-4o")]},
        "clients": [{"name": "Bot", "key": "key-of-bot-123"}],
    }
    config = Config.model_validate(document)
    return Setup(config, RoutingTable(config))


class Everyone:
    """Lets all requests pass."""

    def may_see(self, _: web.RequestHandler) -> Refusal | None:
        return None

    def may_change(self, _: web.RequestHandler) -> Refusal | None:
        return None

    def name_of(self, _: web.RequestHandler) -> str:
        return ""


class FakeGateway:
    """As much of a gateway as the workbench asks."""

    config_file = None

    def __init__(self, setup: Setup) -> None:
        # So that no process has to load them for each test.
        self.setup, self.counter = setup, Counter(encodings())

    def in_force(self) -> Setup:
        return self.setup


class Page:
    """What a page asks of a workbench."""

    def __init__(self, bench: Bench, url: str) -> None:
        self.bench, self.url, self.loop = bench, url, asyncio.get_running_loop()

    async def ask(self, method: str, path: str, body: bytes | None = None) -> HTTPResponse:
        client = AsyncHTTPClient()
        sent = body if body is not None else (b"{}" if method in ("POST", "PUT") else None)
        return await client.fetch(
            f"{self.url}/workbench/api{path}", method=method, body=sent, raise_error=False, request_timeout=60
        )


def serving(setup: Setup, folder: Path, scenario: Callable[[Page], Awaitable[None]]) -> None:
    """Run a scenario with a workbench that listens."""

    async def run() -> None:
        with taddons.context(Intercept()):
            bench = Bench(FakeGateway(setup), Calls(), Runs(lambda _: None), CaseFiles(lambda: folder))  # type: ignore[arg-type]
            (listening,) = netutil.bind_sockets(0, "127.0.0.1")
            server = HTTPServer(web.Application(list(rules(bench, Everyone())), log_function=lambda _: None))
            server.add_socket(listening)
            try:
                await scenario(Page(bench, f"http://127.0.0.1:{listening.getsockname()[1]}"))
            finally:
                server.stop()
                await bench.counting.done()
                await server.close_all_connections()

    asyncio.run(run())
