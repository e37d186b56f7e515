"""What a backend's error says: its code, the status that it stands for, and whose fault it is.

Azure OpenAI refuses and fails inside streams that have begun with 200, and the Responses API answers 200 with
``{"status": "failed", "error": …}``. Had the same error come a moment earlier, it would have been a status,
and the call would have been sent elsewhere. `status_of` names this status. A code that it does not know is
the caller's own error (``content_filter``, ``invalid_prompt``, ``context_length_exceeded``,
``invalid_encrypted_content``, a picture that cannot be read …): every backend would say the same, so it
stands for no status that is replayed. Nor does a refused credential: it is checked before a stream begins.

Between the gateway and Azure stand firewalls, proxies and API management, which refuse prompts with the same
statuses. So a status alone proves nothing; Azure's own errors are distinguished from theirs by the code and
the beginning of the message. The rest of it proves nothing: a firewall may quote the prompt.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from enum import StrEnum

LARGEST_ERROR = 1024 * 1024
"""Bytes of a response body in which an error is looked for."""


def describe(status: int, body: bytes | None) -> str:
    """A few words on a failed response for logs and comments: its status, and its error's code.

    Never the message: it can quote the prompt.
    """
    code = error_code(body)
    return str(status) if code in (None, str(status)) else f"{status} {code}"


def error_code(body: bytes | None) -> str | None:
    """``error.code`` of a response body (else ``error.type``), if it looks like a code; None otherwise."""
    error = read_error(body)
    for name in ("code", "type"):
        code = error.get(name)
        if isinstance(code, int) and not isinstance(code, bool):
            code = str(code)
        if isinstance(code, str) and re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", code, re.ASCII):
            return code
    return None


def read_error(body: bytes | None) -> Mapping[str, object]:
    """The error object of a response body, nested under ``error`` or flat; empty without one."""
    if not body or len(body) > LARGEST_ERROR:
        return {}
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(document, dict):
        return {}
    error = document.get("error")
    return error if isinstance(error, dict) else document


# --- the status that an error stands for -------------------------------------------------------------

OVERLOADED = 529
"""Anthropic's status for an API that has more to do than it can ("HTTP errors", Anthropic's reference)."""

OUT_OF_CAPACITY = frozenset({429, OVERLOADED})
"""Statuses of a call that was refused for want of capacity, and surely not begun."""

# Sources: the Responses API's ResponseErrorCode (openai-python `types/responses/response_error.py`), codes
# in 5xx answers of Azure OpenAI and API Management, the `type` of other servers' errors (vLLM, Anthropic).
_STATUSES: Mapping[str, int] = {
    **dict.fromkeys(
        (
            "insufficientquota",
            "nocapacity",
            "overloaded",
            "quotaexceeded",
            "ratelimiterror",
            "ratelimitexceeded",
            "ratelimitreached",
            "serverisoverloaded",
            "slowdown",
            "throttled",
            "toomanyrequests",
        ),
        429,
    ),
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
_NUMBERS = frozenset({408, 429, 500, 502, 503, 504, OVERLOADED})

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
    plain = _plain(code)
    if plain.isdecimal():
        return int(plain) if int(plain) in _NUMBERS else None
    return _STATUSES.get(plain)


def _plain(code: object) -> str:
    """Write a code (a text or a number) without case and separators, in which its spellings differ."""
    if isinstance(code, bool) or not isinstance(code, str | int):
        return ""
    return re.sub(r"[^a-z0-9]", "", str(code)[:LONGEST_CODE].lower())


# --- whose fault it is -------------------------------------------------------------------------------

_KEY_CODES = frozenset(
    {
        "authenticationtypedisabled",
        "invalid_api_key",
        "invalidauthenticationtoken",
        "permissiondenied",
        "invalidsubscriptionkey",
        "lackofpermission",
    }
)
# Parts of Azure's messages about a key or token that is refused; last, OpenAI's, for compatible backends.
_KEY_MESSAGES = (
    "access denied due to",
    "access token is missing",
    "access to this resource",
    "authentication failed",
    "authorizationtoken",
    "key based authentication",
    "principal does not have access",
    "public access is disabled",
    "the principal ",
    "the resource has been temporarily blocked",
    "token is ",
    "traffic is not from an approved private endpoint",
    "unauthorized. access token",
    "incorrect api key",
    "invalid api key",
    "invalid x-api-key",
)


def is_key_refused(body: bytes | None) -> bool:
    """Whether a 401 or 403 refuses the key, the identity or the network of its sender.

    Then it is about every call that is sent with them.
    """
    code = error_code(body)
    if code is not None and code.lower() in _KEY_CODES:
        return True
    message = read_error(body).get("message")
    return isinstance(message, str) and message[:64].lstrip().lower().startswith(_KEY_MESSAGES)


_NO_DEPLOYMENT = frozenset({"deploymentnotfound", "deployment_not_found", "model_not_found", "unknown_model"})
_NO_MODEL = "model:"
"""How Anthropic's message begins where there is no such model."""
_NOT_DONE = frozenset(
    {"api_not_supported", "operationnotsupported", "operation_not_supported", "unsupported_operation"}
)
_HELD_ELSEWHERE = re.compile(
    r"invalid_encrypted_content|(?:previous_response|response|conversation|item|file|vector_store|container)"
    r"_not_found"
)
_UNREADABLE = ("could not be verified", "could not be decrypted")
_NOT_FOUND = ("not found", "no such", "does not exist", "could not be found")
_NOTHING_THERE = "resource not found"
_STREAM_OPTIONS = "stream_options"
_MOST_FAULTS = 20
_ID = re.compile(r"\b(?:[a-z]{2,12}[_-])[A-Za-z0-9_-]{6,2048}={0,2}")
_MOST_IDS = 4


def is_deployment_missing(status: int, body: bytes | None) -> bool:
    """Whether the error is that the deployment does not exist."""
    code = (error_code(body) or "").lower()
    if status == 404 and code == "not_found_error":
        message = read_error(body).get("message")
        return isinstance(message, str) and message.startswith(_NO_MODEL)
    return status in (400, 404) and code in _NO_DEPLOYMENT


def is_path_missing(status: int, body: bytes | None, *, below_prefix: bool) -> bool:
    """Whether there is nothing at the path. Below a prefix Azure's own error means that, too.

    Without one, "Resource not found" is about the api-version, which is the client's.
    """
    if status != 404:
        return False
    return not read_error(body) or (below_prefix and is_version_refused(status, body))


def is_version_refused(status: int, body: bytes | None) -> bool:
    """Whether Azure answers that there is nothing at a path, or nothing in this api-version."""
    message = read_error(body).get("message") if status == 404 else None
    return isinstance(message, str) and message.lower().startswith(_NOTHING_THERE)


def is_operation_unsupported(status: int, body: bytes | None) -> bool:
    """Whether the deployment's model does not do what was asked for."""
    return status in (400, 404) and (error_code(body) or "").lower() in _NOT_DONE


def is_stream_options_unknown(status: int, body: bytes | None) -> bool:
    """Whether ``stream_options`` is refused: by Azure's own error, or by a list of what is wrong where.

    The latter is a 422 of FastAPI, which serves models of other makers; some put it into an error of Azure's.
    """
    if status not in (400, 422):
        return False
    error = read_error(body)
    told = (error.get("param"), error.get("message"))
    if any(isinstance(text, str) and _STREAM_OPTIONS in text for text in told):
        return True
    faults = error.get("detail") or error.get("details")
    if not isinstance(faults, list):
        return False
    places = [fault.get("loc") for fault in faults[:_MOST_FAULTS] if isinstance(fault, dict)]
    return any(isinstance(place, list) and _STREAM_OPTIONS in place for place in places)


def is_encryption_foreign(status: int, body: bytes | None) -> bool:
    """Whether another resource encrypted what the call holds. The code may be null."""
    message = read_error(body).get("message")
    text = message.lower() if isinstance(message, str) else ""
    said = "encrypted content" in text and any(words in text for words in _UNREADABLE)
    return status == 400 and (said or error_code(body) == "invalid_encrypted_content")


def is_held_elsewhere(status: int, body: bytes | None, request: bytes) -> bool:
    """Whether what the call (``request``: its body) refers to is not to be found at this resource."""
    if status not in (400, 404):
        return False
    if is_encryption_foreign(status, body) or _HELD_ELSEWHERE.fullmatch((error_code(body) or "").lower()):
        return True
    message = read_error(body).get("message")
    if not isinstance(message, str) or not any(words in message.lower() for words in _NOT_FOUND):
        return False
    named = _ID.findall(message[:4_096])[:_MOST_IDS]
    return any(f'"{name}"'.encode() in request for name in named)


class Refusal(StrEnum):
    """Why a deployment does not serve a call that another deployment may serve."""

    CONTENT_FILTER = "content_filter"
    """Its content filter blocked the prompt, or the answer before any of it was delivered."""
    CONTEXT_LENGTH = "context_length"
    """The prompt, or prompt and answer, are too long for its model."""
    MISSING_MODEL = "missing_model"
    """It does not exist at any endpoint that should have it."""


BLOCKED = frozenset({"content_filter", "refusal"})
"""The finish reasons of an answer that the content filter, or Claude's safeguards, blocked."""

# Azure's own code; its inner one; those of images (content-filter.md, gpt-image).
_BLOCKED_CODES = frozenset(
    {"contentfilter", "responsibleaipolicyviolation", "contentpolicyviolation", "moderationblocked"}
)
_TOO_LONG_CODES = frozenset({"contextlengthexceeded", "contextwindowexceeded"})
# The code may be null: embeddings, and other servers (vLLM; Anthropic; Gemini).
_TOO_LONG_MESSAGES = (
    "input tokens exceed the configured limit",
    "input length and `max_tokens` exceed context limit",
    "prompt is too long",
    "the input token count",
    "this model's maximum context length is",
    "your input exceeds the context window",
)


def refusal_of(status: int, body: bytes | None) -> Refusal | None:
    """Return why an answer with a status of the 4xx refuses what another deployment may serve, if it does."""
    return refusal_in(read_error(body)) if 400 <= status < 500 else None


def refusal_in(error: Mapping[str, object]) -> Refusal | None:
    """Return the same of an error object, wherever it stood."""
    inner = error.get("innererror")
    codes = {_plain(error.get("code")), _plain(inner.get("code")) if isinstance(inner, Mapping) else ""}
    if codes & _BLOCKED_CODES:
        return Refusal.CONTENT_FILTER
    message = error.get("message")
    said = message[:64].lstrip().lower() if isinstance(message, str) else ""
    if codes & _TOO_LONG_CODES or said.startswith(_TOO_LONG_MESSAGES):
        return Refusal.CONTEXT_LENGTH
    return None
