"""The simulator's replies: one whole body, or a stream of frames and their pace; and AOAI's error bodies."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aoai_simulator.limits import Decision, Headers

JSON_TYPE = ("content-type", "application/json")
EVENT_STREAM_TYPE = ("content-type", "text/event-stream; charset=utf-8")


@dataclass(frozen=True, slots=True)
class Whole:
    """A response with one body. `tokens` is what the call used, prompt and completion together."""

    status: int
    headers: Headers
    body: bytes
    tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Frames:
    """An event stream.

    `frames[:early]` go out with the head, at once. `frames[early:first]` go when the first token is
    due, `frames[first:last]` hold the tokens and are paced, the rest follows the last token.
    `tokens` is what a completed call used, of which `prompt_tokens` are used from the start.
    """

    headers: Headers
    frames: tuple[bytes, ...]
    early: int
    first: int
    last: int
    tokens: int = 0
    prompt_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Pace:
    """The speed of a deployment, all in seconds.

    `tokens_per_second` 0 is instant. `burst` is how long tokens are collected before they are sent
    together; Azure's content filter makes bursts of about two seconds. With 0 every frame is written
    on its own.
    """

    first_token: float
    tokens_per_second: float
    burst: float = 0.02

    def whole(self, tokens: int) -> float:
        """When an answer that is not streamed is ready."""
        return self.first_token + (
            max(0, tokens - 1) / self.tokens_per_second if self.tokens_per_second else 0
        )

    def schedule(self, frames: Frames) -> Iterator[tuple[float, int]]:
        """Pairs (at, upto), in order: at `at` seconds after the request, `frames[:upto]` are due."""
        total = len(frames.frames)
        if frames.early:
            yield 0.0, frames.early
        if not self.burst:
            for position in range(frames.early, total):
                yield self._due(position, frames), position + 1
            return
        step = 0
        sent = frames.early
        while sent < total:
            limit = step * self.burst
            # The last token ends its burst: nothing more would be collected.
            end = self._due(frames.last - 1, frames) - self.first_token
            due = total if limit >= end else frames.first + 1 + math.floor(limit * self.tokens_per_second)
            if due > sent:
                yield self.first_token + min(limit, max(0.0, end)), due
                sent = due
            step += 1

    def _due(self, position: int, frames: Frames) -> float:
        tokens = min(max(position, frames.first), frames.last - 1) - frames.first
        if tokens <= 0 or not self.tokens_per_second:
            return self.first_token
        return self.first_token + tokens / self.tokens_per_second


@dataclass(frozen=True, slots=True)
class Upgrade:
    """A WebSocket's handshake that is accepted; ``session`` answers the messages."""

    headers: Headers
    session: Any


Reply = Whole | Frames | Upgrade


_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


def compact(value: Any) -> bytes:
    """JSON without white space, UTF-8, non-ASCII characters as they are where that is possible."""
    try:
        return _encode(value).encode()
    except UnicodeEncodeError:
        # Half a surrogate pair has no UTF-8, only a JSON escape.
        return json.dumps(value, separators=(",", ":")).encode()


def json_reply(body: Any, tokens: int = 0, completion_tokens: int = 0) -> Whole:
    """A 200 with a JSON body."""
    return Whole(200, (JSON_TYPE,), compact(body), tokens, completion_tokens)


def event_frame(name: str, data: Any) -> bytes:
    """A server-sent event with a name."""
    return b"event: %s\ndata: %s\n\n" % (name.encode(), compact(data))


def error(
    status: int,
    code: str | None,
    message: str,
    *,
    headers: Headers = (),
    more: Mapping[str, Any] | None = None,
) -> Whole:
    """An error in AOAI's shape; `more` holds `type`, `param` and others that Azure sends for some."""
    detail = {"code": code, "message": message, **(more or {})}
    return Whole(status, (JSON_TYPE, *headers), compact({"error": detail}))


def invalid_request(message: str, *, param: str | None = None, code: str | None = None) -> Whole:
    """400 in the form of the model service behind Azure's front door."""
    return error(400, code, message, more={"type": "invalid_request_error", "param": param})


class InvalidError(Exception):
    """A request that is answered with `reply`, the 400 of `invalid_request`."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.reply = invalid_request(message, param=param, code=code)


def wrong_key() -> Whole:
    """401 for a missing or unknown key."""
    return error(
        401,
        "401",
        "Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide a valid"
        " key for an active subscription and use a correct regional API endpoint for your resource.",
    )


def wrong_token() -> Whole:
    """401 for an Entra ID token that is malformed or has expired."""
    return error(
        401,
        "Unauthorized",
        "Access token is missing, invalid, audience is incorrect (https://cognitiveservices.azure.com), or"
        " have expired.",
    )


def forbidden() -> Whole:
    """403 as network rules cause it."""
    return error(403, "AccessDenied", "Access denied due to Virtual Network/Firewall rules.")


def resource_not_found() -> Whole:
    """404 for a path or an api-version that AOAI does not know."""
    return error(404, "404", "Resource not found")


def version_not_supported() -> Whole:
    """400 for the v1 API with an api-version that is a date."""
    return error(400, "BadRequest", "API version not supported")


def deployment_not_found() -> Whole:
    """404 for a deployment that the resource does not have."""
    return error(
        404,
        "DeploymentNotFound",
        "The API deployment for this resource does not exist. If you created the deployment within the"
        " last 5 minutes, please wait a moment and try again.",
    )


def operation_not_supported(operation: str, model: str) -> Whole:
    """400 for an operation that the deployment's model cannot do."""
    name = {"chat/completions": "chatCompletion", "completions": "completion"}.get(operation, operation)
    return error(
        400,
        "OperationNotSupported",
        f"The {name} operation does not work with the specified model, {model}. Please choose different"
        " model and try again. You can learn more about which models can be used with each operation"
        " here: https://go.microsoft.com/fwlink/?linkid=2197993.",
    )


def context_length_exceeded(limit: int, tokens: int, param: str) -> Whole:
    """400 for a prompt that the model's context does not hold."""
    return invalid_request(
        f"This model's maximum context length is {limit} tokens. However, your messages resulted in"
        f" {tokens} tokens. Please reduce the length of the messages.",
        param=param,
        code="context_length_exceeded",
    )


def content_filtered() -> Whole:
    """400 for a prompt that the content filter blocks."""
    verdict = {
        "hate": {"filtered": True, "severity": "high"},
        "jailbreak": {"detected": False, "filtered": False},
        "self_harm": {"filtered": False, "severity": "safe"},
        "sexual": {"filtered": False, "severity": "safe"},
        "violence": {"filtered": True, "severity": "medium"},
    }
    return error(
        400,
        "content_filter",
        "The response was filtered due to the prompt triggering Azure OpenAI's content management policy."
        " Please modify your prompt and retry. To learn more about our content filtering policies please"
        " read our documentation: https://go.microsoft.com/fwlink/?linkid=2198766",
        more={
            "type": None,
            "param": "prompt",
            "status": 400,
            "innererror": {"code": "ResponsibleAIPolicyViolation", "content_filter_result": verdict},
        },
    )


@dataclass(frozen=True, slots=True)
class Refused:
    """The refused call: the words that Azure puts into a 429's message."""

    deployment: str
    model: str
    region: str
    operation: str
    api_version: str

    @property
    def operation_id(self) -> str:
        """The operation as Azure's messages call it: `ChatCompletions_Create`."""
        return {
            "chat/completions": "ChatCompletions_Create",
            "completions": "Completions_Create",
            "embeddings": "Embeddings_Create",
            "responses": "Responses_Create",
        }.get(self.operation, "Unknown")


def rate_limited(
    who: Refused, reason: str, seconds: float, form: str = "new", headers: Headers = ()
) -> Whole:
    """A 429 body.

    `reason` is `tokens`, `requests`, `ptu` or `capacity`. For the first two, `form` chooses among the
    wording of 2024 (`old`), that of 2025 and later (`new`), and that of an API Management policy (`apim`).
    """
    wait = max(1, math.ceil(seconds))
    unit = "second" if wait == 1 else "seconds"
    if reason == "ptu":
        return error(
            429,
            "rate_limit_reached",
            "Requests have exceeded the throughput limit on your Provisioned-Managed deployment. If you"
            " continue to exceed your limit, consider increasing the number of provisioned throughput"
            " units deployed.",
            headers=headers,
            more={"type": "too_many_requests"},
        )
    if reason == "capacity":
        return error(
            429,
            "no_capacity",
            "The system is currently experiencing high demand and cannot process your request. Your request"
            f" exceeds the maximum usage size allowed during peak load. Please retry after {wait} {unit}."
            " For improved capacity reliability, consider switching to Provisioned Throughput.",
            headers=headers,
            more={"type": "too_many_requests", "param": None},
        )
    if form == "apim":
        return error(429, "429", f"Rate limit is exceeded. Try again in {wait} {unit}.", headers=headers)
    kind = "call" if reason == "requests" else "token"
    if form == "old":
        return error(
            429,
            "429",
            f"Requests to the {who.operation_id} Operation under Azure OpenAI API version"
            f" {who.api_version} have exceeded {kind} rate limit of your current OpenAI S0 pricing tier."
            f" Please retry after {wait} {unit}. Please go here: https://aka.ms/oai/quotaincrease if you"
            " would like to further increase the default rate limit. For Free Account customers, upgrade"
            " to Pay as you Go here: https://aka.ms/429TrialUpgrade.",
            headers=headers,
        )
    return error(
        429,
        "RateLimitReached",
        f"Your requests to {who.deployment} for {who.model} in {who.region} have exceeded the {kind} rate"
        f" limit for your current OpenAI S0 pricing tier. This request was for {who.operation_id} under"
        f" Azure OpenAI API version {who.api_version}. Please retry after {wait} {unit}. To increase your"
        " default rate limit, visit: https://aka.ms/oai/quotaincrease.",
        headers=headers,
    )


def refusal(who: Refused, decision: Decision) -> Whole:
    """The 429 for a decision of the limiter."""
    reason = {"utilisation": "ptu", "requests": "requests"}.get(decision.reason or "", "tokens")
    return rate_limited(who, reason, decision.retry_after_seconds, headers=decision.headers)


def server_error(status: int, *, headers: Headers = ()) -> Whole:
    """408, 500, 502, 503, 504 or 529."""
    code, message = {
        408: ("Timeout", "The operation was timeout."),
        500: (
            "InternalServerError",
            "The server had an error while processing your request.",
        ),
        502: ("BadGateway", "Bad gateway"),
        503: ("ServiceUnavailable", "The service is temporarily unable to process your request."),
        504: ("GatewayTimeout", "The request timed out. Please try again later."),
        529: ("overloaded_error", "Overloaded"),
    }[status]
    return error(status, code, message, headers=headers, more={"type": "server_error", "param": None})


def named_events(events: Sequence[Mapping[str, Any]], tokens: int) -> Frames:
    """A stream of a few events, each named by its type."""
    frames = tuple(event_frame(event["type"], event) for event in events)
    return Frames((EVENT_STREAM_TYPE,), frames, 0, 0, 1, tokens)
