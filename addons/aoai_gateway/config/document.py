"""A YAML file as a tree that still knows where each key and each value stood.

PyYAML finds the structure (``compose``); this module makes its own tree of it, for three reasons:
every message needs a line; scalars must stay the text that was written (YAML 1.1 would turn the key
``0123`` into 83); and what a stranger's file can do must be bounded: repeated keys, tags, aliases that
contain themselves, and aliases of aliases of aliases ("billion laughs") are problems.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

from aoai_gateway.config.problems import KeyPath, Place, Problem, problem
from aoai_gateway.config.syntax import syntax_problem

MAX_NODES = 200_000
"""A document may not have more values than this, aliases written out."""

MAX_DEPTH = 50
"""Lists and mappings may not be nested deeper than this."""

_Loader: type = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_CORE = "tag:yaml.org,2002:"
_SCALAR_TAGS = {_CORE + tag for tag in ("str", "int", "float", "bool", "null", "timestamp", "merge", "value")}


@dataclass(frozen=True, slots=True)
class Scalar:
    """A single value: its text, or None where YAML has null (nothing written, ``~``, ``null``)."""

    place: Place
    text: str | None
    written: str | None = None
    """What the file says where ``text`` came out of the environment; shown instead of it."""
    unresolved: bool = False
    """Its variable is not set: a problem already, so nothing more is said about the value."""


@dataclass(frozen=True, slots=True)
class Sequence:
    """A list."""

    place: Place
    items: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """A key's place and its value."""

    key_place: Place
    node: "Node"


@dataclass(frozen=True, slots=True)
class Mapping:
    """Keys and values, in the order written."""

    place: Place
    entries: dict[str, Entry]

    def get(self, key: str) -> "Node | None":
        """Return a key's value, or None."""
        entry = self.entries.get(key)
        return entry.node if entry else None

    def with_entries(self, **nodes: "Node | None") -> "Mapping":
        """Return a copy with entries replaced or added; None removes one."""
        entries = dict(self.entries)
        for key, node in nodes.items():
            if node is None:
                entries.pop(key, None)
            else:
                old = entries.get(key)
                entries[key] = Entry(old.key_place if old else node.place, node)
        return Mapping(self.place, entries)


type Node = Scalar | Sequence | Mapping


def plain(node: Node) -> object:
    """Return the tree as dicts, lists, texts and None. A key whose value is null is left out: not written."""
    if isinstance(node, Scalar):
        return node.text
    if isinstance(node, Sequence):
        return [plain(item) for item in node.items]
    return {
        key: plain(entry.node)
        for key, entry in node.entries.items()
        if not (isinstance(entry.node, Scalar) and entry.node.text is None)
    }


def find(root: Node, path: KeyPath) -> tuple[KeyPath, Node, Place]:
    """Follow a path as far as the tree has it.

    Parts that are not in the tree are passed over (validators put names of their own into a path).
    Returns the path that was found, the node there, and the place of its key (its own where it has none).
    """
    node, place, found = root, root.place, list[str | int]()
    for part in path:
        if isinstance(node, Mapping) and part in node.entries:
            entry = node.entries[str(part)]
            node, place = entry.node, entry.key_place
        elif isinstance(node, Sequence) and isinstance(part, int) and part < len(node.items):
            node = node.items[part]
            place = node.place
        else:
            continue
        found.append(part)
    return tuple(found), node, place


def transform(node: Node, change: Callable[[Scalar, KeyPath], Scalar], path: KeyPath = ()) -> Node:
    """Return the tree with every scalar changed."""
    if isinstance(node, Scalar):
        return change(node, path)
    if isinstance(node, Sequence):
        items = (transform(item, change, (*path, index)) for index, item in enumerate(node.items))
        return Sequence(node.place, tuple(items))
    return Mapping(
        node.place,
        {
            key: Entry(entry.key_place, transform(entry.node, change, (*path, key)))
            for key, entry in node.entries.items()
        },
    )


def parse(file: Path, content: bytes) -> tuple[Node | None, list[Problem]]:
    """Read one YAML document.

    Returns the tree (None when the file is not YAML; an empty mapping when it is empty) and the problems.
    """
    start = Place(file, 1, 1)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return None, [problem(Place(file, line, 1), "", "is not UTF-8 text", "save the file as UTF-8")]
    try:
        _bound_depth(text)
        root = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:
        return None, [syntax_problem(file, text, error)]
    except _TooMuchError as error:
        return None, [problem(start, "", str(error))]
    if root is None:
        return Mapping(start, {}), []
    builder = _Builder(file)
    try:
        tree = builder.build(root, ())
    except _TooMuchError as error:
        return None, [*builder.problems, problem(start, "", str(error))]
    return tree, builder.problems


class _TooMuchError(Exception):
    """The document, written out, has no bounds that we accept."""


def _bound_depth(text: str) -> None:
    """Refuse deep nesting before ``compose``, which recurses: in libyaml's binding it ends the process."""
    try:
        _bound_depth_of(text, _Loader)
    except yaml.YAMLError:
        # libyaml reads ahead, and may meet a bound of its own before it tells of the depth that exceeds ours.
        # The slower parser has no such bound: it knows whether the depth is the fault.
        _bound_depth_of(text, yaml.SafeLoader)
        raise


def _bound_depth_of(text: str, loader: type) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise _TooMuchError(f"is nested more than {MAX_DEPTH} levels deep")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


class _Builder:
    """Makes our tree of PyYAML's, one file at a time."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.problems: list[Problem] = []
        self._built: dict[yaml.Node, tuple[Node, int]] = {}
        self._open: set[yaml.Node] = set()
        self._nodes = 0

    def build(self, source: yaml.Node, path: KeyPath) -> Node:
        """Build the tree of a node; an alias shares the tree that was built at its anchor."""
        if source in self._open:
            raise _TooMuchError(f"an alias in line {source.start_mark.line + 1} contains itself")
        if source in self._built:
            node, size = self._built[source]
            self._count(size)
            return node
        before = self._nodes
        self._count(1)
        self._open.add(source)
        node = self._build(source, path)
        self._open.discard(source)
        self._built[source] = node, self._nodes - before
        return node

    def _count(self, size: int) -> None:
        self._nodes += size
        if self._nodes > MAX_NODES:
            raise _TooMuchError(f"has more than {MAX_NODES:,} values once its aliases are written out")

    def _build(self, source: yaml.Node, path: KeyPath) -> Node:
        place = self._place(source)
        if isinstance(source, yaml.MappingNode) and _is_placeholder(source):
            said = "is a placeholder of a template, {{ … }}"
            self.problems.append(problem(place, path, said, "fill it in, or write ${NAME}"))
            return Scalar(place, None, unresolved=True)
        if isinstance(source, yaml.MappingNode) and source.tag == _CORE + "map":
            return Mapping(place, self._entries(source, path))
        if isinstance(source, yaml.SequenceNode) and source.tag == _CORE + "seq":
            items = (self.build(item, (*path, index)) for index, item in enumerate(source.value))
            return Sequence(place, tuple(items))
        if not isinstance(source, yaml.ScalarNode) or source.tag not in _SCALAR_TAGS:
            self._tell(place, path, "a YAML tag is not supported", 'quote a value that begins with "!"')
            return Scalar(place, None, unresolved=True)
        return Scalar(place, None if source.tag == _CORE + "null" else source.value)

    def _entries(self, source: yaml.MappingNode, path: KeyPath) -> dict[str, Entry]:
        entries: dict[str, Entry] = {}
        merged: dict[str, Entry] = {}
        for key, value in source.value:
            place = self._place(key)
            if not isinstance(key, yaml.ScalarNode):
                advice = 'quote a value that begins with "{"' if isinstance(key, yaml.MappingNode) else None
                self._tell(place, path, "a key must be a single word or text", advice)
            elif key.tag == _CORE + "merge":
                merged = self._merged(value, path) | merged
            elif key.value in entries:
                first = entries[key.value].key_place
                self._tell(place, (*path, key.value), f"is written twice, first in line {first.line}")
            else:
                entries[key.value] = Entry(place, self.build(value, (*path, key.value)))
        return entries | {key: entry for key, entry in merged.items() if key not in entries}

    def _merged(self, source: yaml.Node, path: KeyPath) -> dict[str, Entry]:
        """What ``<<:`` brings in; of several mappings, an earlier one wins (yaml.org/type/merge.html)."""
        sources = source.value if isinstance(source, yaml.SequenceNode) else [source]
        entries: dict[str, Entry] = {}
        for each in sources:
            node = self.build(each, path)
            if isinstance(node, Mapping):
                entries = node.entries | entries
            else:
                self._tell(node.place, path, '"<<" must name a mapping')
        return entries

    def _tell(self, place: Place, path: KeyPath, message: str, suggestion: str | None = None) -> None:
        self.problems.append(problem(place, path, message, suggestion))

    def _place(self, source: yaml.Node) -> Place:
        return Place(self.file, source.start_mark.line + 1, source.start_mark.column + 1)


def _is_placeholder(source: yaml.MappingNode) -> bool:
    """Whether it is what YAML makes of ``{{ NAME }}``: a mapping whose only key is one."""
    return len(source.value) == 1 and isinstance(source.value[0][0], yaml.MappingNode)
