"""Counts calls of Python functions while one plain call goes through the gateway's layer, for ``calls.py``.

There is no socket, no event loop and no process around it: what a call enters by itself, its writing-down
included. Prints the counts as JSON. The checkout whose layer it is stands in ``PYTHONPATH``.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from types import CodeType, FrameType

from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.test import taddons

from tests.engine_driver import config
from tests.proxy.layer_driver import Connection, connect, over_plain_http

WARM_UP = 3
ANSWER = b'{"id": "chatcmpl-1", "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}}'

counts: Counter[CodeType] = Counter()


def _seen(frame: FrameType, event: str, arg: object) -> None:
    if event == "call":  # a generator that goes on is one, too
        counts[frame.f_code] += 1


def call(here: Connection) -> None:
    """Send a plain call, have a backend answer it, and see that the client got the answer."""
    here.ask()
    here.respond("a", 200, ANSWER)
    status, body = here.result()
    assert (status, body) == (200, ANSWER)


def main() -> None:
    """Count the last of a few calls on one connection."""
    with taddons.context(Proxyserver()) as context:
        here = connect(over_plain_http(config("a", "b")), context.options)
        for _ in range(WARM_UP):
            call(here)
        sys.setprofile(_seen)
        call(here)
        sys.setprofile(None)
    print(json.dumps([(code.co_filename, code.co_qualname, count) for code, count in counts.items()]))


if __name__ == "__main__":
    main()
