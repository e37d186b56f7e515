"""What pages ask for: the members of their requests, each checked for its type, and what is wrong with these.

The text of each fault is a sentence, and is shown. Each reader of a member raises BadRequestError.
"""

from __future__ import annotations

from typing import Any

from aoai_gateway.inspect.views.shapes import Unreadable, decode


class EditError(Exception):
    """It cannot be run, or changed."""


class NotFoundError(Exception):
    """There is no such call, run or set."""


class BadRequestError(Exception):
    """It is not understood."""


class ConflictError(Exception):
    """It was changed by others meanwhile."""


type Asked = dict[str, Any]


def document(raw: bytes) -> Asked:
    """Decode the body of a request."""
    try:
        found = decode(raw)
    except Unreadable as error:
        raise BadRequestError(f"The request is not understood: {error}.") from None
    if not isinstance(found, dict):
        raise BadRequestError("The request is not understood: it is no JSON object.")
    return found


def member(asked: Asked, key: str) -> dict[str, Any]:
    """Return an object."""
    found = asked.get(key)
    if not isinstance(found, dict):
        raise BadRequestError(f'"{key}" must be an object.')
    return found


def text(asked: Asked, key: str) -> str:
    """Return a text; "" where there is none."""
    found = asked.get(key)
    if found is None:
        return ""
    if not isinstance(found, str):
        raise BadRequestError(f'"{key}" must be a text.')
    return found


def texts(asked: Asked, key: str) -> list[str]:
    """Return a list of texts."""
    return _all_of(asked, key, str, "texts")


def objects(asked: Asked, key: str) -> list[dict[str, Any]]:
    """Return a list of objects."""
    return _all_of(asked, key, dict, "objects")


def _all_of[T](asked: Asked, key: str, kind: type[T], what: str) -> list[T]:
    found = asked.get(key)
    if not isinstance(found, list) or not all(isinstance(each, kind) for each in found):
        raise BadRequestError(f'"{key}" must be a list of {what}.')
    return found


def values(asked: Asked, key: str) -> dict[str, str]:
    """Return an object of texts; an empty one where there is none."""
    found = asked.get(key)
    if found is None:
        return {}
    if not isinstance(found, dict) or not all(isinstance(each, str) for each in found.values()):
        raise BadRequestError(f'"{key}" must be an object of texts.')
    return found


def count(asked: Asked, key: str) -> int:
    """Return a whole number; 1 where there is none."""
    found = asked.get(key, 1)
    if isinstance(found, bool) or not isinstance(found, int):
        raise BadRequestError(f'"{key}" must be a whole number.')
    return found
