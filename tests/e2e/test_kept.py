"""mitmweb under traffic: its memory stays flat, its list stays whole, and a saved script changes nothing."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from mitmproxy.http import HTTPFlow
from mitmproxy.io import FlowReader
from tornado.httpclient import HTTPRequest
from tornado.websocket import websocket_connect

from tests.e2e.inspector import PASSWORD, Inspector, inspecting
from tests.e2e.processes import WAIT_SECONDS, Simulator
from tests.e2e.settings import CLIENT_KEY

V1 = "/openai/v1/chat/completions"
BOUND = 200
PROMPT = "What a long prompt this is. " * 1000
BODY = json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": PROMPT}]}).encode()


class Page:
    """A page that follows what mitmweb tells, as a browser does."""

    def __init__(self, web: Inspector) -> None:
        self.shown: set[str] = set()
        self.most = 0
        self._url = f"ws://127.0.0.1:{web.web_port}/updates"
        self.connected = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._follow()), daemon=True)
        self._thread.start()
        assert self.connected.wait(WAIT_SECONDS)

    async def _follow(self) -> None:
        asked = HTTPRequest(self._url, headers={"authorization": f"Bearer {PASSWORD}"})
        connection = await websocket_connect(asked)
        self.connected.set()
        while (message := await connection.read_message()) is not None:
            told: dict[str, Any] = json.loads(message)
            if told["type"] == "flows/add":
                self.shown.add(told["payload"]["flow"]["id"])
            elif told["type"] == "flows/remove":
                self.shown.discard(told["payload"])
            self.most = max(self.most, len(self.shown))


def memory(pid: int) -> float:
    """Return a process's resident memory, in MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def call(web: Inspector, times: int) -> None:
    """Make calls on four connections."""

    def some(count: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", web.port, timeout=30)
        for _ in range(count):
            connection.request("POST", V1, BODY, {"api-key": CLIENT_KEY, "content-type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200
        connection.close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(some, [times // 4] * 4))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Iterator[tuple[Inspector, Simulator]]:
    with inspecting(
        tmp_path_factory.mktemp("kept"),
        home,
        options=["--set", f"gateway_keep_flows={BOUND}"],
        breaks={"default_seconds": 1e-6, "floor_seconds": 1e-6, "ceiling_seconds": 1e-6},
    ) as pair:
        yield pair


def kept(web: Inspector) -> list[HTTPFlow]:
    dump = web.api("GET", "/flows/dump").body
    return [flow for flow in FlowReader(BytesIO(dump)).stream() if isinstance(flow, HTTPFlow)]


def test_memory_is_flat(pair: tuple[Inspector, Simulator]) -> None:
    web, simulator = pair
    page = Page(web)
    # Every other call has a failed attempt, which is a flow too.
    simulator.fault("429", deployment="gpt-4o-ptu", times=-1)
    call(web, 20)
    marked = web.flows()[0]["id"]
    web.edit(marked, marked=":grapes:")
    call(web, 400)
    early = memory(web.pid)
    samples = []
    for _ in range(3):
        call(web, 400)
        samples.append(memory(web.pid))
    grown = [f"{sample:.0f}" for sample in samples]
    print(f"{early:.0f} MB after 840 flows; then, every 800: {', '.join(grown)} MB")
    # What came since then is 67 MB of prompts alone.
    assert samples[-1] < 1.25 * early
    flows = kept(web)
    assert len(flows) <= BOUND
    assert marked in {flow.id for flow in flows}
    by_call: dict[object, list[bool]] = {}
    for flow in flows:
        by_call.setdefault(flow.metadata["gateway_call"], []).append("gateway_attempt" in flow.metadata)
    # A call and its failed attempt go together. While one tries the broken backend, others do not.
    assert all(group.count(False) == 1 for group in by_call.values())
    assert any(True in group for group in by_call.values())
    web.wait_until(lambda: page.shown == {flow.id for flow in flows}, "in step with its page")
    # Those under way are never taken out.
    assert page.most <= BOUND + 8
    assert "Removed" not in web.log


def test_the_gateway_is_still_there_when_its_script_was_saved(pair: tuple[Inspector, Simulator]) -> None:
    web, simulator = pair
    simulator.reset()
    loads = web.log.count("Loading script")
    os.utime(web.script, (time.time() + 2, time.time() + 2))
    web.wait_until(lambda: web.log.count("Loading script") > loads, "loading its script again")
    call(web, 4)
    assert len(simulator.requests()) == 4
    assert "Traceback" not in web.log
