"""Answers of backends: of what kind they are, and what of them no client is to see.

The kind of an answer follows from its head and from what was asked for. Known secrets are masked in it, and a
standin's name becomes that of the virtual deployment, which is the one that clients know.
"""

from __future__ import annotations

from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING

from aoai_gateway.engine.failures import falls_back
from aoai_gateway.proxy.session_meaning import SessionNames
from aoai_gateway.wire.content_coding import MOST_READ, NotDecodedError, decode
from aoai_gateway.wire.gateway_error import GatewayError
from aoai_gateway.wire.masking import are_in, masked
from aoai_gateway.wire.model_names import ModelNames
from aoai_gateway.wire.operation import Body, Cost
from aoai_gateway.wire.secrets import digest_of, minted_in
from aoai_gateway.wire.session_messages import read_asked
from aoai_gateway.wire.usage import AnswerFacts, read_answer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mitmproxy import http

    from aoai_gateway.engine.call import Call
    from aoai_gateway.proxy.stream_context import StreamContext
    from aoai_gateway.routing.backends import Backend
    from aoai_gateway.wire.backend_errors import Refusal
    from aoai_gateway.wire.hints import Headers
    from aoai_gateway.wire.masking import KnownSecrets
    from aoai_gateway.wire.operation import Operation
    from aoai_gateway.wire.stream import StreamReader

NO_NAMES = ModelNames({})

_BLANKS = b" \t\r\n"


def is_stream(call: Call, head: Headers) -> bool:
    """Whether a successful answer is a stream of events."""
    content_type = (head.get("content-type") or "").lower()
    if content_type.startswith("text/event-stream"):
        return True
    # Some servers omit the type, or send a wrong one; JSON where a stream was asked for is no stream.
    return call.streaming and not content_type.startswith("application/json")


def is_download(call: Call, head: Headers) -> bool:
    """Whether what comes is a file, which goes out as it comes and is not read."""
    if not call.target.operation.may_be_file:
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
    may_lack = status == 200 or status >= 400
    return not may_lack and _asks_for_content(call.target.operation) and not body.strip(_BLANKS)


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


def mask_head(response: http.Response, secrets: Sequence[KnownSecrets]) -> None:
    """Mask secrets in a response's reason phrase and header fields."""
    data = response.data
    fields = data.headers.fields
    everything = b"\n".join((data.reason, *chain.from_iterable(fields)))
    if not are_in(everything, secrets):
        return
    data.reason = masked(data.reason, secrets)
    data.headers.fields = tuple((masked(name, secrets), masked(value, secrets)) for name, value in fields)


def mask_decoded(response: http.Response, decoded: bytes | None, secrets: Sequence[KnownSecrets]) -> bytes:
    """Mask secrets in a body that came encoded, where they could not be seen as it passed.

    ``decoded``: the body as text. Returns it without secrets; if it had any, it replaces the encoded one.
    """
    if not decoded or not is_coded(response):
        return decoded or b""
    found = masked(decoded, secrets)
    if found is not decoded:
        response.data.content = found
        del response.headers["content-encoding"]
    return found


def is_coded(response: http.Response) -> bool:
    """Whether a response says that its body is in a content coding."""
    for name, value in response.data.headers.fields:
        if name.lower() == b"content-encoding" and value.lower() != b"identity":
            return True
    return False


def shown_names(call: Call, backend: Backend) -> ModelNames:
    """Return the names that are replaced in an answer of a backend to a call.

    That of the standin is replaced by the deployment that the client asked for. Where it asked for none, as
    in a call for a stored response, by the virtual deployment that has this standin at the endpoint, if it is
    only one.
    """
    body = call.body
    assert body is not None
    asked, real = body.deployment(call.target), backend.deployment(call.deployment).lower()
    if asked:
        return NO_NAMES if real == asked.lower() else ModelNames({real: asked})
    known: dict[str, ModelNames] = call.setup.config.derived.setdefault(shown_names, {})
    names = known.get(backend.endpoint.name)
    if names is None:
        names = known[backend.endpoint.name] = ModelNames(_virtual_names(backend))
    return names


def _virtual_names(backend: Backend) -> Mapping[str, str]:
    names: dict[str, set[str]] = {}
    for virtual in backend.endpoint.virtual_deployments:
        for standin in virtual.standins:
            names.setdefault(standin.name.lower(), set()).add(virtual.name)
    only = {real: virtual.pop() for real, virtual in names.items() if len(virtual) == 1}
    return {real: virtual for real, virtual in only.items() if virtual.lower() != real}


def replace_names(names: ModelNames, response: http.Response, decoded: bytes) -> None:
    """Name the deployment in an answer as the client knows it; a coded answer goes on as text then."""
    if not names or not 200 <= response.status_code < 300:
        return
    shown = names.in_answer(decoded)
    if shown is not decoded:
        response.data.content = shown
        response.headers.pop("content-encoding", None)


def read_large(
    response: http.Response, secrets: Sequence[KnownSecrets], names: ModelNames
) -> tuple[bytes, AnswerFacts]:
    """Decode an answer that takes longer than a moment, for a thread. Returns its text, and what it says.

    One that is larger than any real answer is passed on unread.
    """
    try:
        decoded = decode(response.raw_content or b"", response.headers.get("content-encoding"), MOST_READ)
    except NotDecodedError:
        return b"", AnswerFacts()
    decoded = mask_decoded(response, decoded, secrets)
    replace_names(names, response, decoded)
    return decoded, read_answer(decoded)


def conceal_minted(here: StreamContext, response: http.Response, decoded: bytes) -> str | None:
    """Put a name in the place of a secret, which only the client is to see. Returns its digest.

    What the answer says of the session names the deployment as the client does.
    """
    secret, call = minted_in(decoded) if response.status_code < 300 else None, here.call
    if secret is None:
        return None
    assert call is not None and call.attempt is not None
    digest = digest_of(secret)
    name = digest.replace(" ", "-").encode()
    here.concealed = (name, secret.encode())
    names = SessionNames(call, call.attempt.backend)
    with suppress(GatewayError):  # a key stands twice in it
        decoded = names.shown(read_asked(decoded)) or decoded
    response.data.content = decoded.replace(secret.encode(), name)
    response.headers.pop("content-encoding", None)
    return digest
