"""Tokens that a page shows, counted as the model counts them: in the gateway's process, or in one beside it.

Where quotas need the encodings, the gateway has them from its start. Else a process beside it loads them: to
build them holds the interpreter's lock for a fifth of a second, and no call goes on meanwhile. It is started
when a page asks for the first number, and ended when no page has asked for a while.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import pickle
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aoai_gateway.child_process import command_of
from aoai_gateway.runtime.body_reader import BodyProcess
from aoai_gateway.runtime.body_worker import Bug
from aoai_gateway.workbench.shape import whole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aoai_gateway.config.models import Config
    from aoai_gateway.tokens import Count, Counter


logger = logging.getLogger(__name__)

SECONDS = 30.0
"""The time in which a job has its turn and is done. The first one waits for the encodings as well."""

IDLE_SECONDS = 300.0
"""Without a job, after which the process ends; it takes some 130 MB."""

REST_SECONDS = 60.0
"""After a failure, in which tokens are estimated and nothing is tried again."""

MOST_BYTES = 256 * 1024
"""The most bytes of a body that is counted while it is edited: that is to take no longer than a pause of its
edits."""

_COMMAND = command_of("aoai_gateway.workbench.count_worker")


@dataclass(frozen=True, slots=True)
class CountPrompt:
    """Count a prompt as each of the base models does; None: it is not known."""

    operation: str
    models: tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class CountMessages:
    """Count each message of a prompt, of many only the first ``at_most``."""

    operation: str
    model: str | None
    at_most: int


type CountJob = CountPrompt | CountMessages


@dataclass(frozen=True, slots=True)
class Counted:
    """The tokens of each model or message, and what is wrong with the rank files."""

    counts: Sequence[Count]
    problems: tuple[str, ...] = ()


def count(counter: Counter, job: CountJob, body: bytes) -> Counted:
    """Do a job with a body, which is JSON; nothing is counted of one that is nested too deeply."""
    try:
        decoded = whole(body)
        match job:
            case CountPrompt():
                counts = [counter.count_request(job.operation, decoded, model) for model in job.models]
            case CountMessages():
                counts = counter.count_messages(job.operation, decoded, job.model, at_most=job.at_most)
    except RecursionError:
        counts = []
    return Counted(counts, counter.encodings.problems)


class Counting:
    """Counts for pages. A mitmproxy addon, so that it hears of the end.

    ``counter``: the gateway's; ``folder``: of rank files, if it is not the one that tiktoken knows.
    """

    name = "gatewaycounting"

    def __init__(
        self,
        counter: Counter,
        folder: str | None = None,
        *,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        self._counter = counter
        folder = os.environ.get("TIKTOKEN_CACHE_DIR", "") if folder is None else folder
        self._process = BodyProcess((*_COMMAND, folder))
        self._turn = asyncio.Lock()
        self._idle_seconds = idle_seconds
        self._idle: asyncio.TimerHandle | None = None
        self._ending: asyncio.Future[None] | None = None
        self._rests_until = -math.inf
        self._told: set[str] = set()

    async def count(self, job: CountJob, body: bytes) -> Sequence[Count]:
        """Count a body, which is JSON; exactly, if that is possible. Of one nested too deeply, nothing."""
        loop = asyncio.get_running_loop()
        if not self._counter.encodings.by_name and loop.time() >= self._rests_until:
            try:
                async with asyncio.timeout(SECONDS), self._turn:
                    return await self._count_elsewhere(job, body)
            except (OSError, EOFError) as error:  # a TimeoutError is an OSError
                self._rests_until = loop.time() + REST_SECONDS
                self._tell(f"The process that counts tokens for the workbench failed ({error!r})")
        return (await asyncio.to_thread(count, self._counter, job, body)).counts

    async def done(self) -> None:
        """End the process."""
        self._rests_until = math.inf
        if self._idle is not None:
            self._idle.cancel()
        await self._process.close()

    async def _count_elsewhere(self, job: CountJob, body: bytes) -> Sequence[Count]:
        if self._idle is not None:
            self._idle.cancel()
        try:
            found: Counted | Bug = pickle.loads(await self._process.ask(job, body))  # noqa: S301 - our worker's
        finally:
            self._idle = asyncio.get_running_loop().call_later(self._idle_seconds, self._end_soon)
        if isinstance(found, Bug):
            raise RuntimeError(f"in the process that counts tokens: {found.where}")
        for problem in found.problems:
            self._tell(problem)
        return found.counts

    def _end_soon(self) -> None:
        self._ending = asyncio.ensure_future(self._end())

    async def _end(self) -> None:
        async with self._turn:
            await self._process.close()

    def _tell(self, problem: str) -> None:
        """Log what is wrong: once, however often a page asks."""
        if problem not in self._told:
            self._told.add(problem)
            logger.warning("%s", problem)


async def counts(
    counting: Counting, config: Config | None, operation: str, body: bytes, places: Sequence[str]
) -> list[dict[str, Any]]:
    """Return the ``tokens`` and the ``cost`` of a prompt for each place; nothing of a large one.

    ``exact``: whether the tokens are counted as the model counts them. ``cost`` is in the currency of
    ``prices``, and None where the deployment has no price.
    """
    deployments = {place: place.partition("@")[0] for place in places}
    if len(body) > MOST_BYTES or not deployments:
        return []
    models = tuple(config.model_of(each) if config is not None else None for each in deployments.values())
    found = await counting.count(CountPrompt(operation, models), body)
    told = []
    for (place, deployment), made in zip(deployments.items(), found, strict=False):  # none if nested deeply
        price = config.price_of(deployment) if config is not None else None
        cost = price.cost(made.tokens, 0, 0) if price is not None else None
        told.append({"place": place, "tokens": made.tokens, "exact": made.exact, "cost": cost})
    return told
