"""The faults of a page's requests. The text of each is a sentence, and is shown."""

from __future__ import annotations


class EditError(Exception):
    """It cannot be run, or changed."""


class NotFoundError(Exception):
    """There is no such call, run or set."""


class BadRequestError(Exception):
    """It is not understood."""


class ChildError(Exception):
    """It could not be done in time, or not in the room that there is."""


class ConflictError(Exception):
    """It was changed by others meanwhile."""
