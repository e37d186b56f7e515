"""The HTTP interface, asked with any input: a wrong one is answered with 400, 404 or 409, and never with a
bug."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mitmproxy.http import HTTPFlow
from tornado.httpclient import HTTPResponse

from aoai_gateway.engine.call import Setup
from aoai_gateway.tokens import Counter
from aoai_gateway.workbench import call_handlers, child, handler, runs
from aoai_gateway.workbench.bench import Bench
from aoai_gateway.workbench.counting import MOST_BYTES, Counting
from tests.workbench.serving import Page, made_setup, serving
from tests.workbench.test_calls import call

NESTED = b'{"a":' * 3000 + b"1" + b"}" * 3000
ANYTHING = [
    b"", b"{", b"[]", b"null", b"7", b'"text"', b"\xff", b"[" * 50_000, b"9" * 5_000, NESTED,
    b'{"a": 1e999}', b'{"a": NaN}', b'{"a": "\\ud800"}',
]  # fmt: skip
"""Bodies that no endpoint expects."""

VALUES = [
    None, True, 7, -1, 1.5, 10**400, 1e308, "text", "", "\ud800", "\x00", [], {}, [[]], [{}],
    {"a": {"a": []}}, ["text"], [None], [7],
]  # fmt: skip
"""What any member may be instead of what is expected of it."""


DEEP = [
    '{"cases": [{"body": {"a": VALUE}}], "a": VALUE}'.replace("VALUE", f"{begin * levels}1{end * levels}")
    for levels in (300, 960, 3000)
    for begin, end in (("[", "]"), ('{"a":', "}"))
]
"""JSON that is nested deeply; some of it can be decoded, and not be gone through."""


CALL = "00000000-0000-0000-0000-000000000000"
ENDPOINTS: list[tuple[str, str, dict[str, Any]]] = [
    ("POST", "/runs", {"operation": "chat.completions", "body": {"messages": []}, "client": "Bot",
                       "by": "Ada", "places": ["gpt-4o"], "count": 1, "variables": {}, "call": CALL}),
    ("POST", "/count", {"operation": "chat.completions", "body": {"messages": []}, "client": "Bot", "by": "",
                        "places": ["gpt-4o", "mini@b"], "variables": {}, "call": CALL}),
    ("POST", "/hold", {"client": "Bot"}),
    ("PUT", f"/calls/{CALL}", {"body": {"messages": []}}),
    ("POST", "/check", {"call": CALL, "expect": [{"contains": "a"}], "client": "Bot", "by": "", "judge": {}}),
    ("PUT", "/sets/a.yaml", {"set": {"cases": []}, "version": ""}),
    ("POST", "/sets/a.yaml/cases", {"case": {"body": {}}}),
    ("POST", f"/calls/{CALL}/release", {}),
    ("DELETE", "/runs/00", {}),
]  # fmt: skip


def known(flow: HTTPFlow | None = None) -> HTTPFlow:
    flow = flow or call("Hello", gateway_client="Bot")
    flow.id = CALL
    return flow


def fine(response: HTTPResponse, said: Any) -> None:
    assert response.code in (200, 400, 404, 409), (response.code, response.body[:200], said)
    found = json.loads(response.body)
    if response.code != 200:
        assert found["error"]["message"], said


@pytest.fixture(scope="module")
def setup() -> Setup:
    return made_setup()


@pytest.fixture(autouse=True)
def no_bug_is_logged(caplog: pytest.LogCaptureFixture) -> Any:
    yield
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


@pytest.fixture(autouse=True)
def nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    async def play(flow: HTTPFlow) -> None:
        flow.metadata["played"] = True

    monkeypatch.setattr(runs, "play", play)


@pytest.fixture
def all_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process for each would take minutes; tests of `child` show that it is the same there."""

    async def here(function: Callable[..., Any], *arguments: Any) -> Any:
        return await child.by_size(0, function, *arguments)

    monkeypatch.setattr(child, "perform", here)


def test_the_gateway_loads_no_encodings_for_what_a_page_shows(setup: Setup, tmp_path: Path) -> None:
    prompt = "Where is order 4711, which a customer was promised for Friday?"
    asked = {"operation": "chat.completions", "body": {"messages": [{"role": "user", "content": prompt}]},
             "variables": {}, "client": "Bot", "by": "", "places": ["gpt-4o"]}  # fmt: skip

    async def shown(page: Page) -> list[int]:
        read = await page.ask("GET", f"/calls/{CALL}")
        counted = await page.ask("POST", "/count", json.dumps(asked).encode())
        found = [*json.loads(read.body)["messages"], *json.loads(counted.body)["counts"]]
        return [each["tokens"] for each in found]

    async def scenario(page: Page) -> None:
        page.bench.calls.response(known(call(prompt)))
        exact = await shown(page)
        counter = Counter()
        page.bench.counting = Counting(counter)
        try:
            assert await shown(page) == exact
        finally:
            await page.bench.counting.done()
        assert not counter.encodings.by_name, "to build them would have calls wait"

    serving(setup, tmp_path, scenario)


def test_what_is_to_be_counted_is_no_larger_than_it_is_counted(setup: Setup, tmp_path: Path) -> None:
    async def scenario(page: Page) -> None:
        large = json.dumps({"body": {"messages": [], "pad": "x" * 1024 * 1024}}).encode()
        assert (await page.ask("POST", "/count", large)).code in (400, 413, 599)

    serving(setup, tmp_path, scenario)


def test_a_prompt_is_counted_for_each_place_before_it_is_sent(setup: Setup, tmp_path: Path) -> None:
    async def count(page: Page, **changes: Any) -> Any:
        body = {"messages": [{"role": "user", "content": "{{greeting}} there"}]}
        asked = {"operation": "chat.completions", "body": body, "variables": {"greeting": "Hello"},
                 "client": "Bot", "by": "", "places": ["gpt-4o", "mini@b"]}  # fmt: skip
        answer = await page.ask("POST", "/count", json.dumps(asked | changes).encode())
        assert answer.code == 200, answer.body
        return json.loads(answer.body)["counts"]

    async def scenario(page: Page) -> None:
        found = await count(page)
        assert [(each["place"], each["cost"]) for each in found] == [("gpt-4o", None), ("mini@b", None)]
        longer = await count(page, variables={"greeting": "Hello " * 100})
        assert longer[0]["tokens"] > found[0]["tokens"] > 3
        assert await count(page, body={"messages": [], "pad": "x" * MOST_BYTES}) == []
        assert await count(page, places=[]) == []

    serving(setup, tmp_path, scenario)


@pytest.mark.parametrize(("method", "path", "whole"), ENDPOINTS, ids=lambda each: str(each)[:24])
def test_a_body_of_any_json_is_answered(
    setup: Setup, tmp_path: Path, method: str, path: str, whole: Any, all_here: None
) -> None:
    async def scenario(page: Page) -> None:
        page.bench.calls.response(known())
        for body in ANYTHING if method != "DELETE" else []:
            fine(await page.ask(method, path, body), body[:50])

    serving(setup, tmp_path, scenario)


@pytest.mark.parametrize(("method", "path", "whole"), ENDPOINTS[:7], ids=lambda each: str(each)[:24])
def test_a_member_of_any_value_is_answered(
    setup: Setup, tmp_path: Path, method: str, path: str, whole: dict[str, Any], all_here: None
) -> None:
    async def scenario(page: Page) -> None:
        page.bench.calls.response(known())
        for key in whole:
            for value in [*map(json.dumps, VALUES), *DEEP]:
                body = json.dumps(whole | {key: "HERE"}).replace('"HERE"', value).encode()
                fine(await page.ask(method, path, body), (key, value[:50]))

    serving(setup, tmp_path, scenario)


@pytest.mark.parametrize(
    "expectation",
    [
        {"regex": "a{99999999999}"}, {"regex": "(" * 3000 + ")" * 3000}, {"regex": "["},
        {"regex": "a" * 20_000}, {"json_schema": {"pattern": "a{99999999999}"}}, {"json_schema": 7},
        {"json_schema": {"$ref": "https://example.invalid/x"}}, {"max_latency_ms": 10**400},
        {"judge": {"rubric": "r", "deployment": 7}}, {"judge": {}}, {"contains": ["a"]}, {}, {"nothing": 1},
    ],
    ids=lambda each: str(each)[:30],
)  # fmt: skip
def test_an_expectation_of_any_shape_is_answered(setup: Setup, tmp_path: Path, expectation: Any) -> None:
    async def scenario(page: Page) -> None:
        page.bench.calls.response(known())
        asked = {"call": CALL, "expect": [expectation], "client": "Bot"}
        response = await page.ask("POST", "/check", json.dumps(asked).encode())
        fine(response, expectation)
        assert response.code in (400, 409) or "json_schema" in expectation

    serving(setup, tmp_path, scenario)


@pytest.mark.parametrize(
    ("body", "large"),
    [*((body, False) for body in ANYTHING), *((body, True) for body in (b"{", b"[" * 50_000, NESTED))],
    ids=lambda each: str(each)[:12],
)
def test_a_call_with_any_body_is_shown(setup: Setup, tmp_path: Path, body: bytes, large: bool) -> None:
    flow = known()
    flow.request.content = body + (b" " * 20_000 if large else b"")
    flow.response.content = flow.request.content  # type: ignore[union-attr]  # it has one

    async def scenario(page: Page) -> None:
        page.bench.calls.response(flow)
        for path in (
            "",
            "/part?pointer=",
            "/part?pointer=/a/0/~2",
            "/code?language=python",
            "/code?language=x",
        ):
            response = await page.ask("GET", f"/calls/{CALL}{path}")
            assert response.code in (200, 400, 404, 409), (path, response.body[:200])
        fine(await page.ask("GET", f"/calls/{CALL}"), body)

    serving(setup, tmp_path, scenario)


@pytest.mark.parametrize(
    "path",
    [
        "/calls/00", "/calls/00/part?pointer=", "/calls/00/code", "/runs/00", "/sets/none.yaml",
        "/sets/%2e%2e", "/sets/%00.yaml", f"/calls/{CALL}/part", "/search", "/search?text=%ff",
        "/sets/%ff.yaml",
    ],
)  # fmt: skip
def test_what_is_not_there_is_told(setup: Setup, tmp_path: Path, path: str) -> None:
    async def scenario(page: Page) -> None:
        page.bench.calls.response(known())
        response = await page.ask("GET", path)
        assert response.code in (400, 404, 409)
        assert json.loads(response.body)["error"]["message"]

    serving(setup, tmp_path, scenario)


def test_no_large_body_is_read_on_the_event_loop(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow, loads = known(call("long " * 200_000, gateway_client="Bot")), json.loads

    def guarded(text: Any, **how: Any) -> Any:
        assert len(text) < 200_000, "a large body is read on the event loop"
        return loads(text, **how)

    async def scenario(page: Page) -> None:
        page.bench.calls.response(flow)
        monkeypatch.setattr(json, "loads", guarded)
        body: dict[str, Any] = {"messages": {"$kept": "/messages"}}
        asked = {"operation": "chat.completions", "body": body, "client": "Bot"}
        asked["places"] = ["mini", "gpt-4o-b@b"]
        large = {**asked, "body": {"messages": [{"role": "user", "content": "new " * 200_000}]}}
        for method, path, sent in (
            ("GET", f"/calls/{CALL}", None),
            ("GET", f"/calls/{CALL}/code", None),
            ("GET", f"/calls/{CALL}/part?pointer=/messages", None),
            ("POST", "/check", {"call": CALL, "expect": [{"contains": "long"}]}),
            ("POST", "/runs", {**asked, "call": CALL}),
            ("POST", "/runs", large),
            ("PUT", "/sets/a.yaml", {"set": {"cases": [{"body": large["body"]}]}}),
            ("POST", "/sets/a.yaml/cases", {"case": {"body": large["body"]}}),
            ("GET", "/sets/a.yaml", None),
        ):
            response = await page.ask(method, path, None if sent is None else json.dumps(sent).encode())
            assert response.code == 200, (path, response.body[:200])
        played = [entry.flow for run in page.bench.runs._runs.values() for entry in run.entries]
        assert [flow.request.path for flow in played] == ["/openai/v1/chat/completions"] * 4
        bodies = [loads(flow.request.content) for flow in played]
        assert [body["model"] for body in bodies] == ["mini", "gpt-4o"] * 2
        assert [len(body["messages"][0]["content"]) for body in bodies] == [1_000_000] * 2 + [800_000] * 2

    serving(setup, tmp_path, scenario)


def test_a_page_that_is_closed_gives_its_seat_back_at_once(setup: Setup, tmp_path: Path) -> None:
    async def scenario(page: Page) -> None:
        host, port = page.url.removeprefix("http://").split(":")
        seats = page.bench.calls.feeds
        pages = []
        for _ in range(call_handlers.MOST_PAGES):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"GET /workbench/api/calls HTTP/1.1\r\nHost: a\r\n\r\n")
            await asyncio.wait_for(reader.readuntil(b"event: ready"), 60)
            pages.append(writer)
        assert len(seats) == len(pages)
        assert (await page.ask("GET", "/calls")).code == 503
        for writer in pages:
            writer.close()
        for _ in range(100):
            if not seats:
                break
            await asyncio.sleep(0.02)
        assert not seats

    serving(setup, tmp_path, scenario)


def test_a_page_that_is_behind_catches_up(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine so slow that each batch has a single row: with a pause after each, it would take 150 s."""
    monkeypatch.setattr(call_handlers, "MOST_SECONDS", 0.0)
    monkeypatch.setattr(call_handlers, "PAUSE", 1.0)

    async def scenario(page: Page) -> None:
        host, port = page.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /workbench/api/calls HTTP/1.1\r\nHost: a\r\n\r\n")
        await asyncio.wait_for(reader.readuntil(b"event: ready"), 20)
        flows = [call(f"Parcel {number}") for number in range(150)]
        for flow in flows:
            page.bench.calls.response(flow)
        waiting = {flow.id.encode() for flow in flows}
        async with asyncio.timeout(60):
            while waiting:
                line = await reader.readuntil(b"\n")
                waiting -= {ident for ident in waiting if ident in line}
        writer.close()

    serving(setup, tmp_path, scenario)


def test_a_page_that_reads_nothing_loses_its_seat(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handler, "PATIENCE", 0.2)
    monkeypatch.setattr(Bench, "row", lambda self, ident: {"pad": "x" * 20_000_000})

    async def scenario(page: Page) -> None:
        page.bench.calls.response(known())
        host, port = page.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
        writer.write(b"GET /workbench/api/calls HTTP/1.1\r\nHost: a\r\n\r\n")
        await asyncio.wait_for(reader.readuntil(b"\r\n"), 60)
        for _ in range(250):
            if not page.bench.calls.feeds:
                break
            await asyncio.sleep(0.02)
        assert not page.bench.calls.feeds
        writer.close()

    serving(setup, tmp_path, scenario)


def test_a_secret_in_an_address_is_not_shown(setup: Setup, tmp_path: Path) -> None:
    flow = known()
    flow.request.path = "/openai/v1/chat/completions?api-key=secret-of-bot&x=1"
    flow.request.headers["referer"] = "https://app.example/?token=a&api-key=secret-of-bot"

    async def scenario(page: Page) -> None:
        page.bench.calls.response(flow)
        shown = (await page.ask("GET", f"/calls/{CALL}")).body.decode()
        assert "secret-of-bot" not in shown
        assert json.loads(shown)["path"] == "/openai/v1/chat/completions?api-key=***&x=1"

    serving(setup, tmp_path, scenario)
