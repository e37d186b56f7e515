"""Times as text: as servers spell how long to wait, or until when, in the forms that are met in the wild.

- a number of seconds, with or without a fraction; one that is too large for that is a time since 1970, in
  seconds or milliseconds;
- a span with units: ``6m0s``, ``350ms``, ``1h2m3.5s``, ``2 minutes``, ``PT20S``;
- a date: RFC 9110 §5.6.7 in its three forms, or RFC 3339.

Nothing is believed that is not plausible. Every reader is linear in a text that is bounded first. What the
gateway writes for programs is RFC 3339, in UTC, with a Z.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Literal

LONGEST_PLAUSIBLE_SECONDS = 1e9
"""About thirty years: a number above is no span, but a time since 1970."""

LONGEST_TEXT = 64
"""Characters of a value; none of the forms needs more."""

MOST_PARTS = 6
"""The most parts of a span: days, hours, minutes, seconds, milliseconds, microseconds."""

_NUMBER = re.compile(r"\+?(\d{1,15}(?:\.\d{0,15})?|\.\d{1,15})", re.ASCII)
_UNIT = (
    r"d(?:ays?)?|h(?:(?:ou)?rs?)?|milli(?:second)?s?|msecs?|ms|m(?:in(?:ute)?s?)?|s(?:ec(?:ond)?s?)?"
    r"|micro(?:second)?s?|us|µs|ns"
)
_PART = re.compile(rf"(?:,\s?|\s|and\s){{0,3}}(\d{{1,9}}(?:\.\d{{0,12}})?)\s?({_UNIT})(?![a-z])", re.I)
_SECONDS = (("mil", 1e-3), ("ms", 1e-3), ("mic", 1e-6), ("us", 1e-6), ("µs", 1e-6), ("ns", 1e-9))
_LONG = {"d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0}


def number(text: str | None) -> float | None:
    """A plain number that is not negative; no exponents, infinities or overflows."""
    match = _NUMBER.fullmatch(text.strip()) if text and len(text) <= LONGEST_TEXT else None
    return float(match[1]) if match else None


def plausible(seconds: float) -> float | None:
    """The span, if it is one."""
    return seconds if 0 <= seconds <= LONGEST_PLAUSIBLE_SECONDS else None


def milliseconds(text: str | None, now_epoch: float | None = None) -> float | None:
    """Return the seconds in a number of milliseconds, or in a text that names its own unit."""
    value = number(text)
    return wait(text, now_epoch) if value is None else plausible(value / 1000)


def leading_span(text: str) -> float | None:
    """Seconds from the span with units with which a text begins."""
    total, position = 0.0, 0
    for count in range(MOST_PARTS + 1):
        match = _PART.match(text, position)
        if match is None:
            return plausible(total) if count else None
        total += float(match[1]) * _unit(match[2].lower())
        position = match.end()
    return None


def wait(text: str | None, now_epoch: float | None) -> float | None:
    """Seconds to wait from now (Unix seconds; None: forms that need it are not read); 0: until the past."""
    if not text or len(text) > LONGEST_TEXT:
        return None
    text = text.strip()
    value = number(text)
    if value is not None:
        if value <= LONGEST_PLAUSIBLE_SECONDS:
            return value
        return _until(value if value < 1e11 else value / 1000, now_epoch)
    span = _whole_span(text)
    if span is not None:
        return span
    return _until(_date(text), now_epoch)


def _whole_span(text: str) -> float | None:
    text = text[2:] if text[:2].upper() == "PT" else text
    total, position, count = 0.0, 0, 0
    while position < len(text) and count < MOST_PARTS:
        match = _PART.match(text, position)
        if match is None:
            return None
        total += float(match[1]) * _unit(match[2].lower())
        position, count = match.end(), count + 1
    return plausible(total) if count and position == len(text) else None


def _unit(unit: str) -> float:
    short = next((seconds for start, seconds in _SECONDS if unit.startswith(start)), None)
    return _LONG[unit[0]] if short is None else short


def _until(when: float | None, now_epoch: float | None) -> float | None:
    if when is None or now_epoch is None:
        return None
    return plausible(max(0.0, when - now_epoch))


def _date(text: str) -> float | None:
    date: datetime
    try:
        if text[:4].isdigit() and text[4:5] == "-":
            date = datetime.fromisoformat(text)
        else:
            date = parsedate_to_datetime(text)
        # Without a zone, and with "-0000", UTC is meant.
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (TypeError, ValueError, OverflowError, IndexError):
        return None


def rfc3339(seconds: float, timespec: Literal["seconds", "milliseconds"] = "seconds") -> str:
    """Write a time, in seconds since the epoch. Parts of a second that are not written are cut off."""
    second, micro = divmod(round(seconds * 1_000_000), 1_000_000)
    if timespec == "seconds":
        return f"{_to_the_second(second)}Z"
    # The thousand in front keeps its zeros, in half of the time of a format.
    return f"{_to_the_second(second)}.{str(1000 + micro // 1000)[1:]}Z"


@lru_cache(64)
def _to_the_second(second: int) -> str:
    # Many times that are written are of the same second.
    return datetime.fromtimestamp(second, UTC).isoformat().removesuffix("+00:00")
