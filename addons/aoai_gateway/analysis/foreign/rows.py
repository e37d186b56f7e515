"""Rows of a file that is no file of usage records: a table (CSV), or JSON that is one array."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from aoai_gateway.analysis.record_check import NoRecordError

DELIMITERS = ",;\t"

LONGEST_CELL = 1 << 28
"""LiteLLM's table has whole prompts in a cell, if it was told so."""

_ARRAY = re.compile(r'\s*(?:\{\s*"(?:data|value)"\s*:\s*)?\[\s*[{\]]')
"""What JSON begins with that is one array of objects, or an object around it."""

_AROUND = re.compile(r'\s*(?:\{\s*)?(?:"(?:data|value)"\s*:\s*)?(?:\[\s*)?')
"""A line of JSON, written to be read, that stands before the first object of such an array, or is blank."""

_COLUMN = re.compile(r"[\w.$-]+(?: \[[^]]*\])?")


def columns_of(line: str) -> tuple[str, list[str]] | None:
    """Read a file's first line as the columns of a table, and tell its delimiter; None for another line."""
    for delimiter in DELIMITERS:
        try:
            cells = next(csv.reader([line], delimiter=delimiter), [])
        except csv.Error:
            continue
        columns = [column(cell) for cell in cells]
        if len(columns) > 1 and all(_COLUMN.fullmatch(each) for each in columns):
            return delimiter, columns
    return None


def column(name: str) -> str:
    """Return a column's name without what the Azure portal writes behind it: ``TimeGenerated [UTC]``."""
    return name.strip().removesuffix(" [UTC]")


def of_table(
    lines: Iterable[str], delimiter: str, columns: Sequence[str], *, first_line: int
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield the rows below a table's head, each with the number of its last line. Raises NoRecordError."""
    limit = csv.field_size_limit(LONGEST_CELL)
    try:
        reader = csv.reader(lines, delimiter=delimiter)
        for cells in reader:
            if cells:
                yield first_line + reader.line_num - 1, dict(zip(columns, cells, strict=False))
    except csv.Error as error:
        raise NoRecordError(f"line {first_line + reader.line_num - 1}: {error}") from None
    finally:
        csv.field_size_limit(limit)


def is_array(begin: str) -> bool:
    """Whether a text begins as JSON that is one array of objects."""
    return _ARRAY.match(begin) is not None


def is_around(line: str) -> bool:
    """Whether a line, blank perhaps, may stand before the first object of such an array."""
    return _AROUND.fullmatch(line) is not None


def of_array(lines: Iterable[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield the objects of an array, numbered from 1. Raises NoRecordError."""
    try:
        found = json.loads("".join(lines))
    except (ValueError, RecursionError):
        raise NoRecordError("not JSON, or cut off") from None
    if isinstance(found, dict):
        found = found.get("data", found.get("value"))
    for number, each in enumerate(found or (), 1):
        values = each if isinstance(each, dict) else {}
        yield number, {column(name): value for name, value in values.items()}
