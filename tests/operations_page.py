"""Writes the table in ``docs/reference/operations.md`` anew: ``python -m tests.operations_page``."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from aoai_gateway.wire.operation import Classic, Cost, Model, Operation
from aoai_gateway.wire.operations import CLAUDES, OPERATIONS

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "operations.md"
BEGIN, END = "<!-- the table begins -->\n", "<!-- the table ends -->\n"


def render() -> str:
    """The table, by family, in Markdown."""
    lines = ["| family | request | deployment | tokens |", "|---|---|---|---|"]
    ordered = sorted(OPERATIONS, key=lambda operation: operation.family)
    for family, rows in groupby(ordered, key=lambda operation: operation.family):
        lines += [_row(family, row) for row in rows]
    lines += [_row("Claude", row) for row in CLAUDES]
    return "\n".join(lines) + "\n"


def _row(family: str, row: Operation) -> str:
    return f"| {family} | {_request(row)} | {_deployment(row)} | {_tokens(row)} |"


def _request(row: Operation) -> str:
    says = (
        ("WebSocket", row.websocket),
        ("streams", row.streams),
        ("sent once", row.creates),
        ("file", row.binary),
    )
    notes = [note for note, true in says if true]
    return f"`{row.method} {row.path}`" + (f" ({', '.join(notes)})" if notes else "")


def _deployment(row: Operation) -> str:
    if row.model is Model.NONE:
        return "–"
    if row.in_query:
        return "query: " + " or ".join(f"`{name}`" for name in row.in_query)
    if row.model is Model.LINES:
        return "that of a batch's lines"
    where = {Classic.PATH: "path, v1: `model`", Classic.EITHER: "`model`, or path", Classic.BODY: "`model`"}
    return where[row.classic] + (" if given" if row.model is Model.OPTIONAL else "")


def _tokens(row: Operation) -> str:
    return {Cost.NONE: "–", Cost.PROMPT: "prompt", Cost.ANSWER: "prompt, answer"}[row.cost]


def written() -> str:
    """The page with the table as it should be."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    return before + BEGIN + render() + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(written(), encoding="utf-8")
