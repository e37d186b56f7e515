"""The sets of cases in a folder: what the workbench reads and writes there, and nowhere else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aoai_gateway.rerun.case_set import SUFFIXES, SetError, parse_set, read_set, write_set

if TYPE_CHECKING:
    from collections.abc import Callable

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _-]{0,62}(?:\.yaml|\.yml|\.jsonl)", re.ASCII)
MOST_FILES = 500


class CaseFiles:
    """A folder of sets. It is made when the first set is saved."""

    def __init__(self, where: Callable[[], Path]) -> None:
        """``where`` names the folder; the configuration may change it."""
        self._where = where

    @property
    def folder(self) -> Path:
        """The folder, which need not be there."""
        return self._where()

    def names(self) -> list[str]:
        """List the files of sets."""
        if not self.folder.is_dir():
            return []
        found = (path.name for path in self.folder.iterdir() if path.suffix in SUFFIXES)
        return sorted(name for name in found if NAME.fullmatch(name))[:MOST_FILES]

    def read(self, name: str) -> dict[str, Any]:
        """Give a set as a document. Raises SetError."""
        return read_set(self._path(name)).document()

    def write(self, name: str, document: Any) -> None:
        """Save a set. Raises SetError."""
        path = self._path(name)
        try:
            write_set(path, parse_set(document, path.stem))
        except ValueError as error:
            raise SetError(f"{error}.") from None
        except OSError as error:
            raise SetError(f"{path} cannot be written: {error.strerror}.") from None

    def _path(self, name: str) -> Path:
        if not NAME.fullmatch(name):
            raise SetError(
                f"{name!r} is no name for a set: letters, digits, blanks, - and _, and then .yaml or .jsonl."
            )
        path = self.folder / name
        if path.is_symlink():
            raise SetError(f"{path} leads out of the folder.")
        return path
