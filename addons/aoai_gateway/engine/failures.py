"""The meaning of a failed attempt: for the backend, for the call, and for the choice of another backend.

- *Which failures are replayed.* 408, 429, 500, 502, 503, 504, 520 to 527, 529, 530, no connection, TLS,
  a connection dropped before the headers, a deadline; and an answer with 200 that is an error which stands
  for one of these statuses (a stream's, before its first content). Our own credential refused (401, 403) is
  our fault, so that is replayed too; the client's own token refused is its answer.
- *Whose fault.* No connection, TLS, a throttle, silence to several calls and Azure's own refusal of our key
  prove by themselves that it is the backend's. Anything else the call may have caused: it
  is only a suspicion (:mod:`~aoai_gateway.routing.suspicion`). The client's own time-out counts against no
  backend.
- *The gateway's own part of a request* (a deployment's name, a path prefix, ``stream_options``) is not the
  client's fault, and neither is a reference to state that another resource holds (`fault_of`).
- *Calls that create state* beyond a stored answer are replayed only if they were certainly not processed:
  429, 529, no connection.
"""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING

from aoai_gateway.engine.attempt import FailureKind, Fault
from aoai_gateway.engine.call import Call
from aoai_gateway.engine.effects import Failed
from aoai_gateway.routing.order import FLEX, Cause, Order
from aoai_gateway.wire import backend_errors, errors
from aoai_gateway.wire.backend_errors import OUT_OF_CAPACITY, error_code
from aoai_gateway.wire.hints import retry_hint
from aoai_gateway.wire.operations import UNKNOWN_NAME

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from aoai_gateway.routing.backends import Backend
    from aoai_gateway.routing.breaker import Scope
    from aoai_gateway.wire.gateway_error import GatewayError

NO_ORIGIN = frozenset({*range(520, 528), 530})
"""Cloudflare's statuses where it has no answer of what is behind it ("Cloudflare 5xx errors"): its AI Gateway
may stand before an endpoint."""

RETRYABLE = frozenset({408, 500, 502, 503, 504}) | OUT_OF_CAPACITY | NO_ORIGIN
"""Statuses after which Azure's and Anthropic's documentation recommend to retry, and what means the same."""

OUR_CREDENTIAL_REFUSED = frozenset({401, 403})

NOT_REACHED = frozenset({FailureKind.CREDENTIAL, FailureKind.CONNECT, FailureKind.TLS})
"""Nothing was sent, for a reason that concerns all of an endpoint."""


NOT_TAKEN = OUT_OF_CAPACITY | OUR_CREDENTIAL_REFUSED
"""Statuses of a call that a backend has certainly not begun to serve."""


def is_failure(status: int) -> bool:
    """Whether a status may be replayed, as far as the status tells."""
    return status in RETRYABLE or status in OUR_CREDENTIAL_REFUSED


def is_replayed(call: Call, status: int) -> bool:
    """Whether another backend is asked after this status."""
    if status in OUR_CREDENTIAL_REFUSED:
        return not call.brings_own_token
    if status not in RETRYABLE:
        return False
    return status in OUT_OF_CAPACITY or not call.creates_state


def fault_of(call: Call, backend: Backend, status: int, body: bytes | None) -> Fault | None:
    """Return what is wrong with a refused call that its client has not put in; None: the client's answer.

    The client's own fields remain its own: an api-version, ``stream_options``, a header that names another
    deployment (for spill-over or images).
    """
    if call.adds_usage(backend) and backend_errors.is_stream_options_unknown(status, body):
        return Fault.STREAM_OPTIONS
    if status not in (400, 404):
        return None
    assert call.body is not None
    if status == 404 and call.target.ids:
        return Fault.ELSEWHERE
    if backend_errors.is_held_elsewhere(status, body, call.body.raw):
        return Fault.ELSEWHERE
    if backend.standin is not None:
        own = any(call.headers.get(name) is not None for name in NAME_DEPLOYMENTS)
        if not own and backend_errors.is_deployment_missing(status, body):
            return Fault.STANDIN
        if backend_errors.is_operation_unsupported(status, body):
            return Fault.OPERATION
    return (
        Fault.PATH if backend_errors.is_path_missing(status, body, below_prefix=has_prefix(backend)) else None
    )


def version_refused(call: Call, backend: Backend, status: int, body: bytes | None) -> GatewayError | None:
    """Return what to tell a client whose api-version is missing or unknown.

    None: the answer is about something else. Below a prefix, and with an id in the path, the same answer has
    other causes, unless there is no api-version.
    """
    target = call.target
    if target.api != "classic" or not backend_errors.is_version_refused(status, body):
        return None
    certain = not target.api_version or not (has_prefix(backend) or target.ids)
    return errors.api_version_refused(target.api_version) if certain else None


def has_prefix(backend: Backend) -> bool:
    """Whether the paths of a backend's endpoint begin with a prefix."""
    return backend.endpoint.path_prefix not in ("", "/")


def may_be_clients_path(call: Call, body: bytes | None) -> bool:
    """Whether a call's path, which is in no table, or its api-version may be why nothing is there."""
    target = call.target
    made_up = target.operation.name == UNKNOWN_NAME
    return made_up or (target.api == "classic" and backend_errors.is_version_refused(404, body))


def falls_back(
    call: Call,
    status: int,
    body: bytes | None,
    *,
    error: Mapping[str, object] | None = None,
    finish_reasons: Collection[str] = (),
) -> backend_errors.Refusal | None:
    """Return the cause for which an answer leads the call to another deployment; None: it is the client's.

    ``error`` is that of a 200; ``finish_reasons`` are those of an answer of which nothing was delivered yet.
    """
    if not (call.fallbacks or call.barred):
        return None
    blocked = bool(finish_reasons) and set(finish_reasons) <= backend_errors.BLOCKED
    refusal = (
        backend_errors.Refusal.CONTENT_FILTER
        if blocked
        else backend_errors.refusal_in(error)
        if error
        else backend_errors.refusal_of(status, body)
    )
    return refusal if refusal is not None and call.may_fall_back(refusal) else None


NAME_DEPLOYMENTS = ("x-ms-spillover-deployment", "x-ms-oai-image-generation-deployment")
"""Headers with which a client names further deployments."""


def cause_in_call(failed: Failed) -> str:
    """Name a failure that the call itself may be the cause of; "" for one that it is not."""
    if failed.kind in (FailureKind.STATUS, FailureKind.REFUSED_IN_STREAM) and failed.status is not None:
        if failed.status in OUT_OF_CAPACITY:
            return ""
        caused = failed.status >= 500 or failed.status == 408
        # A firewall's 403 is about the prompt. A 401 never is: no client is told that its key is wrong.
        caused = caused or (failed.status == 403 and not backend_errors.is_key_refused(failed.body))
        return str(failed.status) if caused else ""
    if failed.kind in (FailureKind.TIMEOUT, FailureKind.DROPPED, FailureKind.PROTOCOL):
        return failed.kind.value
    return ""


def broken_by(backend: Backend, failed: Failed) -> Scope:
    """Return the scope of a failure's break: a cause that concerns the whole endpoint breaks all of it."""
    whole = failed.kind in NOT_REACHED or refuses_us(failed)
    return (backend.key.endpoint, None if whole else backend.key.standin)


def refuses_us(failed: Failed) -> bool:
    """Whether the backend does not accept the endpoint's own credential."""
    return failed.kind is FailureKind.STATUS and failed.status in OUR_CREDENTIAL_REFUSED


def is_proof(failed: Failed, hint: float | None) -> bool:
    """Whether a failure shows by itself that it is the backend's, since no call's content could cause it.

    ``hint``: the seconds after which the backend wants to be asked again, if it named them. Beside a 503 they
    speak of the server (RFC 9110 §15.6.4).
    """
    if failed.silent or failed.kind in NOT_REACHED or lacks_capacity(failed):
        return True
    if refuses_us(failed):
        return backend_errors.is_key_refused(failed.body)
    return failed.status == 503 and bool(hint)


def way_of(failed: Failed) -> str:
    """Name the way in which it failed, as witnesses confirm it: a dying backend gives various errors."""
    return "refuses" if refuses_us(failed) else "fails"


SAMPLE = 65_536
"""Bytes from either end of a body that distinguish it from others."""


def content_of(call: Call) -> bytes:
    """Return a digest of a call's body."""
    assert call.body is not None
    first, last = call.body.ends(SAMPLE)
    digest = hashlib.blake2b(first, digest_size=16)
    digest.update(last)
    digest.update(b"%d" % call.body.size)
    return digest.digest()


def lacks_capacity(failed: Failed) -> bool:
    """Whether the backend refused for want of capacity."""
    refused = failed.kind in (FailureKind.STATUS, FailureKind.REFUSED_IN_STREAM)
    return refused and failed.status in OUT_OF_CAPACITY


def lacks_tier(failed: Failed, tier: str | None) -> bool:
    """Whether the backend has no capacity for calls of the service tier flex, which says nothing of others.

    Flex shares the quota of its deployment, and takes what capacity is left (how-to/flex-processing).
    """
    if tier != FLEX or not lacks_capacity(failed):
        return False
    return (error_code(failed.body) or "").replace("_", "").lower() in _NO_RESOURCE


_NO_RESOURCE = frozenset({"resourceunavailable", "nocapacity"})


def was_not_taken(failed: Failed) -> bool:
    """Whether the backend has certainly not begun to serve the call."""
    return failed.kind in NOT_REACHED or lacks_capacity(failed) or refuses_us(failed)


def hint_of(call: Call, failed: Failed) -> float | None:
    """Return the seconds after which the last attempt's backend wants to be asked again, if it names them."""
    if failed.headers is None:
        return None
    breaks = call.setup.config.breaks
    if refuses_us(failed):
        return breaks.ceiling_seconds
    hint = retry_hint(failed.headers, failed.body, failed.now + call.unix_offset)
    attempt = call.attempt
    if hint and attempt is not None and attempt.spillover is not None and lacks_capacity(failed):
        # It is the time of the standard deployment; the provisioned one drains all the while.
        return min(hint, breaks.default_seconds)
    return hint


def none_left(call: Call, found: Order, standing: float, *, line_full: bool) -> GatewayError:
    """Return the error of a call that no backend can take: why each one is out, and when one may take it.

    ``standing``: the seconds for which calls like it wait at present, in a queue that does not get shorter;
    ``line_full``: there was no place for it in the queue.
    """
    wait = found.soonest
    if wait is None and call.too_small:
        return errors.rate_limited(
            f"The request asks for about {call.estimate:,} tokens, more than the whole limit of any "
            f"backend. {_what_helps(call)}",
            math.inf,
            code="larger_than_limits",
        )
    wait = call.setup.config.breaks.default_seconds if wait is None else wait
    # There may be room sooner, but the calls in the queue come first.
    wait = max(wait, standing, call.queue_wait)
    causes = {skip.cause for skip in found.skipped if skip.seconds is not None}
    code = "all_backends_out"
    if line_full:
        code = "waiting_line_full"
    elif call.queue_wait >= errors.SHORTEST_WAIT:
        code = "waiting_line_timeout"
    elif Cause.KEPT_FREE in causes:
        code = "shed"
    reasons = [
        (s.backend.name, s.reason, math.inf if s.seconds is None else s.seconds) for s in found.skipped
    ]
    return errors.all_backends_out(call.deployment, wait, reasons, code=code, waited_seconds=call.queue_wait)


def _what_helps(call: Call) -> str:
    """Return how a call gets below the limits: by that of its two parts which makes it large."""
    answer = call.completion_bound() or 0
    if 2 * answer < call.estimate:
        return "Send a shorter prompt."
    return "Lower max_tokens, or the number of answers."
