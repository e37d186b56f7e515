"""A failed attempt, shown as a flow of its own beside the call's flow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mitmproxy import eventsequence, flow, http

from aoai_gateway.inspect.annotate import annotate_attempt

if TYPE_CHECKING:
    from mitmproxy.addonmanager import AddonManager

    from aoai_gateway.runtime.stream_hooks import AttemptFailed

BETWEEN = 1e-6
"""Seconds by which a failed attempt follows its call, and the attempt before it, in a flow list."""


async def show(addons: AddonManager, failed: AttemptFailed) -> None:
    """Have mitmproxy's addons see the flow of a failed attempt."""
    shown = make_flow(failed)
    for hook in eventsequence.iterate(shown):
        await addons.handle_lifecycle(hook)
    if shown.intercepted:
        # It is over; there is nothing to hold.
        shown.resume()


def make_flow(failed: AttemptFailed) -> http.HTTPFlow:
    """Make the flow of a failed attempt: the request as sent, less its secrets, and the response."""
    shown = http.HTTPFlow(failed.flow.client_conn, failed.server)
    shown.request = failed.request
    # Flow lists are ordered by this: it stands right after its call, before calls that came meanwhile.
    shown.timestamp_created = failed.flow.timestamp_created + failed.attempt.number * BETWEEN
    if failed.response is not None:
        # The same response may become the call's answer, and be marked as such.
        shown.response = failed.response.copy()
        shown.response.timestamp_end = failed.response.timestamp_end or failed.response.timestamp_start
    else:
        shown.error = flow.Error(failed.attempt.reason)
    annotate_attempt(shown, failed.call, failed.attempt)
    return shown
