"""A failed attempt in the log: a line, or an error where the gateway's own credential was refused."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from aoai_gateway.call import FailureKind
from aoai_gateway.failures import OUR_CREDENTIAL_REFUSED

if TYPE_CHECKING:
    from aoai_gateway.proxy.hooks import AttemptFailed

logger = logging.getLogger(__name__)


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
    length = f"; break of {attempt.break_seconds:.1f} s" if attempt.break_seconds is not None else ""
    logger.info("%s failed: %s%s (call %s)", attempt.backend.name, attempt.reason, length, failed.call.id)
