"""The errors of requests that are not served: one function per kind; each message says what to do about it.

docs/reference/errors.md is made from this table, and from those of `wire.credential_errors` and
`wire.session_messages`.

======================  ======  =============================================================
code                    status  when
======================  ======  =============================================================
DeploymentNotAllowed    403     the client may not use this deployment; the message lists the allowed ones
EndpointNotAllowed      403     none of the endpoints of the client (`endpoints_allowed`) has this deployment
no_price_configured     403     the client's budget is in money, and this deployment has no price
no_limit_configured     403     the client's limits are per deployment, and this one has none
forbidden               403     a plugin refuses the call
DeploymentNotFound      404     no such virtual deployment; the message lists those of the client
404                     404     a path that is not Azure OpenAI's; the message names the probable one. Or no
                                `api-version`, or one in which the backend has no such operation
not_recorded            404     with `server_replay`: no answer to this call was captured
method_not_allowed      405     a known path with another method
upgrade_required        426     a path that is a WebSocket, without its handshake (RFC 6455 §4.2.1)
invalid_target          400     a request for a forward proxy, a WebSocket where none is, no valid `Host`, or
                                http where https is configured
invalid_body            400     not JSON, or a field of the wrong type, or `model` twice
unsupported_media_type  400     a form where JSON is required, or a coding of the request that is not read
missing_deployment      400     neither the path nor `model` names one, or a line of a batch's input does not
model_mismatch          400     the lines of a batch's input file name several deployments
invalid_json_line       400     a line of a batch's input file is no request in JSON, or too long
invalid_url             400     a line of a batch's input file names a deployment in `url`
empty_file              400     a batch's input file has no lines
too_many_tasks          400     a batch's input file has more than 100,000 lines
parameter_over_limit    400     `max_tokens`, `n`, `best_of` (see `param`) or the prompt is above the limit
priority_not_allowed    400     `x-gateway-priority` names an unknown class, or a higher one than the client's
head_malformed          400     a request head that is not HTTP
body_malformed          400     a request body whose chunks are malformed, or that ends early
head_too_large          431     a request head over `limits.header_kb`
request_too_large       413     a body over `limits.body_mb`, an upload over `limits.upload_mb`
request_timeout         408     the head or the body did not come in time; see `limits`
not_built               501     an operation of Azure OpenAI that is not served yet
quota_exceeded          429     the client's tokens or requests are used up, or less is left than the call
                                may take; the message says which, and `retry-after` when the call fits
budget_exceeded         429     the client's budget in money is spent, or less is left than the call may cost
too_many_new_tokens     429     too many calls at a time have tokens that no backend has accepted yet
all_backends_out        429     each backend is in a break or cannot take this call; see `retry-after`
larger_than_limits      429     the call exceeds the whole limit of each backend: `x-should-retry: false`
waiting_line_full       429     the queue already holds as many calls of this class as it may
waiting_line_timeout    429     the call has waited in the queue as long as its class or its client does
shed                    429     there is room, but it is kept for higher classes, and the call does not wait
internal_error          500     a bug of the gateway: nothing was forwarded, and the log has the traceback
upstream_disconnected   502     a backend broke off; in a stream, as an error event
unavailable             503     the gateway is shutting down, has no configuration yet, or too many
                                connections or requests to read
upstream_timeout        504     a backend kept silent for longer than its deadline
======================  ======  =============================================================
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from aoai_gateway.wire.gateway_error import GatewayError, quoted, retry_headers, rounded_up

LAST_DATED = "2024-10-21"
"""Azure's last api-version with a date that is no preview; the v1 API took the place of later ones."""

SHORTEST_WAIT = 0.05
"""Seconds in the queue that a message mentions; less than that is the time it takes to look."""


# --- the caller's rights --------------------------------------------------------------------------


def forbidden(message: str, code: str = "forbidden") -> GatewayError:
    """403: the client is known, and a policy says no. ``message`` names the policy and the way out."""
    return GatewayError(403, code, message, type="permission_denied")


def deployment_not_allowed(name: str, allowed: Iterable[str]) -> GatewayError:
    """403: the client may not use the deployment; the message lists those that it may use."""
    return forbidden(
        f"You may not use the deployment {quoted(name)}. {_choose_from(allowed, 'You may use')}",
        code="DeploymentNotAllowed",
    )


def no_limit_configured(name: str) -> GatewayError:
    """403: the client's limits are per deployment, and there is none for this one."""
    return forbidden(
        f"Your limits are set per deployment, and there is none for {quoted(name)}. "
        "Ask the gateway's administrator to add one.",
        code="no_limit_configured",
    )


# --- what is asked for ----------------------------------------------------------------------------


def deployment_not_found(name: str, known: Iterable[str] = ()) -> GatewayError:
    """404: no such deployment. ``known`` should list only what the asking client may use."""
    return GatewayError(
        404,
        "DeploymentNotFound",
        f"The API deployment {quoted(name)} does not exist. {_choose_from(known, 'You may use')}",
        param="model",
    )


def not_recorded(status: int) -> GatewayError:
    """404, or the status of ``server_replay_extra``: there is no recorded answer to this call."""
    return GatewayError(
        status,
        "not_recorded",
        "No answer to this call was recorded: its path and its body must be as they were then, but for the "
        "order of the body's keys. Without server_replay_reuse, each answer is given once.",
    )


def not_found(path: str, hint: str) -> GatewayError:
    """404: not a path of Azure OpenAI's. The path is quoted, never its query, which can hold a key.

    ``hint`` names the right path, in a sentence.
    """
    return GatewayError(404, "404", f"Resource not found: {quoted(path.partition('?')[0])}. {hint}")


def api_version_refused(version: str | None) -> GatewayError:
    """404: the api-version of a classic path is missing (None, or ""), or Azure has no such operation in it.

    Azure itself only says "Resource not found".
    """
    cause = "the query has no api-version, which this path needs."
    if version:
        cause = f"the backend knows no such operation in the api-version {quoted(version)}."
    return GatewayError(
        404,
        "404",
        f"Resource not found: {cause} The last one with a date is {LAST_DATED}; "
        "paths that begin with /openai/v1/ need none.",
    )


def method_not_allowed(method: str, allowed: Iterable[str]) -> GatewayError:
    """405: a known path, asked with another method."""
    names = ", ".join(allowed)
    return GatewayError(
        405,
        "method_not_allowed",
        f"The method {quoted(method)} is not allowed here. Use {names}.",
        headers=(("allow", names),),
    )


def not_built(family: str) -> GatewayError:
    """501: Azure OpenAI has this family of operations, and the gateway does not serve it (yet)."""
    return GatewayError(
        501,
        "not_built",
        f"This gateway does not serve {family} yet. Call an Azure OpenAI resource directly for it.",
        type="not_implemented",
        headers=(("x-should-retry", "false"),),
    )


def invalid_target(message: str) -> GatewayError:
    """400: a request target that is not a plain path, and so could choose a host."""
    return GatewayError(400, "invalid_target", message)


def upgrade_required() -> GatewayError:
    """426: a session is asked for without a WebSocket's handshake."""
    return GatewayError(
        426,
        "upgrade_required",
        "This path is a WebSocket: connect with ws:// or wss://, and the handshake of RFC 6455, version 13.",
        headers=(("upgrade", "websocket"), ("sec-websocket-version", "13")),
    )


def no_websocket_here() -> GatewayError:
    """400: a path that is no WebSocket is asked to be one."""
    return invalid_target("This path cannot be upgraded to another protocol.")


def invalid_body(message: str, param: str | None = None, code: str = "invalid_body") -> GatewayError:
    """400: the body, or its member ``param``, is not what the operation takes. Never quote content in it."""
    return GatewayError(400, code, message, param=param)


def missing_deployment(*, in_path: bool = True) -> GatewayError:
    """400: neither the path nor the body names a deployment. ``in_path``: whether the path might."""
    path = ", or into the path: /openai/deployments/{deployment}/…" if in_path else "."
    return invalid_body(
        f"The request names no deployment. Put its name into the body's 'model'{path}",
        param="model",
        code="missing_deployment",
    )


def parameter_over_limit(param: str, asked: int, limit: int) -> GatewayError:
    """400: a request limit of the client, where its policy is to reject and not to clamp."""
    return invalid_body(
        f"'{param}' is {asked}, and you may ask for at most {limit}. Lower it.",
        param=param,
        code="parameter_over_limit",
    )


def priority_not_allowed(asked: str, allowed: Iterable[str]) -> GatewayError:
    """400: the header asks for a priority class that there is not, or for one above the client's."""
    return invalid_body(
        f"You may not ask for the priority {quoted(asked)}. {_choose_from(allowed, 'You may ask for')}",
        param="x-gateway-priority",
        code="priority_not_allowed",
    )


def too_slow(what: str) -> GatewayError:
    """408: the client did not send its request in time. ``what``: the part that did not come."""
    return GatewayError(
        408,
        "request_timeout",
        f"The request's {what} did not come in time. Send it again.",
        headers=(("connection", "close"),),
    )


def body_too_large(limit: int) -> GatewayError:
    """413: a body of more than ``limit`` bytes."""
    return GatewayError(
        413,
        "request_too_large",
        f"The request body is larger than this gateway takes ({limit:,} bytes). Send less in one request.",
        headers=(("connection", "close"),),
    )


def head_malformed() -> GatewayError:
    """400: the bytes that came are not the head of an HTTP request."""
    return GatewayError(
        400,
        "head_malformed",
        "The request head is not valid HTTP/1.1. Check the client, or the proxy before it.",
        headers=(("connection", "close"),),
    )


def body_malformed() -> GatewayError:
    """400: the body is not framed as its head says: a chunk is malformed, or it ended early."""
    return GatewayError(
        400,
        "body_malformed",
        "The request body ends early, or its chunks are not valid HTTP/1.1. "
        "Check the client, or the proxy before it.",
        headers=(("connection", "close"),),
    )


def head_too_large(limit: int | None = None) -> GatewayError:
    """431: request line and headers exceed ``limit`` bytes."""
    bound = f" ({limit:,} bytes)" if limit else ""
    return GatewayError(
        431,
        "head_too_large",
        f"The request's headers are larger than this gateway takes{bound}. Send fewer or smaller ones.",
        headers=(("connection", "close"),),
    )


# --- not now --------------------------------------------------------------------------------------


def rate_limited(message: str, retry_after_seconds: float, code: str = "quota_exceeded") -> GatewayError:
    """429 with exact hints. ``message`` names the exhausted limit; the time to come back is added to it."""
    return GatewayError(
        429,
        code,
        f"{message} {_come_back(retry_after_seconds)}",
        type="too_many_requests",
        headers=retry_headers(retry_after_seconds),
    )


def all_backends_out(
    deployment: str,
    retry_after_seconds: float,
    reasons: Iterable[tuple[str, str, float]],
    *,
    code: str = "all_backends_out",
    waited_seconds: float = 0.0,
) -> GatewayError:
    """429: every backend is in a break, or has no room for the call (``deployment`` is "" if it has none).

    ``reasons`` are (backend's name, why it is out, seconds until it is back); names and reasons must hold
    neither URLs nor keys. ``retry_after_seconds`` is the smallest of these. ``code``: this one, or that of
    the queue or of shedding; ``waited_seconds``: for how long the call has waited in the queue.
    """
    listed = "; ".join(
        f"{name}: {why}" + (f", back in {_seconds(seconds)}" if math.isfinite(seconds) else "")
        for name, why, seconds in reasons
    )
    what = f"the deployment {quoted(deployment)}" if deployment else "the request"
    text = f"No backend can serve {what} now"
    text += f" ({listed})." if listed else "."
    if code == "waiting_line_full":
        text += " The queue for one is full."
    if waited_seconds >= SHORTEST_WAIT:
        text += f" The request has waited in the queue for {_seconds(waited_seconds)}."
    return rate_limited(text, retry_after_seconds, code=code)


def unavailable(message: str, retry_after_seconds: float = 1.0) -> GatewayError:
    """503: the gateway itself cannot take the call now (draining, overloaded). SDKs retry it."""
    return GatewayError(
        503,
        "unavailable",
        f"{message} {_come_back(retry_after_seconds)}",
        type="server_error",
        headers=retry_headers(retry_after_seconds),
    )


# --- what failed ----------------------------------------------------------------------------------


def internal() -> GatewayError:
    """500: a bug of the gateway. Says nothing about it; the log has the traceback."""
    return GatewayError(
        500,
        "internal_error",
        "The gateway failed to process the request; nothing was forwarded. "
        "Tell its administrator the time of the call: the log says more.",
        type="server_error",
    )


def upstream_disconnected() -> GatewayError:
    """502: a backend broke off its answer. In a stream it is sent as an error event."""
    return GatewayError(
        502,
        "upstream_disconnected",
        "The backend broke off before its answer was complete. Discard what has come, and retry.",
        type="server_error",
    )


def upstream_timeout(seconds: float | None = None, *, streaming: bool = False) -> GatewayError:
    """504: a backend kept silent for longer than the deadline of ``seconds``."""
    waited = f" within {_seconds(seconds)}" if seconds is not None else " in time"
    helps = "Retry, with a smaller max_tokens or with streaming."
    if streaming:
        helps = "Retry; a shorter prompt or less reasoning effort lets an answer begin sooner."
    return GatewayError(
        504,
        "upstream_timeout",
        f"The backend did not answer{waited}. {helps}",
        type="server_error",
    )


def _come_back(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "Retrying will not help."
    return f"Please retry after {_seconds(seconds)}."


def _seconds(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "an unknown time"
    whole = max(1, rounded_up(seconds))
    return f"{whole} second{'' if whole == 1 else 's'}"


def _choose_from(names: Iterable[str], lead: str) -> str:
    listed = ", ".join(names)
    return f"{lead}: {listed}." if listed else "Ask the gateway's administrator which ones you may use."
