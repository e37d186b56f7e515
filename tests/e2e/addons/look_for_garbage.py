"""At a SIGUSR1, writes down what has come to be garbage that only the collector finds, and collects it.

From then on the collector works no more on its own account, so that the next signal finds all of it.
"""

import asyncio
import gc
import json
import os
import signal
from collections import Counter
from pathlib import Path

FILE = Path(os.environ["GARBAGE_IN"])


def look() -> None:
    """Count the objects of each class, by its full name."""
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.collect()
    gc.set_debug(0)
    found = Counter(f"{type(each).__module__}.{type(each).__qualname__}" for each in gc.garbage)
    gc.garbage.clear()
    gc.collect()
    draft = FILE.with_suffix(".draft")
    draft.write_text(json.dumps(found))
    draft.replace(FILE)


def running() -> None:
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, look)
