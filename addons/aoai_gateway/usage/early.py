"""Requests that the gateway answers before they become calls: a wrong key, an unknown path, too large a body.

Each of them is in the usage log too, and refusals are in the log, or an operator could not see that a client
still sends a retired key. But every peer can send any number of them. So the first of a kind is written at
once, and the others of the next minute as one record and one line, with their count. The counts of all
records together are exact.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from aoai_gateway.engine.call import Outcome
from aoai_gateway.usage.record import empty_record, written_time
from aoai_gateway.wire.gateway_error import quoted

if TYPE_CHECKING:
    from collections.abc import Callable

    from aoai_gateway.wire.gateway_error import GatewayError

logger = logging.getLogger(__name__)

SECONDS = 60.0
"""The time for which the requests of a kind are counted into one record."""

MOST_KINDS = 200
"""Kinds that are counted apart at a time. From half of them on, paths are left out, which one client can make
up; from all of them on, addresses and clients too: then they are few."""

ABOUT_PATH = frozenset({403, 404, 405, 501})
"""Statuses whose cause is the path, with the deployment in it."""

IN_WORDS = {"401": "no key that is known", "404": "no path of Azure OpenAI's"}
"""Azure's codes that are only the status again."""


@dataclass(frozen=True, slots=True)
class EarlyAnswer:
    """A kind of request and answer; requests that are equal in all of this are counted together."""

    status: int
    error: str | None = None
    """The code of the gateway's own error; None if it was answered well (a list of models)."""
    outcome: Outcome = Outcome.REJECTED
    client: str | None = None
    """The client's name, if it was known by then."""
    address: str | None = None
    """The IP address that the request came from."""
    operation: str | None = None
    path: str | None = None
    """The path, in quotes, if it is the cause and the client is known."""

    @classmethod
    def refused(
        cls, error: GatewayError, client: str | None, address: str | None, target: str = ""
    ) -> EarlyAnswer:
        """Make one of an error of the gateway's own. ``target``: the request's, without known secrets."""
        outcome = Outcome.ERROR if error.status == 500 else Outcome.REJECTED
        told = client is not None and error.status in ABOUT_PATH and target
        path = quoted(target.partition("?")[0]) if told else None
        return cls(error.status, error.code, outcome, client, address, path=path)

    def __str__(self) -> str:
        """Return it in a few words for the log."""
        error = self.error or ""
        words = f"{self.status} {IN_WORDS.get(error, error)}".rstrip()
        words += f" ({self.path})" if self.path is not None else ""
        words += f", client {self.client}" if self.client is not None else ""
        return f"{words}, from {self.address}" if self.address is not None else words


@dataclass(slots=True)
class _Counted:
    since: float
    more: int = 0
    """How many came after the first one."""


class EarlyAnswers:
    """Counts early answers, and writes them down. ``write`` takes a usage record; times are monotonic."""

    def __init__(self, write: Callable[[dict[str, Any]], None], unix_offset: Callable[[], float]) -> None:
        """``unix_offset`` gives the seconds to add to a monotonic time to make it Unix time."""
        self._write = write
        self._unix_offset = unix_offset
        self._kinds: dict[EarlyAnswer, _Counted] = {}

    def note(self, answer: EarlyAnswer, now: float) -> None:
        """Take one that was just given."""
        self.look(now)
        counted = self._kinds.get(answer)
        if counted is None and len(self._kinds) >= MOST_KINDS // 2 and answer.path is not None:
            answer = replace(answer, path=None)
            counted = self._kinds.get(answer)
        if counted is None and len(self._kinds) >= MOST_KINDS:
            answer = replace(answer, client=None, address=None)
            counted = self._kinds.get(answer)
        if counted is not None:
            counted.more += 1
            return
        self._kinds[answer] = _Counted(now)
        self._write(self._record(answer, now, 1))
        if answer.error is not None:
            logger.warning("Refused: %s.", answer)

    def look(self, now: float) -> None:
        """Write down what has been counted for long enough. To be called now and then."""
        while self._kinds:
            # The oldest is the first one: each begins when it is put there.
            answer, counted = next(iter(self._kinds.items()))
            if now < counted.since + SECONDS:
                return
            del self._kinds[answer]
            self._sum_up(answer, counted)

    def close(self) -> None:
        """Write down all that has been counted."""
        for answer, counted in self._kinds.items():
            self._sum_up(answer, counted)
        self._kinds.clear()

    def _sum_up(self, answer: EarlyAnswer, counted: _Counted) -> None:
        if not counted.more:
            return
        self._write(self._record(answer, counted.since, counted.more))
        if answer.error is not None:
            logger.warning("Refused %d more within a minute: %s.", counted.more, answer)

    def _record(self, answer: EarlyAnswer, at: float, count: int) -> dict[str, Any]:
        return empty_record() | {
            "time": written_time(at + self._unix_offset()),
            "client": answer.client,
            "operation": answer.operation,
            "outcome": answer.outcome.value,
            "status": answer.status,
            "error": answer.error,
            "count": count,
            "address": answer.address,
        }
