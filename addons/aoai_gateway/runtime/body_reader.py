"""Large bodies, and coded ones, are read in processes of their own, one at a time in each.

Clients have their turns there, each the same share of bytes. A body that is read is not interrupted, and the
largest take seconds; so there are two processes, and the shorter bodies have one for themselves.
"""

from __future__ import annotations

import asyncio
import logging
import pickle
from asyncio.subprocess import PIPE, Process
from contextlib import suppress
from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from aoai_gateway import child_process
from aoai_gateway.runtime.body_worker import FRAME, Bug, Parse, ReadLines, ReadPrompt
from aoai_gateway.runtime.fair_turns import FairThreads, FairTurns
from aoai_gateway.tokens.models import family_of
from aoai_gateway.tokens.prompt import Prompt
from aoai_gateway.wire import errors
from aoai_gateway.wire.batch_file import Lines, LineTooLongError, whole_lines
from aoai_gateway.wire.bodies import decode_body, is_read_elsewhere, parse_body, parse_upload
from aoai_gateway.wire.gateway_error import GatewayError
from aoai_gateway.wire.request_body import RequestBody
from aoai_gateway.wire.stored import BLOCK

if TYPE_CHECKING:
    from collections.abc import Callable

    from aoai_gateway.runtime.body_worker import Job
    from aoai_gateway.runtime.held_bytes import Held
    from aoai_gateway.wire.stored import Stored
    from aoai_gateway.wire.targets import Target

logger = logging.getLogger(__name__)

PATIENCE_SECONDS = 60.0
"""The time in which a body has its turn and is read. 100 MB made to be slow take about ten."""

LINES_SECONDS = 300.0
"""The time for reading the lines of a batch's input file. 200 MB take about seven."""

UPLOAD_SECONDS = 60.0
"""The time for reading an upload's form; a gigabyte takes some seconds."""

SHORTER = 1024 * 1024
"""Bytes of a body, at most, that is read in the process for the shorter ones: in some 50 ms at most."""

LEAST_ROOM = 64 * 1024
"""Bytes to which a coded body has room to unfold at first."""

USUAL_GROWTH = 8
"""Or so many times its own size, if that is more; JSON seldom unfolds further."""

MORE_ROOM = 4
"""Times the room that it has next, if that was too little. To begin anew costs a third more at most."""

OURS = ""
"""Stands for the client where a body is the gateway's own business."""

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


class _Worker:
    """A process, and the turns at it."""

    def __init__(self, command: tuple[str, ...]) -> None:
        self.process = BodyProcess(command)
        self.turns = FairTurns()


class BodyReader:
    """Reads bodies in worker processes.

    Its methods raise `GatewayError`: the fault in the body, or 503 if it could not be read. ``client``: the
    name of the client whose turn it takes.
    """

    def __init__(self, *, command: tuple[str, ...] = COMMAND, patience: float = PATIENCE_SECONDS) -> None:
        self._patience = patience
        self._shorter, self._longer = _Worker(command), _Worker(command)
        self._threads = FairThreads()
        self.disk = FairThreads()
        """The threads for reading uploads on disk."""

    async def parse(
        self,
        target: Target,
        content_type: str | None,
        raw: bytes,
        wanted: Callable[[], bool] = lambda: True,
        *,
        client: str = OURS,
        coding: str | None = None,
        most: int = 0,
        held: Held | None = None,
    ) -> RequestBody:
        """Decode and check a body, as `parse_body` does; of a large one only short, flat members are kept.

        ``coding``: its content coding, which is undone first, to ``most`` bytes; ``held`` counts those.
        ``wanted`` is asked when it is its turn: a client that has hung up must not keep others waiting.
        """
        text = raw
        if coding is not None:
            assert held is not None
            text = await self._decode(client, raw, coding, most, wanted, held)
        if coding is not None and not is_read_elsewhere(target, len(text)):
            found = parse_body(target, content_type, text)
        else:
            found = _loaded(await self._ask(Parse(target, content_type), text, client, wanted))
            assert isinstance(found, RequestBody)
        return replace(found, raw=text, coded=None if coding is None else raw)

    async def read_prompt(
        self, target: Target, model: str | None, raw: bytes, client: str = OURS
    ) -> Callable[[], Prompt]:
        """Find the prompt in a body. Returns a function that unpacks it, in some milliseconds at most."""
        packed = await self._ask(ReadPrompt(target, model), raw, client)

        def unpack() -> Prompt:
            prompt = _loaded(packed)
            assert isinstance(prompt, Prompt)
            prompt.family = family_of(model)  # families are compared by identity
            return prompt

        return unpack

    async def read_upload(
        self,
        client: str,
        target: Target,
        content_type: str | None,
        stored: Stored,
        wanted: Callable[[], bool] = lambda: True,
    ) -> RequestBody:
        """Read the facts of a client's upload on disk, in a thread. Raises GatewayError.

        The lines of a batch's input file are read in a process. ``wanted``: see `parse`.
        """
        try:
            async with asyncio.timeout(UPLOAD_SECONDS):
                body = await self.disk.run(client, len(stored), parse_upload, target, content_type, stored)
            if body.edits.file is None:
                return body
            async with asyncio.timeout(LINES_SECONDS):
                return body.with_lines(await self.read_file(stored, body.edits.file, wanted, client=client))
        except TimeoutError:
            raise errors.unavailable("The gateway has too many uploads to read.") from None

    async def read_file(
        self,
        body: Stored,
        span: tuple[int, int],
        wanted: Callable[[], bool] = lambda: True,
        *,
        client: str = OURS,
    ) -> Lines:
        """Read the lines of a batch's input file, which stands in a body on disk, a part at a time."""
        found, parts = Lines(), whole_lines(body, *span)
        try:
            while (part := await self._threads.run(client, BLOCK, next, parts, None)) is not None:
                job = ReadLines(part[0], found.without_places())
                more = _loaded(await self._ask(job, part[1], client, wanted))
                assert isinstance(more, Lines)
                found = found.then(more)
                if found.fault is not None:
                    return found
        except LineTooLongError:
            return found.too_long()
        return found.ended()

    async def close(self) -> None:
        """End the processes, and their jobs."""
        self._threads.close()
        self.disk.close()
        await asyncio.gather(self._shorter.process.close(), self._longer.process.close())

    async def _decode(
        self, client: str, raw: bytes, coding: str, most: int, wanted: Callable[[], bool], held: Held
    ) -> bytes:
        """Undo a body's coding. Room for the text is taken before the text is there, when it is its turn.

        How much that needs is not known before: the body gets what is usual, or all there is, and then more.
        """
        step, taken = min(most, max(LEAST_ROOM, USUAL_GROWTH * len(raw))), 0

        def take_room() -> None:
            nonlocal taken
            _see_that_it_is(wanted)
            # Twice as much each time at least, or a body could be decoded very often.
            more = min(step - taken, max(held.room, taken, LEAST_ROOM))
            held.grow(more)
            taken += more

        def decoded() -> bytes:
            return decode_body(raw, coding, taken)

        text: bytes | None = None
        used = 0
        try:
            while text is None:
                try:
                    text = await self._threads.run_after(take_room, client, step, decoded)
                except GatewayError as error:
                    if error.status != HTTPStatus.REQUEST_ENTITY_TOO_LARGE or taken == most:
                        raise
                    step = min(most, MORE_ROOM * taken)
            _see_that_it_is(wanted)
            used = len(text)
        finally:
            held.shrink(taken - used)
        return text

    async def _ask(
        self, job: Job, raw: bytes, client: str, wanted: Callable[[], bool] = lambda: True
    ) -> bytes:
        worker = self._shorter if len(raw) <= SHORTER else self._longer
        try:
            async with asyncio.timeout(self._patience), worker.turns.turn(client, len(raw)):
                _see_that_it_is(wanted)
                return await worker.process.ask(job, raw)
        except TimeoutError:
            raise errors.unavailable("The gateway has too many large requests to read.") from None
        except (OSError, EOFError) as error:
            # An OSError's text is the system's, or names the command.
            logger.error("The process that reads large requests failed: %s", error or type(error).__name__)
            raise errors.unavailable("The request could not be read.") from None


def _see_that_it_is(wanted: Callable[[], bool]) -> None:
    if not wanted():
        raise errors.unavailable("The client has hung up.")


def _loaded(packed: bytes) -> Any:
    found = pickle.loads(packed)  # noqa: S301 - written by the worker, which is this package
    if isinstance(found, GatewayError):
        raise found
    if isinstance(found, Bug):
        raise RuntimeError(f"in the worker: {found.where}")
    return found
