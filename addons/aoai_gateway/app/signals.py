"""Signals that do not end the process: SIGHUP reloads, SIGUSR1 and SIGUSR2 tell what it does.

Without a handler each of them ends a process, and cuts the calls under way. SIGTERM and SIGINT are for the
host to handle.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence

logger = logging.getLogger(__name__)

_NAMES = ("SIGHUP", "SIGUSR1", "SIGUSR2")
_NUMBERS = {name: getattr(signal, name) for name in _NAMES if hasattr(signal, name)}

_STAYS = "SIGHUP" in _NUMBERS and signal.getsignal(_NUMBERS["SIGHUP"]) is signal.SIG_IGN
"""Whether it was started with nohup, and so is to outlive its terminal."""


def ignore_until_running() -> None:
    """Let none of them end a process that is still starting."""
    for number in _NUMBERS.values():
        signal.signal(number, signal.SIG_IGN)


def handle(
    *, reload: Callable[[], None], told: Callable[[], Sequence[str]], shut_down: Callable[[], None]
) -> None:
    """Handle them from now on, in the running event loop.

    ``reload``: called on SIGHUP, unless that says that the terminal is gone which the process runs in.
    ``told``: gives what SIGUSR1 writes into the log. ``shut_down``: called when the terminal is gone, which
    ends what runs in its foreground.
    """
    in_terminal = not _STAYS and _has_terminal()

    def hang_up() -> None:
        if in_terminal and not _has_terminal():
            shut_down()
        else:
            reload()

    def tell() -> None:
        for line in told():
            logger.info("%s", line)

    for name, handler in (("SIGHUP", hang_up), ("SIGUSR1", tell)):
        if name in _NUMBERS:
            # There are none on Windows' event loop, and outside the main thread.
            with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
                asyncio.get_running_loop().add_signal_handler(_NUMBERS[name], handler)
    if "SIGUSR2" in _NUMBERS and sys.__stderr__ is not None:
        # Not through the event loop: it tells where a process stands that does nothing any more.
        with contextlib.suppress(OSError, ValueError):
            faulthandler.register(_NUMBERS["SIGUSR2"], file=sys.__stderr__, all_threads=True, chain=False)


def _has_terminal() -> bool:
    """Whether the process has a controlling terminal, and that is still there."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
