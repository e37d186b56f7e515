"""Pages of other origins: which of them may call the gateway from a browser (Fetch standard, CORS).

Off unless ``cors.origins`` names some. Every visitor can read the keys in a page, so this is for pages whose
users bring their own key or token. Cookies are never involved: no answer allows credentials.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mitmproxy import http

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aoai_gateway.config.models import Cors

EXPOSED = (b"retry-after", b"x-gateway-", b"x-ratelimit-", b"x-should-retry", b"x-request-id", b"request-id")
"""How the names of fields begin that a page may read, beside those that it always may."""

PREFLIGHT_SECONDS = 600
"""How long a browser may remember what a preflight said; browsers have bounds of their own."""

_NAMES = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~, -]{1,2000}")


def preflight(cors: Cors, request: http.Request) -> http.Response | None:
    """Answer a preflight of an origin that is allowed; None if the request is none.

    A browser sends it without a key. It says nothing about the path, so nothing of it is looked at.
    """
    asked = "origin" in request.headers and "access-control-request-method" in request.headers
    if request.method != "OPTIONS" or not asked or _allowed(cors, request) is None:
        return None
    fields = [
        (b"access-control-allow-methods", b"GET, POST"),
        (b"access-control-max-age", b"%d" % PREFLIGHT_SECONDS),
    ]
    names = request.headers.get("access-control-request-headers", "")
    if _NAMES.fullmatch(names):
        fields.append((b"access-control-allow-headers", names.encode()))
    if request.headers.get("access-control-request-private-network") == "true":
        fields.append((b"access-control-allow-private-network", b"true"))
    return http.Response.make(204, b"", http.Headers(fields))


def fields(
    cors: Cors, request: http.Request, answered: Sequence[tuple[bytes, bytes]]
) -> list[tuple[bytes, bytes]]:
    """Return the fields that an answer needs for a browser to show it to its page.

    ``answered``: the fields that the answer has.
    """
    if not cors.origins:
        return []
    vary = [] if cors.any_origin else [(b"vary", b"Origin")]
    origin = _allowed(cors, request)
    if origin is None:
        return vary
    names = dict.fromkeys(name.lower() for name, _ in answered)
    exposed = b", ".join(name for name in names if name.startswith(EXPOSED))
    said = [(b"access-control-allow-origin", origin), *vary]
    return [*said, (b"access-control-expose-headers", exposed)] if exposed else said


def _allowed(cors: Cors, request: http.Request) -> bytes | None:
    if cors.any_origin:
        return b"*"
    origins = request.headers.get_all("origin")
    return origins[0].encode() if len(origins) == 1 and origins[0] in cors.origins else None
