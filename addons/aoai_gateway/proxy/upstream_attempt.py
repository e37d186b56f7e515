"""One attempt on the wire: a connection, the request, and the wait for what becomes of it.

An :class:`~aoai_gateway.proxy.upstream_response.UpstreamResponse` says what the answer means; here its events
come in, known secrets are masked in them, and its deadline is kept.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

from mitmproxy import http
from mitmproxy.connection import Server
from mitmproxy.proxy.layers.http import (
    ErrorCode,
    RequestData,
    RequestEndOfMessage,
    RequestHeaders,
    RequestProtocolError,
    ResponseData,
    ResponseHeaders,
    SendHttp,
)

from aoai_gateway.engine.attempt import FailureKind
from aoai_gateway.engine.effects import ClientGone, Drained, Failed, Result, Send
from aoai_gateway.engine.routing_request import keeps_state
from aoai_gateway.proxy.answers import (
    conceal_minted,
    is_coded,
    mask_decoded,
    mask_head,
    read_large,
    replace_names,
    shown_names,
)
from aoai_gateway.proxy.heads import FRAMING, HANDSHAKE, HOP_BY_HOP, connection_options, make_request
from aoai_gateway.proxy.request_head import SECRET_FIELDS
from aoai_gateway.proxy.session_side import TURN_SECONDS, pieces
from aoai_gateway.proxy.stream_events import Connect, WholeRequest
from aoai_gateway.proxy.uploads import send_blocks
from aoai_gateway.proxy.upstream import was_opened_ahead
from aoai_gateway.proxy.upstream_response import UpstreamResponse, ended_of
from aoai_gateway.runtime.stream_hooks import AttemptFailed
from aoai_gateway.wire.authority import authority
from aoai_gateway.wire.content_coding import MOST_AT_ONCE
from aoai_gateway.wire.delivered import Delivered
from aoai_gateway.wire.masking import Screen, masked
from aoai_gateway.wire.references import is_id, references_in
from aoai_gateway.wire.secrets import credential_fields
from aoai_gateway.wire.stored import Pieces

if TYPE_CHECKING:
    from mitmproxy.proxy.layer import CommandGenerator
    from mitmproxy.proxy.layers.http import HttpEvent

    from aoai_gateway.config.models import Endpoint
    from aoai_gateway.engine.call import Call
    from aoai_gateway.engine.effects import Announce, Ended
    from aoai_gateway.proxy.stream_context import StreamContext
    from aoai_gateway.routing.backends import Backend

SAID_ANEW = frozenset({b"host", b"expect", b"http2-settings", b"sec-websocket-extensions"}) | FRAMING
"""Fields that are not hop-by-hop by RFC 9110 §7.6.1, but are said anew for every attempt, or left out."""

MAY_LACK_BODY = frozenset({b"GET", b"DELETE", b"HEAD"})
"""Methods of requests that say nothing of a body which they do not have (RFC 9110 §8.6)."""

_NOT_FORWARDED = HOP_BY_HOP | SAID_ANEW | SECRET_FIELDS
_OURS = b"x-gateway-"


class UpstreamAttempt:
    """One attempt. Which one is made, and when, the engine says."""

    def __init__(self, here: StreamContext, effect: Send) -> None:
        assert here.call is not None and here.accepted is not None
        self._here = here
        self._call = here.call
        self._effect = effect
        self.server: Server | None = None
        """Its connection, as long as its events are for this attempt."""
        self.received: UpstreamResponse | None = None
        """Set once the request has been sent."""
        self._screened: Screen | None = None
        """Masks known secrets in the body of the answer, once a part of it has come."""
        self._names = shown_names(here.call, effect.attempt.backend)
        self._sent: http.Request | None = None
        """The request as sent; it holds a credential."""
        self._content: bytes | Pieces = b""
        self.is_unfinished = False
        """Whether it was answered before all of its request was sent: its connection is good for no other."""

    # --- sending ---------------------------------------------------------------------------------------

    def start(self) -> CommandGenerator[Result | None]:
        """Connect and send the request. Returns what became of it if that is known already."""
        here, effect = self._here, self._effect
        backend = effect.attempt.backend
        endpoint = backend.endpoint
        credential = yield from self._credential(endpoint)
        if credential is None:
            return self._without_credential()
        address, tls = (endpoint.host, endpoint.port), endpoint.scheme == "https"
        server, error = None if effect.fresh else here.layer.idle(address, tls), ""
        connect = None
        if server is None:
            connect = Connect(address, tls, effect.timeouts.connect, effect.fresh)
            server, error = yield connect
        now = here.now()
        if here.client_has_gone():
            return ClientGone(now)
        request, content = build_request(self._call, backend, here.flow.request, credential)
        self._sent, self._content = request, content
        if connect is not None and error:
            if isinstance(connect.opening, Server):
                here.flow.server_conn = connect.opening
            return _not_connected(connect, error, now)
        # The flow list shows where the call went; the Host header stays the client's.
        shown = here.flow.request.data
        shown.host, shown.port, shown.scheme = endpoint.host, endpoint.port, endpoint.scheme.encode()
        self.server = here.proxy.server = here.flow.server_conn = server
        if connect is not None and not effect.fresh:
            here.gateway.opened_ahead.needed(address)
        self.received = UpstreamResponse(
            self._call,
            effect.attempt,
            reused=connect is None or was_opened_ahead(here.layer.connections.get(server)),
            timeouts=effect.timeouts,
            remove_usage=self._call.adds_usage(backend),
            names=self._names,
            now=now,
        )
        if isinstance(content, Pieces):
            yield SendHttp(RequestHeaders(here.id, request, False), server)
            result = yield from self._send_upload(content, server)
            if result is not None:
                return result
            if not self.is_unfinished:
                yield SendHttp(RequestEndOfMessage(here.id), server)
        else:
            # What there is of a body of a handshake is the first message of the session.
            body = b"" if self._call.target.operation.websocket else content
            yield SendHttp(WholeRequest(here.id, request, not body, data=body), server)
        yield from self.watch()
        return None

    def _send_upload(self, content: Pieces, server: Server) -> CommandGenerator[Result | None]:
        """Send what is on disk. Returns the result if it failed."""
        here, idle = self._here, self._effect.timeouts.idle
        try:
            self.is_unfinished = not (yield from send_blocks(here, content, server, idle))
        except TimeoutError:
            yield from self.abandon()
            return Failed(here.now(), FailureKind.TIMEOUT, f"took nothing of the upload for {idle:.3g} s")
        if here.client_has_gone():
            yield from self.abandon()
            return ClientGone(here.now())
        assert self.received is not None
        self.received.request_sent(here.now())
        return None

    def _credential(self, endpoint: Endpoint) -> CommandGenerator[tuple[bytes, bytes] | None]:
        """Return the header field that lets the call in; waits, within a bound, for one under way."""
        here, credentials = self._here, self._here.gateway.credentials
        assert here.accepted is not None
        if here.accepted.token is not None:
            return (b"authorization", b"Bearer " + here.accepted.token.encode())
        if endpoint.written_key is not None:
            return (b"api-key", endpoint.written_key.encode())
        if credentials.is_coming(endpoint):
            yield from here.wait_for(credentials.wait_for(endpoint))
        # One may have been renewed since the call came in.
        renewed = [masks for masks in credentials.masks if masks not in here.secrets]
        here.secrets = (*here.secrets, *renewed)
        return credentials.header(endpoint)

    def _without_credential(self) -> Result:
        here, backend = self._here, self._effect.attempt.backend
        if here.client_has_gone():
            return ClientGone(here.now())
        self._sent, self._content = build_request(self._call, backend, here.flow.request, None)
        why = here.gateway.credentials.why_none(backend.endpoint)
        return Failed(here.now(), FailureKind.CREDENTIAL, why)

    def announcement(self, effect: Announce) -> AttemptFailed:
        """Make what shows a failed attempt."""
        assert self._sent is not None
        return AttemptFailed(
            flow=self._here.flow,
            call=self._call,
            attempt=effect.attempt,
            # Where a user could look at it, it is in memory.
            request=without_secrets(self._sent, self._content if isinstance(self._content, bytes) else b""),
            response=self.received.response if self.received is not None else None,
            server=self._here.flow.server_conn,
        )

    # --- the answer ------------------------------------------------------------------------------------

    def screen(self, data: bytes) -> bytes:
        """Mask known secrets in a part of the body; the end of it may be held back."""
        if self._screened is None:
            self._screened = Screen(*self._here.secrets)
        return self._screened.feed(data)

    def screened_rest(self) -> bytes:
        """Return what was held back, at the end of the body."""
        return b"" if self._screened is None else self._screened.finish()

    def receive(self, event: HttpEvent) -> Result | None:
        """Take in an event of the response. Returns the attempt's fate once it is known."""
        assert self.received is not None
        if isinstance(event, ResponseHeaders):
            mask_head(event.response, self._here.secrets)
            self._learn_of_token(event.response.data.status_code)
        elif isinstance(event, ResponseData):
            data = self.screen(event.data)
            if not data:
                return None
            event = ResponseData(event.stream_id, data)
        return self.received.receive(event, self._here.now())

    def receive_body(self, data: bytes) -> Result:
        """Take in all of the body of an answer that is no stream. Returns the attempt's fate."""
        assert self.received is not None
        return self.received.receive_body(masked(data, self._here.secrets), self._here.now())

    def _learn_of_token(self, status: int) -> None:
        """Learn whether the backend takes the client's own token."""
        here = self._here
        assert here.accepted is not None
        if here.accepted.token is not None:
            here.gateway.token_trials.answered(here.accepted.token, status)
            here.end_trial()

    def open_session(self) -> CommandGenerator[None]:
        """Send the client's first message, once a backend has accepted the session's handshake."""
        assert self.received is not None
        preamble = self.received.preamble
        if preamble is not None and self.server is not None:
            assert isinstance(self._content, bytes)
            here, turn = self._here, self._here.now()
            for piece in pieces(self._content, text=True):
                yield SendHttp(RequestData(here.id, preamble.socket.send(piece)), self.server)
                if here.now() - turn > TURN_SECONDS and not piece.message_finished:
                    yield from here.wait_for(asyncio.sleep(0))
                    turn = here.now()
                    if here.client_has_gone() or self.server not in here.layer.connections:
                        return  # what that means, its own events tell

    def without_known_secrets(self, result: Result) -> Result:
        """Mask known secrets in the body of a failed answer."""
        response = self.received.response if self.received is not None else None
        if isinstance(result, Failed | Drained) and result.body and response is not None:
            return replace(result, body=mask_decoded(response, result.body, self._here.secrets))
        return result

    def watch(self) -> CommandGenerator[None]:
        """Set the stream's deadline to the time at which something must have come."""
        assert self.received is not None
        yield from self._here.set_deadline(self.received.due)

    def abandon(self) -> CommandGenerator[None]:
        """Close the connection: the backend is to stop working on the request."""
        server, self.server = self.server, None
        if server is not None and server in self._here.layer.connections:
            message = RequestProtocolError(self._here.id, "abandoned", ErrorCode.CLIENT_DISCONNECTED)
            yield SendHttp(message, server)

    def whole_answer(self) -> CommandGenerator[Ended]:
        """Read an answer that is no stream, and put its body on the response."""
        received = self.received
        assert received is not None and received.response is not None
        response, head = received.response, received.head
        body = response.data.content = received.take_body()
        facts, decoded, secrets = received.facts, received.decoded, self._here.secrets
        if decoded is None:
            client, size = self._call.client.name, len(body)
            threads = self._here.gateway.threads
            reading = threads.run(client, size, read_large, response, secrets, self._names)
            decoded, facts = yield from self._here.wait_for(reading)
        else:
            decoded = mask_decoded(response, decoded, secrets)
            replace_names(self._names, response, decoded)
        made: tuple[str, ...] = ()
        if keeps_state(self._call):
            client, size = self._call.client.name, len(decoded)
            if size <= MOST_AT_ONCE:
                made = references_in(decoded)
            else:
                finding = self._here.gateway.threads.run(client, size, references_in, decoded)
                made = yield from self._here.wait_for(finding)
        if (location := head.get("location")) and is_id(placed := location.rpartition("/")[2]):
            made = (*made, placed)  # a call by WebRTC
        operation, delivered = self._call.target.operation, None
        minted = conceal_minted(self._here, response, decoded) if operation.mints else None
        if facts.usage is None and response.status_code == 200:
            delivered = Delivered.of_answer(operation.name, decoded)
        ended = ended_of(self._here.now(), facts, made=made, delivered=delivered)
        return ended if minted is None else replace(ended, minted=minted)

    def failed_answer(self) -> http.Response:
        """Return the answer of a failed attempt as the client gets it, whose body is all there."""
        assert self.received is not None and self.received.response is not None
        response = self.received.response
        text = self.received.decoded
        if self.received.reader is None and text is not None:
            if is_coded(response):
                text = mask_decoded(response, text, self._here.secrets)
            else:
                text = response.raw_content or b""
            replace_names(self._names, response, text)
        return response


def _not_connected(connect: Connect, error: str, now: float) -> Failed:
    if connect.timed_out:
        return Failed(now, FailureKind.CONNECT, f"no connection within {connect.seconds:.3g} s")
    opening = connect.opening
    if connect.tls and isinstance(opening, Server) and opening.timestamp_tcp_setup:
        return Failed(now, FailureKind.TLS, "no TLS connection", detail=error)
    refused = "refused" in error.lower() or "Errno 111" in error
    return Failed(
        now, FailureKind.CONNECT, "connection refused" if refused else "no connection", detail=error
    )


def build_request(
    call: Call, backend: Backend, shown: http.Request, credential: tuple[bytes, bytes] | None
) -> tuple[http.Request, bytes | Pieces]:
    """Build the request for a backend, and its body: in memory, or in pieces.

    ``shown`` is the flow's request; ``credential`` the header field that lets it in there, if there
    is one.
    """
    endpoint, body = backend.endpoint, call.body
    assert body is not None
    deployment = backend.deployment(call.deployment)
    path = call.target.with_prefix(endpoint.path_prefix, deployment)
    model = deployment or None if call.target.deployment_in_body else None
    content = body.sent(
        model,
        add_model=call.target.deployment is not None,
        include_usage=call.adds_usage(backend),
        max_tokens=call.edits.get("max_tokens"),
        n=call.edits.get("n"),
        best_of=call.edits.get("best_of"),
    )

    pattern = call.setup.config.aoai.forward_http_header_only_if_name_matches
    received = shown.data.headers.fields
    named = connection_options(received)
    # What is not read as a whole has to be text: secrets are masked in it as it passes.
    is_read_as_it_passes = body.stream or call.target.operation.may_be_file
    fields = [(b"host", _authority(endpoint.scheme, endpoint.host, endpoint.port))]
    for name, value in received:
        low = name.lower()
        if low in _NOT_FORWARDED or low in named or low.startswith(_OURS):
            continue
        if low == b"content-encoding" and body.coded is not None and content is not body.coded:
            continue  # it was edited, and goes on as text
        if pattern is not None and not pattern.match(name.decode("latin-1")):
            continue
        if low == b"accept-encoding" and is_read_as_it_passes:
            continue
        fields.append((name, value))
    if is_read_as_it_passes:
        fields.append((b"accept-encoding", b"identity"))
    if call.target.operation.websocket:
        # What there is of a body is the first message of the session.
        fields += HANDSHAKE
    elif content or shown.data.method not in MAY_LACK_BODY:
        fields.append((b"content-length", b"%d" % len(content)))
    if credential is not None:
        fields += credential_fields(credential, call.target.operation.dialect.key_headers)
    request = make_request(
        host=endpoint.host,
        port=endpoint.port,
        method=shown.data.method,
        scheme=endpoint.scheme.encode(),
        path=path.encode(),
        fields=fields,
        now=time.time(),
    )
    return request, content


def without_secrets(request: http.Request, content: bytes) -> http.Request:
    """Copy a request as it was sent, less its credentials, to be shown."""
    shown = request.copy()
    shown.data.content = content
    shown.headers = http.Headers([f for f in request.headers.fields if f[0].lower() not in SECRET_FIELDS])
    return shown


@lru_cache(maxsize=1024)
def _authority(scheme: str, host: str, port: int) -> bytes:
    """Return what the field Host of a request to an endpoint says."""
    return authority(host, None if port == {"https": 443, "http": 80}[scheme] else port).encode()
