"""A failed attempt in the log: a line, or an error where the cause is the gateway's own configuration."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from aoai_gateway.engine.call import FailureKind, Fault
from aoai_gateway.engine.failures import OUR_CREDENTIAL_REFUSED

if TYPE_CHECKING:
    from aoai_gateway.runtime.stream_hooks import AttemptFailed

logger = logging.getLogger(__name__)

_ADVICE = {
    Fault.STANDIN: "has no such deployment ({reason}). Correct or remove the standin {standin!r} in "
    "aoai.endpoints, at the endpoint {endpoint!r}, or create the deployment.",
    Fault.PATH: "has nothing at this path ({reason}). Correct 'url' in aoai.endpoints, at the endpoint "
    "{endpoint!r}, with its path prefix.",
    Fault.OPERATION: "does not do {operation} ({reason}). Remove the standin {standin!r} in aoai.endpoints, "
    "at the endpoint {endpoint!r}, from this virtual deployment, or let it lead to another model.",
}


def log(failed: AttemptFailed) -> None:
    """Log a failed attempt; loudly if our own credential was refused."""
    attempt = failed.attempt
    ours = attempt.failure is FailureKind.STATUS and attempt.status in OUR_CREDENTIAL_REFUSED
    if ours:
        logger.error(
            "%s refuses the gateway's own credential (%s); check the endpoint's key.",
            attempt.backend.endpoint.name,
            attempt.reason,
        )
        return
    advice = _ADVICE.get(attempt.fault) if attempt.fault is not None else None
    if advice is not None:
        backend, operation = attempt.backend, failed.call.target.operation.name
        endpoint, standin = backend.key
        told = advice.format(reason=attempt.reason, standin=standin, endpoint=endpoint, operation=operation)
        logger.error("%s %s", backend.name, told)
        return
    length = f"; break of {attempt.break_seconds:.1f} s" if attempt.break_seconds is not None else ""
    logger.info("%s failed: %s%s (call %s)", attempt.backend.name, attempt.reason, length, failed.call.id)
