"""Metrics of several workers, of which some have ended: counters only grow, as a scraper takes for granted.

A worker that ends leaves its last counts in a file beside its socket. Of one that was killed, what it told
last is kept; of one that does not answer in time, that stands in for the answer. The sum of the ended ones
is in a file, too, since the process of the admin listener may start anew.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING

from aoai_gateway.admin.merging import COUNTED, Exposition, merged

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

logger = logging.getLogger(__name__)

LEFT = ".metrics"
"""The ending of the file with a worker's last counts; the rest of its name is its socket's."""

ENDED = "ended-workers.sum"
"""The file with the sum of those that have ended."""


def leave(socket: Path, counts: bytes) -> None:
    """Leave the last counts of the worker of this socket. Raises OSError."""
    draft = socket.with_suffix(".draft")
    draft.write_bytes(counts)
    draft.replace(socket.with_suffix(LEFT))


class WorkersMetrics:
    """The counts of all workers that there have been. ``folder``: that of their sockets."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ended = Exposition()
        self._last: dict[str, Exposition] = {}
        self._known: set[str] = set()
        """The workers whose last counts are in the sum, while their sockets may still be there."""
        with suppress(OSError):
            self._ended = Exposition.parse((folder / ENDED).read_text())

    def together(self, answers: Mapping[str, str | None]) -> str:
        """Return one exposition. ``answers``: by a worker's socket, its own; None if it did not answer."""
        self._take_what_was_left()
        self._known &= answers.keys()
        for gone in self._last.keys() - answers.keys():
            self._add(self._last.pop(gone))
        now = []
        for name, text in answers.items():
            if name in self._known:
                continue
            if text is None:
                now += [self._last[name]] if name in self._last else []
            else:
                now.append(said := Exposition.parse(text))
                self._last[name] = said.only(COUNTED)
        return merged([*now, self._ended]).text()

    def _take_what_was_left(self) -> None:
        for path in sorted(self._folder.glob(f"*{LEFT}")):
            try:
                left = Exposition.parse(path.read_text()).only(COUNTED)
                path.unlink()
            except (OSError, ValueError) as error:
                logger.error("The last counts of a worker, in %s, are lost: %s", path, error)
                continue
            name = path.with_suffix(".sock").name
            self._last.pop(name, None)
            self._known.add(name)
            self._add(left)

    def _add(self, counts: Exposition) -> None:
        self._ended = merged([self._ended, counts])
        draft = self._folder / f"{ENDED}.draft"
        # On a full disk the sum is lost only if this process starts anew, too.
        with suppress(OSError):
            draft.write_text(self._ended.text())
            draft.replace(self._folder / ENDED)
