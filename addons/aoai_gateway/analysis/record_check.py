"""Whether a record's fields are of the types that reports and backtests count with.

Files of records pass through other hands: a pipeline writes a number as text, a tool cuts a list off. Such a
record is passed over as a whole, since half of a call would make figures wrong without a sign.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, NotRequired, TypedDict, cast

from msgspec import DecodeError, Meta
from msgspec.json import Decoder
from pydantic import Field, TypeAdapter, ValidationError

MOST = 10**15
"""The most that any number may be: sums of it are exact as floats still, and no call comes near."""

LATEST = datetime(9998, 1, 1, tzinfo=UTC).timestamp()
"""The latest time of a record: what comes after it can be written, too."""

# Bounds stand twice: pydantic names the field that is wrong, msgspec reads the lines that are right.
_Count = Annotated[int, Field(ge=0, le=MOST), Meta(ge=0, le=MOST)]
_Number = Annotated[float, Field(ge=0, le=MOST, allow_inf_nan=False), Meta(ge=0, le=MOST)]
_Status = Annotated[int, Field(ge=0, le=999), Meta(ge=0, le=999)]


class NoRecordError(Exception):
    """A line or a row is no record, or a file has none; the text names what is wrong with it."""


class _Skip(TypedDict):
    cause: str


class _Attempt(TypedDict):
    backend: str
    status: _Status | None
    failure: str | None
    answered_ms: _Number | None
    duration_ms: _Number | None
    skipped: list[_Skip]


class _Action(TypedDict):
    what: str
    dry_run: bool


class _Refusal(TypedDict):
    quota: str


class _Record(TypedDict):
    """The fields of `usage.record.FIELDS` that anything is made of here."""

    call: str | None
    client: str | None
    priority: str | None
    operation: str | None
    deployment: str | None
    model: str | None
    streaming: bool
    max_tokens: _Count | None
    outcome: str | None
    status: _Status | None
    error: str | None
    input_tokens: _Count | None
    output_tokens: _Count | None
    cached_tokens: _Count | None
    asked_deployment: str | None
    waited_ms: _Number | None
    first_token_ms: _Number | None
    duration_ms: _Number | None
    client_retry: _Count | None
    attempts: list[_Attempt]
    count: _Count | None
    delivered_tokens: _Count | None
    prompt_tokens_counted: _Count | None
    cost: _Number | None
    service_tier: str | None
    service_tier_requested: str | None
    policy: list[_Action]
    refused_by: _Refusal | None
    spillover: dict[str, Any] | None


class _Line(_Record):
    """A record as a line of JSON has it."""

    schema: NotRequired[int]
    time: str


_records: TypeAdapter[Any] = TypeAdapter(_Record)
_lines: Decoder[_Line] = Decoder(_Line)


def is_time(at: float) -> bool:
    """Whether seconds since the epoch can be a record's time."""
    return 0 <= at < LATEST


def checked(line: str) -> dict[str, Any] | None:
    """Read a line of JSON: a record's fields that anything is made of here, all of them there and right.

    None for any other line. It is then to be read whole: an older record lacks fields, or one is wrong.
    """
    try:
        # In three quarters of the time that pydantic takes. It takes no line that pydantic would not.
        return cast("dict[str, Any]", _lines.decode(line))
    except (DecodeError, RecursionError):
        return None


def wrong_field(record: dict[str, Any]) -> str | None:
    """Name the first field that is not of its type, as ``attempts.0.status``; None if all are."""
    try:
        _records.validate_python(record, strict=True)
    except ValidationError as error:
        return ".".join(map(str, error.errors(include_url=False, include_input=False)[0]["loc"]))
    return None
