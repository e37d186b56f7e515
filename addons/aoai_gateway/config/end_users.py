"""The persons behind a client: where their names come from, and what each of them may use."""

import re
from collections.abc import Iterator
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, model_validator

from aoai_gateway.config.fields import Name, Whole, fault
from aoai_gateway.config.model import Model

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)
"""A header's name (RFC 9110 §5.6.2)."""


class UserSource(Model):
    """Where the name of a call's end user is."""

    place: Literal["header", "claim", "body"]
    """In a header of the request, in a claim of its verified token, or in a member of its body."""
    name: Name
    """The name of that header, claim or member."""


def _source(value: object) -> object:
    if not isinstance(value, str):
        return value
    place, _, name = value.strip().partition(" ")
    name = name.strip()
    if place not in ("header", "claim", "body") or not _TOKEN.fullmatch(name):
        raise fault(
            "does not say where an end user's name is", "write header x-end-user, claim oid, or body user"
        )
    return {"place": place, "name": name.lower() if place == "header" else name}


UserFrom = Annotated[UserSource, BeforeValidator(_source, json_schema_input_type=str)]
"""``header x-end-user``, ``claim oid`` or ``body user``."""

LIMITS_PER_USER = ("tokens_per_minute", "requests_per_minute", "tokens_per_day", "tokens_per_month")
"""The kinds of limit on one end user; each key has ``max_`` before it."""


class PerUser(Model):
    """What each end user of a client may use, over all virtual deployments."""

    max_tokens_per_minute: Whole | None = None
    """Tokens in any 60 s."""
    max_requests_per_minute: Whole | None = None
    """Requests in any 60 s."""
    max_tokens_per_day: Whole | None = None
    """Tokens per calendar day, UTC."""
    max_tokens_per_month: Whole | None = None
    """Tokens per calendar month, UTC."""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not dict(self.limits()):
            raise fault("sets no limit", "write {max_tokens_per_minute: 5000}")
        return self

    def limits(self) -> Iterator[tuple[str, int]]:
        """Iterate over the limits that are set, each with its kind."""
        for kind in LIMITS_PER_USER:
            limit: int | None = getattr(self, f"max_{kind}")
            if limit is not None:
                yield kind, limit
