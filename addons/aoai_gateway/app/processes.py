"""Child processes by fork: what was loaded before is in all of them, and shared until it is changed.

A child has a pipe to its parent. The first byte on it says that the child is ready; each later one, that its
event loop runs. A parent that is killed takes its children along.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import time
import traceback
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn

from aoai_gateway import whole_lines

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger("aoai_gateway.supervisor")

_PR_SET_PDEATHSIG = 1
"""prctl(2), Linux."""

OBEYED = (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGINT)

CRASHED = 70
"""The exit code of a child that ended with an exception (EX_SOFTWARE, sysexits.h)."""


@dataclass(slots=True)
class Child:
    """One child process. Times are monotonic seconds."""

    name: str
    pid: int
    pipe: int
    """What it says comes here."""
    started: float
    heard: float
    ready: bool = False
    retiring: bool = False
    """Whether it was asked to end."""
    due: float = field(default=float("inf"))
    """When it is killed, should it not have ended by then."""

    def listen(self) -> None:
        """Take in what it has said."""
        try:
            said = os.read(self.pipe, 1024)
        except BlockingIOError:
            return
        if said:
            self.ready, self.heard = True, time.monotonic()

    def excuse(self, now: float, pause: float) -> None:
        """Let a time not count against it in which it could neither say nor do anything."""
        self.heard = max(self.heard, now)
        self.due += pause

    def tell(self, number: signal.Signals) -> None:
        """Send it a signal; nothing if it has ended."""
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            return

    def ended(self) -> str | None:
        """Return how it has ended; None as long as it runs. To be asked until it says so, and not again."""
        try:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            return "was taken by another parent"
        if pid == 0:
            return None
        os.close(self.pipe)
        code = os.waitstatus_to_exitcode(status)
        return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def start(name: str, run: Callable[[int], int]) -> Child:
    """Start a child that runs a function; its result is the exit code. It is given its end of the pipe.

    Raises OSError where the system takes no further process.
    """
    theirs, ours = os.pipe()
    os.set_blocking(theirs, False)
    os.set_blocking(ours, False)
    sys.stdout.flush()
    sys.stderr.flush()
    # One that comes before the child has put its own handlers in place would be taken for the parent's.
    held = signal.pthread_sigmask(signal.SIG_BLOCK, OBEYED)
    try:
        pid = os.fork()
        if pid == 0:
            os.close(theirs)
            _run(run, ours)
    except OSError:
        os.close(theirs)
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
        os.close(ours)
    now = time.monotonic()
    return Child(name, pid, theirs, now, now)


def try_to_start(name: str, run: Callable[[int], int]) -> Child | None:
    """Start a child; None, with a line in the log, where the system takes no further process now."""
    try:
        return start(name, run)
    except OSError as error:
        logger.error("The %s could not be started (%s); it is tried again.", name, error.strerror)
        return None


def _run(run: Callable[[int], int], pipe: int) -> NoReturn:
    code = CRASHED
    try:
        end_with_parent(signal.SIGTERM)
        signal.set_wakeup_fd(-1)
        for number in OBEYED:
            signal.signal(number, signal.SIG_DFL)
        # A terminal sends it to all processes; what follows from it is the parent's to say.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, OBEYED)
        code = run(pipe)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        whole_lines.finish()
        sys.stdout.flush()
        sys.stderr.flush()
        # What the parent registered to be done at its own end is not for its children to do.
        os._exit(code)


def say(pipe: int) -> None:
    """Tell the parent that this child is ready, or still runs."""
    try:
        os.write(pipe, b".")
    except (BlockingIOError, BrokenPipeError):
        return


def end_with_parent(number: signal.Signals) -> None:
    """Have the kernel send this process a signal when its parent has ended (Linux; elsewhere nothing)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number))


# --- starting again --------------------------------------------------------------------------------------

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 10.0
"""Seconds until a process that has ended is started again: doubling from the first to the longest."""

MOST_DOUBLINGS = 16

STEADY_SECONDS = 60.0
"""How long a process must live for the next pause to be the first again."""


@dataclass(slots=True)
class Backoff:
    """When a process that has ended is started again: at once the first time, later with every further one.

    Times are monotonic seconds.
    """

    due: float = 0.0
    """When it is started again."""
    failures: int = 0
    """The failures in a row."""

    def ended(self, now: float, lived: float) -> float:
        """Note that it has ended after so many seconds. Returns the pause."""
        self.failures = 0 if lived >= STEADY_SECONDS else self.failures + 1
        doublings = min(max(0, self.failures - 1), MOST_DOUBLINGS)
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0**doublings)
        self.due = now + pause
        return pause

    def went_well(self) -> None:
        """Begin with the first pause again."""
        self.failures = 0
