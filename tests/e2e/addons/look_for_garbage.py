"""At a SIGUSR1, writes down what has come to be garbage that only the collector finds, and forgets it.

Beside it stands how many connections of clients are open.

From then on all that a collection finds is kept until the next signal, for each cause of a collection.
"""

import asyncio
import gc
import json
import os
import signal
from collections import Counter
from pathlib import Path

from mitmproxy import ctx

FILE = Path(os.environ["GARBAGE_IN"])


def look() -> None:
    """Count the objects of each class, by its full name."""
    connections = ctx.master.addons.get("proxyserver").connections
    gc.unfreeze()
    gc.collect()
    found = Counter(f"{type(each).__module__}.{type(each).__qualname__}" for each in gc.garbage)
    gc.set_debug(0)
    gc.garbage.clear()
    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)
    draft = FILE.with_suffix(".draft")
    draft.write_text(json.dumps({"found": found, "open": len(connections)}))
    draft.replace(FILE)


def running() -> None:
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, look)
