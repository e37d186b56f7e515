"""Replays flows when a test asks for it by a file, as a user does with `r`: by mitmproxy's own command."""

import asyncio
import json
import logging
import os
from pathlib import Path
from typing import Any

from mitmproxy import ctx, http
from mitmproxy.utils import asyncio_utils

ASKED = Path(os.environ["REPLAY_ASKED"])


class ReplayOnDemand:
    """The file holds ``{"call": id, "edit": {…}}``; it is gone when the replay has begun.

    The flow of that call, not that of a failed attempt, is replayed with ``edit`` in its metadata.
    """

    def __init__(self) -> None:
        self._flows: dict[str, http.HTTPFlow] = {}

    def response(self, flow: http.HTTPFlow) -> None:
        if "gateway_attempt" not in flow.metadata and "gateway_call" in flow.metadata:
            self._flows[str(flow.metadata["gateway_call"])] = flow
        if flow.is_replay:
            logging.info("replayed to its end")

    def running(self) -> None:
        asyncio_utils.create_task(self._watch(), name="replay on demand", keep_ref=True)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(0.02)
            self._look()

    def _look(self) -> None:
        if not ASKED.exists():
            return
        ask: dict[str, Any] = json.loads(ASKED.read_text())
        flow = self._flows[ask["call"]]
        flow.metadata.update(ask["edit"])
        ctx.master.commands.call("replay.client", [flow])
        ASKED.unlink()


addons = [ReplayOnDemand()]
