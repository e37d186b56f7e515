"""Tells the calls with their answers from the other flows of a captured session.

A dump file holds everything that was seen: failed attempts beside their calls, refusals, calls that were cut
off, health checks of other addons. To make the calls again (`aoai-gateway rerun`, ``server_replay``), only
those count that a backend has answered to the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mitmproxy.http import HTTPFlow

from aoai_gateway.engine.call import Outcome
from aoai_gateway.wire.gateway_error import GatewayError
from aoai_gateway.wire.targets import parse_target

if TYPE_CHECKING:
    from mitmproxy.flow import Flow

ATTEMPT = "failed attempts"
ELSE = "no calls of Azure OpenAI's"
REFUSED = "refused by the gateway"
UNFINISHED = "not answered to the end"
NOT_KEPT = "answers that were not kept (store_streamed_bodies was off)"


def why_left_out(flow: Flow) -> str | None:
    """Say, in the plural, why a flow is none that a backend has answered to the end; None if it is one.

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
