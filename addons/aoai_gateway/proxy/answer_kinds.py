"""The kind of an answer, by its head and its operation; and whether a stream leads to another deployment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aoai_gateway.engine.failures import falls_back
from aoai_gateway.wire.operation import Body, Cost

if TYPE_CHECKING:
    from aoai_gateway.engine.call import Call
    from aoai_gateway.wire.backend_errors import Refusal
    from aoai_gateway.wire.hints import Headers
    from aoai_gateway.wire.operation import Operation
    from aoai_gateway.wire.stream import StreamReader

_BLANKS = b" \t\r\n"


def is_stream(call: Call, head: Headers) -> bool:
    """Whether a successful answer is a stream of events."""
    content_type = (head.get("content-type") or "").lower()
    if content_type.startswith("text/event-stream"):
        return True
    # Some servers omit the type, or send a wrong one; JSON where a stream was asked for is no stream.
    return call.streaming and not content_type.startswith("application/json")


def may_be_download(operation: Operation) -> bool:
    """Whether an answer may be a file."""
    return operation.binary or not operation.known


def is_download(call: Call, head: Headers) -> bool:
    """Whether what comes is a file, which goes out as it comes and is not read."""
    if not may_be_download(call.target.operation):
        return False
    content_type = (head.get("content-type") or "").lower()
    return not content_type.startswith(("application/json", "text/event-stream"))


def expects_object(call: Call, status: int) -> bool:
    """Whether this answer is an object of JSON, as all are to what is asked for in JSON and costs tokens.

    Sounds are none. What is asked for with a form may be answered in plain text.
    """
    operation = call.target.operation
    is_asked_in_json = operation.body is Body.JSON and operation.cost is not Cost.NONE
    return 200 <= status < 300 and is_asked_in_json and not operation.binary


def is_no_answer(call: Call, status: int) -> str | None:
    """Return why a response with this status, no failure, is no answer to the call; None if it may be one."""
    if 300 <= status < 400 and status != 304:
        # An SDK would follow it, with a prompt in its hands. Azure sends none: the URL must be wrong.
        return f"a redirect ({status}); check the endpoint's url"
    if status == 206 and _asks_for_content(call.target.operation):
        # Parts are for GET alone (RFC 9110 §14.2).
        return "a part of an answer (206), though all of it was asked for"
    return None


def lacks_body(call: Call, status: int, body: bytes) -> bool:
    """Whether a success has nothing in it, though the call asked for content.

    Azure answers such a call with 200 and a body. A proxy in its place may say 204, 205 or, to a POST, 304;
    a deletion and a cancellation may be answered so, too. A transcript that is text (200) may be empty.
    """
    asked = _asks_for_content(call.target.operation)
    return asked and status < 400 and status != 200 and not body.strip(_BLANKS)


def _asks_for_content(operation: Operation) -> bool:
    """Whether it costs tokens, as far as is known: then its answer has content, and is wanted whole."""
    return operation.cost is not Cost.NONE and operation.known


def is_object(body: bytes) -> bool:
    """Whether a body begins and ends as an object: a proxy's page, nothing, and a part of JSON do not.

    A large one is not decoded at once, and a length that is too short cuts its end off.
    """
    # Some servers send blanks for as long as they have nothing else. Without any, nothing is copied.
    body = body.strip(_BLANKS)
    return body.startswith((b"{", b"\xef\xbb\xbf{")) and body.endswith(b"}")


def refusal_in_stream(call: Call, reader: StreamReader | None) -> Refusal | None:
    """Return why the call may fall back, as far as the stream is there; None once it has content."""
    if reader is None:
        return None
    if reader.error is not None and not reader.content_events:
        return falls_back(call, 200, None, error={"code": reader.error.code})
    reasons = reader.finish_reasons
    return falls_back(call, 200, None, finish_reasons=reasons) if reader.is_blocked else None
