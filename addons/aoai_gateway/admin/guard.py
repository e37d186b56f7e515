"""Access to the admin listener: decided from a request's headers, without I/O.

Without a token the listener is on a loopback address, and every user of this machine may use it. But a
browser on this machine also sends the requests of strangers' pages, so

- a request must name a loopback host: a stranger's name that was made to resolve to 127.0.0.1 (DNS
  rebinding) is not one, and its pages cannot read the answers;
- a request that changes something must be JSON, which pages of another origin cannot send without being
  allowed to (CORS preflight, and nothing here allows it); and if it names its origin, that must be
  this one.

With a token, it must be shown, and strangers' pages do not have it; then any host name will do, as behind an
ingress.
"""

from __future__ import annotations

import hmac
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pydantic import SecretStr

    from aoai_gateway.config.sections import Holder

LOCAL = re.compile(r"(?:localhost|127(?:\.[0-9]{1,3}){3}|\[::1\])(?::[0-9]{1,5})?", re.IGNORECASE)
"""A Host field that names this machine, exactly; the port may be another one, forwarded to this."""

SAME_SITE = ("same-origin", "none")
"""Values of Sec-Fetch-Site: from this very origin, or typed in by the user (Fetch Metadata, W3C)."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is not served: an HTTP status and a sentence."""

    status: int
    message: str


type Tokens = Sequence[tuple[Holder, SecretStr]]
"""The tokens that count, with their holders; without any, requests from this machine may do everything."""


def holder_of(headers: Mapping[str, str], tokens: Tokens) -> Holder | None:
    """Return the holder of the token in a request. ``headers``: names in lower case."""
    kind, _, shown = headers.get("authorization", "").partition(" ")
    shown = shown.strip() if kind.lower() == "bearer" else ""
    found = None
    for holder, token in tokens:  # all of them, so that the time tells nothing
        if hmac.compare_digest(shown.encode(), token.get_secret_value().encode()):
            found = holder
    return found


def may_see(headers: Mapping[str, str], tokens: Tokens) -> Refusal | None:
    """Return why a request may not read; None if it may. ``headers``: names in lower case."""
    if not tokens:
        return is_local(headers)
    if holder_of(headers, tokens) is None:
        return Refusal(401, "Show the token of the section admin: Authorization: Bearer ….")
    return None


def is_local(headers: Mapping[str, str]) -> Refusal | None:
    """Refuse a request for a host that is not this machine."""
    if not LOCAL.fullmatch(headers.get("host", "")):
        return Refusal(403, "Without a token this is for requests to localhost or 127.0.0.1 only.")
    return None


def may_change(headers: Mapping[str, str], tokens: Tokens) -> Refusal | None:
    """Return why a request may not change anything; None if it may."""
    refusal = may_see(headers, tokens)
    if refusal is not None:
        return refusal
    holder = holder_of(headers, tokens)
    if holder is not None and holder.read_only:
        return Refusal(403, "This token is for reading only. Show one that may change things.")
    return is_own_page(headers)


def is_own_page(headers: Mapping[str, str]) -> Refusal | None:
    """Refuse what pages of other origins can make a browser send."""
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        return Refusal(415, "Send JSON, with content-type: application/json.")
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc.lower() != headers.get("host", "").lower():
        return Refusal(403, "Requests from pages of other origins are refused.")
    if headers.get("sec-fetch-site", "none") not in SAME_SITE:
        return Refusal(403, "Requests from pages of other sites are refused.")
    return None
