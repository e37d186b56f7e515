"""Hints in a backend's response about its limits: when to come back, how much is left, how full it is,
and whether another deployment has served the call (spillover).

All readers take headers through a ``get(name)`` that ignores case, as mitmproxy's and http clients' do, and
believe nothing blindly: Azure OpenAI has been seen to send negative figures, ``-1`` for "unknown", 24 hours,
and ``retry-after-ms: 0`` on an exhausted window. A value that is not plausible reads as absent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from aoai_gateway.wire.backend_errors import read_error
from aoai_gateway.wire.spans import leading_span, milliseconds, number, wait


class Headers(Protocol):
    """Response headers: ``get`` ignores case, and answers None where there is none."""

    def get(self, name: str, /) -> str | None:
        """The value of a header."""
        ...


TOKEN_WINDOW_SECONDS = 60.0
"""Azure's window of tokens, where its header is missing (``x-ratelimit-renewalperiod-tokens``)."""

_INTEGER = re.compile(r"-?\d{1,15}", re.ASCII)
_LONGEST_TEXT = 65_536

# What is met in the wild, in the order of belief. Azure OpenAI sends the first three and x-ratelimit-*, and
# has sent x-rate-limit-*; the others are those of proxies, of compatible servers, and of drafts of the IETF.
_WAITS = (
    ("retry-after-ms", milliseconds),
    ("x-ms-retry-after-ms", milliseconds),
    ("retry-after", wait),
    ("x-retry-after", wait),
)
_RESETS = (
    "x-ratelimit-reset-{kind}",
    "x-rate-limit-reset-{kind}",
    "ratelimit-reset-{kind}",
    "anthropic-ratelimit-{kind}-reset",
    "anthropic-ratelimit-input-{kind}-reset",
    "anthropic-ratelimit-output-{kind}-reset",
)
_REMAINING = (
    "x-ratelimit-remaining-{kind}",
    "x-rate-limit-remaining-{kind}",
    "ratelimit-remaining-{kind}",
    "anthropic-ratelimit-{kind}-remaining",
    "anthropic-ratelimit-input-{kind}-remaining",
    "anthropic-ratelimit-output-{kind}-remaining",
)
_LIMITS = (
    "x-ratelimit-limit-{kind}",
    "x-rate-limit-limit-{kind}",
    "anthropic-ratelimit-{kind}-limit",
    "anthropic-ratelimit-input-{kind}-limit",
    "anthropic-ratelimit-output-{kind}-limit",
)
_RESETS_OF_ALL = ("x-ratelimit-reset-after", "x-ratelimit-reset", "x-rate-limit-reset", "ratelimit-reset")
_KINDS = ("tokens", "requests")
LIMIT_HEADERS = frozenset(
    {name.format(kind=kind) for name in (*_RESETS, *_REMAINING, *_LIMITS) for kind in _KINDS}
    | {f"x-ratelimit-renewalperiod-{kind}" for kind in _KINDS}
    | {*_RESETS_OF_ALL, "ratelimit", "ratelimit-policy", "ratelimit-limit", "ratelimit-remaining"}
    | {"x-ratelimit-key", "x-ratelimit-type", "azure-openai-deployment-utilization"}
)
"""The headers, in lower case, by which a backend tells its limits: they say nothing about a client's own."""
LIMITS_BEGIN = ("anthropic-ratelimit-", "anthropic-priority-")
"""How further ones begin, of kinds that are not read."""
# RateLimit: "default";r=0;t=30 (draft-ietf-httpapi-ratelimit-headers-10), limit=9, reset=30 (its -06).
_RATE_LIMIT = re.compile(r"(?:^|[;,\s])(?:t|reset)=(\d{1,9})(?=[;,\s]|$)")
_LONGEST_FIELD = 512
# Members of an error, its innererror, or an entry of its details (google.rpc.RetryInfo).
_MEMBERS = (
    ("retry_after_ms", milliseconds),
    ("retryAfterMs", milliseconds),
    ("retry_after", wait),
    ("retryAfter", wait),
    ("retry_after_seconds", wait),
    ("retryAfterSeconds", wait),
    ("retryDelay", wait),
    ("retry_delay", wait),
    ("quotaResetDelay", wait),
)
_MOST_DETAILS = 16
_IN_TEXT = re.compile(
    rb"(?:retry after|retry in|try again in|try again after|wait(?: for)?|resets? in|resets? after)"
    rb":?\s{1,3}(?:about |approximately |another )?(?=\d)",
    re.IGNORECASE,
)


def retry_hint(headers: Headers, body: bytes | None, now_epoch: float) -> float | None:
    """Return the seconds until the backend wants to be asked again, not clamped; None without a hint.

    In this order: a header that names a time (seconds with or without a fraction, a span, a date, which is
    why ``now_epoch`` is wanted, in Unix seconds); such a member of the error; the reset of the exhausted
    window; the message's text. A hint of 0 is no hint, and beside an exhausted token window means "until it
    renews". The result is 0.0 if there were only such hints.
    """
    said_zero = False
    for name, read in _WAITS:
        hint = read(headers.get(name), now_epoch)
        if hint:
            # A backend that sends 0 in milliseconds sends 1 in seconds, and means neither.
            return max(hint, _until_tokens_renew(headers)) if said_zero else hint
        said_zero = said_zero or hint == 0
    if said_zero and (seconds := _until_tokens_renew(headers)):
        return seconds
    for found in (_in_members(body, now_epoch), _resets(headers, now_epoch), _in_text(body)):
        if found:
            return found
    return 0.0 if said_zero else None


@dataclass(slots=True)
class RateLimits:
    """A backend's figures about itself; None where absent or implausible. Times in seconds.

    They are never changed; not frozen, since that trebles the time to make them.

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
    if isinstance(headers, dict) and _OF_WINDOWS.isdisjoint(headers):
        # A provisioned deployment's, in a backtest: they would be looked for one by one.
        tokens = requests = _UNKNOWN
    else:
        tokens, requests = _window(headers, "tokens"), _window(headers, "requests")
    region = headers.get("x-ms-region")
    return RateLimits(
        *tokens,
        *requests,
        utilization=utilization_of(headers),
        region=region[:64] if region else None,
    )


# --- one value ------------------------------------------------------------------------------------


def _integer(text: str | None) -> int | None:
    match = _INTEGER.fullmatch(text.strip()) if text else None
    return int(match[0]) if match else None


def utilization_of(headers: Headers) -> float | None:
    """Return how full the provisioned deployment that answered says to be; 1.0 is full, more is possible."""
    text = headers.get("azure-openai-deployment-utilization")
    value = number(text.strip().removesuffix("%").rstrip()) if text else None
    # Bursts above 100 % are real; 1,000 % is not.
    return value / 100 if value is not None and value < 1000 else None


# --- windows --------------------------------------------------------------------------------------

_Window = tuple[int | None, int | None, float | None, float | None]


class _Names(NamedTuple):
    """The headers of one kind of window."""

    limits: tuple[str, ...]
    remaining: tuple[str, ...]
    resets: tuple[str, ...]
    renewal: str

    @classmethod
    def of(cls, kind: str) -> _Names:
        limits, remaining, resets = (
            tuple(name.format(kind=kind) for name in names) for names in (_LIMITS, _REMAINING, _RESETS)
        )
        return cls(limits, remaining, resets, f"x-ratelimit-renewalperiod-{kind}")


_NAMES = {kind: _Names.of(kind) for kind in _KINDS}

_OF_WINDOWS = frozenset(
    name for each in _NAMES.values() for name in (*each.limits, *each.remaining, *each.resets, each.renewal)
)
"""The headers that tell of a window."""

_UNKNOWN: _Window = (None, None, None, None)
"""A window of which nothing is told."""


def _first(headers: Headers, names: tuple[str, ...]) -> str | None:
    for name in names:
        value = headers.get(name)
        if value is not None:
            return value
    return None


def _window(headers: Headers, kind: str, now_epoch: float | None = None) -> _Window:
    """(limit, remaining, seconds until reset, length in seconds) of the window of "tokens" or "requests"."""
    names = _NAMES[kind]
    limit = _integer(_first(headers, names.limits))
    remaining = _integer(_first(headers, names.remaining))
    reset = None
    for name in names.resets:
        value = headers.get(name)
        seconds = wait(value, now_epoch) if value is not None else None
        if seconds is not None and (reset is None or seconds > reset):
            reset = seconds
    renewal = wait(headers.get(names.renewal), None)
    limit = limit if limit is not None and limit > 0 else None
    if remaining == -1 and limit is None and not reset:
        remaining = reset = None  # limit -1, remaining -1, reset 0: Azure's form of "unknown"
    return limit, remaining, reset, renewal or None


def _until_tokens_renew(headers: Headers) -> float:
    """Return the seconds until an exhausted window of tokens renews; 0 if it is not exhausted."""
    _, remaining, _, renewal = _window(headers, "tokens")
    return renewal or TOKEN_WINDOW_SECONDS if remaining is not None and remaining <= 0 else 0.0


def _resets(headers: Headers, now_epoch: float) -> float | None:
    """The reset of the exhausted window; when none is, or that is unknown, the later of the two."""
    windows = [_window(headers, kind, now_epoch) for kind in _KINDS]
    exhausted = [reset for _, left, reset, _ in windows if reset and left is not None and left <= 0]
    known = exhausted or [reset for _, _, reset, _ in windows if reset]
    if known:
        return max(known)
    waits = (wait(headers.get(name), now_epoch) for name in _RESETS_OF_ALL)
    spelled = next((seconds for seconds in waits if seconds), None)
    if spelled is not None:
        return spelled
    field = (headers.get("ratelimit") or "")[:_LONGEST_FIELD]
    return max((float(seconds) for seconds in _RATE_LIMIT.findall(field)), default=None)


def _in_members(body: bytes | None, now_epoch: float) -> float | None:
    for part in _parts(read_error(body)):
        for name, read in _MEMBERS:
            value = part.get(name)
            if isinstance(value, int | float) and not isinstance(value, bool):
                value = str(value)
            seconds = read(value, now_epoch) if isinstance(value, str) else None
            if seconds:
                return seconds
    return None


def _parts(error: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
    details = error.get("details")
    several = details[:_MOST_DETAILS] if isinstance(details, list) else []
    for part in (error, error.get("innererror"), *several):
        if isinstance(part, Mapping):
            yield part
            metadata = part.get("metadata")
            if isinstance(metadata, Mapping):
                yield metadata


def _in_text(body: bytes | None) -> float | None:
    for match in _IN_TEXT.finditer(body[:_LONGEST_TEXT] if body else b""):
        seconds = leading_span(body[match.end() : match.end() + 64].decode("latin-1") if body else "")
        if seconds:
            return seconds
    return None


SPILL_FROM = "x-ms-spillover-from-deployment"
SPILLED = "x-ms-is-spilled-over"
SERVED_BY = "x-ms-deployment-name"
SPILL_ERROR = "x-ms-spillover-error"

_NAME = re.compile(r"[A-Za-z0-9._-]{1,128}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Spillover:
    """What an answer's headers say of a spill; None where they do not.

    A provisioned deployment that is full lets a standard one of its resource answer. Azure does that by
    itself, where the deployment or the request (``x-ms-spillover-deployment``) names the standard one; a
    failed spill gives the standard deployment's failure, with the same headers
    (how-to/spillover-traffic-management). Such an answer says nothing about the provisioned one, but that it
    was full.

    ``start`` is the provisioned deployment, ``end`` the standard one that has answered, ``error`` the status
    (or code) with which the first one refused.
    """

    start: str | None = None
    end: str | None = None
    error: str | None = None


def read_spillover(headers: Headers) -> Spillover | None:
    """Return what the headers say; None for an answer that was not spilled over."""
    if not headers:
        return None
    start = headers.get(SPILL_FROM)
    if not start and (headers.get(SPILLED) or "").strip().lower() != "true":
        return None
    return Spillover(_name(start), _name(headers.get(SERVED_BY)), _name(headers.get(SPILL_ERROR)))


def own_rate_limits(headers: Headers) -> RateLimits:
    """Return the figures of the deployment that was asked; none where another one has answered."""
    return read_rate_limits(headers) if read_spillover(headers) is None else RateLimits()


def _name(value: str | None) -> str | None:
    return value if value is not None and _NAME.fullmatch(value) else None
