"""What can be wrong with a configuration, and how it is said: file, line, path, what would be right.

Readers of text know the place of a problem. Checks between the parts know the path alone: theirs are
findings, which get a file and a line later.
"""

import difflib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aoai_gateway.config.models import Config


type KeyPath = tuple[str | int, ...]
"""Where a value stands in the merged document: ``("aoai", "endpoints", 0, "url")``."""


@dataclass(frozen=True, slots=True)
class Place:
    """A position in a file; line and column count from 1."""

    file: Path
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, or that the writer should know of.

    ``path`` is empty when the problem concerns a file as a whole. No secret is ever part of a problem.
    """

    file: Path
    line: int
    column: int
    path: str
    message: str
    suggestion: str | None = None

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}: " + (f"{self.path}: " if self.path else "")
        return where + self.message + (f"; {self.suggestion}" if self.suggestion else "")


class ConfigErrors(Exception):  # noqa: N818 - it stands for many errors
    """Everything that is wrong with a configuration; ``str()`` is one line for each problem."""

    def __init__(
        self,
        problems: Iterable[Problem],
        *,
        warnings: Iterable[Problem] = (),
        fingerprint: str = "",
        rest: "Config | None" = None,
    ) -> None:
        self.problems = in_order(problems)
        """All problems, by file and line."""
        self.warnings = in_order(warnings)
        """What the writer should know of, as far as the rest of the document tells."""
        self.rest = rest
        """What could be read, with defaults and made-up names where there are problems: for checks only."""
        self.fingerprint = fingerprint
        """Stands for the files' content, as :attr:`Loaded.fingerprint` does."""
        super().__init__("\n".join(map(str, self.problems)))


def in_order(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """Sort by file and line, as a reader goes through them."""
    return tuple(sorted(problems, key=lambda each: (str(each.file), each.line)))


def problem(place: Place, path: KeyPath | str, message: str, suggestion: str | None = None) -> Problem:
    """Build a problem from a place and a path."""
    path = path if isinstance(path, str) else render(path)
    return Problem(place.file, place.line, place.column, path, message, suggestion)


def render(path: KeyPath) -> str:
    """Write a path as people do: ``aoai.endpoints[0].url``; a name with dots in it is quoted."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part.replace("-", "").replace("_", "").isalnum():
            text += f".{part}" if text else part
        else:
            text += f'["{part}"]'
    return text


def closest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that is close; case does not matter."""
    by_lower = {each.lower(): each for each in known}
    close = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[close[0]] if close else None


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """Return ``did you mean "…"?`` when a known word is close; case does not matter."""
    close = closest(word, known)
    return f'did you mean "{close}"?' if close else None


def listed(words: Iterable[str]) -> str:
    """Write ``a``, ``a and b`` or ``a, b and c``."""
    *rest, last = words
    return f"{', '.join(rest)} and {last}" if rest else last


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
