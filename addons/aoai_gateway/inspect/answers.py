"""What is said in the answer of a flow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mitmproxy import contentviews

from aoai_gateway.inspect.said import Said, said
from aoai_gateway.inspect.views.contentviews import facts_of
from aoai_gateway.wire.content_coding import readable

if TYPE_CHECKING:
    from mitmproxy import http

NOT_KEPT = "(The answer was streamed and not kept; with store_streamed_bodies it is.)"


def said_in(flow: http.HTTPFlow) -> Said:
    """Read the answer of a flow; no content of it raises an exception."""
    response = flow.response
    if response is None or response.raw_content is None:
        return unread(flow)
    data = readable(response.raw_content, response.headers.get("content-encoding"))
    return said(data, facts_of(contentviews.make_metadata(response, flow)))


def unread(flow: http.HTTPFlow) -> Said:
    """Return why a flow has no answer that could be read."""
    if flow.response is not None:
        return Said(NOT_KEPT)
    return Said(f"({flow.error.msg})" if flow.error is not None else "(No answer.)")
