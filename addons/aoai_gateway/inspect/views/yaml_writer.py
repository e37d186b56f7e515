"""JSON values -> YAML for people to read and edit.

Text stands as it is, line by line, in block scalars; short structures take one line; what is not for
reading (`aoai_gateway.inspect.views.attachments`) is a tag with a number and a description, which the
reader takes back to the value that it stands for:

    content:
    - type: text
      text: |-
        What is in
        this picture?
    - type: image_url
      image_url:
        url: !image 1, image/png, 512 × 384 pixels, 34.1 KB

The output is YAML 1.2, and within it what PyYAML reads too. No character in it is one that a terminal or
an editor would not leave alone: those are escaped, in a quoted scalar. Text with CRLF line ends has the tag
``!crlf``.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from aoai_gateway.inspect.views.attachments import describe

TEXT_MEMBERS = frozenset(
    ("content", "text", "instructions", "input", "prompt", "output", "arguments", "refusal", "suffix")
)
"""Members whose strings are always blocks, so that a number or a list that is typed there stays text."""

MAX_LINES = 10_000
"""Structures that come after so many lines are kept instead of shown."""

MAX_ELEMENTS = 2_500
"""A longer array is kept as a whole; the service takes 2,048 texts to embed at most."""

_WIDTH = 88
_DEEPEST = 24
_LONGEST_KEY = 120
_FIRST = ("type", "role", "name", "id", "call_id")
"""Members of an array's objects that tell what the object is."""

_UNSAFE = re.compile("[^\t\n -~\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
_PLAIN = re.compile(r"[^\W\d](?:[\w ./@+()='!?;°%&*,-]|:(?=[^\s]))*(?<! )")
_PLAIN_IN_FLOW = re.compile(r"[^\W\d][\w ./@+()=°%*-]*(?<! )")
_KEY = re.compile(r"[A-Za-z_$][A-Za-z0-9_.$-]*")
WORDS_WITH_MEANING = frozenset(("null", "true", "false", "yes", "no", "on", "off"))
"""Plain scalars, in any case, that some YAML reader takes for something else than text."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A value that the YAML names by tag and number instead of showing it."""

    kind: str
    number: int
    value: Any


class YamlWriter:
    """Collects lines.

    Args:
        budget: how many characters of text it shows; texts beyond are kept like attachments, so that a
            huge body costs no huge work.

    """

    def __init__(self, budget: int = 1_000_000) -> None:
        self.lines: list[str] = []
        self.kept: list[Kept] = []
        self._budget = budget
        self._keeps_blanks = False

    def text(self) -> str:
        """All lines; the last one ends with a line end, too."""
        if self._keeps_blanks:
            self.comment("")
        return "\n".join(self.lines) + "\n"

    def comment(self, text: str) -> None:
        """Write a line for people only."""
        self._line(f"# {_UNSAFE.sub('?', text)}".rstrip())

    def blank(self) -> None:
        """Write an empty line, where it would not become part of a text."""
        if self.lines and self.lines[-1] and not self._keeps_blanks:
            self.lines.append("")

    def member(self, key: str, value: Any, lead: str = "", depth: int = 0) -> None:
        """Write ``key: value``; ``lead`` is what stands before it in its line."""
        self._after(f"{lead}{_key(key)}:", value, len(lead), key, depth)

    def member_head(self, key: str) -> None:
        """Write a key of the document whose array's elements follow, one by one."""
        self._line(f"{_key(key)}:")

    def item(self, value: Any, lead: str = "", key: str = "", depth: int = 0) -> None:
        """Write an array's element; ``key`` is the array's."""
        members = _writable_members(value, depth) if len(self.lines) <= MAX_LINES else None
        if members is None or (key not in ("messages", "input") and _flow(value) is not None):
            self._after(f"{lead}-", value, len(lead), key, depth, in_array=True)
            return
        before = f"{lead}- "
        for name, member in members:
            self.member(name, member, before, depth + 1)
            before = f"{lead}  "

    def is_short(self, value: Any, key: str = "") -> bool:
        """Whether a member takes one line."""
        if isinstance(value, str):
            return key not in TEXT_MEMBERS and "\n" not in value and len(value) <= _WIDTH
        return not isinstance(value, dict | list) or _flow(value) is not None

    def _after(
        self, head: str, value: Any, column: int, key: str, depth: int, *, in_array: bool = False
    ) -> None:
        kept = self._keep(value, key, depth)
        if kept is not None:
            self._line(f"{head} {kept}")
        elif isinstance(value, str):
            self._string(head, value, column, key)
        elif not isinstance(value, dict | list):
            self._line(f"{head} {_scalar(value)}")
        elif (flow := _flow(value)) is not None:
            self._line(f"{head} {flow}")
        elif isinstance(value, dict):
            self._line(head)
            for name, member in value.items():
                self.member(name, member, " " * (column + 2), depth + 1)
        else:
            self._line(head)
            for element in value:
                self.item(element, " " * (column + 2 if in_array else column), key, depth + 1)

    def _keep(self, value: Any, key: str, depth: int) -> str | None:
        """Keep a value that is not for showing; gives its tag and description."""
        if (found := describe(value, key)) is not None:
            return self._kept(found[0], found[1], value)
        if isinstance(value, str) and len(value) > self._budget:
            beginning = " ".join(_UNSAFE.sub("?", value[:200]).split())[:60]
            return self._kept("text", f"{len(value):,} characters, beginning with: {beginning}", value)
        if isinstance(value, float) and not math.isfinite(value):
            return self._kept("data", f"the number {value}", value)
        if isinstance(value, dict | list) and value:
            too_deep = depth >= _DEEPEST
            if too_deep or (isinstance(value, dict) and _writable_members(value, depth) is None):
                why = "nested too deeply to be shown" if too_deep else "with keys too long to be shown"
                return self._kept("data", why, value)
            if len(self.lines) > MAX_LINES or len(value) > MAX_ELEMENTS:
                what = "elements" if isinstance(value, list) else "members"
                return self._kept("data", f"{len(value):,} {what}, too much to be shown", value)
        return None

    def _kept(self, kind: str, description: str, value: Any) -> str:
        kept = Kept(kind, len(self.kept) + 1, value)
        self.kept.append(kept)
        # A colon or a hash could end a plain scalar.
        return f"!{kind} {kept.number}, " + " ".join(re.sub("[:#]", " ", description).split())

    def _string(self, head: str, value: str, column: int, key: str) -> None:
        self._budget -= len(value)
        is_text = key in TEXT_MEMBERS or "\n" in value or (len(value) > _WIDTH and " " in value)
        if not is_text or not value.strip():
            self._line(f"{head} {_scalar(value)}")
            return
        tag = ""
        shown = value
        if "\r" in value and value.count("\r\n") == value.count("\r") == value.count("\n"):
            tag, shown = "!crlf ", value.replace("\r\n", "\n")
        pad = " " * (column + 2)
        if _UNSAFE.search(shown):
            self._quoted(head, value, pad)
            return
        chomp = "-" if not shown.endswith("\n") else "+" if shown.endswith("\n\n") else ""
        indicator = "2" if shown[0] in " \n" else ""
        self._line(f"{head} {tag}|{indicator}{chomp}")
        for line in shown.removesuffix("\n").split("\n"):
            self.lines.append(pad + line if line else "")
        self._keeps_blanks = chomp == "+"

    def _quoted(self, head: str, value: str, pad: str) -> None:
        """Write a text that no block can hold, over as many lines as it has."""
        lines = value.split("\n")
        if len(lines) == 1:
            self._line(f"{head} {_quote(value)}")
            return
        self._line(f'{head} "\\')
        for number, line in enumerate(lines, 1):
            inner = _quote(line)[1:-1]
            if inner[:1] == " ":
                inner = "\\" + inner
            self.lines.append(pad + inner + ("\\n\\" if number < len(lines) else '"'))

    def _line(self, line: str) -> None:
        self.lines.append(line)
        self._keeps_blanks = False


def _writable_members(value: Any, depth: int) -> Iterable[tuple[str, Any]] | None:
    """An object's members in the order to show them; None if it is none, or not to be written as one."""
    if not isinstance(value, Mapping) or not value or depth >= _DEEPEST:
        return None
    if any(len(key) > _LONGEST_KEY for key in value):
        return None
    first = [(key, value[key]) for key in _FIRST if key in value and isinstance(value[key], str)]
    return first + [(key, member) for key, member in value.items() if (key, member) not in first]


def _flow(value: Any) -> str | None:
    """A structure in one line, if it fits and holds no text."""
    flow = _flow_of(value, 0)
    return flow if flow is not None and len(flow) <= _WIDTH else None


def _flow_of(value: Any, level: int) -> str | None:
    if isinstance(value, str):
        if len(value) > _WIDTH or "\n" in value:
            return None
        plain = _PLAIN_IN_FLOW.fullmatch(value) and value.lower() not in WORDS_WITH_MEANING
        return value if plain else _quote(value)
    if isinstance(value, dict):
        if (level > 2 and value) or len(value) > 8:
            return None
        parts = []
        room = _WIDTH
        for key, member in value.items():
            inner = _flow_of(member, level + 1)
            if inner is None or (isinstance(member, str) and key in TEXT_MEMBERS):
                return None
            parts.append(f"{_key(key)}: {inner}")
            room -= len(parts[-1])
            if room < 0:
                return None
        return "{" + ", ".join(parts) + "}"
    if isinstance(value, list):
        if (level > 2 and value) or len(value) > 40:
            return None
        elements = []
        room = _WIDTH
        for element in value:
            inner = _flow_of(element, level + 1)
            if inner is None or (room := room - len(inner)) < 0:
                return None
            elements.append(inner)
        return "[" + ", ".join(elements) + "]"
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return _scalar(value)


def _scalar(value: Any) -> str:
    if isinstance(value, str):
        plain = _PLAIN.fullmatch(value) and value.lower() not in WORDS_WITH_MEANING
        return value if plain and not _UNSAFE.search(value) else _quote(value)
    return json.dumps(value)


def _key(key: str) -> str:
    plain = _KEY.fullmatch(key) and key.lower() not in WORDS_WITH_MEANING
    return key if plain else _quote(key)


def _quote(value: str) -> str:
    """A double-quoted scalar: a JSON string, in which only what is unsafe is escaped."""
    return _UNSAFE.sub(_escape, json.dumps(value, ensure_ascii=False))


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
