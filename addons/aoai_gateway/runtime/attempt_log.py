"""A failed attempt in the log: a line, or an error where the cause is the gateway's own configuration."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from aoai_gateway.engine.attempt import FailureKind, Fault
from aoai_gateway.engine.failures import OUR_CREDENTIAL_REFUSED

if TYPE_CHECKING:
    from aoai_gateway.runtime.stream_hooks import AttemptFailed

logger = logging.getLogger(__name__)

STORM_SECONDS = 60.0
"""After a line about a backend and a reason, others like it are counted for so long."""

MOST_KINDS = 1_000

_ADVICE = {
    Fault.STANDIN: "has no such deployment ({reason}). Correct or remove the standin {standin!r} in "
    "aoai.endpoints, at the endpoint {endpoint!r}, or create the deployment.",
    Fault.PATH: "has nothing at this path ({reason}). Correct 'url' in aoai.endpoints, at the endpoint "
    "{endpoint!r}, with its path prefix, if it should do {operation}.",
}
_CLIENTS_PATH = (
    "has nothing at the path of a call of the client {client!r} ({reason}): the client may ask for what "
    "there is not, by its path or its api-version. If calls of others fail there too, 'url' in "
    "aoai.endpoints is wrong, at the endpoint {endpoint!r}."
)
"""No error either: only this client's calls are kept from it."""
_WRONG_MODEL = (
    "does not do {operation} ({reason}), which the client {client} asks {asked} for. If its other backends "
    "do, remove the standin {standin!r} in aoai.endpoints, at the endpoint {endpoint!r}; else the client "
    "means another model."
)
"""No error: it takes no more than a client that asks a chat model for embeddings."""


class AttemptLog:
    """Logs failed attempts: the first of a kind at once, and of a storm of them one line a minute."""

    def __init__(self) -> None:
        self._kinds: dict[tuple[str, str], list[float]] = {}
        """The time of the last line (monotonic) and the failures since, by backend and kind."""

    def log(self, failed: AttemptFailed, now: float) -> None:
        """Take a failed attempt. ``now``: monotonic seconds."""
        key = failed.attempt.backend.name, _kind(failed)
        known = self._kinds.get(key)
        if known is not None and now < known[0] + STORM_SECONDS:
            known[1] += 1
            return
        if len(self._kinds) >= MOST_KINDS:
            self._kinds.clear()
        self._kinds[key] = [now, 0]
        more = int(known[1]) if known is not None else 0
        _log(failed, f"; {more} more like it were not told" if more else "")


def _kind(failed: AttemptFailed) -> str:
    attempt, call = failed.attempt, failed.call
    if attempt.of_client:
        return f"client {call.client.name}: {attempt.reason}"
    if attempt.fault in (Fault.PATH, Fault.OPERATION):
        return f"operation {call.target.operation.name}: {attempt.reason}"
    # These reasons hold measured seconds, so that hardly two of them are equal.
    measured = attempt.failure in (FailureKind.TIMEOUT, FailureKind.CONNECT)
    return attempt.failure.value if measured and attempt.failure is not None else attempt.reason


def _log(failed: AttemptFailed, more: str) -> None:
    attempt, call = failed.attempt, failed.call
    details = {
        "backend": attempt.backend.name,
        "call": call.id,
        "client_name": call.client.name,
        "priority": call.cls.name if call.cls is not None else None,
    }
    ours = attempt.failure is FailureKind.STATUS and attempt.status in OUR_CREDENTIAL_REFUSED
    if ours:
        logger.error(
            "%s refuses the gateway's own credential (%s); check the endpoint's key%s.",
            attempt.backend.endpoint.name,
            attempt.reason,
            more,
            extra={"event": "backend.credential_refused", **details},
        )
        return
    endpoint, standin = attempt.backend.key
    if attempt.of_client:
        told = _CLIENTS_PATH.format(reason=attempt.reason, client=call.client.name, endpoint=endpoint)
        event = {"event": "backend.nothing_there", **details}
        logger.warning("%s %s%s", attempt.backend.name, told, more, extra=event)
        return
    advice = _ADVICE.get(attempt.fault) if attempt.fault is not None else None
    if advice is not None:
        operation = call.target.operation.name
        told = advice.format(reason=attempt.reason, standin=standin, endpoint=endpoint, operation=operation)
        event = {"event": "backend.misconfigured", **details}
        logger.error("%s %s%s", attempt.backend.name, told, more, extra=event)
        return
    if attempt.fault is Fault.OPERATION:
        told = _WRONG_MODEL.format(
            reason=attempt.reason,
            standin=standin,
            endpoint=endpoint,
            operation=call.target.operation.name,
            client=call.client.name,
            asked=call.deployment or "it",
        )
        event = {"event": "backend.wrong_model", **details}
        logger.warning("%s %s%s", attempt.backend.name, told, more, extra=event)
        return
    length = f"; break of {attempt.break_seconds:.1f} s" if attempt.break_seconds is not None else ""
    logger.info(
        "%s failed: %s%s%s (call %s, client %s%s)%s",
        attempt.backend.name,
        attempt.reason,
        f" ({attempt.detail})" if attempt.detail else "",
        length,
        call.id,
        call.client.name,
        f", class {details['priority']}" if call.setup.config.priorities else "",
        more,
        extra={"event": "attempt.failed", **details},
    )
