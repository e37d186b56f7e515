"""The handlers that run prompts, check answers, and keep sets of cases."""

from __future__ import annotations

import asyncio

from tornado import iostream

from aoai_gateway.workbench.bench import Judging
from aoai_gateway.workbench.edits import Edited
from aoai_gateway.workbench.handler import (
    PAUSE,
    QUIET,
    BadRequestError,
    Events,
    Handler,
    NotFoundError,
    member,
)


class StartRunHandler(Handler):
    """Runs of an edited prompt."""

    def post(self) -> None:
        """Start one."""
        asked = self.asked()
        origin = self.flow(str(asked["call"])) if asked.get("call") else None
        variables = asked.get("variables") or {}
        edited = Edited(
            operation=str(asked.get("operation", "")),
            body=member(asked, "body"),
            client=str(asked.get("client", "")),
            run_by=self.access.name_of(self) or str(asked.get("by", "")),
            origin=origin,
            variables={str(k): str(v) for k, v in variables.items()} if isinstance(variables, dict) else {},
        )
        places = asked.get("places")
        count = asked.get("count", 1)
        if not isinstance(places, list) or not isinstance(count, int) or isinstance(count, bool):
            raise BadRequestError('"places" must be a list, and "count" a number.')
        setup = self.bench.gateway.in_force()
        run = self.bench.runs.start(edited, [str(place) for place in places], count, setup)
        self.answer({"run": run.ident, "entries": [entry.told(0) for entry in run.entries]})


class RunHandler(Events):
    """A run as it goes on."""

    async def get(self, ident: str) -> None:
        """Send what is new, until all of its calls have ended."""
        run = self.bench.runs.get(ident)
        if run is None:
            raise NotFoundError("The run is no longer known.")
        self.begin()
        known = [0] * len(run.entries)
        try:
            while True:
                run.changed.clear()
                is_over = run.is_over
                told = [entry.told(since) for entry, since in zip(run.entries, known, strict=True)]
                known = [len(entry.text) for entry in run.entries]
                await self.send("entries", told)
                if is_over:
                    return
                try:
                    await asyncio.wait_for(run.changed.wait(), QUIET)
                except TimeoutError:
                    continue
                await asyncio.sleep(PAUSE / 2)
        except iostream.StreamClosedError:
            pass

    def delete(self, ident: str) -> None:
        """End what of it is still under way."""
        run = self.bench.runs.get(ident)
        if run is not None:
            run.cancel()
        self.answer({"done": "The run was ended."})


class CheckHandler(Handler):
    """Whether an answer keeps to what is expected of it."""

    async def post(self) -> None:
        """Check a call."""
        asked = self.asked()
        expected = asked.get("expect")
        if not isinstance(expected, list) or not all(isinstance(each, dict) for each in expected):
            raise BadRequestError('"expect" must be a list of objects.')
        judge = asked.get("judge")
        judging = Judging(
            str(asked.get("client", "")),
            self.access.name_of(self) or str(asked.get("by", "")),
            judge if isinstance(judge, dict) else {},
        )
        flow = self.flow(str(asked.get("call", "")))
        self.answer({"results": await self.bench.check(flow, expected, judging)})


class SetsHandler(Handler):
    """The sets in the folder."""

    async def get(self) -> None:
        """List them."""
        names = await asyncio.to_thread(self.bench.sets.names)
        self.answer({"folder": str(self.bench.sets.folder), "names": names})


class SetHandler(Handler):
    """One set."""

    async def get(self, name: str) -> None:
        """Give it."""
        self.answer({"set": await asyncio.to_thread(self.bench.sets.read, name)})

    async def put(self, name: str) -> None:
        """Save it."""
        await asyncio.to_thread(self.bench.sets.write, name, member(self.asked(), "set"))
        self.answer({"done": f"Saved as {name}."})
