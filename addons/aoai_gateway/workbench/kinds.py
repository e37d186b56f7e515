"""Which operation a call is, by the request's line: all that the gateway serves, but for lists of models."""

from __future__ import annotations

from functools import lru_cache

from aoai_gateway.inspect.views.facts import operation_of
from aoai_gateway.rerun.case_set import PATHS
from aoai_gateway.wire.gateway_error import GatewayError
from aoai_gateway.wire.operations import UNKNOWN_NAME
from aoai_gateway.wire.targets import parse_target

LONGEST_REMEMBERED = 256
"""Characters of a path: clients use few, but may make up many."""

LEFT_OUT = frozenset({UNKNOWN_NAME, "models", "models.retrieve"})


def kind_of(method: str, path: str) -> tuple[str, str]:
    """Return the operation, and the deployment that the path names; both empty for what is no call.

    ``method`` and ``path`` as they came, the path with its query.
    """
    return (_remembered if len(path) <= LONGEST_REMEMBERED else _kind_of)(method, path)


def _kind_of(method: str, path: str) -> tuple[str, str]:
    found = operation_of(path)
    if found[0]:
        return found
    try:
        target = parse_target(method, path)
    except GatewayError:
        return "", ""
    name = target.operation.name
    return ("", "") if name in LEFT_OUT else (name, target.deployment or "")


_remembered = lru_cache(maxsize=1024)(_kind_of)


def can_be_run(operation: str) -> bool:
    """Whether calls of an operation can be edited and run: it takes a prompt in JSON."""
    return operation in PATHS
