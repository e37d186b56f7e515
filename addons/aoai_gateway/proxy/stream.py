"""One request of a client, from its headers to the end of its answer.

The stream drives the engine's generator: every effect becomes commands of mitmproxy, every event that
decides something becomes the engine's next outcome. Its bases are the sides of it: how a request comes in
(:mod:`~aoai_gateway.proxy.downstream_request`), how an answer goes out
(:mod:`~aoai_gateway.proxy.downstream_response`), and how an attempt is made
(:mod:`~aoai_gateway.proxy.upstream_attempt`).

Two traps of mitmproxy's layers shape the code. A blocking command pauses the stream and queues what comes
meanwhile, so after each one the queue is searched for the client's hang-up. And a connection must not be
used again inside the event that ends its response (its layer resets itself after that), so the engine goes
on in a turn of its own then.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

from mitmproxy import flow as mflow
from mitmproxy import http
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.layers.http import (
    DropStream,
    ErrorCode,
    HttpErrorHook,
    RequestData,
    RequestEndOfMessage,
    RequestHeaders,
    RequestProtocolError,
    RequestTrailers,
    ResponseData,
    ResponseEndOfMessage,
    ResponseProtocolError,
    SendHttp,
)
from mitmproxy.proxy.layers.http._base import HttpEvent

from aoai_gateway.engine.call import Call, Outcome
from aoai_gateway.engine.effects import (
    Announce,
    Cancel,
    Choose,
    Chosen,
    ClientGone,
    CountDelivered,
    Counted,
    CountTokens,
    Deliver,
    Done,
    Drain,
    Effect,
    ParseBody,
    Parsed,
    Refused,
    Reject,
    Reserve,
    Reserved,
    Result,
    Return,
    Send,
    Settle,
    WaitInQueue,
    WaitUntil,
)
from aoai_gateway.proxy import models
from aoai_gateway.proxy.header_index import HeaderIndex
from aoai_gateway.proxy.http1 import BROKEN_OFF, error_response
from aoai_gateway.proxy.masks import strip_known
from aoai_gateway.proxy.messages import Crashed, DeadlinePassed
from aoai_gateway.proxy.request import strip_secrets, without_secrets
from aoai_gateway.proxy.request_head import address_of
from aoai_gateway.proxy.upstream_attempt import UpstreamAttempt
from aoai_gateway.runtime.exception_log import log_exception
from aoai_gateway.runtime.observer import UNSEEN, Observation
from aoai_gateway.runtime.plugin_events import BackendChoice, CallFinished, GatewayBackendChosenHook
from aoai_gateway.runtime.stream_hooks import (
    AttemptFailed,
    Awaited,
    GatewayAskHook,
    GatewayAttemptFailedHook,
    GatewayBreaksWithdrawnHook,
    GatewayCallEndedHook,
)
from aoai_gateway.usage.early import EarlyAnswer
from aoai_gateway.wire import errors
from aoai_gateway.wire.errors import GatewayError
from aoai_gateway.wire.operations import MODELS, parse_target

if TYPE_CHECKING:
    from collections.abc import Generator

    from mitmproxy.proxy.context import Context
    from mitmproxy.proxy.layer import CommandGenerator

    from aoai_gateway.proxy.messages import StreamLayer
    from aoai_gateway.proxy.request_head import Admitted
    from aoai_gateway.runtime.gateway import Gateway

logger = logging.getLogger(__name__)


class GatewayStream(UpstreamAttempt):
    """One request; see the module's docstring."""

    def __init__(self, context: Context, stream_id: int, gateway: Gateway, layer: StreamLayer) -> None:
        super().__init__(context, stream_id, gateway, layer)
        self._run: Generator[Effect, Result] | None = None
        self._observation: Observation = UNSEEN
        self._written_down = False
        self._stands = False
        """Whether it stands in a waiting line."""

    def __repr__(self) -> str:
        state = getattr(self.client_state, "__name__", "?").removeprefix("state_")
        return f"GatewayStream(id={self.stream_id}, client: {state})"

    def _handle_event(self, event: events.Event) -> CommandGenerator[None]:
        if type(event) is ResponseData and not self._over:
            passed = self._screen.feed(event.data)
            if passed is event.data:
                yield from self.server_state(event)
            elif passed:
                yield from self.server_state(ResponseData(event.stream_id, passed))
        elif isinstance(event, Crashed):
            yield from self.state_crashed(event)
        elif self._over:
            pass
        elif isinstance(event, events.Start):
            self.client_state = self.state_request_headers
        elif isinstance(event, RequestHeaders | RequestData | RequestTrailers | RequestEndOfMessage):
            yield from self.client_state(event)
        elif isinstance(event, RequestProtocolError):
            yield from self.state_client_gone()
        elif isinstance(event, DeadlinePassed):
            yield from self.state_deadline_passed()
        elif isinstance(event, events.Wakeup):
            if self._continuation is not None and event.command is self._continuation[0]:
                result = self._continuation[1]
                self._continuation = None
                yield from self._advance(result)
        elif isinstance(event, HttpEvent):
            yield from self._received_other(event)

    # --- driving the engine ----------------------------------------------------------------------------

    def begin(self, admitted: Admitted | None) -> CommandGenerator[None]:
        """All of the request is there, as a user may have edited it: hand it to the engine."""
        assert admitted is not None
        request = self.flow.request
        # Whoever edited it may have written a credential into it.
        strip_secrets(request)
        strip_known(request, admitted.secrets)
        try:
            target = parse_target(request.method, request.path)
        except GatewayError as error:
            self._refused(error)
            yield from self._reject(error)
            return
        if target.operation is MODELS:
            listed = EarlyAnswer(
                200, None, Outcome.OK, admitted.client.name, address_of(self.context.client), MODELS.name
            )
            self._gateway.answered_early(listed)
            self.flow.response = models.answer(admitted.setup, admitted.client, target)
            yield from self._respond()
            return
        head = HeaderIndex(request.data.headers.fields)
        call = self._call = Call(
            id=str(uuid.uuid4()),
            client=admitted.client,
            target=target,
            setup=admitted.setup,
            started=time.monotonic(),
            wall=time.time() - time.monotonic(),
            headers=head,
            brings_own_token=admitted.token is not None,
            consult="gateway_backend_chosen" in self._gateway.heard,
            only_backend=admitted.only_backend,
        )
        self._secrets = admitted.secrets
        self._gateway.begun(call)
        self.flow.metadata["gateway_call"] = call.id
        content_type = head.get("content-type")
        run = self._gateway.engine.run(call, content_type, request.raw_content or b"", call.started)
        self._observation = self._gateway.observer.begun(call)
        self._run = self._observation.follow(run)
        yield from self._advance(None)

    def _advance(self, result: Result | None) -> CommandGenerator[None]:
        """Tell the engine what came of its last effect, and carry out the next ones."""
        assert self._run is not None
        while True:
            try:
                effect = next(self._run) if result is None else self._run.send(result)
            except StopIteration:
                self._gateway.waiting.changed()
                yield from self._end()
                return
            self._gateway.waiting.changed()
            match effect:
                case ParseBody():
                    result = yield from self._parse(effect)
                case CountTokens():
                    result = yield from self._count(effect)
                case CountDelivered():
                    count = yield from self._wait_for(self._gateway.count_delivered(effect))
                    result = Counted(time.monotonic(), count)
                case Reserve():
                    decision = yield from self._wait_for(self._gateway.reserve(effect))
                    result = Reserved(time.monotonic(), decision)
                case Settle() | Cancel():
                    self._gateway.settle(effect)
                    result = Done(time.monotonic())
                case WaitUntil():
                    result = yield from self._hold_back(effect)
                case WaitInQueue():
                    result = yield from self._stand_in_line(effect)
                case Send():
                    result = yield from self._send(effect)
                case Drain():
                    assert self._received is not None
                    self._received.drain(time.monotonic())
                    yield from self._watch()
                    result = None
                case Choose():
                    result = yield from self._choose(effect)
                case Announce():
                    yield self._announcement(effect)
                    result = Done(time.monotonic())
                case Deliver():
                    result = yield from self._deliver()
                case Return():
                    assert self._received is not None and self._received.response is not None
                    self.flow.response = self._received.response
                    result = Done(time.monotonic())
                case Reject():
                    self.flow.response = error_response(effect.error)
                    result = Done(time.monotonic())
            if result is None:
                return  # an event will bring it

    def _is_gone(self) -> bool:
        return self._call is not None and self._call.outcome is Outcome.CLIENT_GONE

    def _end(self) -> CommandGenerator[None]:
        """The engine is done with the call: write it down, and finish the answer."""
        self._layer.deadlines.clear(self._deadline)
        yield from self._write_down()
        if self._is_gone():
            yield from self._hang_up_on_client()
        elif self._is_cut_off():
            yield from self._hang_up_on_client("The backend broke off its answer.")
        elif self._begun:
            yield from self.send_response(already_streamed=True)
        elif self._held_back is not None:
            yield from self._show_held()
        else:
            assert self.flow.response is not None
            self._mark(self.flow.response)
            yield from self._respond()

    def _write_down(self) -> CommandGenerator[None]:
        call, run, self._run = self._call, self._run, None
        if run is not None:
            # Wherever it stands: what the call still has is free for those who wait.
            run.close()
            self._gateway.waiting.changed()
        if call is None or self._written_down:
            return
        self._written_down = True
        if call.reserved is not None:
            # The engine could not say what is to become of it.
            self._gateway.settle(Cancel(call.reserved))
            call.reserved = None
        if call.withdrawn:
            yield GatewayBreaksWithdrawnHook(call.withdrawn)
        self._observation.finished(self.flow)
        if self._chunk_gaps is not None:
            self.flow.metadata.update(self._chunk_gaps.figures())
        record = self._gateway.write_down(call)
        if "gateway_call_finished" in self._gateway.heard:
            yield GatewayCallEndedHook(CallFinished(self.flow, call, record))

    def _count_out(self) -> None:
        if self._call is not None:
            self._gateway.over(self._call.id)

    def _wait_for(self, answer: Any) -> CommandGenerator[Any]:
        """Give an answer that may still be on its way. Raises what goes wrong with it."""
        if not isinstance(answer, Awaitable):
            return answer
        awaited = Awaited(answer)
        yield GatewayAskHook(awaited)
        if awaited.error is not None:
            raise awaited.error
        if not awaited.performed:
            raise RuntimeError("nobody awaited it")
        return awaited.result

    def _parse(self, effect: ParseBody) -> CommandGenerator[Result]:
        result: Result
        try:
            reader = self._gateway.reader
            body = yield from self._wait_for(
                reader.parse(
                    effect.target,
                    effect.content_type,
                    effect.raw,
                    wanted=lambda: not self._client_has_gone(),
                )
            )
            result = Parsed(time.monotonic(), body)
        except GatewayError as error:
            result = Refused(time.monotonic(), error)
        return ClientGone(result.now) if self._client_has_gone() else result

    def _count(self, effect: CountTokens) -> CommandGenerator[Result]:
        try:
            count = yield from self._wait_for(self._gateway.count_tokens(effect))
        except GatewayError as error:
            return Refused(time.monotonic(), error)
        return Counted(time.monotonic(), count)

    def _hold_back(self, effect: WaitUntil) -> CommandGenerator[Result | None]:
        if self._client_has_gone():
            return ClientGone(time.monotonic())
        wakeup = commands.RequestWakeup(max(0.0, effect.at - time.monotonic()))
        self._continuation = (wakeup, Done(effect.at))
        yield wakeup
        return None

    def _stand_in_line(self, effect: WaitInQueue) -> CommandGenerator[Result]:
        assert self._call is not None
        self._stands = True
        yield from self._wait_for(self._gateway.waiting.stand(self._call.id, effect.until))
        self._stands = False
        now = time.monotonic()
        return ClientGone(now) if self._client_has_gone() or self._killed() else Done(now)

    def client_left(self) -> None:
        """Hear at once that the client hung up; the event itself waits as long as the stream is paused."""
        if self._stands and self._call is not None:
            self._gateway.waiting.left(self._call.id)

    def _choose(self, effect: Choose) -> CommandGenerator[Result]:
        assert self._call is not None
        choice = BackendChoice(self.flow, self._call, list(effect.candidates))
        refusal = None
        try:
            yield from self._ask(GatewayBackendChosenHook(choice))
        except GatewayError as error:
            refusal = error
        now = time.monotonic()
        return ClientGone(now) if self._client_has_gone() else Chosen(now, choice.candidates, refusal)

    def _announcement(self, effect: Announce) -> commands.StartHook:
        assert self._call is not None and self._sent is not None
        failed = AttemptFailed(
            flow=self.flow,
            call=self._call,
            attempt=effect.attempt,
            request=without_secrets(self._sent, self._content),
            response=self._received.response if self._received is not None else None,
            server=self.flow.server_conn,
        )
        return GatewayAttemptFailedHook(failed)

    # --- ends that are none ----------------------------------------------------------------------------

    def state_client_gone(self) -> CommandGenerator[None]:
        """The client hung up: whatever is under way for it stops."""
        if self.client_state == self.state_swallow:
            yield from self._vanish()
            return
        ended = self._all_sent()
        self._continuation = None
        yield from self._abandon()
        if self._run is not None:
            so_far = self._stream_ended() if self._begun or self._held_back is not None else None
            yield from self._advance(ended or ClientGone(time.monotonic(), so_far))
        else:
            yield from self._hang_up_on_client()

    def _hang_up_on_client(self, why: str = "The client disconnected.") -> CommandGenerator[None]:
        if self._over:
            return
        self._over = True
        if self.flow.error is None:
            self.flow.error = mflow.Error(why)
        yield from self._tell(HttpErrorHook(self.flow))
        killed = ResponseProtocolError(self.stream_id, "killed", ErrorCode.KILL)
        yield SendHttp(killed, self.context.client)
        yield from self._vanish()

    def _vanish(self) -> CommandGenerator[None]:
        if self._run is not None and self._call is not None:
            self._call.outcome = self._call.outcome or Outcome.CLIENT_GONE
            self._call.ended = self._call.ended or time.monotonic()
            yield from self._write_down()
        yield from super()._vanish()

    # --- bugs ------------------------------------------------------------------------------------------

    def crashed(self, error: Exception) -> Crashed:
        """Make the event that tells the stream of an exception of its own."""
        self._paused = None
        self._paused_event_queue.clear()
        return Crashed(self.stream_id, error)

    def state_crashed(self, event: Crashed) -> CommandGenerator[None]:
        """A bug of ours: nothing is forwarded, and the client gets to know."""
        log_exception("in the gateway; its call was ended.", event.error)
        if self._over:
            yield commands.CloseConnection(self.context.client)
            return
        self._over = True
        if not hasattr(self, "flow"):
            self.flow = http.HTTPFlow(self.context.client, self.context.server)
            self.flow.request = http.Request.make("GET", "http://unknown.invalid/")
        self._layer.deadlines.clear(self._deadline)
        yield from self._abandon()
        if self._call is not None:
            self._call.outcome, self._call.ended = Outcome.ERROR, time.monotonic()
            self._call.status = self._call.status or 500
        if self._begun:
            reader = self._received.reader if self._received is not None else None
            if reader is not None:
                told = reader.break_off(errors.internal())
                yield SendHttp(ResponseData(self.stream_id, told), self.context.client)
            broken_off = ResponseProtocolError(self.stream_id, "an exception", BROKEN_OFF)
            yield SendHttp(broken_off, self.context.client)
        elif self._answered:
            yield commands.CloseConnection(self.context.client)
        else:
            if self._call is None:
                self._refused(errors.internal())
            answer = error_response(errors.internal())
            answer.headers["connection"] = "close"
            self.flow.response = answer
            yield from self._send_whole(answer)
            yield SendHttp(ResponseEndOfMessage(self.stream_id), self.context.client)
        yield from self._write_down()
        self.flow.live = False
        self._count_out()
        yield DropStream(self.stream_id)
