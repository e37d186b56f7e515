"""What a check between the parts finds, before it has a file and a line."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from aoai_gateway.config.problems import KeyPath, Place

type Locate = Callable[[KeyPath], Place]
"""Says where the value at a path was written."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem before it has a file and a line."""

    path: KeyPath
    message: str
    suggestion: str | None = None
    fatal: bool = True


def repeated(names: list[str], path: KeyPath, what: str, locate: Locate) -> Iterator[Finding]:
    """Yield a finding for each name in a list of named things that stood there before."""
    first: dict[str, int] = {}
    for index, name in enumerate(names):
        if first.setdefault(name, index) != index:
            place = locate((*path, first[name], "name"))
            yield Finding(
                (*path, index, "name"), f'"{name}" is also the name of {what} in {place}', "names must differ"
            )
