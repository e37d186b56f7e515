"""The handlers that run prompts, check answers, and keep sets of cases."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tornado import iostream

from aoai_gateway.workbench import bodies, child, page_requests
from aoai_gateway.workbench.bench import Judging
from aoai_gateway.workbench.counting import MOST_BYTES, counts
from aoai_gateway.workbench.handler import LARGEST_BODY, PAUSE, QUIET, Events, Handler
from aoai_gateway.workbench.page_requests import NotFoundError
from aoai_gateway.workbench.prompts import asked_for, ready
from aoai_gateway.workbench.runs import MOST, Edited
from aoai_gateway.workbench.shape import as_json

if TYPE_CHECKING:
    from mitmproxy.http import HTTPFlow

    from aoai_gateway.workbench.prompts import Asked, Body
    from aoai_gateway.workbench.runs import Run

LARGEST_COUNTED = 4 * MOST_BYTES
"""Bytes of a request to count: the page writes a body in another way, and adds the values of variables."""


class PromptHandler(Handler):
    """Something that is to be done with an edited prompt."""

    largest = LARGEST_BODY

    async def prompt(self) -> tuple[Asked, HTTPFlow | None, Body]:
        """Return what is asked, the call that it was made of, and the prompt, filled in from that."""
        asked = await child.by_size(len(self.body), asked_for, self.body)
        origin = self.flow(asked.call) if asked.call else None
        request = origin.request if origin is not None else None
        return asked, origin, await bodies.read(ready, (request,), asked.body, asked.variables)


class CountHandler(PromptHandler):
    """What a prompt takes, before it is sent."""

    largest = LARGEST_COUNTED

    async def post(self) -> None:
        """Count it for each of the places."""
        asked, _, body = await self.prompt()
        bench, places = self.bench, asked.places[:MOST]
        found = await counts(bench.counting, bench.config, asked.operation, body.rest, places)
        self.answer({"counts": found})


class StartRunHandler(PromptHandler):
    """Runs of an edited prompt."""

    async def post(self) -> None:
        """Start one."""
        asked, origin, body = await self.prompt()
        by = self.access.name_of(self) or asked.by
        edited = Edited(asked.operation, body, asked.client, by, origin)
        setup = self.bench.gateway.in_force()
        run = self.bench.runs.start(edited, asked.places, asked.count, setup)
        self.answer({"run": run.ident, "entries": [entry.told(0) for entry in run.entries]})


class RunHandler(Events):
    """A run as it goes on."""

    async def get(self, ident: str) -> None:
        """Send what is new, until all of its calls have ended."""
        run = self.bench.runs.get(ident)
        if run is None:
            raise NotFoundError("The run is no longer known.")
        self.begin()
        run.followers.add(self.news)
        try:
            await self._follow(run)
        except iostream.StreamClosedError:
            pass
        finally:
            run.followers.discard(self.news)

    async def _follow(self, run: Run) -> None:
        known = [0] * len(run.entries)
        while not self.news.closed:
            self.news.heard()
            is_over = run.is_over
            told = [entry.told(since) for entry, since in zip(run.entries, known, strict=True)]
            known = [len(entry.text) for entry in run.entries]
            await self.send("entries", told)
            if is_over:
                return
            if await self.news.wait(QUIET):
                await asyncio.sleep(PAUSE / 2)

    def delete(self, ident: str) -> None:
        """End what of it is still under way."""
        run = self.bench.runs.get(ident)
        if run is not None:
            run.cancel()
        self.answer({"done": "The run was ended."})


class CheckHandler(Handler):
    """Whether an answer meets its expectations."""

    async def post(self) -> None:
        """Check a call."""
        asked = self.asked()
        expected = page_requests.objects(asked, "expect")
        judge = page_requests.member(asked, "judge") if asked.get("judge") is not None else {}
        by = self.access.name_of(self) or page_requests.text(asked, "by")
        judging = Judging(page_requests.text(asked, "client"), by, judge)
        flow = self.flow(page_requests.text(asked, "call"))
        self.answer({"results": await self.bench.check(flow, expected, judging)})


class SetsHandler(Handler):
    """The sets in the folder."""

    async def get(self) -> None:
        """List them."""
        names = await self.bench.sets.names()
        self.answer({"folder": str(self.bench.sets.folder), "names": names})


class SetHandler(Handler):
    """One set."""

    largest = LARGEST_BODY

    async def get(self, name: str) -> None:
        """Send it, and its version."""
        found, version = await self.bench.sets.read(name)
        self.set_header("Content-Type", "application/json")
        self.finish(b'{"set":' + found + b',"version":' + as_json(version) + b"}")

    async def put(self, name: str) -> None:
        """Save it."""
        version = await self.bench.sets.write(name, self.body)
        self.answer({"done": f"Saved as {name}.", "version": version})


class CasesHandler(Handler):
    """The cases of one set."""

    largest = LARGEST_BODY

    async def post(self, name: str) -> None:
        """Add one."""
        version = await self.bench.sets.append(name, self.body)
        self.answer({"done": f"Saved in {name}.", "version": version})
