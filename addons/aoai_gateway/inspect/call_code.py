"""A flow's call as code: for the formats of :mod:`~aoai_gateway.inspect.snippets`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mitmproxy import exceptions

from aoai_gateway.inspect import snippets
from aoai_gateway.inspect.replays import as_call
from aoai_gateway.inspect.views.attachments import byte_size
from aoai_gateway.wire.content_coding import readable
from aoai_gateway.wire.gateway_error import GatewayError

if TYPE_CHECKING:
    from mitmproxy import flow, http


LARGEST = 1024 * 1024
"""Bytes of a call that are written on the event loop."""


def written(language: str, shown: flow.Flow) -> str:
    """Write a flow's call as code, on the event loop, where mitmproxy asks for it.

    Raises CommandError where it is no call, is large, or the format is unknown.
    """
    call = as_call(shown)
    body = readable(call.request.raw_content, call.request.headers.get("content-encoding"))
    if len(body) > LARGEST:
        raise exceptions.CommandError(
            f"The call has {byte_size(len(body))}, which is too much here; the workbench copies it as code."
        )
    try:
        return snippets.code(body, language, head_of(shown, call))
    except GatewayError as error:
        raise exceptions.CommandError(error.message) from None


def head_of(shown: flow.Flow, call: http.HTTPFlow) -> snippets.Request:
    """Return the request of a flow without its body; ``call`` is what `as_call` makes of the flow."""
    headers = tuple((k, v) for k, v in call.request.headers.items(multi=True))
    return snippets.Request(address_of(shown, call), call.request.method, call.request.path, headers, b"")


def address_of(shown: flow.Flow, call: http.HTTPFlow) -> str:
    """Return the gateway's address as the client of a flow knows it."""
    connection = shown.client_conn
    scheme = "https" if connection.tls else "http"
    host = call.request.headers.get("host")
    if host is None or "gateway_attempt" in shown.metadata:
        # What was sent to a backend names the backend.
        name, port = connection.sockname[:2] if connection.sockname else ("127.0.0.1", 8080)
        host = f"[{name}]:{port}" if ":" in name else f"{name}:{port}"
    return f"{scheme}://{host}"
