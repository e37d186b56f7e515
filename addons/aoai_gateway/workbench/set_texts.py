"""The texts of sets, and the page's changes to them: pure functions of bytes, which may be many."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from aoai_gateway.rerun.case_set import MOST_CASES, SetError, parse, parse_case, parse_set, text_of
from aoai_gateway.workbench import members
from aoai_gateway.workbench.shape import as_json


def shown(data: bytes, name: str) -> bytes:
    """Return a file's set as JSON. Raises SetError."""
    return as_json(parse(data, Path(name)).document())


def replaced(asked: bytes, name: str) -> tuple[bytes, str]:
    """Make a file of a page's request: its text, and the version that it is to replace, "" for any.

    Raises SetError and BadRequestError.
    """
    document = members.document(asked)
    path = Path(name)
    try:
        return text_of(parse_set(members.member(document, "set"), path.stem), path), members.text(
            document, "version"
        )
    except ValueError as error:
        raise SetError(f"{error}.") from None


def extended(data: bytes, asked: bytes, name: str) -> bytes:
    """Add the case that is asked for to a file; ``data`` is b"" where there is none. Raises as `replaced`."""
    path = Path(name)
    found = parse(data, path) if data else parse_set({"cases": []}, path.stem)
    try:
        case = parse_case(members.member(members.document(asked), "case"))
    except ValueError as error:
        raise SetError(f"{error}.") from None
    if len(found.cases) >= MOST_CASES:
        raise SetError(f"{MOST_CASES} cases are the most of one set.")
    return text_of(replace(found, cases=(*found.cases, case)), path)
