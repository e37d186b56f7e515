"""Several answers side by side, as plain text.

Figures come first, a column for each answer, then the answers themselves: beside each other as long as
columns stay readable, below each other beyond that.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aoai_gateway.wire.printing import cut, width_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

WIDTH = 74
"""Columns of the whole text: what fits beside mitmweb's flow list in a window of 1,280 pixels."""

NARROWEST = 32
"""Columns that an answer needs to be read beside others."""

LONGEST_TEXT = 100_000
"""Characters of an answer that are laid out; the answer's own flow has all of it."""

MOST_COLUMNS = 4
"""Answers whose figures stand beside each other; of more, some are below."""

GAP = " │ "


@dataclass(frozen=True, slots=True)
class Entry:
    """One answer, as far as it is known. Times are in milliseconds, ``cost`` in the currency of `prices`."""

    title: str
    """Its name among the others: the deployment, the backend, or the number of the edit."""
    text: str = ""
    status: int | None = None
    error: str = ""
    backend: str = ""
    attempts: int | None = None
    first_content_ms: float | None = None
    duration_ms: float | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost: float | None = None
    asked: str = ""
    """The end of the prompt, where the prompts differ."""


def side_by_side(entries: Sequence[Entry]) -> str:
    """Lay entries out; "" for none."""
    if not entries:
        return ""
    places = range(0, len(entries), MOST_COLUMNS)
    tables = (_table(entries[place : place + MOST_COLUMNS]) for place in places)
    return "\n\n".join(tables) + "\n\n" + "\n".join(_texts(entries)) + "\n"


def _table(entries: Sequence[Entry]) -> str:
    columns = len(entries)
    share = (WIDTH - 14 - len(GAP) * (columns - 1)) // columns
    widths = [max(10, min(max(map(width_of, _cells(entry))), max(share, 20))) for entry in entries]
    lines = [_row("", [entry.title for entry in entries], widths)]
    lines.append("─" * min(WIDTH, max(map(width_of, lines))))
    for label, cell in ROWS:
        cells = [cell(entry) for entry in entries]
        if any(cells):
            lines.append(_row(label, [text or "–" for text in cells], widths))
    return "\n".join(lines)


def _number(value: float | None, unit: str = "") -> str:
    return "" if value is None else f"{value:,.0f}{unit}"


def _speed(entry: Entry) -> str:
    if not entry.output_tokens or not entry.duration_ms:
        return ""
    seconds = (entry.duration_ms - (entry.first_content_ms or 0.0)) / 1000
    return f"{entry.output_tokens / seconds:,.0f} tokens/s" if seconds > 0 else ""


def _cost(entry: Entry) -> str:
    return "" if entry.cost is None else f"{entry.cost:.6f}"


ROWS: tuple[tuple[str, Callable[[Entry], str]], ...] = (
    ("asked", lambda e: e.asked),
    ("status", lambda e: e.error or _number(e.status)),
    ("backend", lambda e: e.backend),
    ("attempts", lambda e: _number(e.attempts)),
    ("first token", lambda e: _number(e.first_content_ms, " ms")),
    ("total", lambda e: _number(e.duration_ms, " ms")),
    ("speed", _speed),
    ("tokens in", lambda e: _number(e.input_tokens)),
    ("tokens out", lambda e: _number(e.output_tokens)),
    ("cost", _cost),
)
"""The figures, in their order; a row without any value is left out."""


def _cells(entry: Entry) -> list[str]:
    return [entry.title, *(cell(entry) for _, cell in ROWS)]


def _texts(entries: Sequence[Entry]) -> list[str]:
    first = entries[0].text
    if len(entries) > 1 and first and all(entry.text == first for entry in entries):
        return ["All answers are the same:", "", _text(entries[0])]
    width = (WIDTH - len(GAP) * (len(entries) - 1)) // len(entries)
    if width < NARROWEST:
        lines: list[str] = []
        for entry in entries:
            lines += [
                f"── {entry.title} ".ljust(WIDTH, "─"),
                *_wrapped(_text(entry), WIDTH),
                "",
            ]
        return lines
    columns = [_wrapped(_text(entry), width) for entry in entries]
    heads = [f"── {_cut(entry.title, width - 4)} ".ljust(width, "─") for entry in entries]
    rows = [GAP.join(heads)]
    for number in range(max(map(len, columns))):
        cells = [column[number] if number < len(column) else "" for column in columns]
        rows.append(GAP.join(_padded(cell, width) for cell in cells).rstrip())
    return rows


def _text(entry: Entry) -> str:
    if len(entry.text) <= LONGEST_TEXT:
        return entry.text or "(no answer)"
    return f"{entry.text[:LONGEST_TEXT]}\n[{len(entry.text):,} characters; its own flow has them all]"


def _wrapped(text: str, width: int) -> list[str]:
    lines: list[str] = []
    for line in text.expandtabs(4).splitlines():
        kept = textwrap.wrap(line, width, drop_whitespace=False, replace_whitespace=False) or [""]
        for piece in kept:
            while width_of(piece) > width:
                head = cut(piece, width, dots="")
                lines.append(head)
                piece = piece[len(head) :]
            lines.append(piece.rstrip())
    return lines or [""]


def _row(label: str, cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [_padded(_cut(cell, width), width) for cell, width in zip(cells, widths, strict=True)]
    return f"{label:<12}  {GAP.join(padded)}".rstrip()


def _padded(text: str, width: int) -> str:
    return text + " " * max(0, width - width_of(text))


def _cut(text: str, width: int) -> str:
    return cut(text.replace("\n", " "), width)
