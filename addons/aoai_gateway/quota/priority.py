"""The priority class of one request: its client's, or a lower one that it asks for by header."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aoai_gateway.wire import errors

if TYPE_CHECKING:
    from aoai_gateway.config.models import Config
    from aoai_gateway.config.priorities import PriorityClass

HEADER = "x-gateway-priority"
"""The header by which a request asks for a class."""


def class_of(config: Config, priority: str | None, asked: str | None) -> PriorityClass:
    """Return the class of a request.

    ``priority``: its client's, or the lower one it was degraded to; None without any. ``asked``: the
    value of `HEADER`, if it is there. Without priorities it means nothing, so that a client can send it
    to every gateway.

    :raises GatewayError: 400, when the header's value is no class, or a higher one than the request has.
    """
    own = config.priority_class(priority)
    if asked is None or not config.priorities:
        return own
    lower = {cls.name: cls for cls in config.priority_classes[own.rank :]}
    found = lower.get(asked.strip())
    if found is None:
        raise errors.priority_not_allowed(asked, lower)
    return found
