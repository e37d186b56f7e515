"""``server_replay``: answers from a capture, without any backend.

mitmproxy's addon finds an answer by the request's whole address and the bytes of its body. A captured flow
shows where its call went, and next time the same prompt may come from another SDK; and a capture holds the
429 of a failed attempt as well as the answer. So this takes the addon's place: it offers only what a backend
has answered to the end, and compares what was asked.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from typing import TYPE_CHECKING, cast

from mitmproxy import http
from mitmproxy.addons.serverplayback import ServerPlayback

from aoai_gateway.inspect.capture import why_left_out
from aoai_gateway.proxy.own_responses import error_response
from aoai_gateway.wire import errors

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from mitmproxy.addonmanager import AddonManager
    from mitmproxy.flow import Flow

logger = logging.getLogger(__name__)


class RecordedAnswers(ServerPlayback):
    """mitmproxy's server replay, with rules of its own for the answers and the calls that they belong to."""

    def add_flows(self, flows: Sequence[Flow]) -> None:
        """Offer those of the flows that were answered."""
        reasons = [why_left_out(flow) for flow in flows]
        left_out = Counter(reason for reason in reasons if reason is not None)
        if left_out:
            told = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
            logger.info("Of %d recorded flows these give no answers: %s.", len(flows), told)
        super().add_flows([flow for flow, reason in zip(flows, reasons, strict=True) if reason is None])

    def request(self, flow: http.HTTPFlow) -> None:
        """Answer a call if its answer was recorded."""
        super().request(flow)
        response = flow.response
        if response is None or flow.is_replay != "response":
            return
        if response.raw_content:
            flow.comment = "Answered from a recording."
        elif response.status_code >= 400:
            # What server_replay_extra asks for, in a form that an SDK can read.
            flow.response = error_response(errors.not_recorded(response.status_code))

    def _hash(self, flow: http.HTTPFlow) -> Hashable:
        asked = http.HTTPFlow(flow.client_conn, flow.server_conn)
        asked.request = as_asked(flow.request)
        return super()._hash(asked)


def as_asked(request: http.Request) -> http.Request:
    """Copy a request, with nothing in it that says where it went, and its JSON in one of all its forms."""
    asked = request.copy()
    asked.data.scheme, asked.data.host, asked.data.port = b"http", "gateway", 80
    asked.headers["host"] = "gateway"
    try:
        document = json.loads(asked.raw_content or b"")
    except (ValueError, RecursionError):
        return asked
    asked.data.content = json.dumps(document, sort_keys=True).encode()
    return asked


def install(addons: AddonManager) -> None:
    """Take the place of mitmproxy's addon, where it is loaded."""
    stock = cast("ServerPlayback | None", addons.get("serverplayback"))
    if stock is None or isinstance(stock, RecordedAnswers):
        return
    # Its options, commands and place among the addons are to stay, so it is the same one that changes.
    stock.__class__ = RecordedAnswers
    stock.load_flows([flow for flows in stock.flowmap.values() for flow in flows])
