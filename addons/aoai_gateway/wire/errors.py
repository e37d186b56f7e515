"""Errors in Azure OpenAI's shape.

The client always reads ``{"error": {"code", "message", "type", "param"}}`` with the status
that Azure OpenAI would send, because that is what every SDK turns into a typed exception. One function per
kind of error; each message says what to do about it. docs/reference/errors.md is made from this table.

======================  ======  =============================================================
code                    status  when
======================  ======  =============================================================
401                     401     no key, or one that no client has
invalid_token           401     a token, where clients have keys only
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

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

Header = tuple[str, str]

LONGEST_HONOURED_SECONDS = 60.0
"""The longest hint that every SDK obeys: openai-node and openai-python up to 2.51 ignore hints above 60 s."""

LAST_DATED = "2024-10-21"
"""Azure's last api-version with a date that is no preview; the v1 API took the place of later ones."""

SHORTEST_WAIT = 0.05
"""Seconds in the queue that a message mentions; less than that is the time it takes to look."""

_UNPRINTABLE = re.compile(r"[^ -~]+")
_LONGEST_QUOTE = 80


@dataclass(eq=False)
class GatewayError(Exception):
    """An answer that the gateway gives itself, to be sent instead of a backend's.

    ``code`` is one of the strings in the module's table. ``headers`` are to be added to the answer, beside
    ``content-type: application/json``. Nothing in it is secret: it may be logged and shown as it is.
    """

    status: int
    code: str
    message: str
    type: str = "invalid_request_error"
    param: str | None = None
    headers: tuple[Header, ...] = ()

    def __str__(self) -> str:
        return f"{self.status} {self.code}: {self.message}"

    def __reduce__(self) -> tuple[object, ...]:
        """Be whole when it is pickled: an exception's own way leaves out what was given by name."""
        fields = (self.status, self.code, self.message, self.type, self.param, self.headers)
        return type(self), fields

    def without_frames(self) -> Self:
        """Return it, for a call to keep: the frames that it came through hold that call, which would stay."""
        self.__context__ = self.__cause__ = None
        return self.with_traceback(None)

    def as_dict(self) -> dict[str, str | None]:
        """The value of the body's ``error`` member."""
        return {"code": self.code, "message": self.message, "type": self.type, "param": self.param}

    def body(self) -> bytes:
        """The response body: JSON in ASCII, so that no odd name in a message can break its encoding."""
        return json.dumps({"error": self.as_dict()}).encode()


# --- the caller's identity --------------------------------------------------------------------------------


def unauthorized() -> GatewayError:
    """401: no key, or a key that belongs to no client. Worded like Azure's own."""
    return GatewayError(
        401,
        "401",
        "Access denied due to invalid subscription key or wrong API endpoint. Send a key that this gateway "
        "knows, as the 'api-key' header or as 'Authorization: Bearer <key>'.",
        type="authentication_error",
    )


def invalid_token(message: str = "it is malformed, expired or meant for another audience") -> GatewayError:
    """401: a bearer token that is not accepted. ``message``: the reason, without any part of it."""
    return GatewayError(
        401,
        "invalid_token",
        f"The access token is not accepted: {message}. Request a new one for "
        "https://cognitiveservices.azure.com/.default, or use a key of this gateway.",
        type="authentication_error",
        headers=(("www-authenticate", 'Bearer error="invalid_token"'),),
    )


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


# --- on the wire ----------------------------------------------------------------------------------


def retry_headers(seconds: float) -> tuple[Header, ...]:
    """The headers that make SDKs come back after ``seconds``.

    Up to 60 s: ``retry-after-ms`` and ``retry-after``, both rounded up and at least 1 (openai-node answers
    ``retry-after-ms: 0`` with an instant retry). Beyond, SDKs would ignore the hint and retry within
    seconds, so it is the true ``retry-after`` with ``x-should-retry: false``, which all of them obey, and
    no milliseconds. An infinite wait has no ``retry-after``.
    """
    if not math.isfinite(seconds):
        return (("x-should-retry", "false"),)
    if seconds > LONGEST_HONOURED_SECONDS:
        return (("retry-after", str(_ceil(seconds))), ("x-should-retry", "false"))
    return (
        ("retry-after-ms", str(max(1, _ceil(seconds * 1000)))),
        ("retry-after", str(max(1, _ceil(seconds)))),
    )


def stream_error_event(
    operation_name: str, error: GatewayError, *, mid_event: bool = False, sequence_number: int = 0
) -> bytes:
    """The bytes to append to an event stream that broke, so that the client sees a failure.

    Never followed by ``[DONE]``: openai-python takes a cleanly closed body for a complete answer, with or
    without it. Checked against openai-python 3.x and openai-node 6.x, which both raise ``APIError``:

    - chat and completions: an unnamed event whose data has a truthy ``error``;
    - responses: an event named ``error``. Node raises for the name, Python only for a truthy ``error`` in
      the data (it *yields* the flat form of the specification), so the data carries both forms.

    ``mid_event`` says that the client has part of an event already. The blank line that is put before then
    dispatches that part, and as half a JSON text it makes the SDKs raise their JSON parser's exception
    instead: loud, but no ``APIError``. An event stream has no way to take back what was sent of an event,
    so don't get there: pass on whole events only, as ``StreamReader.feed`` does, and where it could not
    (an event over its limit) rather cut the connection, which SDKs report as ``APIConnectionError``.
    """
    details = error.as_dict()
    before = b"\n\n" if mid_event else b""
    if operation_name != "responses":
        return before + b"data: " + json.dumps({"error": details}).encode() + b"\n\n"
    # "type" names the event in the flat form; the error's own type is in the nested one.
    data = {**details, "type": "error", "sequence_number": sequence_number, "error": details}
    return before + b"event: error\ndata: " + json.dumps(data).encode() + b"\n\n"


def _come_back(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "Retrying will not help."
    return f"Please retry after {_seconds(seconds)}."


def _seconds(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "an unknown time"
    whole = max(1, _ceil(seconds))
    return f"{whole} second{'' if whole == 1 else 's'}"


def _ceil(value: float) -> int:
    # 16.1 * 1000 is 16100.000000000002 in binary; a hint is not to grow by that.
    return math.ceil(round(value, 6))


def quoted(text: str) -> str:
    """A name that came from outside: printable ASCII, bounded, in quotes."""
    clean = _UNPRINTABLE.sub("?", text)
    return f"'{clean[:_LONGEST_QUOTE]}…'" if len(clean) > _LONGEST_QUOTE else f"'{clean}'"


def _choose_from(names: Iterable[str], lead: str) -> str:
    listed = ", ".join(names)
    return f"{lead}: {listed}." if listed else "Ask the gateway's administrator which ones you may use."
