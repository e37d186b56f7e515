"""The gateway's side of one worker process: one body at a time. Its start and end are its own affair."""

from __future__ import annotations

import asyncio
import pickle
from asyncio.subprocess import PIPE, Process
from contextlib import suppress

from aoai_gateway import child_process
from aoai_gateway.runtime.body_jobs import FRAME

COMMAND = child_process.command_of("aoai_gateway.runtime.body_worker")

END_SECONDS = 5.0
"""The time that a killed process has to be gone."""


class BodyProcess:
    """A process that is started for the first body, and again when it has died."""

    def __init__(self, command: tuple[str, ...] = COMMAND) -> None:
        self._command = command
        self._process: Process | None = None
        self._ending: set[asyncio.Future[tuple[bytes, bytes]]] = set()

    async def ask(self, job: object, raw: bytes) -> bytes:
        """Have a job done with a body; gives the pickled result. Raises OSError or EOFError if it fails."""
        try:
            return await self._received(job, raw)
        except (OSError, EOFError):
            # It may have died since the last body; that is not this one's fault.
            return await self._received(job, raw)

    async def close(self) -> None:
        """End the process, and its job."""
        self._drop()
        if self._ending:
            await asyncio.wait(self._ending, timeout=END_SECONDS)

    async def _received(self, job: object, raw: bytes) -> bytes:
        try:
            process = await self.running()
            requests, answers = process.stdin, process.stdout
            assert requests is not None and answers is not None
            packed = pickle.dumps(job)
            requests.write(FRAME.pack(len(packed), len(raw)) + packed)
            await child_process.write_body(requests, raw)
            size, _ = FRAME.unpack(await answers.readexactly(FRAME.size))
            return await answers.readexactly(size)
        except BaseException:
            # A late answer would be taken for that to the next body.
            self._drop()
            raise

    async def running(self) -> Process:
        """Return the process, started if it is not there."""
        if self._process is None or self._process.returncode is not None:
            self._process = await asyncio.create_subprocess_exec(
                *self._command, stdin=PIPE, stdout=PIPE, env=child_process.environment()
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
