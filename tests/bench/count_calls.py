"""An addon that counts calls of Python functions between two signals, for ``calls.py``.

SIGRTMIN begins; the next signal writes the counts as JSON into the file that ``COUNTS`` names.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType

counts: Counter[CodeType] = Counter()


def _seen(frame: FrameType, event: str, arg: object) -> None:
    if event == "call":  # a generator that goes on is one, too
        counts[frame.f_code] += 1


def _begin(*_: object) -> None:
    counts.clear()
    sys.setprofile(_seen)


def _end(*_: object) -> None:
    sys.setprofile(None)
    found = [(code.co_filename, code.co_qualname, count) for code, count in counts.items()]
    draft = Path(os.environ["COUNTS"] + ".draft")
    draft.write_text(json.dumps(found))
    draft.replace(os.environ["COUNTS"])


def running() -> None:
    """Wait for the signals."""
    signal.signal(signal.SIGRTMIN, _begin)
    signal.signal(signal.SIGRTMIN + 1, _end)
