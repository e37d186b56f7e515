"""In which order the backends of a pool are tried, and why one of them is not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from aoai_gateway.routing.backends import Backend, BackendKey, Pool
    from aoai_gateway.routing.breaks import Breaks


@dataclass(frozen=True, slots=True)
class Skip:
    """A backend that is not tried, and why. ``seconds``: when it will be again; None if it never will."""

    backend: Backend
    reason: str
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Order:
    """The backends to try, best first, and the ones left out."""

    candidates: tuple[Backend, ...]
    skipped: tuple[Skip, ...]


def order(
    pool: Pool,
    *,
    now: float,
    breaks: Breaks,
    takes: Container[BackendKey] | None,
    tried: Container[BackendKey],
    home: str | None,
    too_small: Callable[[Backend], bool],
) -> Order:
    """Order a pool for one call.

    ``takes``: the backends that take this call by their ``non_streaming_fraction`` (None: all do).
    ``tried``: the backends that have failed it already. ``home``: the endpoint that holds the state
    which this call refers to: no other can serve it. ``too_small``: whether the call is larger than
    a backend's whole limit.
    """
    candidates: list[Backend] = []
    skipped: list[Skip] = []
    for backend in pool:
        brk = breaks.on(backend, now)
        if home is not None and backend.endpoint.name != home:
            skipped.append(Skip(backend, f"the call refers to state held at {home}", None))
        elif takes is not None and backend.key not in takes:
            skipped.append(Skip(backend, "left to streaming calls (non_streaming_fraction)", None))
        elif too_small(backend):
            skipped.append(Skip(backend, "the call is larger than its whole limit", None))
        elif brk is not None:
            skipped.append(Skip(backend, brk.reason, brk.remaining(now)))
        elif backend.key in tried:
            skipped.append(Skip(backend, "it has failed this call, and its break is over", 0.0))
        else:
            candidates.append(backend)
    return Order(tuple(candidates), tuple(skipped))


def draw_takers(pool: Pool, streaming: bool, draw: Callable[[], float]) -> frozenset[BackendKey] | None:
    """Draw, once per call, which backends take a non-streaming request; None means all of them.

    ``draw`` gives a number in [0, 1).
    """
    if streaming or all(b.non_streaming_fraction >= 1 for b in pool):
        return None
    return frozenset(
        b.key for b in pool if b.non_streaming_fraction >= 1 or draw() < b.non_streaming_fraction
    )
