"""The meaning of a stream's events for the gateway, the same for all dialects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple, Protocol

from aoai_gateway.wire.sse import SseEvent
from aoai_gateway.wire.usage import AnswerFacts, Usage


class Kind(Enum):
    """The kind of an event, as the gateway sees it."""

    PREAMBLE = auto()  # no content: a preamble, a comment, a keep-alive
    REFUSAL = auto()  # an error that would be replayed as a status, with nothing but preamble before it
    ERROR = auto()  # any other error
    CONTENT = auto()
    USAGE = auto()  # the chunk that include_usage adds: usage, and no choices
    TERMINAL = auto()  # the end, as it should be


class Verdict(Enum):
    """Whether a stream's call can still be replayed."""

    UNDECIDED = auto()  # only preamble so far
    REFUSED = auto()
    ACCEPTED = auto()


@dataclass(frozen=True, slots=True)
class StreamError:
    """An error event's code and type (never its message).

    ``status``: the one of 408, 429 and 5xx that it stands for; None if it is the caller's error.
    """

    code: str | None
    type: str | None
    status: int | None


NOTHING = AnswerFacts()


class Reading(NamedTuple):
    """What one event says.

    ``kind``: PREAMBLE, CONTENT, TERMINAL, or ERROR with the object that tells which one; ``facts``: those
    that are known now; ``delivers``: whether it holds output of the model that counts as text.
    """

    kind: Kind
    facts: AnswerFacts = NOTHING
    error: Mapping[str, object] | None = None
    delivers: bool = False


class EventReader(Protocol):
    """Reads the events of one stream, in their order. One that has been accepted may be read in haste."""

    def read(self, event: SseEvent, *, accepted: bool) -> Reading:
        """Return what an event with data means."""
        ...

    @property
    def prompt(self) -> Usage | None:
        """The usage of the prompt, once it is known; without anything of the answer's."""
        ...

    @property
    def is_finished(self) -> bool:
        """Whether what has come is a whole answer, even if the stream does not mark its end."""
        ...
