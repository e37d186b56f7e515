"""The processes that this one starts for work of its own: how they are started, and how they begin.

Each takes requests from its standard input and answers on its standard output, until the input ends. It ends
with the process that has started it, even if that is killed.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from asyncio import StreamWriter

CHUNK = 256 * 1024
"""Bytes that are handed to the pipe at a time, or all of a body would be copied at once."""

NICENESS = 5

IGNORED = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
"""They are for the gateway, but reach all processes of a terminal or a unit. Each would end this one."""

_NEEDED = ("SYSTEMROOT", "LANG", "LC_ALL")


def command_of(module: str) -> tuple[str, ...]:
    """Return the command that runs ``main`` of a module with this very Python. More arguments may follow.

    The module keeps its name there, unlike ``__main__``: what it defines can be pickled.
    """
    return (sys.executable, "-P", "-m", __name__, module)


def environment(*, with_secrets: bool = False) -> dict[str, str]:
    """Return the environment of such a process, which finds modules where this one does.

    ``with_secrets``: it has all variables of this process, which may hold keys; else the language alone.
    """
    found = dict(os.environ) if with_secrets else {n: os.environ[n] for n in _NEEDED if n in os.environ}
    found["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    return found


async def write_body(pipe: StreamWriter, body: bytes) -> None:
    """Write a body of any size into a pipe, as fast as it is read. Raises OSError."""
    view = memoryview(body)
    for start in range(0, len(body), CHUNK):
        pipe.write(view[start : start + CHUNK])
        await pipe.drain()


def begin() -> tuple[BinaryIO, BinaryIO]:
    """Begin as such a process: return the files of requests and of answers."""
    for name in IGNORED:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(os, "nice"):
        # Where processors are few, the gateway's event loop goes first.
        os.nice(NICENESS)
    # A library that prints must not write into the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return sys.stdin.buffer, answers


if __name__ == "__main__":
    # ``main`` reads its arguments from argv[1] on; argv[0] is the name of its module.
    del sys.argv[0]
    importlib.import_module(sys.argv[0]).main()
