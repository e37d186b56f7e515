"""The sets of cases in a folder: what the workbench reads and writes there, and nowhere else.

Their texts are read and changed by pure functions of bytes, which may be many: `child` calls them elsewhere.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from aoai_gateway.rerun.case_set import (
    MOST_CASES,
    SUFFIXES,
    SetError,
    parse,
    parse_case,
    parse_set,
    read_file,
    text_of,
    write_file,
)
from aoai_gateway.workbench import child, page_requests
from aoai_gateway.workbench.page_requests import ConflictError
from aoai_gateway.workbench.shape import as_json

if TYPE_CHECKING:
    from collections.abc import Callable

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _-]{0,62}(?:\.yaml|\.yml|\.jsonl)", re.ASCII)
MOST_FILES = 500


class CaseFiles:
    """A folder of sets. It is made when the first set is saved.

    Files are read and written in threads, and their texts elsewhere (`child`). One change is made at a time,
    so that none is lost.
    """

    def __init__(self, where: Callable[[], Path]) -> None:
        """``where`` names the folder; the configuration may change it."""
        self._where = where
        self._turn = asyncio.Lock()

    @property
    def folder(self) -> Path:
        """The folder, which need not be there."""
        return self._where()

    async def names(self) -> list[str]:
        """List the files of sets."""
        return await asyncio.to_thread(_names, self.folder)

    async def read(self, name: str) -> tuple[bytes, str]:
        """Return a set as JSON, and its version. Raises SetError and ChildError."""
        data, version = await asyncio.to_thread(_read, self._path(name))
        return await child.perform(shown, data, name), version

    async def write(self, name: str, asked: bytes) -> str:
        """Save a set in the place of the version that is named; gives the new one.

        Raises SetError, BadRequestError, ChildError, and ConflictError where there is another version by now.
        """
        path = self._path(name)
        text, version = await child.perform(replaced, asked, name)
        async with self._turn:
            if version and path.exists() and (await asyncio.to_thread(_read, path))[1] != version:
                raise ConflictError(
                    f"{name} was changed meanwhile. Open it again, so that no change is lost."
                )
            return await asyncio.to_thread(_write, path, text)

    async def append(self, name: str, asked: bytes) -> str:
        """Add a case to a set, which is made if there is none; gives the new version.

        Raises SetError, BadRequestError and ChildError.
        """
        path = self._path(name)
        async with self._turn:
            data, _ = await asyncio.to_thread(_read, path) if path.exists() else (b"", "")
            text = await child.perform(extended, data, asked, name)
            return await asyncio.to_thread(_write, path, text)

    def _path(self, name: str) -> Path:
        if not NAME.fullmatch(name):
            raise SetError(
                f"{name!r} is no name for a set: letters, digits, blanks, - and _, and then .yaml or .jsonl."
            )
        path = self.folder / name
        if path.is_symlink():
            raise SetError(f"{path} leads out of the folder.")
        return path


def _names(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    found = (path.name for path in folder.iterdir() if path.suffix in SUFFIXES)
    return sorted(name for name in found if NAME.fullmatch(name))[:MOST_FILES]


def _read(path: Path) -> tuple[bytes, str]:
    data = read_file(path)
    return data, _version(data)


def _write(path: Path, text: bytes) -> str:
    try:
        write_file(path, text)
    except OSError as error:
        raise SetError(f"{path} cannot be written: {error.strerror}.") from None
    return _version(text)


def _version(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def shown(data: bytes, name: str) -> bytes:
    """Return a file's set as JSON. Raises SetError."""
    return as_json(parse(data, Path(name)).document())


def replaced(asked: bytes, name: str) -> tuple[bytes, str]:
    """Make a file of a page's request: its text, and the version that it is to replace, "" for any.

    Raises SetError and BadRequestError.
    """
    document = page_requests.document(asked)
    path = Path(name)
    try:
        return text_of(parse_set(page_requests.member(document, "set"), path.stem), path), page_requests.text(
            document, "version"
        )
    except ValueError as error:
        raise SetError(f"{error}.") from None


def extended(data: bytes, asked: bytes, name: str) -> bytes:
    """Add the case that is asked for to a file; ``data`` is b"" for a new file. Raises as `replaced`."""
    path = Path(name)
    found = parse(data, path) if data else parse_set({"cases": []}, path.stem)
    try:
        case = parse_case(page_requests.member(page_requests.document(asked), "case"))
    except ValueError as error:
        raise SetError(f"{error}.") from None
    if len(found.cases) >= MOST_CASES:
        raise SetError(f"{MOST_CASES} cases are the most of one set.")
    return text_of(replace(found, cases=(*found.cases, case)), path)
