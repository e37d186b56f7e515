"""YAML, as `aoai_gateway.inspect.views.yaml_writer` writes it and people edit it -> JSON values.

It reads what JSON can say, and takes no guesses: what another YAML reader would take for a boolean, a date
or an octal number is either text here, or an error that says how to write it. Every error names its line.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NoReturn

import yaml

from aoai_gateway.inspect.views.yaml_writer import Kept

_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?", re.ASCII)
_NUMBER_LIKE = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+\.|0x[0-9A-Fa-f]+)|\+[0-9]+(?:\.[0-9]*)?", re.ASCII)
_CONSTANTS = {"null": None, "~": None, "": None, "true": True, "false": False}
_AMBIGUOUS = frozenset(("yes", "no", "on", "off"))
_KEPT_TAG = re.compile(r"!(image|audio|file|data|text)")
_KEPT_NUMBER = re.compile(r"\s*([0-9]{1,9})\b", re.ASCII)
_PLAIN_TAG = "tag:yaml.org,2002:"


class EditError(ValueError):
    """An edit that cannot be understood; the message says where, and what would be right."""


class _Loader(yaml.SafeLoader):
    """PyYAML's parser, without any of its ideas about what a scalar means."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 - PyYAML's own name for it, read by its resolver

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]  # PyYAML's stubs leave it out
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise EditError(
                f"line {event.start_mark.line + 1}: anchors and aliases (& and *) cannot be used here; "
                "text that begins with one of them needs quotes"
            )
        return super().compose_node(parent, index)


def read_yaml(text: str, kept: Sequence[Kept] = ()) -> Any:
    """Read a document; where it names one of ``kept``, that object stands in the result.

    Raises `EditError`.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = error.problem or error.context or "this is not YAML"
        raise EditError(f"{where}{problem}") from None
    except yaml.reader.ReaderError as error:
        raise EditError(f"character {error.position} cannot stand in YAML: {error.reason}") from None
    except RecursionError:
        raise EditError("the document is nested too deeply") from None
    except yaml.YAMLError:
        raise EditError("this is not YAML") from None
    if node is None:
        return None
    try:
        return _value(node, {(one.kind, one.number): one for one in kept})
    except RecursionError:
        raise EditError("the document is nested too deeply") from None


def _value(node: yaml.Node, kept: dict[tuple[str, int], Kept]) -> Any:
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node, kept)
    if not node.tag.startswith(_PLAIN_TAG):
        _fail(node, f"the tag {node.tag} cannot stand here")
    if isinstance(node, yaml.SequenceNode):
        return [_value(element, kept) for element in node.value]
    members: dict[str, Any] = {}
    for key_node, value_node in node.value:
        if not isinstance(key_node, yaml.ScalarNode) or not key_node.tag.startswith(_PLAIN_TAG):
            _fail(key_node, "a key must be a word or a quoted text")
        key = key_node.value
        if key in members:
            _fail(key_node, f"{key!r} stands here twice")
        members[key] = _value(value_node, kept)
    return members


def _scalar(node: yaml.ScalarNode, kept: dict[tuple[str, int], Kept]) -> Any:
    value: str = node.value
    if not node.tag.startswith(_PLAIN_TAG):
        return _tagged(node, kept)
    if node.style is not None:  # quoted, or a block
        return value
    if value.lower() in _CONSTANTS:
        return _CONSTANTS[value.lower()]
    if value.lower() in _AMBIGUOUS:
        _fail(node, f'write true or false instead of {value}, or "{value}" in quotes if it is text')
    if _NUMBER.fullmatch(value):
        try:
            return float(value) if any(mark in value for mark in ".eE") else int(value)
        except ValueError:  # CPython bounds the digits of an integer
            _fail(node, "this number has too many digits")
    if _NUMBER_LIKE.fullmatch(value):
        _fail(
            node, f'JSON has no number {value}: write it like 0.5 or 12, or "{value}" in quotes if it is text'
        )
    return value


def _tagged(node: yaml.ScalarNode, kept: dict[tuple[str, int], Kept]) -> Any:
    if node.tag == "!crlf":
        return node.value.replace("\n", "\r\n")
    kind = _KEPT_TAG.fullmatch(node.tag)
    number = _KEPT_NUMBER.match(node.value)
    if kind is None:
        _fail(node, f"there is no tag {node.tag}; text that begins with ! needs quotes")
    one = kept.get((kind[1], int(number[1]))) if number else None
    if one is None:
        known = ", ".join(f"!{kind} {number}" for kind, number in kept) or "none"
        _fail(node, f"{node.tag} {number[1] if number else '?'} is not in this request; it has: {known}")
    return one


def _fail(node: yaml.Node, problem: str) -> NoReturn:
    raise EditError(f"line {node.start_mark.line + 1}: {problem}")
