"""``--capture FILE``: every call, as mitmproxy's own dump files have it, beside the traffic.

mitmproxy's addon for that writes on the event loop, and ends the process when the disk is full, which is
right for a tool at a desk and wrong for a gateway. Here a thread writes; what it cannot write is lost and
counted, and the calls go on.

Of what a capture holds, `why_left_out` tells the calls with their answers.
"""

from __future__ import annotations

import io
import logging
import queue
import threading
from typing import TYPE_CHECKING

from mitmproxy import ctx
from mitmproxy.http import HTTPFlow
from mitmproxy.io import FlowWriter

from aoai_gateway.engine.call import Outcome
from aoai_gateway.usage.files import Appender
from aoai_gateway.wire.gateway_error import GatewayError
from aoai_gateway.wire.targets import parse_target

if TYPE_CHECKING:
    from pathlib import Path

    from mitmproxy.addonmanager import Loader
    from mitmproxy.flow import Flow

logger = logging.getLogger(__name__)

WAITING_BYTES = 256 * 1024 * 1024
"""What may wait for a slow disk; beyond, calls are not captured."""

CLOSE_SECONDS = 10.0


class Capture:
    """A mitmproxy addon that appends to a file what the flow list would show, bodies of streams included.

    Only its owner may read the file: it holds prompts and answers. It holds no keys, tokens or cookies.
    """

    name = "gatewaycapture"

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = Appender(path)
        self.lost = 0
        self._waiting = 0
        self._lock = threading.Lock()
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def load(self, loader: Loader) -> None:
        """Have bodies of streams kept until they are written."""
        ctx.options.update(store_streamed_bodies=True)

    def response(self, flow: HTTPFlow) -> None:
        """Take a call that was answered, or a failed attempt. A session has only begun."""
        if flow.websocket is None:
            self._put(flow)

    def websocket_end(self, flow: HTTPFlow) -> None:
        """Take a session that has ended."""
        self._put(flow)

    def error(self, flow: HTTPFlow) -> None:
        """Take one that was not."""
        self._put(flow)

    def done(self) -> None:
        """Write what is waiting."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join(CLOSE_SECONDS)
        if self.lost:
            logger.error("%d flows are missing in %s.", self.lost, self.path)

    def _put(self, flow: HTTPFlow) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._write, name="capture", daemon=True)
            self._thread.start()
        if self._waiting > WAITING_BYTES:
            self._lose("the disk is too slow")
            return
        written = io.BytesIO()
        FlowWriter(written).add(flow)
        data = written.getvalue()
        with self._lock:
            self._waiting += len(data)
        self._queue.put(data)

    def _lose(self, why: str) -> None:
        self.lost += 1
        if self.lost & (self.lost - 1) == 0:  # the 1st, 2nd, 4th, 8th …
            logger.error("%d flows could not be written to %s: %s.", self.lost, self.path, why)

    def _write(self) -> None:
        while (data := self._queue.get()) is not None:
            try:
                self._file.append(data)
            except OSError as error:
                self._lose(error.strerror or "it cannot be written")
            with self._lock:
                self._waiting -= len(data)


ATTEMPT = "failed attempts"
ELSE = "no calls of Azure OpenAI's"
REFUSED = "refused by the gateway"
UNFINISHED = "not answered to the end"
NOT_KEPT = "answers that were not kept (store_streamed_bodies was off)"


def why_left_out(flow: Flow) -> str | None:
    """Say, in the plural, why a flow has no whole answer of a backend; None if it has one.

    A dump file holds everything that was seen: failed attempts beside their calls, refusals, calls that were
    cut off, health checks of other addons. To make the calls again (`aoai-gateway rerun`, ``server_replay``),
    only those count that a backend has answered to the end.

    What another proxy has captured knows no outcome: there, any answer below 400 counts.
    """
    if not isinstance(flow, HTTPFlow):
        return ELSE
    if "gateway_attempt" in flow.metadata:
        return ATTEMPT
    try:
        target = parse_target(flow.request.method, flow.request.path)
    except GatewayError:
        return ELSE
    if not target.operation.has_prompt:
        return ELSE
    outcome = flow.metadata.get("gateway_outcome")
    if outcome in (Outcome.REJECTED, Outcome.BACKENDS_OUT):
        return REFUSED
    if flow.response is None or flow.error is not None or outcome not in (Outcome.OK, None):
        return UNFINISHED
    if outcome is None and flow.response.status_code >= 400:
        return REFUSED
    if not flow.response.raw_content or flow.request.raw_content is None:
        return NOT_KEPT
    return None
