"""The gateway's side of the worker: one process, one body at a time, in the order in which they came."""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import sys
from asyncio.subprocess import PIPE, Process
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from aoai_gateway.runtime.body_jobs import FRAME, Bug, Parse, ReadPrompt
from aoai_gateway.tokens.models import family_of
from aoai_gateway.tokens.prompt import Prompt
from aoai_gateway.wire import errors
from aoai_gateway.wire.bodies import LARGE_BODY, decode_body, parse_body
from aoai_gateway.wire.errors import GatewayError
from aoai_gateway.wire.request_body import RequestBody

if TYPE_CHECKING:
    from collections.abc import Callable

    from aoai_gateway.runtime.body_jobs import Job
    from aoai_gateway.wire.targets import Target

logger = logging.getLogger(__name__)

COMMAND = (sys.executable, "-P", "-m", "aoai_gateway.runtime.body_worker")

PATIENCE_SECONDS = 60.0
"""For a body to have its turn and be read. 100 MB made to be slow take about ten."""

END_SECONDS = 5.0
"""For a killed worker to be gone."""

CHUNK = 256 * 1024
"""Bytes that are handed to the pipe at a time, or all of a body would be copied at once."""

_NEEDED = ("SYSTEMROOT", "LANG", "LC_ALL")
"""Of the gateway's environment; the rest may hold keys."""


class BodyReader:
    """Reads bodies in a worker process. Start and end of that are its own affair.

    Both methods raise `GatewayError`: the fault in the body, or 503 if it could not be read.
    """

    def __init__(self, *, command: tuple[str, ...] = COMMAND, patience: float = PATIENCE_SECONDS) -> None:
        self._command = command
        self._patience = patience
        self._process: Process | None = None
        self._turn = asyncio.Lock()
        self._ending: set[asyncio.Future[tuple[bytes, bytes]]] = set()

    async def parse(
        self,
        target: Target,
        content_type: str | None,
        raw: bytes,
        wanted: Callable[[], bool] = lambda: True,
        *,
        coding: str | None = None,
        most: int = 0,
    ) -> RequestBody:
        """Decode and check a body, as `parse_body` does; of a large one only short, flat members are kept.

        ``coding``: its content coding, which is undone first, to ``most`` bytes. ``wanted`` is asked when it
        is its turn: a client that has hung up must not keep others waiting.
        """
        text = raw if coding is None else await asyncio.to_thread(decode_body, raw, coding, most)
        if len(text) <= LARGE_BODY and coding is not None:
            found = parse_body(target, content_type, text)
        else:
            found = _loaded(await self._ask(Parse(target, content_type), text, wanted))
            assert isinstance(found, RequestBody)
        return replace(found, raw=text, coded=None if coding is None else raw)

    async def read_prompt(self, target: Target, model: str | None, raw: bytes) -> Callable[[], Prompt]:
        """Find the prompt in a body. Returns a function that unpacks it, in some milliseconds at most."""
        packed = await self._ask(ReadPrompt(target, model), raw)

        def unpack() -> Prompt:
            prompt = _loaded(packed)
            assert isinstance(prompt, Prompt)
            prompt.family = family_of(model)  # families are compared by identity
            return prompt

        return unpack

    async def close(self) -> None:
        """End the worker, and its job."""
        self._drop()
        if self._ending:
            await asyncio.wait(self._ending, timeout=END_SECONDS)

    async def _ask(self, job: Job, raw: bytes, wanted: Callable[[], bool] = lambda: True) -> bytes:
        try:
            async with asyncio.timeout(self._patience), self._turn:
                if not wanted():
                    raise errors.unavailable("The client has hung up.")
                try:
                    return await self._received(job, raw)
                except (OSError, EOFError):
                    # It may have died since the last body; that is not this one's fault.
                    return await self._received(job, raw)
        except TimeoutError:
            raise errors.unavailable("The gateway has too many large requests to read.") from None
        except (OSError, EOFError) as error:
            # An OSError's text is the system's, or names the command.
            logger.error("The process that reads large requests failed: %s", error or type(error).__name__)
            raise errors.unavailable("The request could not be read.") from None

    async def _received(self, job: Job, raw: bytes) -> bytes:
        try:
            process = await self._running()
            requests, answers = process.stdin, process.stdout
            assert requests is not None and answers is not None
            packed = pickle.dumps(job)
            requests.write(FRAME.pack(len(packed), len(raw)) + packed)
            view = memoryview(raw)
            for start in range(0, len(raw), CHUNK):
                requests.write(view[start : start + CHUNK])
                await requests.drain()
            size, _ = FRAME.unpack(await answers.readexactly(FRAME.size))
            return await answers.readexactly(size)
        except BaseException:
            # A late answer would be taken for that to the next body.
            self._drop()
            raise

    async def _running(self) -> Process:
        if self._process is None or self._process.returncode is not None:
            environment = {name: os.environ[name] for name in _NEEDED if name in os.environ}
            environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
            self._process = await asyncio.create_subprocess_exec(
                *self._command, stdin=PIPE, stdout=PIPE, env=environment
            )
        return self._process

    def _drop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(ProcessLookupError):
            process.kill()
        # Its pipes and its exit status are still there to be taken.
        ending = asyncio.ensure_future(process.communicate())
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)


def _loaded(packed: bytes) -> Any:
    found = pickle.loads(packed)  # noqa: S301 - written by the worker, which is this package
    if isinstance(found, GatewayError):
        raise found
    if isinstance(found, Bug):
        raise RuntimeError(f"in the worker: {found.where}")
    return found
