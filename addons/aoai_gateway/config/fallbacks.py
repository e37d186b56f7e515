"""To which virtual deployment a call falls back, by the cause; and what must hold of that."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from aoai_gateway.config.problems import VIRTUAL_DEPLOYMENTS, Finding, KeyPath, Locate, did_you_mean, listed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from aoai_gateway.config.models import Config

NOWHERE: Mapping[str, str] = {}


class _Step(NamedTuple):
    """One entry: calls of ``start`` fall back to ``end`` for a cause. ``path``: where that is written."""

    start: str
    cause: str
    end: str
    path: KeyPath


def fallbacks_of(config: Config, deployment: str) -> Mapping[str, str]:
    """Return the virtual deployments to which calls of a deployment fall back, by cause.

    What is written at several endpoints counts together.
    """
    found: dict[str, dict[str, str]] | None = config.derived.get(fallbacks_of)
    if found is None:
        found = config.derived[fallbacks_of] = {}
        for step in _steps(config):
            found.setdefault(step.start, {}).setdefault(step.cause, step.end)
    return found.get(deployment, NOWHERE)


def check_fallbacks(config: Config, locate: Locate) -> Iterator[Finding]:
    """Yield unknown names, two places for one cause, and ways that lead back to where they began."""
    steps = list(_steps(config))
    known = list(config.virtual_deployments)
    said: dict[tuple[str, str], _Step] = {}
    for step in steps:
        first = said.setdefault((step.start, step.cause), step)
        if step.end not in known:
            yield Finding(
                step.path,
                f"{step.end} is not a virtual deployment",
                did_you_mean(step.end, known) or "there are " + listed(known),
                rests_on=(VIRTUAL_DEPLOYMENTS,),
            )
        elif first.end != step.end:
            there = locate(first.path)
            yield Finding(step.path, f'{step.start} has "{first.end}" in {there}', "it can only be one")
    yield from _check_circles(list(said.values()))


def _check_circles(steps: list[_Step]) -> Iterator[Finding]:
    """Yield each circle once, at its last step: the one that leads back to a deployment before it."""
    next_ones: dict[str, list[_Step]] = {}
    for each in steps:
        next_ones.setdefault(each.start, []).append(each)
    over: set[str] = set()
    for start in next_ones:
        way: list[_Step] = []
        pending = [iter(next_ones[start])] if start not in over else []
        while pending:
            step = next(pending[-1], None)
            if step is None:
                pending.pop()
                over.add(way.pop().end if way else start)
                continue
            names = [start, *(each.end for each in way)]
            if step.end in names:
                circle = " -> ".join((*names[names.index(step.end) :], step.end))
                message = f"leads in a circle: {circle}"
                if step.start == step.end:
                    message = f"{step.end} cannot fall back to itself"
                yield Finding(step.path, message, "name another one", rests_on=(VIRTUAL_DEPLOYMENTS,))
            elif step.end not in over:
                way.append(step)
                pending.append(iter(next_ones.get(step.end, ())))


def _steps(config: Config) -> Iterator[_Step]:
    for path, virtual in config.virtual_places():
        for cause, end in virtual.fallback.places().items() if virtual.fallback is not None else ():
            yield _Step(virtual.name, cause, end, (*path, "fallback", cause))
