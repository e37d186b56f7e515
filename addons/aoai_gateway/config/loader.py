"""Read ``gateway.yaml`` and the ``policies/*.yaml`` beside it into one :class:`Config`.

Reading (files) and compiling (bytes to models) are apart: what is compiled is exactly what was read.
"""

import errno
import hashlib
import os
import stat
from collections import abc
from dataclasses import dataclass
from pathlib import Path

from aoai_gateway.config import powerproxy
from aoai_gateway.config.checks import check
from aoai_gateway.config.document import Entry, Mapping, Node, Scalar, Sequence, find, parse
from aoai_gateway.config.env import resolve
from aoai_gateway.config.models import Config
from aoai_gateway.config.problems import (
    ConfigErrors,
    KeyPath,
    Place,
    Problem,
    in_order,
    is_uncertain,
    problem,
)
from aoai_gateway.config.validation import NAMELESS, Validated, validate

__all__ = ["ConfigErrors", "Loaded", "Problem", "Source", "compile_sources", "load", "policy_files", "read"]


LARGEST_FILE = 16 * 1024 * 1024
"""Bytes of one file. Ten thousand clients take about one megabyte."""

_FOR_READING = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


@dataclass(frozen=True, slots=True)
class Source:
    """One file as it was read."""

    file: Path
    content: bytes


@dataclass(frozen=True, slots=True)
class Loaded:
    """A valid configuration and where it came from."""

    config: Config
    warnings: tuple[Problem, ...]
    files: tuple[Path, ...]
    """The files that were read, the main one first."""
    fingerprint: str
    """Stands for the content of the files: equal content, equal fingerprint."""


def load(path: Path, *, env: abc.Mapping[str, str]) -> Loaded:
    """Read and check the configuration.

    :param path: the main file; ``*.yaml`` in the folder ``policies`` beside it belong to it.
    :param env: what ``${NAME}`` refers to, usually ``os.environ``.
    :raises ConfigErrors: with everything that is wrong, at once.
    """
    return compile_sources(read(path), env=env)


def policy_files(path: Path) -> tuple[Path, ...]:
    """Return the policy files that belong to a main file, sorted by name.

    They lie beside it. Where it is a symbolic link into a folder of its own and there is no ``policies``
    beside the link, those beside its target count.
    """
    # realpath, because Path.resolve raises RuntimeError on a loop of links
    for folder in dict.fromkeys((path.parent, Path(os.path.realpath(path)).parent)):
        policies = folder / "policies"
        if policies.is_dir():
            files = (file for file in policies.iterdir() if file.suffix == ".yaml")
            # Editors keep hidden files beside the one they edit (.#clients.yaml).
            return tuple(sorted(file for file in files if not file.name.startswith(".")))
    return ()


def read(path: Path) -> tuple[Source, ...]:
    """Read the main file and its policy files.

    :raises ConfigErrors: when one of them cannot be read.
    """
    sources: list[Source] = []
    problems: list[Problem] = []
    try:
        files = (path, *policy_files(path))
    except OSError as error:
        files = (path,)
        problems.append(_unreadable(path.parent / "policies", error))
    for file in files:
        try:
            sources.append(Source(file, _content(file)))
        except OSError as error:
            problems.append(_unreadable(file, error))
    if problems:
        raise ConfigErrors(problems, fingerprint=_fingerprint(sources))
    return tuple(sources)


def _content(file: Path) -> bytes:
    """Read a file without waiting for a writer, as a FIFO would make us do. Raises OSError."""
    _see_that_it_is_a_file(file.stat().st_mode)
    with open(os.open(file, _FOR_READING), "rb") as opened:
        # It may have been put in the place of the file since.
        _see_that_it_is_a_file(os.fstat(opened.fileno()).st_mode)
        content = opened.read(LARGEST_FILE + 1)
    if len(content) > LARGEST_FILE:
        raise OSError(errno.EFBIG, f"it is larger than {LARGEST_FILE:,} bytes")
    return content


def _see_that_it_is_a_file(mode: int) -> None:
    if stat.S_ISREG(mode):
        return
    kinds = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a named pipe"), (stat.S_ISSOCK, "a socket"))
    kind = next((name for test, name in kinds if test(mode)), "a device")
    raise OSError(errno.EINVAL, f"it is {kind}, not a file")


def compile_sources(sources: abc.Sequence[Source], *, env: abc.Mapping[str, str]) -> Loaded:
    """Make a configuration of files that were read; arguments and errors as for :func:`load`."""
    fingerprint = _fingerprint(sources)
    documents, problems = _parse_all(sources)
    # A file that is not YAML leaves a hole: what lies between the parts cannot be judged.
    whole = len(documents) == len(sources)
    if not documents:
        raise ConfigErrors(problems, fingerprint=fingerprint)
    document, found = merge(documents)
    problems += found
    root, found = resolve(document, env)
    problems += found
    assert isinstance(root, Mapping)
    document, found, warnings = powerproxy.translate(root)
    problems += found
    validated = validate(document, folder=sources[0].file.parent.absolute(), whole=whole)
    problems += validated.problems
    warnings += _unread_files(sources[0].file)
    if whole:
        found_fatal, found_warnings = _cross_check(root, validated, problems)
        problems += found_fatal
        warnings += found_warnings
    if problems or validated.config is None:
        raise ConfigErrors(
            dict.fromkeys(problems),
            warnings=dict.fromkeys(warnings),
            fingerprint=fingerprint,
            rest=validated.config,
        )
    files = tuple(source.file for source in sources)
    return Loaded(validated.config, in_order(warnings), files, fingerprint)


def _parse_all(sources: abc.Sequence[Source]) -> tuple[list[Mapping], list[Problem]]:
    documents: list[Mapping] = []
    problems: list[Problem] = []
    for source in sources:
        node, found = parse(source.file, source.content)
        problems += found
        if isinstance(node, Mapping):
            # Like Compose files: a place for anchors that belong to no key of ours.
            kept = {key: entry for key, entry in node.entries.items() if not key.startswith("x-")}
            documents.append(Mapping(node.place, kept))
        elif node is not None:
            message = "a mapping is expected at the top (aoai: …, clients: …)"
            problems.append(problem(node.place, "", message))
    return documents, problems


def _cross_check(
    document: Mapping, validated: Validated, problems: abc.Iterable[Problem]
) -> tuple[list[Problem], list[Problem]]:
    """Check between the parts; what may only follow from a problem that is known already is not said."""
    fatal: list[Problem] = []
    warnings: list[Problem] = []
    if validated.config is None:
        return fatal, warnings

    def locate(path: KeyPath) -> Place:
        _, _, place = find(document, path)
        return place

    told = {each.path for each in problems}
    for finding in check(validated.config, locate):
        if is_uncertain(finding, validated.broken):
            continue
        if validated.problems and NAMELESS in f"{finding.message} {finding.suggestion}":
            continue  # It would name what the file does not have.
        found = problem(locate(finding.path), finding.path, finding.message, finding.suggestion)
        if finding.fatal and not any(_within(path, found.path) for path in told):
            fatal.append(found)
        elif not finding.fatal:
            warnings.append(found)
    return fatal, warnings


def _within(path: str, outer: str) -> bool:
    return path == outer or path.startswith((outer + ".", outer + "["))


def _unread_files(path: Path) -> list[Problem]:
    """A file that looks like a policy but has another ending would be missed without a word."""
    folder = path.parent / "policies"
    unread = sorted(folder.glob("*.yml")) if folder.is_dir() else []
    return [Problem(file, 1, 1, "", "is not read", "only *.yaml files are: rename it") for file in unread]


def _unreadable(file: Path, error: OSError) -> Problem:
    reason = (error.strerror or type(error).__name__).lower()
    return Problem(file, 1, 1, "", f"cannot be read: {reason}")


def _fingerprint(sources: abc.Iterable[Source]) -> str:
    digest = hashlib.sha256()
    for source in sources:
        digest.update(f"{source.file}\0{len(source.content)}\0".encode("utf-8", "surrogateescape"))
        digest.update(source.content)
    return digest.hexdigest()


def merge(documents: abc.Sequence[Mapping]) -> tuple[Mapping, list[Problem]]:
    """Merge documents in their order. Of values that conflict the first stays, and the problem names both."""
    problems: list[Problem] = []
    merged = documents[0]
    for document in documents[1:]:
        merged = _mappings(merged, document, (), problems)
    return merged, problems


def _mappings(first: Mapping, second: Mapping, path: KeyPath, problems: list[Problem]) -> Mapping:
    entries = dict(first.entries)
    for key, entry in second.entries.items():
        if key in entries:
            node = _nodes(entries[key], entry, (*path, key), problems)
            entries[key] = Entry(entries[key].key_place, node)
        else:
            entries[key] = entry
    return Mapping(first.place, entries)


def _nodes(first: Entry, second: Entry, path: KeyPath, problems: list[Problem]) -> Node:
    match first.node, second.node:
        case Mapping() as one, Mapping() as other:
            return _mappings(one, other, path, problems)
        case Sequence() as one, Sequence() as other:
            return Sequence(one.place, one.items + other.items)
        case Scalar(text=None), _:
            return second.node
        case _, Scalar(text=None):
            return first.node
        case Scalar(text=one_text), Scalar(text=other_text) if one_text == other_text:
            return first.node
    problems.append(
        problem(
            second.key_place,
            path,
            f"conflicts with {first.key_place}",
            "write it in one of the two files",
        )
    )
    return first.node
