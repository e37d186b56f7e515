"""What the page sends back -> the body that is to be sent: pure functions of bytes, which may be many."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aoai_gateway.inspect.views.shapes import Unreadable, decode
from aoai_gateway.rerun.case_set import with_variables
from aoai_gateway.workbench import page_requests
from aoai_gateway.workbench.page_requests import EditError
from aoai_gateway.workbench.shape import dump, filled, has_stand_ins

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Body:
    """A request's body as JSON, all but its ``model``: that can be put in without reading it again."""

    model: str
    """The model as it was given; "" without one."""
    rest: bytes

    def asking_for(self, model: str) -> bytes:
        """Return the whole of it, for a model; "" names none."""
        if not model:
            return self.rest
        begin = b'{"model": ' + json.dumps(model).encode()
        return begin + (b"}" if self.rest == b"{}" else b", " + self.rest[1:])


@dataclass(frozen=True, slots=True)
class Asked:
    """A run as the page asks for it; ``body`` is JSON, and may refer to the body of ``call``."""

    call: str
    operation: str
    client: str
    by: str
    places: tuple[str, ...]
    count: int
    variables: Mapping[str, str]
    body: bytes


def asked_for(raw: bytes) -> Asked:
    """Read what is asked. Raises BadRequestError and EditError."""
    asked = page_requests.document(raw)
    return Asked(
        call=page_requests.text(asked, "call"),
        operation=page_requests.text(asked, "operation"),
        client=page_requests.text(asked, "client"),
        by=page_requests.text(asked, "by"),
        places=tuple(page_requests.texts(asked, "places")),
        count=page_requests.count(asked, "count"),
        variables=page_requests.values(asked, "variables"),
        body=written(page_requests.member(asked, "body")),
    )


def body_in(raw: bytes) -> bytes:
    """Take the body out of what is asked. Raises BadRequestError and EditError."""
    return written(page_requests.member(page_requests.document(raw), "body"))


def ready(origin: bytes, asked: bytes, variables: Mapping[str, str]) -> Body:
    """Fill in a body as the page sends it. A pure function; raises EditError.

    Args:
        origin: the body of the call that it was made of, where it refers to that.
        asked: a JSON object, in which stand-ins may stand for values of the origin's.
        variables: what is put in for ``{{name}}``.

    """
    body: Any = json.loads(asked)
    if has_stand_ins(body):
        if not origin:
            raise EditError("It refers to the call that it was made of, and that is no longer here.")
        try:
            body = filled(body, decode(origin))
        except (KeyError, Unreadable):
            raise EditError("It refers to a part of the original call that is not there.") from None
    return body_of(body, variables)


def body_of(document: Any, variables: Mapping[str, str]) -> Body:
    """Make a body of a decoded one. A pure function; raises EditError."""
    if not isinstance(document, dict):
        raise EditError("A request is a JSON object.")
    found = {key: with_variables(value, variables) for key, value in document.items()}
    model = found.pop("model", None)
    return Body(model if isinstance(model, str) else "", written(found))


def written(document: Any) -> bytes:
    """Write JSON. Raises EditError."""
    try:
        return dump(document)
    except ValueError:
        raise EditError("It holds a number that JSON has not, such as an infinite one.") from None
