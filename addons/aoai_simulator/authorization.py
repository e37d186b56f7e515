"""Who may call a simulated resource: keys are compared, and of tokens the expiry is looked at."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from urllib.parse import parse_qs

from aoai_simulator import replies
from aoai_simulator.replies import Whole


def unauthorised(target: str, headers: Mapping[str, str], own_key: str, unix_time: float) -> Whole | None:
    """Return the 401 for a request with neither the resource's key nor what looks like a token; else None.

    Names in ``headers`` are in lower case.
    """
    key = headers.get("api-key", headers.get("x-api-key")) or _key_in_query(target)
    if key is not None:
        return None if key == own_key else replies.wrong_key()
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        return replies.wrong_key()
    token = token.strip()
    if token == own_key:
        return None
    if token.startswith("eyJ") and token.count(".") == 2:
        return None if _current(token, unix_time) else replies.wrong_token()
    return replies.wrong_key()


def _current(token: str, unix_time: float) -> bool:
    """Whether a JWT has claims and has not expired; its signature is not looked at."""
    payload = token.split(".")[1]
    try:
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except ValueError:
        return False
    expires = claims.get("exp") if isinstance(claims, dict) else None
    return not isinstance(expires, int | float) or expires > unix_time


def _key_in_query(target: str) -> str | None:
    """The key in a request's query, as browsers send it."""
    named = parse_qs(target.partition("?")[2])
    keys = named.get("api-key")
    return keys[0] if keys else None
