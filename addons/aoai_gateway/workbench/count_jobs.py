"""What is counted for pages: jobs, and how they are done, in the gateway's process or in one beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from aoai_gateway.workbench.shape import whole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aoai_gateway.tokens import Count, Counter


@dataclass(frozen=True, slots=True)
class CountPrompt:
    """Count a prompt as each of the base models does; None: it is not known."""

    operation: str
    models: tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class CountMessages:
    """Count each message of a prompt, of many only the first ``at_most``."""

    operation: str
    model: str | None
    at_most: int


type CountJob = CountPrompt | CountMessages


@dataclass(frozen=True, slots=True)
class Counted:
    """The tokens of each model or message, and what is wrong with the rank files."""

    counts: Sequence[Count]
    problems: tuple[str, ...] = ()


def count(counter: Counter, job: CountJob, body: bytes) -> Counted:
    """Do a job with a body, which is JSON; nothing is counted of one that is nested too deeply."""
    try:
        decoded = whole(body)
        match job:
            case CountPrompt():
                counts = [counter.count_request(job.operation, decoded, model) for model in job.models]
            case CountMessages():
                counts = counter.count_messages(job.operation, decoded, job.model, at_most=job.at_most)
    except RecursionError:
        counts = []
    return Counted(counts, counter.encodings.problems)
