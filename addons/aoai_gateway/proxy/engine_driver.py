"""Drives the engine's generator for one call.

The engine says which effect it wants. Those that concern the event loop, the gateway's stores and plugins are
carried out here; the others (:data:`StreamEffect`) are for the stream. A pause that the engine
asks for may last, and the client may hang up meanwhile; the engine hears of it as the effect's result.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from aoai_gateway.engine import effects
from aoai_gateway.engine.attempt import Attempt
from aoai_gateway.engine.call import Call, Outcome, Session
from aoai_gateway.engine.session_quota import SessionQuota
from aoai_gateway.proxy.stream_events import State
from aoai_gateway.runtime.log_records import log_exception
from aoai_gateway.runtime.plugin_events import BackendChoice, CallFinished, GatewayBackendChosenHook
from aoai_gateway.runtime.stream_hooks import GatewayBreaksWithdrawnHook, GatewayCallEndedHook
from aoai_gateway.wire.gateway_error import GatewayError

if TYPE_CHECKING:
    from mitmproxy.proxy.layer import CommandGenerator

    from aoai_gateway.engine.effects import EffectGenerator
    from aoai_gateway.proxy.stream_context import StreamContext
    from aoai_gateway.runtime.observer import Observation
    from aoai_gateway.wire.targets import Target

type StreamEffect = (
    effects.Send
    | effects.Drain
    | effects.Deliver
    | effects.Return
    | effects.Reject
    | effects.WaitUntil
    | effects.Announce
)
"""The effects that the stream carries out: they concern connections, timers, failed attempts."""

MAY_LAST = (effects.ParseBody, effects.WaitInQueue, effects.Choose, effects.Renew)
"""Effects during which the client may hang up, which is then their result."""

MOST_TOLD = 100
"""Responses of one session whose bookings its story tells."""


class EngineDriver:
    """The engine's side of a stream."""

    def __init__(self, here: StreamContext) -> None:
        self._here = here
        self._run: EffectGenerator[None] | None = None
        self._observation: Observation | None = None
        """Set once the call has begun, if it is observed."""
        self._written_down = False
        self._quota: SessionQuota | None = None
        """Set once the call is a session."""

    @property
    def is_running(self) -> bool:
        """Whether the engine has begun with the call and not ended it."""
        return self._run is not None

    @property
    def _client(self) -> str:
        """The name by which the call has its turns."""
        assert self._here.accepted is not None
        return self._here.accepted.share

    def begin(self, target: Target, first: bytes | None = None) -> None:
        """Hand the request to the engine; :meth:`advance` leads it on.

        ``first``: the message that takes the place of the body in a session.
        """
        here = self._here
        accepted, gateway, request = here.accepted, here.gateway, here.flow.request
        assert accepted is not None
        head = here.head
        now = here.now()
        call = here.call = Call(
            # A flow that is played again is another call.
            id=str(uuid.uuid4()) if here.flow.is_replay else here.flow.id,
            client=accepted.client,
            target=target,
            setup=accepted.setup,
            started=now,
            unix_offset=here.clock.time() - now,
            headers=head,
            claims=accepted.claims,
            brings_own_token=accepted.token is not None,
            unproven=accepted.unproven,
            consult="gateway_backend_chosen" in gateway.heard.events,
            only_backend=accepted.only_backend,
            run_by=accepted.run_by,
            granted=accepted.granted,
            request_seconds=now - here.request_began,
        )
        here.secrets = accepted.secrets
        gateway.begun(call)
        here.flow.metadata["gateway_call"] = call.id
        raw = (here.upload or request.raw_content or b"") if first is None else first
        self._run = gateway.engine.run(call, head.get("content-type"), raw, now)
        if gateway.observer is not None:
            self._observation = gateway.observer.begun(call)
            self._run = self._observation.follow(self._run)

    def advance(self, result: effects.Result | None) -> CommandGenerator[StreamEffect | None]:
        """Tell the engine what came of its last effect. Returns the next one for the stream, or None."""
        assert self._run is not None
        gateway = self._here.gateway
        while True:
            effect: effects.Effect | None
            try:
                effect = next(self._run) if result is None else self._run.send(result)
            except StopIteration:
                effect = None
            if gateway.waiting.calls:
                gateway.waiting.changed()
            match effect:
                case None:
                    return None
                case effects.ParseBody():
                    result = yield from self._parse(effect)
                case effects.CountTokens():
                    result = yield from self._count(effect)
                case effects.CountDelivered():
                    count = yield from self._here.wait_for(
                        gateway.counting.count_delivered(effect, self._client)
                    )
                    result = effects.Counted(self._here.now(), count)
                case effects.Reserve() | effects.Book() | effects.Settle() | effects.Cancel():
                    result = yield from self._book(effect)
                case effects.WaitInQueue():
                    result = yield from self._wait_in_queue(effect)
                case effects.Choose():
                    result = yield from self._choose(effect)
                case effects.Renew():
                    result = yield from self._renew(effect)
                case _:
                    return effect
            if isinstance(effect, MAY_LAST) and self._here.client_has_gone():
                result = effects.ClientGone(self._here.now())

    def begin_session(self, *, asked: bool) -> CommandGenerator[SessionQuota]:
        """Begin with the bookings of a session, beside the engine, which waits for its end.

        ``asked``: whether the client has asked for a response already.
        """
        here = self._here
        assert here.call is not None
        here.call.session = Session()
        engine, attempt = here.gateway.engine, here.call.attempt
        assert attempt is not None
        capacity = engine.scheduler.capacities.of(attempt.backend, here.call.deployment)
        self._quota = SessionQuota(engine.admission, here.call, capacity)
        yield from self.book(self._quota.begin(asked=asked))
        return self._quota

    def book[T](self, run: EffectGenerator[T]) -> CommandGenerator[T]:
        """Carry out bookings of a session. Returns what they came to."""
        assert self._quota is not None
        if self._observation is not None and self._quota.booked <= MOST_TOLD:
            run = self._observation.follow(run)
        result: effects.Result | None = None
        while True:
            try:
                effect = next(run) if result is None else run.send(result)
            except StopIteration as stop:
                value: T = stop.value
                return value
            assert isinstance(effect, effects.Reserve | effects.Book | effects.Settle | effects.Cancel)
            result = yield from self._book(effect)

    def _book(
        self, effect: effects.Reserve | effects.Book | effects.Settle | effects.Cancel
    ) -> CommandGenerator[effects.Result]:
        here = self._here
        if isinstance(effect, effects.Reserve):
            decision = yield from here.wait_for(here.gateway.reserve(effect))
            return effects.Reserved(here.now(), decision)
        here.gateway.settle(effect)
        return effects.Done(here.now())

    def _parse(self, effect: effects.ParseBody) -> CommandGenerator[effects.Result]:
        here, gateway = self._here, self._here.gateway
        target, content_type, raw = effect.target, effect.content_type, effect.raw

        def wanted() -> bool:
            return not here.client_has_gone()

        try:
            body = yield from here.wait_for(
                gateway.reader.parse(
                    target,
                    content_type,
                    raw,
                    wanted=wanted,
                    client=self._client,
                    coding=effect.coding,
                    most=effect.most,
                    held=here.held,
                )
                if isinstance(raw, bytes)
                else gateway.reader.read_upload(self._client, target, content_type, raw, wanted)
            )
        except GatewayError as error:
            return effects.Refused(here.now(), error.without_frames())
        return effects.Parsed(here.now(), body)

    def _count(self, effect: effects.CountTokens) -> CommandGenerator[effects.Result]:
        try:
            counted = self._here.gateway.counting.count_tokens(effect, self._client)
            count = yield from self._here.wait_for(counted)
        except GatewayError as error:
            return effects.Refused(self._here.now(), error.without_frames())
        return effects.Counted(self._here.now(), count)

    def _wait_in_queue(self, effect: effects.WaitInQueue) -> CommandGenerator[effects.Result]:
        here = self._here
        assert here.call is not None
        if here.client_has_gone():
            return effects.ClientGone(here.now())
        here.state = State.QUEUED
        yield from here.wait_for(here.gateway.waiting.stand(here.call.id, effect.until))
        here.state = State.DECIDING
        return effects.ClientGone(here.now()) if here.is_killed() else effects.Done(here.now())

    def _choose(self, effect: effects.Choose) -> CommandGenerator[effects.Result]:
        here = self._here
        assert here.call is not None
        choice = BackendChoice(here.flow, here.call, list(effect.candidates))
        refusal = None
        try:
            yield from here.ask(GatewayBackendChosenHook(choice))
        except GatewayError as error:
            refusal = error.without_frames()
        return effects.Chosen(here.now(), choice.candidates, refusal)

    def _renew(self, effect: effects.Renew) -> CommandGenerator[effects.Result]:
        here, attempt = self._here, effect.attempt
        is_new = yield from here.wait_for(
            here.gateway.credentials.renew(attempt.backend.endpoint, attempt.started)
        )
        return effects.Renewed(here.now(), is_new)

    def note_hang_up(self) -> None:
        """Say how a call ends that the engine cannot lead to its end any more: its client has gone."""
        call = self._here.call
        if self._run is not None and call is not None:
            call.outcome = call.outcome or Outcome.CLIENT_GONE
            call.ended = call.ended or self._here.now()

    def note_bug(self, call: Call) -> None:
        """Say how a call ends that the gateway has failed, unless its end has been written down already."""
        if self._written_down:
            return
        call.outcome, call.ended = Outcome.ERROR, self._here.now()
        call.status = call.status or 500

    def write_down(
        self, chunk_gaps: tuple[float, float] | None, so_far: effects.Ended | None = None
    ) -> CommandGenerator[None]:
        """End the engine's part, and write the call's record, once.

        ``chunk_gaps``: of a stream, the median and the longest time between two of its chunks, in seconds.
        ``so_far``: what the client has of an answer of which the engine does not hear any more.
        """
        here = self._here
        call, run, self._run = here.call, self._run, None
        if run is not None:
            # Wherever it stands: what the call still has is free for calls that wait.
            run.close()
            if here.gateway.waiting.calls:
                here.gateway.waiting.changed()
        if call is None or self._written_down:
            return
        self._written_down = True
        if so_far is not None and call.attempt is not None and run is not None:
            yield from self._count_so_far(call, call.attempt, so_far)
        if self._quota is not None:
            for left in self._quota.close(here.now()):
                here.gateway.settle(left)
        for booking in here.gateway.engine.abandoned(call):
            here.gateway.settle(booking)
        if call.withdrawn:
            yield GatewayBreaksWithdrawnHook(call.withdrawn)
        call.chunk_gaps = chunk_gaps
        if self._observation is not None:
            self._observation.finished(here.flow)
        record = here.gateway.write_down(call, here.secrets)
        if "gateway_call_finished" in here.gateway.heard.events:
            yield GatewayCallEndedHook(CallFinished(here.flow, call, record))

    def _count_so_far(self, call: Call, attempt: Attempt, so_far: effects.Ended) -> CommandGenerator[None]:
        gateway = self._here.gateway
        call.note_delivery(attempt, so_far)
        attempt.ended = attempt.ended or so_far.now
        uncounted = gateway.engine.settlement.uncounted(call)
        if uncounted is not None:
            try:
                counted = yield from self._here.wait_for(
                    gateway.counting.count_delivered(uncounted, self._client)
                )
                call.take_delivered(counted.tokens)
            except Exception as error:
                # It is perhaps the second one of this call, which has to be settled all the same.
                log_exception("while an answer that was cut short was counted.", error)
