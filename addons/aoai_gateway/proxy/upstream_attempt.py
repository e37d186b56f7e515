"""One attempt on the wire: a connection, the request, and the wait for what becomes of it.

An :class:`~aoai_gateway.proxy.upstream_response.UpstreamResponse` says what the answer means; here its events
come in, known secrets are masked in them, and its deadline is kept.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
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
from aoai_gateway.engine.effects import ClientGone, Drained, Ended, Failed, Result, Send
from aoai_gateway.engine.failures import keeps_state
from aoai_gateway.proxy.masks import is_coded, mask_decoded, mask_head, masked
from aoai_gateway.proxy.messages import Connect, WholeRequest
from aoai_gateway.proxy.request import build_request, without_secrets
from aoai_gateway.proxy.session_side import TURN_SECONDS, pieces
from aoai_gateway.proxy.shown_names import SessionNames, shown_names
from aoai_gateway.proxy.upstream import was_opened_ahead
from aoai_gateway.proxy.upstream_response import UpstreamResponse
from aoai_gateway.runtime.stream_hooks import AttemptFailed
from aoai_gateway.wire.content_coding import MOST_AT_ONCE, MOST_READ, NotDecodedError, decode
from aoai_gateway.wire.delivered import Delivered
from aoai_gateway.wire.gateway_error import GatewayError
from aoai_gateway.wire.masking import Screen
from aoai_gateway.wire.resource_names import is_id, references_in
from aoai_gateway.wire.secrets import digest_of, minted_in
from aoai_gateway.wire.session_messages import read_asked
from aoai_gateway.wire.stored import BLOCK, Pieces
from aoai_gateway.wire.usage import AnswerFacts, read_answer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mitmproxy.proxy.layer import CommandGenerator
    from mitmproxy.proxy.layers.http import HttpEvent

    from aoai_gateway.config.models import Endpoint
    from aoai_gateway.engine.effects import Announce
    from aoai_gateway.proxy.stream_context import StreamContext


LOOK_SECONDS = 0.1
"""The time between two looks whether a backend that takes nothing of an upload has answered."""


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
            server,
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
            yield SendHttp(WholeRequest(here.id, request, body), server)
        yield from self.watch()
        return None

    def _send_upload(self, content: Pieces, server: Server) -> CommandGenerator[Result | None]:
        """Send what is on disk, as fast as the backend takes it. Returns the result if it failed."""
        here, idle, blocks = self._here, self._effect.timeouts.idle, content.blocks()
        while True:
            try:
                block = yield from here.wait_for(self._next_block(blocks, server, idle))
            except TimeoutError:
                yield from self.abandon()
                return Failed(here.now(), FailureKind.TIMEOUT, f"took nothing of the upload for {idle:.3g} s")
            if here.client_has_gone():
                yield from self.abandon()
                return ClientGone(here.now())
            if here.answer_has_begun() or server not in here.layer.connections:
                # What that means, its own events tell.
                self.is_unfinished = True
                break
            if block is None:
                break
            yield SendHttp(RequestData(here.id, block), server)
        assert self.received is not None
        self.received.request_sent(here.now())
        return None

    async def _next_block(self, blocks: Iterator[bytes], server: Server, seconds: float) -> bytes | None:
        """Wait until the backend has taken enough, and read the next block, in a thread. None at the end.

        It waits no longer once the backend answers. Raises TimeoutError.
        """
        here = self._here
        async with asyncio.timeout(seconds):
            taken = asyncio.ensure_future(here.gateway.written_out(here.client.id, server))
            try:
                while not (await asyncio.wait({taken}, timeout=LOOK_SECONDS))[0]:
                    if here.answer_has_begun():
                        return None
            finally:
                taken.cancel()
            return await here.gateway.disk.run(self._call.client.name, BLOCK, next, blocks, None)

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
        facts, decoded = received.facts, received.decoded
        if decoded is None:
            client, size = self._call.client.name, len(body)
            reading = self._here.gateway.threads.run(client, size, self._read_large, response)
            decoded, facts = yield from self._here.wait_for(reading)
        else:
            decoded = mask_decoded(response, decoded, self._here.secrets)
            self._show_names(response, decoded)
        made: tuple[str, ...] = ()
        if keeps_state(self._call) and len(decoded) <= MOST_AT_ONCE:
            made = references_in(decoded)
        elif keeps_state(self._call):
            client, size = self._call.client.name, len(decoded)
            searching = self._here.gateway.threads.run(client, size, references_in, decoded)
            made = yield from self._here.wait_for(searching)
        if (location := head.get("location")) and is_id(placed := location.rpartition("/")[2]):
            made = (*made, placed)  # a call by WebRTC
        operation, delivered = self._call.target.operation, None
        minted = self._conceal_minted(response, decoded) if operation.mints else None
        if facts.usage is None and response.status_code == 200:
            delivered = Delivered.of_answer(operation.name, decoded)
        ended = Ended.of_answer(self._here.now(), facts, made=made, delivered=delivered)
        return ended if minted is None else replace(ended, minted=minted)

    def failed_answer(self) -> http.Response:
        """Return the answer of a failed attempt as the client gets it, whose body is all there."""
        assert self.received is not None and self.received.response is not None
        response = self.received.response
        text = self.received.decoded
        if self.received.reader is None and text is not None:
            secrets = self._here.secrets
            self._show_names(
                response,
                mask_decoded(response, text, secrets) if is_coded(response) else response.raw_content or b"",
            )
        return response

    def _conceal_minted(self, response: http.Response, decoded: bytes) -> str | None:
        """Put a name in the place of a secret, which only the client is to see. Returns its digest.

        What the answer says of the session names the deployment as the client does.
        """
        secret = minted_in(decoded) if response.status_code < 300 else None
        if secret is None:
            return None
        digest = digest_of(secret)
        name = digest.replace(" ", "-").encode()
        self._here.concealed = (name, secret.encode())
        names = SessionNames(self._call, self._effect.attempt.backend)
        with suppress(GatewayError):  # a key stands twice in it
            decoded = names.shown(read_asked(decoded)) or decoded
        response.data.content = decoded.replace(secret.encode(), name)
        response.headers.pop("content-encoding", None)
        return digest

    def _read_large(self, response: http.Response) -> tuple[bytes, AnswerFacts]:
        """Decode an answer that takes longer than a moment; in a thread, while the stream waits for it.

        One that is larger than any real answer is passed on unread.
        """
        try:
            decoded = decode(response.raw_content or b"", response.headers.get("content-encoding"), MOST_READ)
        except NotDecodedError:
            return b"", AnswerFacts()
        decoded = mask_decoded(response, decoded, self._here.secrets)
        self._show_names(response, decoded)
        return decoded, read_answer(decoded)

    def _show_names(self, response: http.Response, decoded: bytes) -> None:
        """Name the deployment in an answer as the client knows it; a coded answer goes on as text then."""
        if not self._names or not 200 <= response.status_code < 300:
            return
        shown = self._names.in_answer(decoded)
        if shown is not decoded:
            response.data.content = shown
            response.headers.pop("content-encoding", None)


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
