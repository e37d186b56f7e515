"""What the workbench of one process holds, apart from how it is asked."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aoai_gateway.inspect.client_replay import places
from aoai_gateway.inspect.said import unread
from aoai_gateway.inspect.views.contentviews import facts_in
from aoai_gateway.inspect.views.facts import Facts
from aoai_gateway.rerun import expectations, judge
from aoai_gateway.rerun.case_set import PATHS
from aoai_gateway.wire.content_coding import readable
from aoai_gateway.workbench import bodies, hold
from aoai_gateway.workbench.calls import kind_of
from aoai_gateway.workbench.checks import Checked, checked
from aoai_gateway.workbench.counting import Counting
from aoai_gateway.workbench.page_requests import EditError
from aoai_gateway.workbench.prompts import body_of
from aoai_gateway.workbench.rows import Rows
from aoai_gateway.workbench.runs import LONGEST_SECONDS, Edited

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mitmproxy.http import HTTPFlow, Message

    from aoai_gateway.config.models import Config
    from aoai_gateway.engine.call import Setup
    from aoai_gateway.runtime.gateway import Gateway
    from aoai_gateway.workbench.calls import Calls
    from aoai_gateway.workbench.case_files import CaseFiles
    from aoai_gateway.workbench.runs import Runs

MOST_FOUND = 10_000
SLICE = 256 * 1024
"""Bytes that are searched at a time: while they are, the interpreter's lock is held."""


@dataclass(frozen=True, slots=True)
class Judging:
    """Who judges on whose account: the client that asks, the user, and the set's own judge."""

    client: str
    run_by: str
    of_set: Mapping[str, Any]


class Bench:
    """The calls, the runs and the sets of a gateway."""

    def __init__(self, gateway: Gateway, calls: Calls, runs: Runs, sets: CaseFiles) -> None:
        self.gateway = gateway
        self.calls = calls
        self.runs = runs
        self.sets = sets
        self.counting = Counting(gateway.counter)
        self._rows = Rows()
        self._searching = asyncio.Semaphore(1)

    @property
    def config(self) -> Config | None:
        """The configuration in force, if there is one."""
        return self.gateway.setup.config if self.gateway.setup is not None else None

    def setup(self) -> dict[str, Any]:
        """Tell the page what there is to choose from."""
        setup, config = self.gateway.setup, self.config
        clients = [] if config is None else [c.name for c in config.clients if not c.uses_entra_id_auth]
        return {
            "places": [] if setup is None else places(setup),
            "deployments": [] if setup is None else list(setup.table.deployments),
            "models": {} if config is None or setup is None else _models(config, setup),
            "serves": {} if setup is None else _serves(setup),
            "clients": clients,
            "operations": list(PATHS),
            "expectations": [*expectations.CHECKS, "judge"],
            "sets": str(self.sets.folder),
            "can_hold": hold.is_possible(),
            "held_client": hold.held(),
            "calls": len(self.calls),
        }

    def row(self, ident: str) -> dict[str, Any] | None:
        """Return the line of a call."""
        flow = self.calls.get(ident)
        return self._rows.row(flow, self.config) if flow is not None else None

    async def search(self, text: str) -> list[str]:
        """Return the ids of calls whose prompt or answer has a text in it, in any case of ASCII letters."""
        async with self._searching:
            return await asyncio.to_thread(_search, list(self.calls), text)

    async def check(
        self, flow: HTTPFlow, expected: Sequence[Mapping[str, Any]], judging: Judging
    ) -> list[dict[str, Any]]:
        """Check a call's answer. Raises ExpectationError, EditError or ChildError."""
        for each in expected:
            expectations.one(each)
        # Before the first judge is asked: each is a call that is paid for.
        judges = [each["judge"] for each in expected if "judge" in each]
        if any(judge.deployment_of(each, judging.of_set) is None for each in judges):
            raise EditError("A judge needs a deployment: in the expectation, or as the set's judge.")
        found = await _checked(flow, expected)
        for result, each in zip(found.results, expected, strict=True):
            if result["passed"] is None:
                await self._judge(result, each["judge"], found, judging)
        return found.results

    async def _judge(
        self, result: dict[str, Any], asked: Mapping[str, Any], found: Checked, judging: Judging
    ) -> None:
        deployment = judge.deployment_of(asked, judging.of_set)
        assert deployment is not None  # as `check` has seen to
        body = body_of(judge.request(asked["rubric"], found.prompt, found.text, deployment), {})
        edited = Edited("chat.completions", body, judging.client, f"judge for {judging.run_by}")
        run = self.runs.start(edited, [deployment], 1, self.gateway.in_force())
        await asyncio.wait(run.tasks, timeout=LONGEST_SECONDS)
        said = await _checked(run.entries[0].flow, ())
        result["call"] = run.ident
        try:
            if said.error:
                raise judge.JudgeError(f"the judge could not be asked: {said.error}")
            result["passed"], result["detail"] = judge.verdict(said.text)
        except judge.JudgeError as error:
            result["passed"], result["detail"] = False, str(error)


async def _checked(flow: HTTPFlow, expected: Sequence[Mapping[str, Any]]) -> Checked:
    response, noted, facts = flow.response, flow.metadata, None
    if response is not None and response.raw_content is not None:
        seen = facts_in(flow, response)
        facts = Facts(seen.operation, seen.deployment, seen.status, seen.content_type)
    known = {
        "error": unread(flow).text if response is None else "",
        "input_tokens": noted.get("gateway_tokens_in"),
        "output_tokens": noted.get("gateway_tokens_out"),
        "total_ms": noted.get("gateway_duration_ms"),
        "first_ms": noted.get("gateway_first_content_ms"),
    }
    read = bodies.read_elsewhere if expectations.needs_time(expected) else bodies.read
    found = await read(checked, (flow.request, response), list(expected), known, facts)
    assert isinstance(found, Checked)
    return found


def _models(config: Config, setup: Setup) -> dict[str, str]:
    named = ((name, config.model_of(name)) for name in setup.table.deployments)
    return {name: model for name, model in named if model}


def _serves(setup: Setup) -> dict[str, str]:
    """Return the first virtual deployment that each backend serves."""
    found: dict[str, str] = {}
    for deployment in setup.table.deployments:
        for backend in setup.table.pool(deployment) or ():
            found.setdefault(backend.name, deployment)
    return found


def _search(flows: Sequence[HTTPFlow], text: str) -> list[str]:
    """Look for a text in bodies, as it is and as JSON writes it."""
    forms = {text, json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]}
    wanted = [form.encode(errors="replace").lower() for form in forms]
    found: list[str] = []
    for flow in flows:
        if len(found) >= MOST_FOUND or not kind_of(flow.request.method, flow.request.path)[0]:
            continue
        if any(_has(message, wanted) for message in (flow.request, flow.response)):
            found.append(flow.id)
    return found


def _has(message: Message | None, wanted: Sequence[bytes]) -> bool:
    if message is None or not message.raw_content:
        return False
    body = readable(message.raw_content, message.headers.get("content-encoding"))
    overlap = max(map(len, wanted))
    for start in range(0, len(body), SLICE):
        piece = body[start : start + SLICE + overlap].lower()
        if any(form in piece for form in wanted):
            return True
        time.sleep(0)  # other threads may go on: the event loop's calls do not wait for a search
    return False
