"""A dump file -> the calls in it that can be made again, and their captured results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from mitmproxy.exceptions import FlowReadException
from mitmproxy.flow import Flow
from mitmproxy.http import HTTPFlow
from mitmproxy.io import FlowReader

from aoai_gateway.inspect.capture import why_left_out
from aoai_gateway.rerun.answers import Answer, read
from aoai_gateway.wire.bodies import parse_body
from aoai_gateway.wire.content_coding import readable
from aoai_gateway.wire.gateway_error import GatewayError
from aoai_gateway.wire.secrets import SECRET_HEADERS
from aoai_gateway.wire.targets import parse_target

UNREADABLE = "calls that the gateway would refuse"

_SAID_ANEW = SECRET_HEADERS | {
    "accept-encoding", "connection", "content-length", "expect", "host", "keep-alive", "te",
    "transfer-encoding",
}  # fmt: skip


class CaptureError(Exception):
    """The file cannot be read; the text gives the reason."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a call. Times are seconds since it was sent; None where they are not known."""

    answer: Answer
    first_token: float | None = None
    """The time of a stream until the first content."""
    total: float | None = None


@dataclass(frozen=True, slots=True)
class CapturedCall:
    """A call to be made again. ``target`` and ``body`` name the deployment that it is to go to now."""

    flow: str
    """The flow's id."""
    client: str
    operation: str
    deployment: str
    """That it asked for then."""
    streaming: bool
    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes = field(repr=False)
    then: Outcome


@dataclass(frozen=True, slots=True)
class Session:
    """A captured session, in its order. ``left_out``: how many flows, by the reason why."""

    calls: list[CapturedCall]
    left_out: Counter[str]


def read_session(
    path: Path,
    *,
    deployment: str | None = None,
    limit: int | None = None,
    wanted: Callable[[Flow], bool] | None = None,
) -> Session:
    """Read a dump file. Raises CaptureError if it cannot be read.

    ``deployment``: where all calls are to go, instead of where each went; ``limit``: the most calls to take,
    from the file's begin; ``wanted``: a flow filter.
    """
    session = Session([], Counter())
    try:
        with path.open("rb") as file:
            for flow in FlowReader(file).stream():
                if wanted is not None and not wanted(flow):
                    continue
                if limit is not None and len(session.calls) >= limit:
                    break
                reason = why_left_out(flow)
                if reason is None:
                    assert isinstance(flow, HTTPFlow)
                    try:
                        session.calls.append(captured(flow, deployment))
                        continue
                    except GatewayError:
                        reason = UNREADABLE
                session.left_out[reason] += 1
    except OSError as error:
        raise CaptureError(f"{path} cannot be read: {error.strerror}.") from None
    except FlowReadException:
        if not session.calls:
            raise CaptureError(
                f"{path} is no capture, a damaged one, or one of a newer mitmproxy: it has no readable flow."
            ) from None
        session.left_out["unreadable (the file is damaged from there on)"] += 1
    return session


def captured(flow: HTTPFlow, deployment: str | None) -> CapturedCall:
    """Make an answered flow's call. Raises GatewayError if it cannot be made again."""
    request = flow.request
    target = parse_target(request.method, request.path)
    body = parse_body(target, request.headers.get("content-type"), request.raw_content or b"")
    content = body.edited(
        model=deployment if target.deployment is None else None,
        # Else a stream's tokens could not be compared: the gateway passes them on only if they are asked for.
        include_usage=body.stream and target.knows_stream_options,
    )
    return CapturedCall(
        flow=flow.id,
        client=str(flow.metadata.get("gateway_client", "")),
        operation=target.operation.name,
        deployment=body.deployment(target),
        streaming=body.stream,
        method=request.method,
        target=request.path if deployment is None else target.with_deployment(deployment),
        headers=tuple((n, v) for n, v in request.headers.items(multi=True) if n.lower() not in _SAID_ANEW),
        body=content,
        then=_then(flow, target.operation.name),
    )


def _then(flow: HTTPFlow, operation: str) -> Outcome:
    response = flow.response
    assert response is not None
    content = readable(response.raw_content, response.headers.get("content-encoding"))
    answer = read(operation, response.status_code, response.headers.get("content-type", ""), content)
    noted = flow.metadata
    if answer.input_tokens is None and "gateway_tokens_in" in noted:
        answer = replace(
            answer, input_tokens=noted["gateway_tokens_in"], output_tokens=noted.get("gateway_tokens_out")
        )
    first = noted.get("gateway_first_content_ms")
    total = None
    if response.timestamp_end and flow.request.timestamp_start:
        total = response.timestamp_end - flow.request.timestamp_start
    return Outcome(answer, first / 1000 if first is not None else None, total)


def milliseconds(seconds: float | None) -> int | None:
    """Return a time as reports have it; None stays None."""
    return None if seconds is None else round(1000 * seconds)
