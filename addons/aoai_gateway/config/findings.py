"""What a check between the parts finds, before it has a file and a line."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from aoai_gateway.config.problems import KeyPath, Place

type Locate = Callable[[KeyPath], Place]
"""Says where the value at a path was written."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem before it has a file and a line.

    `rests_on`: what else of the document it follows from, as paths in which ``*`` stands for any part. Where
    something there is broken, the finding is not told, since it may follow from that alone.
    """

    path: KeyPath
    message: str
    suggestion: str | None = None
    fatal: bool = True
    rests_on: tuple[KeyPath, ...] = ()


VIRTUAL_DEPLOYMENTS: KeyPath = ("aoai", "endpoints", "*", "virtual_deployments", "*", "name")
STANDINS: KeyPath = (*VIRTUAL_DEPLOYMENTS[:-1], "standins", "*", "name")
ENDPOINTS: KeyPath = ("aoai", "endpoints", "*", "name")
GROUPS: KeyPath = ("groups", "*", "name")
PRIORITIES: KeyPath = ("priorities", "*", "name")
"""Where the names are written that other parts refer to."""


def is_uncertain(finding: Finding, broken: Iterable[KeyPath]) -> bool:
    """Return whether a finding is about a broken value, a part of it, around it, or may follow from it."""
    paths = (finding.path, *finding.rests_on)
    return any(_meets(path, each) for path in paths for each in broken)


def _meets(path: KeyPath, broken: KeyPath) -> bool:
    return all(part in ("*", other) for part, other in zip(path, broken, strict=False))


def repeated(names: list[str], path: KeyPath, what: str, locate: Locate) -> Iterator[Finding]:
    """Yield a finding for each name in a list of named things that stood there before."""
    first: dict[str, int] = {}
    for index, name in enumerate(names):
        if first.setdefault(name, index) != index:
            place = locate((*path, first[name], "name"))
            yield Finding(
                (*path, index, "name"), f'"{name}" is also the name of {what} in {place}', "names must differ"
            )
