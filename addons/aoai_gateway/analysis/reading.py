"""What is asked of files of usage records, on the command line too, and what came of reading them."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aoai_gateway.analysis.foreign import forms
from aoai_gateway.analysis.text import outside

if TYPE_CHECKING:
    from aoai_gateway.analysis.foreign.form import Form

type Record = dict[str, Any]

AGO = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


class RecordsError(Exception):
    """A file cannot be read, or holds what this version does not understand; the text says what."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which records are wanted. Times are seconds since the epoch; ``until`` itself is not wanted."""

    since: float | None = None
    until: float | None = None
    clients: frozenset[str] = frozenset()
    deployments: frozenset[str] = frozenset()

    def wants(self, record: Record, at: float) -> bool:
        """Whether it is wanted."""
        if self.since is not None and at < self.since:
            return False
        if self.until is not None and at >= self.until:
            return False
        if self.clients and record["client"] not in self.clients:
            return False
        return not self.deployments or record["deployment"] in self.deployments


@dataclass(slots=True)
class Reading:
    """What came of reading."""

    read: int = 0
    left_out: int = 0
    """Records outside of the selection."""
    unreadable: int = 0
    """Lines that begin like a record but cannot be read: cut off, another program's, of other types."""
    first_unreadable: str | None = None
    """The first of them, ``usage.jsonl, line 3 (input_tokens)``."""
    texts: list[str] = field(default_factory=list)
    """Files that hold text, of which no line begins as a record does: another program's log."""
    unknown: str = ""
    """The columns of the first rows that are of no form which is read."""
    forms: dict[str, Form] = field(default_factory=dict)
    """Other programs' forms of which records were read, by name."""
    files: list[str] = field(default_factory=list)
    has_own: bool = False
    """Whether records of the gateway's own are known to be among them, without their being counted here."""
    copies: list[tuple[str, str]] = field(default_factory=list)
    """Files that begin with the same call as one before: their names, and the other's."""
    _begins: dict[str, str] = field(default_factory=dict)
    """The names of files by the call with which each begins."""
    _foreign: int = 0
    """How many of the records are other programs'."""

    def pass_over(self, place: str, wrong: str) -> None:
        """Count a line that is no record, or the rest of a capture."""
        self.unreadable += 1
        self.first_unreadable = self.first_unreadable or f"{place} ({wrong})"

    def told(self) -> str:
        """Return how many lines were passed over, and where to look; empty without any."""
        lines = "line is" if self.unreadable == 1 else "lines are"
        said = [f"no line of {path} is a usage record" for path in self.texts]
        if self.unreadable:
            said.append(f"{self.unreadable:,} {lines} no usage record; the first: {self.first_unreadable}")
        return "; ".join(said)

    def remarks(self) -> list[str]:
        """Say what a reader of figures has to know: what counts twice, what other records do not tell."""
        twice = [
            f"{path} begins with the same call as {other}: calls that are in both count twice."
            for path, other in self.copies
        ]
        own = ["usage records"] if self.has_own or self.read + self.left_out > self._foreign else []
        sources = [*own, *self.forms]
        if len(sources) > 1:
            # A client's call may pass several programs, and Azure OpenAI logs those of all of them.
            twice.append(f"{', '.join(sources)}: calls that are in more than one of these count each time.")
        return [*twice, *(f"From {form.name}. {form.untold}" for form in self.forms.values())]

    def begin(self, path: str, call: str | None) -> None:
        """Note the first call of a file: a copy of another one begins with the same."""
        if call is not None and self._begins.setdefault(call, path) != path:
            self.copies.append((path, self._begins[call]))

    def meet(self, form: Form) -> None:
        """Note that a record is of this form. Raises RecordsError if another form has its calls, too."""
        self._foreign += 1
        if form.name in self.forms:
            return
        self.forms[form.name] = form
        if form.not_beside in self.forms:
            raise RecordsError(
                f"{form.name} and {form.not_beside} have the same calls, which would count twice; join both "
                "tables on CorrelationId (docs/howto/usage.md has the query)"
            )

    def why_nothing(self) -> str:
        """Say why nothing was read, after a reading to the end."""
        if self.left_out:
            return f"no records; {outside(self.left_out)}"
        files = self.files[0] if len(self.files) == 1 else f"{len(self.files):,} files"
        said = "; ".join(filter(None, (self.told(), self.unknown and f"found: {self.unknown}")))
        if said:
            said += f". What is read: {forms.READ}"
        return f"{files}: no usage records" + (f"; {said}" if said else "")


def open_error(path: Path, error: OSError) -> RecordsError:
    """Say why a file cannot be read, and of a folder what to name instead."""
    if path.is_dir():
        return RecordsError(f"{path} is a folder; name the files in it, such as {path / '*.jsonl'}")
    return RecordsError(f"{path}: {error.strerror or error}")


def parser_of_records(command: str, description: str) -> argparse.ArgumentParser:
    """Make a command's parser, with FILE, --since and --until."""
    parser = argparse.ArgumentParser(
        prog=f"aoai-gateway {command}", description=description, allow_abbrev=False
    )
    parser.add_argument(
        "files",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="usage records (lines of JSON), captures, or records of LiteLLM, PowerProxy or API Management; "
        ".gz, too; -: standard input",
    )
    parser.add_argument(
        "--since", type=_moment, help="yesterday, today, 24h, 7d, or a time: 2026-11-28T09:00"
    )
    parser.add_argument("--until", type=_moment, help="likewise; not included")
    return parser


def moment(text: str, now: datetime) -> float:
    """Understand ``yesterday``, ``today``, ``90m``, ``24h``, ``7d``, or a date or time.

    One that names no zone is UTC. Raises ValueError, or OverflowError beyond the calendar.
    """
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    if text == "today":
        return midnight.timestamp()
    if text == "yesterday":
        return (midnight - timedelta(days=1)).timestamp()
    if text[-1:] in AGO and text[:-1].isdigit():
        return (now - timedelta(**{AGO[text[-1]]: int(text[:-1])})).timestamp()
    found = datetime.fromisoformat(text)
    return (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).timestamp()


def _moment(value: str) -> float:
    try:
        return moment(value, datetime.now(UTC))
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(
            f"{value!r} is no time: yesterday, 24h, 7d, 2026-11-28T09:00"
        ) from None
