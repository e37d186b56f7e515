"""Files of flows hold prompts and answers, so that they are their owner's alone.

mitmproxy creates them (``-w``, ``hardump``, the commands that save flows) with the modes that the process has
by default, and goes on with a file that is there as it is.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from datetime import datetime
from pathlib import Path

OTHERS = 0o077


def keep_private() -> None:
    """Have files that are created from now on be readable by their owner only."""
    before = os.umask(OTHERS)
    if before & ~OTHERS:
        os.umask(before | OTHERS)


def make_private(option: str, current: str | None) -> None:
    """Take the files that are there from other users.

    ``option``: what ``save_stream_file`` says: a file to be opened, or that was opened before an addon could
    say how. One that is appended to ("+") may be meant for its group to read. ``current``: the file that is
    open now.
    """
    named = datetime.today().strftime(os.path.expanduser(option.removeprefix("+")))
    for path in filter(None, {named, current}):
        with suppress(OSError):
            mode = Path(path).stat().st_mode
            if stat.S_ISREG(mode):
                Path(path).chmod(mode & (0o770 if option.startswith("+") else 0o700))
