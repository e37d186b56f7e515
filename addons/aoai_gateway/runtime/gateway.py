"""The gateway: state that all connections share, and that outlives reloads of scripts and configuration."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

from mitmproxy.utils import asyncio_utils

from aoai_gateway.config.models import Cors, Limits
from aoai_gateway.config.switches import Switches
from aoai_gateway.engine.call import Setup
from aoai_gateway.engine.effects import Book, Settle
from aoai_gateway.engine.engine import Engine
from aoai_gateway.identity.credentials import Credentials
from aoai_gateway.identity.identify import identify, with_grant
from aoai_gateway.quota.quotas import Decision
from aoai_gateway.routing.backends import RoutingTable
from aoai_gateway.runtime.body_reader import BodyReader
from aoai_gateway.runtime.connections import Connections
from aoai_gateway.runtime.counting import TokenCounting
from aoai_gateway.runtime.credential_breaks import CredentialBreaks
from aoai_gateway.runtime.ended_calls import EndedCalls
from aoai_gateway.runtime.failing import LOWEST_FAILURE, FailingDeployments
from aoai_gateway.runtime.fair_turns import FairThreads
from aoai_gateway.runtime.held_bytes import HeldBytes
from aoai_gateway.runtime.log_records import log_exception
from aoai_gateway.runtime.opened_ahead import OpenedAhead
from aoai_gateway.runtime.plugin_events import LISTENED_TO, SEEN_BY, Listeners
from aoai_gateway.runtime.queue_waker import QueueWaker
from aoai_gateway.runtime.readiness import ReadinessPolls
from aoai_gateway.runtime.slow_readers import SlowReaders
from aoai_gateway.runtime.token_trials import TokenTrials
from aoai_gateway.state.memory import MemoryState
from aoai_gateway.tokens import Counter
from aoai_gateway.usage.counts import SinkCounts
from aoai_gateway.usage.early import EarlyAnswer, EarlyAnswers
from aoai_gateway.usage.metrics import Metrics
from aoai_gateway.usage.prompts import prompt_of
from aoai_gateway.usage.record import usage_record
from aoai_gateway.usage.sinks import Sinks
from aoai_gateway.usage.traffic import Traffic
from aoai_gateway.wire import errors
from aoai_gateway.wire.secrets import Credential, Grant, digest_of, looks_minted

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from mitmproxy import http
    from mitmproxy.addonmanager import AddonManager
    from mitmproxy.connection import Connection

    from aoai_gateway.config.models import Config
    from aoai_gateway.engine.call import Call
    from aoai_gateway.engine.effects import Cancel, Reserve
    from aoai_gateway.engine.replicated_state import ReplicatedState
    from aoai_gateway.identity.identify import Identified, ShownCertificate
    from aoai_gateway.identity.verifier import TokenVerifier
    from aoai_gateway.quota.quotas import Reservation
    from aoai_gateway.runtime.observer import Observer
    from aoai_gateway.runtime.opened_ahead import Opened
    from aoai_gateway.state import State
    from aoai_gateway.wire.masking import KnownSecrets

ACTIONS_KEPT = 20

NO_PAGES = Cors()
NO_CONFIGURATION_LIMITS = Limits()

CLOCK_STEP_SECONDS = 1.0
"""The least step forward of the system's clock that is followed."""

logger = logging.getLogger(__name__)


async def _finish(answer: Awaitable[None]) -> None:
    try:
        await answer
    except Exception as error:
        log_exception("while a quota was settled; its lease will lapse.", error)


def _never(_: http.HTTPFlow) -> bool:
    return False


async def _at_once(client: str, backend: Connection) -> None:
    """Wait for nothing."""


class Clock(Protocol):
    """The clock of a gateway, in seconds, which tests turn by hand; the module `time` is one."""

    def monotonic(self) -> float:
        """Return the time that never jumps."""

    def time(self) -> float:
        """Return the time since the epoch."""


class Gateway:
    """One gateway process's state. There is one, while addon instances come and go."""

    def __init__(self, clock: Clock = time) -> None:
        self.clock = clock
        self.setup: Setup | None = None
        self.engine = Engine(random.Random())  # noqa: S311 - which backend takes a call is no secret
        self.waiting = QueueWaker(self.engine.scheduler)
        self.heard = Listeners(LISTENED_TO)
        self.observer: Observer | None = None
        self.make_observer: Callable[[], Observer | None] = lambda: None
        """Makes the observer, once flows have a reader."""
        self.draining = False
        """Whether it takes no more calls."""
        self.leaving = False
        """Whether it is about to; balancers are told so, and calls are still taken."""
        self.has_successor = False
        """Whether another process listens on the same port already, and this one only finishes."""
        self.sessions_end = False
        """Whether sessions have been told to end; those that begin later end, too."""
        self.readiness_polls = ReadinessPolls()
        self.sinks = Sinks()
        """Where usage records go."""
        self.counter = Counter()
        self.reader = BodyReader()
        self.threads = FairThreads()
        """The threads for long work: counting tokens, decoding answers."""
        self.counting = TokenCounting(self.counter, self.reader, self.threads)
        self.connections = Connections()
        """The clients' connections that are open."""
        self.opened_ahead: OpenedAhead[Opened] = OpenedAhead(clock.monotonic, lambda: self.heard.plugins_open)
        """Connections to backends that no call has needed yet."""
        self.token_trials = TokenTrials()
        """Clients' tokens that only backends verify."""
        self.slow_readers = SlowReaders()
        """Clients that have something to read."""
        self.held = HeldBytes()
        """The bytes of requests' bodies in memory."""
        self.spooled = HeldBytes()
        """The bytes of uploads on disk."""
        self.written_out: Callable[[str, Connection], Awaitable[None]] = _at_once
        """Waits until a backend takes more. By the id of the client's connection, and the backend's."""
        self.is_reset: Callable[[str], bool] = lambda connection: False
        """Whether a client, by its connection's id, can be sent nothing any more."""
        self.state: State = MemoryState()
        # The engine and what wakes its queue may be replaced, see `join_peers`.
        self.credential_breaks = CredentialBreaks(
            lambda: self.engine.breaks, self.clock.monotonic, lambda: self.waiting.changed()
        )
        self.credentials = Credentials(self.credential_breaks.told)
        """The credentials of endpoints whose key is not in the configuration."""
        self.verifier: TokenVerifier | None = None
        """Verifies clients' tokens, once a configuration trusts an issuer."""
        self.reservations: dict[str, Reservation] = {}
        """Bookings of calls under way, by id; their lease is renewed as long as they are here."""
        self.calls: dict[str, Call] = {}
        """The calls under way, by id, until their last byte has been handed over."""
        self.sessions: set[str] = set()
        """The clients' connections that are sessions of messages, by id."""
        self.traffic = Traffic()
        self._ended = EndedCalls(self._write_down)
        self.metrics = Metrics(self.clock.monotonic)
        self.metrics.registry.register(SinkCounts(self.sinks.counts))
        self.failing = FailingDeployments()
        self.switches = Switches()
        self.written: Config | None = None
        """The configuration as it was written, before what is switched off by hand."""
        self.started = self._last_begun = self.clock.monotonic()
        self.adopted: float | None = None
        """When the configuration in force was put in force (monotonic)."""
        self.config_file: str | None = None
        self.config_errors: tuple[str, ...] = ()
        """The errors of the file as it is now, if it could not be loaded."""
        self.actions: deque[dict[str, str]] = deque(maxlen=ACTIONS_KEPT)
        """Actions by hand, newest first: ``time`` and ``text``."""
        self.expiries: dict[str, float] = {}
        """What is valid for a time only, a certificate say, and until when (since the epoch)."""
        self.is_held: Callable[[http.HTTPFlow], bool] = _never
        """Whether a user wants to see a flow's answer before its client does."""
        self.configured = asyncio.Event()
        """Set once a configuration has been put in force."""
        self.unix_offset = self.clock.time() - self.clock.monotonic()
        """What is added to monotonic seconds to make them Unix time; see `follow_clock`."""
        self.engine.shared.unfinished.settle = self.settle
        self.early = EarlyAnswers(self._put, lambda: self.unix_offset)
        """Requests that are answered before they become calls."""

    async def prepare(self, config: Config) -> None:
        """Fetch credentials and issuers' keys before a configuration is put in force, within seconds."""
        await self.credentials.adopt(config)
        if config.tokens and self.verifier is None:
            # Loaded only where there are tokens to verify.
            from aoai_gateway.identity.verifier import TokenVerifier

            self.verifier = TokenVerifier()
        if self.verifier is not None:
            await self.verifier.adopt(config.tokens)

    def join_peers(self) -> ReplicatedState:
        """Have calls share what they know with those of other processes. Before the first call."""
        from aoai_gateway.engine.replicated_state import ReplicatedState

        shared = ReplicatedState(self.engine.shared.random)
        self.engine = Engine(shared.random, shared)
        shared.unfinished.settle = self.settle
        self.waiting = QueueWaker(self.engine.scheduler)
        return shared

    @property
    def config(self) -> Config:
        """The configuration in force. Raises GatewayError (503) as long as there is none."""
        return self.in_force().config

    def cors(self) -> Cors:
        """Return the rules in force for pages of other origins; without a configuration, no page may call."""
        return self.setup.config.cors if self.setup is not None else NO_PAGES

    def limits(self) -> Limits:
        """Return the limits in force; without a configuration, the defaults."""
        return self.setup.config.limits if self.setup is not None else NO_CONFIGURATION_LIMITS

    def in_force(self) -> Setup:
        """Return the configuration in force and the tables computed from it. Raises GatewayError (503)."""
        if self.setup is None:
            raise errors.unavailable(
                "The gateway has no configuration yet: it is starting, or its log lists the errors."
            )
        return self.setup

    async def close(self) -> None:
        """Close the readers and threads that calls use, and charge unfinished work. No more calls come."""
        self.engine.shared.unfinished.close()
        await self.reader.close()
        self.threads.close()
        await self.credentials.close()
        if self.verifier is not None:
            await self.verifier.close()

    def adopt(self, config: Config) -> None:
        """Put a configuration in force. Calls under way keep the one they began with."""
        before, self.written, self.adopted = self.written, config, self.clock.monotonic()
        self.switched()
        if before is not None:
            self.credential_breaks.adopted(before, config)
        self.configured.set()
        self.waiting.changed()

    def switched(self) -> None:
        """Put in force what was switched off or on by hand. Calls under way keep what they began with."""
        if self.written is not None:
            config = self.switches.applied(self.written)
            self.setup = Setup(config, RoutingTable(config))
            self.opened_ahead.adopt(config)

    def look_for_listeners(self, addons: AddonManager) -> None:
        """Look again which addons listen to which event, and have calls observed if their flows are seen."""
        changed = self.heard.refresh(addons)
        # An observer stays when they have gone: they may come back, and it remembers conversations.
        if changed and self.observer is None and not self.heard.events.isdisjoint(SEEN_BY):
            self.observer = self.make_observer()

    def say(self, flow: http.HTTPFlow) -> None:
        """Write on a flow what became of its call, if that was put off until the flow is looked at."""
        if self.observer is not None:
            self.observer.say(flow)

    def begun(self, call: Call) -> None:
        """Count a call as under way."""
        self.calls[call.id] = call
        self._last_begun = call.started

    def idle_seconds(self, now: float) -> float:
        """Return for how long no call has been under way, since the last one began. Monotonic seconds."""
        return 0.0 if self.calls else now - self._last_begun

    @property
    def queued(self) -> int:
        """The number of calls in queues."""
        return self.engine.scheduler.queued

    # --- quotas ----------------------------------------------------------------------------------------

    def reserve(self, effect: Reserve) -> Decision | Awaitable[Decision]:
        """Book against the client's quotas."""
        answer = self.state.reserve(effect.reservation, self.unix_time())
        if isinstance(answer, Decision):
            return self._reserved(effect.reservation, answer)
        return self._reserved_elsewhere(effect.reservation, answer)

    async def _reserved_elsewhere(self, reservation: Reservation, answer: Awaitable[Decision]) -> Decision:
        return self._reserved(reservation, await answer)

    def _reserved(self, reservation: Reservation, decision: Decision) -> Decision:
        # What was refused is never settled, so it must not be kept.
        if decision.admitted:
            self.reservations[reservation.id] = reservation
        return decision

    def settle(self, effect: Book | Settle | Cancel) -> None:
        """Settle or cancel a booking, or make it anew; a shared store gets it in a task of its own."""
        reservation = effect.reservation
        if isinstance(effect, Book):
            self.reservations[reservation.id] = reservation
            self._in_background(self.state.book(reservation, self.unix_time()))
            return
        self.reservations.pop(reservation.id, None)
        if isinstance(effect, Settle):
            self._in_background(self.state.settle(reservation, effect.tokens, self.unix_time(), effect.cost))
        else:
            self._in_background(self.state.cancel(reservation, self.unix_time()))

    def unix_time(self) -> float:
        """Return the Unix time in seconds, on a clock that never goes back."""
        return self.clock.monotonic() + self.unix_offset

    def follow_clock(self) -> None:
        """Take over a step forward of the system's clock, as after a machine's sleep.

        CLOCK_MONOTONIC stands still in a sleep (clock_gettime(2)), so budgets would begin their day late, and
        keys be taken after their end. A step back is not followed: bookings would lie in the future.
        """
        unix_offset = self.clock.time() - self.clock.monotonic()
        if unix_offset - self.unix_offset >= CLOCK_STEP_SECONDS:
            self.unix_offset = unix_offset

    def _in_background(self, answer: Awaitable[None] | None) -> None:
        # A future is under way by itself.
        if answer is not None and not isinstance(answer, asyncio.Future):
            asyncio_utils.create_task(_finish(answer), name="quota", keep_ref=True)

    def write_down(self, call: Call, secrets: Iterable[KnownSecrets] = ()) -> dict[str, Any]:
        """Count a finished call, and write it into the usage log, if there is one; never blocks.

        That is done for some calls together. Returns the record if a plugin hears of it, else nothing.
        ``secrets``: what is masked in its prompt, if that is written down.
        """
        if self.sinks.prompts is not None and self.sinks.records_prompts_of(call.client.name):
            prompt = prompt_of(call, secrets)
            if prompt is not None:
                self.sinks.put_prompt(prompt)
        self._ended.add(call)
        return usage_record(call) if "gateway_call_finished" in self.heard.events else {}

    def catch_up(self) -> None:
        """Count and write down all calls that have ended, before something reads of them."""
        self._ended.write()

    def _write_down(self, calls: Sequence[Call]) -> None:
        now, kept = self.clock.monotonic(), self.heard.calls_are_wanted
        batch = self.sinks.batch() if self.sinks.for_records else None
        for call in calls:
            try:
                self.traffic.finished(call, now)
                self.metrics.finished(call)
                # An answer tells something only where calls have failed before.
                if (call.status or 0) >= LOWEST_FAILURE or self.failing.suspects:
                    self.failing.note(call, now)
                if batch is not None:
                    batch.add(usage_record(call))
            except Exception as error:
                # The others are not to be lost with it.
                log_exception("while a call was written down; its record is lost.", error)
            if not kept:
                call.forget_texts()
        if batch is not None:
            batch.hand_over()

    def answered_early(self, answer: EarlyAnswer) -> None:
        """Write down a request that was answered before it became a call."""
        now = self.clock.monotonic()
        if answer.error is not None:
            self.traffic.refused(answer.client, now)
        self.metrics.answered_early(answer)
        self.early.note(answer, now)

    def _put(self, record: dict[str, Any]) -> None:
        self.catch_up()
        self.sinks.put([record])

    def identify(
        self, config: Config, shown: Credential | ShownCertificate | None
    ) -> Identified | Awaitable[Identified]:
        """Say which client shows this; a token that is new takes a moment. Raises GatewayError."""
        if isinstance(shown, Credential) and looks_minted(shown.value):
            noted = self.engine.affinity.home(digest_of(shown.value), self.clock.monotonic())
            grant = Grant.read(noted) if noted is not None else None
            if grant is not None:
                return with_grant(config, grant, shown.value)
        return identify(config, self.verifier, shown, self.unix_time())
