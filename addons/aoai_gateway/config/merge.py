"""Several files as one document: mappings merge deeply, lists are appended, single values must not differ."""

from collections.abc import Sequence as Several

from aoai_gateway.config.document import Entry, Mapping, Node, Scalar, Sequence
from aoai_gateway.config.problems import KeyPath, Problem, problem


def merge(documents: Several[Mapping]) -> tuple[Mapping, list[Problem]]:
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
