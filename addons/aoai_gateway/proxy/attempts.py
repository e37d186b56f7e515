"""A failed attempt, shown as a flow of its own beside the call's flow."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from mitmproxy import eventsequence, flow, http

from aoai_gateway.call import FailureKind
from aoai_gateway.failures import OUR_CREDENTIAL_REFUSED
from aoai_gateway.inspect.annotate import annotate_attempt
from aoai_gateway.proxy.events import BackendFailed, GatewayBackendFailedHook

if TYPE_CHECKING:
    from mitmproxy.addonmanager import AddonManager

    from aoai_gateway.proxy.events import Listeners
    from aoai_gateway.proxy.hooks import AttemptFailed

logger = logging.getLogger(__name__)


def log(failed: AttemptFailed) -> None:
    """Log a failed attempt; loudly if our own credential was refused."""
    attempt = failed.attempt
    ours = attempt.failure is FailureKind.STATUS and attempt.status in OUR_CREDENTIAL_REFUSED
    if ours:
        logger.error(
            "%s refuses the gateway's own credential (%s); check the endpoint's key.",
            attempt.backend.endpoint.name,
            attempt.reason,
        )
        return
    length = f"; break of {attempt.break_seconds:.1f} s" if attempt.break_seconds is not None else ""
    logger.info("%s failed: %s%s (call %s)", attempt.backend.name, attempt.reason, length, failed.call.id)


async def show(addons: AddonManager, failed: AttemptFailed, heard: Listeners) -> None:
    """Give a failed attempt to whoever looks at flows, and tell the listeners of `gateway_backend_failed`."""
    if "response" in heard or "error" in heard:
        shown = make_flow(failed)
        for hook in eventsequence.iterate(shown):
            await addons.handle_lifecycle(hook)
        if shown.intercepted:
            # It is over; there is nothing to hold.
            shown.resume()
    if "gateway_backend_failed" in heard:
        event = BackendFailed(failed.flow, failed.call, failed.attempt)
        await addons.trigger_event(GatewayBackendFailedHook(event))


def make_flow(failed: AttemptFailed) -> http.HTTPFlow:
    """Make the flow of a failed attempt: what was sent, less its secrets, and what came."""
    shown = http.HTTPFlow(failed.flow.client_conn, failed.server)
    shown.request = failed.request
    if failed.response is not None:
        # The same response may become the call's answer, and be marked as such.
        shown.response = failed.response.copy()
        shown.response.timestamp_end = failed.response.timestamp_end or failed.response.timestamp_start
    else:
        shown.error = flow.Error(failed.attempt.reason)
    annotate_attempt(shown, failed.call, failed.attempt)
    return shown
