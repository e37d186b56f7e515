"""Long work in a process of its own, with bounds of time and memory: the event loop never waits for it.

A prompt of 20 MB takes a second to decode, holding the interpreter's lock all that time, so a thread is no
help; and a regular expression of a case may take for ever. Such work is a pure function. The process is
started for one call of it, is told function and arguments on its standard input, and is killed when its time
is over. It gets no environment but the language, so it knows no keys.
"""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import struct
import sys
from typing import TYPE_CHECKING, Any, BinaryIO

from aoai_gateway import child_process
from aoai_gateway.rerun.case_set import SetError
from aoai_gateway.rerun.expectations import ExpectationError
from aoai_gateway.wire.gateway_error import GatewayError
from aoai_gateway.workbench.page_requests import BadRequestError, EditError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SECONDS = 30.0
AT_ONCE = 2
"""Processes at a time."""

TURN_SECONDS = 60.0
"""The time for which a job waits until it is its turn."""

SMALL = 16 * 1024
"""Bytes that are read on the event loop. Made to be slow, such a body takes about ten milliseconds."""

MEMORY = 2 * 1024 * 1024 * 1024
"""Bytes that a process may have: 64 MB of empty lists would take more."""

FAULTS = (BadRequestError, EditError, ExpectationError, GatewayError, NotFoundError, SetError)
"""What a function says of its arguments; anything else is a bug in it."""

_COMMAND = child_process.command_of("aoai_gateway.workbench.child")
_FRAME = struct.Struct(">Q")
_room = asyncio.Semaphore(AT_ONCE)


class ChildError(Exception):
    """It could not be done in time, or not in the room that there is."""


async def by_size(size: int, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function here if what it reads is small, else in a process of its own.

    Raises what it says of its arguments (`FAULTS`), and ChildError.
    """
    if size > SMALL:
        return await perform(function, *arguments)
    return _called(function, arguments)


async def perform(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function of a module in a process of its own. Raises as `by_size`."""
    try:
        await asyncio.wait_for(_room.acquire(), TURN_SECONDS)
    except TimeoutError:
        raise ChildError("There is too much to be read at the moment.") from None
    try:
        code, answer = await _asked(function, arguments)
    except TimeoutError:
        raise ChildError(f"It was given up after {SECONDS:.0f} s.") from None
    finally:
        _room.release()
    if code != 0:
        raise ChildError("It could not be read.")
    result, fault = pickle.loads(answer)  # noqa: S301 - written by this very module
    if fault is not None:
        raise fault
    return result


async def _asked(function: Callable[..., Any], arguments: Sequence[Any]) -> tuple[int, bytes]:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *_COMMAND, stdin=pipe, stdout=pipe, env=child_process.environment()
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        async with asyncio.timeout(SECONDS):
            with contextlib.suppress(ConnectionError):  # it has died, as its exit code says
                await _tell(process.stdin, function, arguments)
            answer = await process.stdout.read()
            return await process.wait(), answer
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def _tell(pipe: asyncio.StreamWriter, function: Callable[..., Any], arguments: Sequence[Any]) -> None:
    """Write the call: bodies after the rest, as they are."""
    bodies = [each for each in arguments if type(each) is bytes]
    kept = [len(each) if type(each) is bytes else None for each in arguments]
    rest = [None if type(each) is bytes else each for each in arguments]
    head = pickle.dumps((function, kept, rest))
    pipe.write(_FRAME.pack(len(head)) + head)
    for body in bodies:
        await child_process.write_body(pipe, body)
    await pipe.drain()
    pipe.close()


def _called(function: Callable[..., Any], arguments: Sequence[Any]) -> Any:
    try:
        return function(*arguments)
    except RecursionError:
        raise BadRequestError("It is nested too deeply.") from None


def main() -> None:
    """Call the function that standard input tells, and write what it gives."""
    _bound_memory()
    function, arguments = _told(sys.stdin.buffer)
    result, fault = None, None
    try:
        result = _called(function, arguments)
    except FAULTS as error:
        fault = error
    sys.stdout.buffer.write(pickle.dumps((result, fault)))


def _told(stream: BinaryIO) -> tuple[Callable[..., Any], list[Any]]:
    (size,) = _FRAME.unpack(stream.read(_FRAME.size))
    function, kept, rest = pickle.loads(stream.read(size))  # noqa: S301 - written by the gateway itself
    arguments = [
        stream.read(length) if length is not None else each for length, each in zip(kept, rest, strict=True)
    ]
    return function, arguments


def _bound_memory() -> None:
    try:
        import resource
    except ImportError:  # Windows has no such bounds
        return
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    bound = MEMORY if most == resource.RLIM_INFINITY else min(MEMORY, most)
    resource.setrlimit(resource.RLIMIT_AS, (bound, most))
