"""Which HTTP status an error object stands for, when it comes inside a 200.

Azure OpenAI refuses and fails inside streams that have begun with 200, and the Responses API answers 200
with ``{"status": "failed", "error": …}``. Had the same error come a moment earlier, it would have been a
status, and the call would have been sent elsewhere. One table names this status.

Codes are compared without case and separators: ``RateLimitReached`` and ``rate_limit_reached`` are one. A
code that the table does not know is the caller's own error (``content_filter``, ``invalid_prompt``,
``context_length_exceeded``, ``invalid_encrypted_content``, a picture that cannot be read …): every backend
would say the same, so it stands for no status that is replayed. A refused credential is not in the table
either: it is checked before a stream begins.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from aoai_gateway.wire.hints import is_throttle_code

OVERLOADED = 529
"""Anthropic's status for an API that has more to do than it can ("HTTP errors", Anthropic's reference)."""

OUT_OF_CAPACITY = frozenset({429, OVERLOADED})
"""Statuses of a call that was refused for want of capacity, and surely not begun."""

# Sources: the Responses API's ResponseErrorCode (openai-python `types/responses/response_error.py`), codes
# in 5xx answers of Azure OpenAI and API Management, the `type` of other servers' errors (vLLM, Anthropic).
_STATUSES: Mapping[str, int] = {
    "apierror": 500,
    "engineerror": 500,
    "internalerror": 500,
    "internalfailure": 500,
    "internalservererror": 500,
    "modelerror": 500,
    "servererror": 500,
    "unknownerror": 500,
    "badgateway": 502,
    "upstreamerror": 502,
    "engineoverloaded": 503,
    "modelnotready": 503,
    "overloadederror": OVERLOADED,
    "serviceunavailable": 503,
    "serviceunavailableerror": 503,
    "temporarilyunavailable": 503,
    "deadlineexceeded": 504,
    "gatewaytimeout": 504,
    "operationtimedout": 504,
    "operationtimeout": 504,
    "requesttimeout": 408,
    "timeout": 504,
    "timeouterror": 504,
    "upstreamtimeout": 504,
    "vectorstoretimeout": 504,
}
_NUMBERS = frozenset({408, 500, 502, 503, 504, OVERLOADED})

NO_REASON = 500
"""The status of a response that failed without any reason: the backend would name a fault of the caller's."""

LONGEST_CODE = 64


def status_of(error: Mapping[str, object]) -> int | None:
    """The status of 408, 429 and 5xx that an error object stands for; None if it is the caller's error.

    Its ``code`` tells, or its ``type`` or ``status``, in this order. A code that is unknown counts only
    where nothing else is known: Azure sends ``{"code": "some_new_code", "type": "server_error"}``.
    """
    for name in ("code", "type", "status"):
        status = _status(error.get(name))
        if status is not None:
            return status
    return None


def _status(code: object) -> int | None:
    if isinstance(code, bool) or not isinstance(code, str | int):
        return None
    if is_throttle_code(code):
        return 429
    plain = re.sub(r"[^a-z0-9]", "", str(code)[:LONGEST_CODE].lower())
    if plain.isdecimal():
        return int(plain) if int(plain) in _NUMBERS else None
    return _STATUSES.get(plain)
