"""Whether an answer meets its expectations; told of bytes, so that another process can find it out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aoai_gateway.inspect.said import said
from aoai_gateway.rerun import expectations, judge

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aoai_gateway.inspect.views.facts import Facts


@dataclass(frozen=True, slots=True)
class Checked:
    """What came of each expectation; and the begins of prompt and answer, which a judge reads."""

    results: list[dict[str, Any]]
    prompt: str
    text: str
    error: str


def checked(
    request: bytes,
    answer: bytes,
    expected: Sequence[Mapping[str, Any]],
    known: Mapping[str, Any],
    facts: Facts | None,
) -> Checked:
    """Check an answer, but for what a judge says of it. A pure function; raises ExpectationError.

    Args:
        request: the call's body.
        answer: its answer's.
        expected: expectations.
        known: the members of an answer that are known of the call (see `expectations.check`).
        facts: of the answer; None where there is none to be read.

    """
    found = dict(known)
    if facts is not None:
        read = said(answer, facts)
        failed = facts.status is None or facts.status >= 400
        found |= {
            "text": read.plain,
            "error": read.text if failed else "",
            "finish_reason": read.finish_reason,
        }
    longest = judge.LONGEST_ANSWER
    return Checked(
        expectations.check(expected, found),
        request[:longest].decode(errors="replace"),
        str(found.get("text", ""))[:longest],
        str(found.get("error", ""))[:longest],
    )
