"""The request as it goes over the wire.

The flow keeps the request as the client made it, without credentials. What is sent is built from it for
each attempt: the backend's deployment in path or body, its credential, no header that concerns only the
connection to the client, and otherwise the client's own bytes.
"""

from __future__ import annotations

import time
from functools import lru_cache
from typing import TYPE_CHECKING

from mitmproxy import http

from aoai_gateway.proxy import heads
from aoai_gateway.proxy.answer_kinds import may_be_download
from aoai_gateway.proxy.heads import make_request
from aoai_gateway.wire.authority import authority
from aoai_gateway.wire.secrets import PROTOCOLS, SECRET_HEADERS, credential_fields, without_secret_protocols

if TYPE_CHECKING:
    from aoai_gateway.engine.call import Call
    from aoai_gateway.routing.backends import Backend
    from aoai_gateway.wire.stored import Pieces

HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        # Not hop-by-hop by RFC 9110 §7.6.1, but said anew for every attempt:
        b"host",
        b"content-length",
        b"expect",
        b"http2-settings",
        b"sec-websocket-extensions",
    }
)

MAY_LACK_BODY = frozenset({b"GET", b"DELETE", b"HEAD"})
"""Methods of requests that say nothing of a body which they do not have (RFC 9110 §8.6)."""

HANDSHAKE = ((b"upgrade", b"websocket"), (b"connection", b"Upgrade"))
"""Fields that ask for a WebSocket. No extension is asked for: messages are read, and one that was compressed
could be made to fill the memory."""

_SECRET = frozenset(name.encode() for name in SECRET_HEADERS)
_PROTOCOLS = PROTOCOLS.encode()
_NOT_FORWARDED = HOP_BY_HOP | _SECRET
_OURS = b"x-gateway-"


def build_request(
    call: Call, backend: Backend, shown: http.Request, credential: tuple[bytes, bytes] | None
) -> tuple[http.Request, bytes | Pieces]:
    """Build the request for a backend, and its body: in memory, or in pieces.

    ``shown`` is the flow's request; ``credential`` the header field that lets it in there, if there
    is one.
    """
    endpoint, body = backend.endpoint, call.body
    assert body is not None
    deployment = backend.deployment(call.deployment)
    path = call.target.with_prefix(endpoint.path_prefix, deployment)
    model = deployment or None if call.target.deployment_in_body else None
    content = body.sent(
        model,
        add_model=call.target.deployment is not None,
        include_usage=call.adds_usage(backend),
        max_tokens=call.edits.get("max_tokens"),
        n=call.edits.get("n"),
        best_of=call.edits.get("best_of"),
    )

    pattern = call.setup.config.aoai.forward_http_header_only_if_name_matches
    received = shown.data.headers.fields
    named = heads.connection_options(received)
    # What is not read as a whole has to be text: secrets are masked in it as it passes.
    is_read_as_it_passes = body.stream or may_be_download(call.target.operation)
    fields = [(b"host", _authority(endpoint.scheme, endpoint.host, endpoint.port))]
    for name, value in received:
        low = name.lower()
        if low in _NOT_FORWARDED or low in named or low.startswith(_OURS):
            continue
        if low == b"content-encoding" and body.coded is not None and content is not body.coded:
            continue  # it was edited, and goes on as text
        if pattern is not None and not pattern.match(name.decode("latin-1")):
            continue
        if low == b"accept-encoding" and is_read_as_it_passes:
            continue
        fields.append((name, value))
    if is_read_as_it_passes:
        fields.append((b"accept-encoding", b"identity"))
    if call.target.operation.websocket:
        # What there is of a body is the first message of the session.
        fields += HANDSHAKE
    elif content or shown.data.method not in MAY_LACK_BODY:
        fields.append((b"content-length", b"%d" % len(content)))
    if credential is not None:
        fields += credential_fields(credential, call.target.operation.dialect.key_headers)
    request = make_request(
        host=endpoint.host,
        port=endpoint.port,
        method=shown.data.method,
        scheme=endpoint.scheme.encode(),
        path=path.encode(),
        fields=fields,
        now=time.time(),
    )
    return request, content


def without_secrets(request: http.Request, content: bytes) -> http.Request:
    """Copy a request as it was sent, less its credentials, to be shown."""
    shown = request.copy()
    shown.data.content = content
    shown.headers = http.Headers([f for f in request.headers.fields if f[0].lower() not in _SECRET])
    return shown


def strip_secrets(request: http.Request) -> None:
    """Take the credentials out of a client's request, before an addon sees it."""
    headers = request.data.headers
    names = {name.lower() for name, _ in headers.fields}
    if not names.isdisjoint(_SECRET):
        headers.fields = tuple([f for f in headers.fields if f[0].lower() not in _SECRET])
    if _PROTOCOLS in names:
        offered: str = headers[PROTOCOLS]
        kept = without_secret_protocols(offered)
        if kept != offered:
            headers.pop(PROTOCOLS)
        if kept and kept != offered:
            headers[PROTOCOLS] = kept


@lru_cache(maxsize=1024)
def _authority(scheme: str, host: str, port: int) -> bytes:
    """Return what the field Host of a request to an endpoint says."""
    return authority(host, None if port == {"https": 443, "http": 80}[scheme] else port).encode()
