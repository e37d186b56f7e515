"""What a form of another program's records is: how it is known, and how a row becomes a usage record.

A row is one of a CSV file or an object of JSON; the same export has numbers as text in one of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import SplitResult, urlsplit

from aoai_gateway.analysis.record_check import NoRecordError, is_time
from aoai_gateway.usage.record import empty_attempt, empty_record, written_time

NOTHING = frozenset(("", "None", "null", "NULL", "\\N"))
"""How CSV files write that there is no value."""

PORTAL_TIME = "%m/%d/%Y, %I:%M:%S.%f %p"
"""As the Azure portal exports a time."""


@dataclass(frozen=True, slots=True)
class Form:
    """One form of records."""

    name: str
    """As in ``LiteLLM's spend logs``."""
    columns: frozenset[str]
    """The columns that every row has; a form is known by them."""
    record: Callable[[Row], tuple[float, dict[str, Any]] | None]
    """Makes a row's record, with its time; returns None for a row that is no call. Raises NoRecordError."""
    untold: str
    """What such rows do not tell, as a sentence for the reader of a report."""
    not_beside: str = field(default="", kw_only=True)
    """A form whose rows are of the same calls, which would be counted twice: its name."""


@dataclass(frozen=True, slots=True)
class Unusable:
    """A form that is known, and of which no record can be made; ``why`` says it, and what to do instead."""

    name: str
    columns: frozenset[str]
    why: str


class Row:
    """The values of a row by their columns. What is empty is None. Of a wrong value, the column is named."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def text(self, column: str) -> str | None:
        """Return a value as text. Raises NoRecordError if it is a list or an object."""
        value = self._values.get(column)
        if value is None or isinstance(value, dict | list):
            if value:
                raise NoRecordError(column)
            return None
        said = str(value).strip()
        return None if said in NOTHING else said

    def count(self, column: str) -> int | None:
        """Return a whole number; ``12.0`` is one, too. Raises NoRecordError."""
        found = self.number(column)
        if found is None:
            return None
        if found != int(found):
            raise NoRecordError(column)
        return int(found)

    def number(self, column: str) -> float | None:
        """Return a number from 0 on. Raises NoRecordError."""
        said = self.text(column)
        if said is None:
            return None
        try:
            found = float(said)
        except ValueError:
            raise NoRecordError(column) from None
        if not 0 <= found < 1e15:
            raise NoRecordError(column)
        return found

    def url(self, column: str) -> SplitResult:
        """Return the parts of an address; without one, they are empty. Raises NoRecordError."""
        try:
            return urlsplit(self.text(column) or "")
        except ValueError:
            raise NoRecordError(column) from None

    def flag(self, column: str) -> bool:
        """Whether a value is true: ``true``, ``t``, ``1``."""
        return (self.text(column) or "").lower() in ("true", "t", "1")

    def moment(self, *columns: str) -> float | None:
        """Return the first of these times that is there, in seconds since the epoch; without a zone, of UTC.

        Raises NoRecordError.
        """
        for column in columns:
            said = self.text(column)
            if said is None:
                continue
            try:
                found = datetime.strptime(said, PORTAL_TIME) if "/" in said else datetime.fromisoformat(said)
                at = (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).timestamp()
            except (ValueError, OverflowError):
                raise NoRecordError(column) from None
            if not is_time(at):
                raise NoRecordError(column)
            return at
        return None

    def began(self, *columns: str) -> float:
        """Return when the call began. Raises NoRecordError if no column says it."""
        found = self.moment(*columns)
        if found is None:
            raise NoRecordError(columns[0])
        return found

    def members(self, column: str) -> Mapping[str, Any]:
        """Return an object, which a CSV file has as text; empty if none can be read."""
        value = self._values.get(column)
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                return {}
        return value if isinstance(value, dict) else {}


def plain_record(at: float, **values: Any) -> dict[str, Any]:
    """Make the record of a call that began at this time, with the values that are known of it."""
    return empty_record() | {"time": written_time(at), "count": 1} | values


def only_attempt(backend: str, status: int | None, **values: Any) -> dict[str, Any]:
    """Make the one attempt that a row tells of."""
    failed = status is not None and status >= 400
    known = {"backend": backend, "status": status, "failure": "status" if failed else None}
    return empty_attempt() | known | values
