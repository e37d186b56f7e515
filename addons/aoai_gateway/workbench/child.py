"""What could take long, in a process of its own with a time limit: the event loop never waits for it.

A prompt of 20 MB takes a second to decode, and a regular expression of a case may take for ever. Both run
here: the process is started for the job, is told the job on its standard input, and is killed when its time
is over. It gets no environment but the language, so it knows no keys.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aoai_gateway.rerun.expectations import check
from aoai_gateway.workbench.shape import answer_shape, request_shape

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aoai_gateway.inspect.views.facts import Facts

SECONDS = 30.0
AT_ONCE = 2
"""Processes at a time."""

_COMMAND = (sys.executable, "-P", "-m", "aoai_gateway.workbench.child")
_NEEDED = ("SYSTEMROOT", "LANG", "LC_ALL")
_room = asyncio.Semaphore(AT_ONCE)


class ChildError(Exception):
    """It could not be done in time; the text says so."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Shape a request and its answer, as `document` does with small ones."""

    facts: Facts


@dataclass(frozen=True, slots=True)
class Expect:
    """Check an answer against expectations, as `rerun.expectations.check` does."""

    expectations: Sequence[Mapping[str, Any]]
    answer: Mapping[str, Any]


async def perform(job: Shape | Expect, *bodies: bytes) -> Any:
    """Do a job elsewhere. Raises ChildError when it takes too long or fails."""
    environment = {name: os.environ[name] for name in _NEEDED if name in os.environ}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    pipe = asyncio.subprocess.PIPE
    async with _room:
        process = await asyncio.create_subprocess_exec(*_COMMAND, stdin=pipe, stdout=pipe, env=environment)
        try:
            packed = pickle.dumps((job, bodies))
            answer, _ = await asyncio.wait_for(process.communicate(packed), SECONDS)
        except TimeoutError:
            raise ChildError(f"It was given up after {SECONDS:.0f} s.") from None
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
    if process.returncode != 0:
        raise ChildError("It could not be read.")
    return pickle.loads(answer)  # noqa: S301 - written by this very module


def do(job: Shape | Expect, bodies: Sequence[bytes]) -> Any:
    """Do a job here."""
    if isinstance(job, Expect):
        return check(job.expectations, job.answer)
    request, answer = bodies
    return {"request": request_shape(request), "answer": answer_shape(answer, job.facts) if answer else None}


def main() -> None:
    """Do the job that standard input tells."""
    # This module is `__main__` here, and jobs are pickled by the name under which the gateway knows it.
    from aoai_gateway.workbench import child

    job, bodies = pickle.loads(sys.stdin.buffer.read())  # noqa: S301 - written by the gateway itself
    sys.stdout.buffer.write(pickle.dumps(child.do(job, bodies)))


if __name__ == "__main__":
    main()
