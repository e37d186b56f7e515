"""What a backend's response says about its limits: when to come back, what is left, how full it is.

All readers take headers through a ``get(name)`` that ignores case, as mitmproxy's and http clients' do, and
believe nothing blindly: Azure OpenAI has been seen to send negative figures, ``-1`` for "unknown", 24 hours,
and ``retry-after-ms: 0`` on an exhausted window. What is not plausible reads as absent.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Protocol


class Headers(Protocol):
    """Response headers: ``get`` ignores case, and answers None where there is none."""

    def get(self, name: str, /) -> str | None:
        """The value of a header."""
        ...


TOKEN_WINDOW_SECONDS = 60.0
"""Azure's window of tokens, where it does not say (``x-ratelimit-renewalperiod-tokens``)."""

_LONGEST_PLAUSIBLE_SECONDS = 1e9
_NUMBER = re.compile(r"\+?(\d{1,15}(?:\.\d{0,15})?|\.\d{1,15})", re.ASCII)
_INTEGER = re.compile(r"-?\d{1,15}", re.ASCII)
# OpenAI's own form of x-ratelimit-reset-*: 6m0s, 1h2m3.5s, 120ms.
_SPAN = re.compile(
    r"(?:(\d{1,9})d)?(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9}(?:\.\d{0,9})?)s)?(?:(\d{1,9})ms)?"
)
_IN_TEXT = re.compile(
    rb"(?:retry after|try again in)\s+(\d{1,9}(?:\.\d{1,9})?)\s*"
    rb"(milliseconds?|ms|seconds?|s|minutes?|hours?)\b",
    re.IGNORECASE,
)
_UNIT_SECONDS = {b"mi": 60.0, b"ho": 3600.0, b"se": 1.0, b"s": 1.0}
_LONGEST_TEXT = 65_536


def retry_hint(headers: Headers, body: bytes | None, now_epoch: float) -> float | None:
    """Seconds until the backend wants to be asked again, as it says and not clamped; None if it does not.

    In this order: ``retry-after-ms``; ``retry-after``, seconds (fractions too) or a date, which is why the
    time is wanted (Unix seconds); ``x-ratelimit-reset-*`` of what is exhausted; the message's text. A hint
    of 0 is no hint, and beside an exhausted token window means "until it renews". A result of 0.0 says that
    there was nothing but such.
    """
    said_zero = False
    for hint in (
        _milliseconds(headers.get("retry-after-ms")),
        _seconds_or_date(headers.get("retry-after"), now_epoch),
    ):
        if hint:
            # The one who sends 0 in milliseconds sends 1 in seconds, and means neither.
            if said_zero and _tokens_exhausted(headers):
                return max(hint, _until_window_renews(headers))
            return hint
        said_zero = said_zero or hint == 0
    if said_zero and _tokens_exhausted(headers):
        return _until_window_renews(headers)
    resets = _resets(headers)
    if resets:
        return resets
    in_text = _in_text(body)
    if in_text:
        return in_text
    return 0.0 if said_zero else None


@dataclass(frozen=True, slots=True)
class RateLimits:
    """A backend's figures about itself; None where absent or implausible. Times in seconds.

    ``remaining_*`` may be negative: exhausted, and by how much. ``utilization`` is a provisioned
    deployment's (1.0 is full, more is possible). All of it is a hint at best: it lags, and under load it
    has been seen far from the truth.
    """

    limit_tokens: int | None = None
    remaining_tokens: int | None = None
    reset_tokens: float | None = None
    renewal_tokens: float | None = None
    limit_requests: int | None = None
    remaining_requests: int | None = None
    reset_requests: float | None = None
    renewal_requests: float | None = None
    utilization: float | None = None
    region: str | None = None


def read_rate_limits(headers: Headers) -> RateLimits:
    """The rate-limit headers of any response, refused or not."""
    tokens, requests = _window(headers, "tokens"), _window(headers, "requests")
    region = headers.get("x-ms-region")
    return RateLimits(
        *tokens,
        *requests,
        utilization=_percentage(headers.get("azure-openai-deployment-utilization")),
        region=region[:64] if region else None,
    )


def is_throttle_code(code: object) -> bool:
    """Whether an error's ``code`` (a string or a number) or ``type`` says "too much, come back later"."""
    if isinstance(code, bool) or not isinstance(code, str | int):
        return False
    return re.sub(r"[^a-z0-9]", "", str(code).lower()) in _THROTTLE_CODES


# Without case and separators: RateLimitReached and rate_limit_reached are one.
_THROTTLE_CODES = frozenset(
    {
        "429",
        "insufficientquota",
        "nocapacity",
        "overloaded",
        "quotaexceeded",
        "ratelimitexceeded",
        "ratelimitreached",
        "serverisoverloaded",
        "slowdown",
        "throttled",
        "toomanyrequests",
    }
)


def is_throttle_error(error: object) -> bool:
    """Whether an error object (``{"code": …, "type": …}``) says so, by its code or by its type."""
    return isinstance(error, Mapping) and any(
        is_throttle_code(error.get(name)) for name in ("code", "type", "status")
    )


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
    """The error object of a response body, nested under ``error`` or flat; empty if there is none."""
    if not body or len(body) > 16 * _LONGEST_TEXT:
        return {}
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(document, dict):
        return {}
    error = document.get("error")
    return error if isinstance(error, dict) else document


# --- one value ------------------------------------------------------------------------------------


def _number(text: str | None) -> float | None:
    """A plain number that is not negative; no exponents, infinities or overflows."""
    match = _NUMBER.fullmatch(text.strip()) if text else None
    return float(match[1]) if match else None


def _milliseconds(text: str | None) -> float | None:
    value = _number(text)
    return None if value is None else _plausible(value / 1000)


def _seconds_or_date(text: str | None, now_epoch: float) -> float | None:
    value = _number(text)
    if value is not None:
        return _plausible(value)
    try:
        date = parsedate_to_datetime(text or "")
        # "-0000" gives a time without a zone, and means UTC.
        when = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (TypeError, ValueError, OverflowError, IndexError):
        return None
    return _plausible(max(0.0, when - now_epoch))


def _plausible(seconds: float) -> float | None:
    return seconds if seconds <= _LONGEST_PLAUSIBLE_SECONDS else None


def _duration(text: str | None) -> float | None:
    """Seconds from "30", "1.5" or "6m0s"."""
    value = _number(text)
    if value is not None:
        return _plausible(value)
    match = _SPAN.fullmatch(text.strip()) if text else None
    if match is None or not any(match.groups()):
        return None
    days, hours, minutes, seconds, milliseconds = (float(part or 0) for part in match.groups())
    return _plausible(((days * 24 + hours) * 60 + minutes) * 60 + seconds + milliseconds / 1000)


def _integer(text: str | None) -> int | None:
    match = _INTEGER.fullmatch(text.strip()) if text else None
    return int(match[0]) if match else None


def _percentage(text: str | None) -> float | None:
    value = _number(text.strip().removesuffix("%").rstrip()) if text else None
    # Bursts above 100 % are real; 1,000 % is not.
    return value / 100 if value is not None and value < 1000 else None


# --- windows --------------------------------------------------------------------------------------

_Window = tuple[int | None, int | None, float | None, float | None]


def _window(headers: Headers, kind: str) -> _Window:
    """(limit, remaining, seconds until reset, length in seconds) of the window of "tokens" or "requests"."""
    limit = _integer(headers.get(f"x-ratelimit-limit-{kind}"))
    remaining = _integer(headers.get(f"x-ratelimit-remaining-{kind}"))
    reset = _duration(headers.get(f"x-ratelimit-reset-{kind}"))
    renewal = _duration(headers.get(f"x-ratelimit-renewalperiod-{kind}"))
    limit = limit if limit is not None and limit > 0 else None
    if remaining == -1 and limit is None and not reset:
        remaining = reset = None  # limit -1, remaining -1, reset 0: Azure's way to say that it does not know
    return limit, remaining, reset, renewal or None


def _tokens_exhausted(headers: Headers) -> bool:
    _, remaining, _, _ = _window(headers, "tokens")
    return remaining is not None and remaining <= 0


def _until_window_renews(headers: Headers) -> float:
    _, _, _, renewal = _window(headers, "tokens")
    return renewal or TOKEN_WINDOW_SECONDS


def _resets(headers: Headers) -> float | None:
    """The reset of what is exhausted; when nothing is, or nobody knows, the later of the two."""
    windows = [_window(headers, kind) for kind in ("tokens", "requests")]
    exhausted = [reset for _, left, reset, _ in windows if reset and left is not None and left <= 0]
    known = exhausted or [reset for _, _, reset, _ in windows if reset]
    return max(known, default=None)


def _in_text(body: bytes | None) -> float | None:
    match = _IN_TEXT.search(body[:_LONGEST_TEXT]) if body else None
    if match is None:
        return None
    unit = match[2].lower()
    factor = 0.001 if unit.startswith((b"milli", b"ms")) else _UNIT_SECONDS[unit[:2]]
    seconds = float(match[1]) * factor
    return seconds if math.isfinite(seconds) else None
