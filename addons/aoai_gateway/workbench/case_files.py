"""The sets of cases in a folder: what the workbench reads and writes there, and nowhere else."""

from __future__ import annotations

import asyncio
import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from aoai_gateway.rerun.case_set import SUFFIXES, SetError, read_file, write_file
from aoai_gateway.workbench import child, set_texts
from aoai_gateway.workbench.faults import ConflictError

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
        return await child.perform(set_texts.shown, data, name), version

    async def write(self, name: str, asked: bytes) -> str:
        """Save a set in the place of the version that is named; gives the new one.

        Raises SetError, BadRequestError, ChildError, and ConflictError where there is another version by now.
        """
        path = self._path(name)
        text, version = await child.perform(set_texts.replaced, asked, name)
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
            text = await child.perform(set_texts.extended, data, asked, name)
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
