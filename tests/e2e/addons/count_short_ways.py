"""Writes down at the end how many reads took the short way, to the file that COUNTED names."""

import os
from pathlib import Path
from typing import Any

from aoai_gateway.proxy.delivery import Lane

TAKE = Lane.take
COUNTED = Path(os.environ["COUNTED"])
count = 0


def _take(self: Lane, *args: Any) -> Any:
    global count
    taken = TAKE(self, *args)
    if taken is not None:
        count += 1
        COUNTED.write_text(str(count))
    return taken


Lane.take = _take  # type: ignore[method-assign]
