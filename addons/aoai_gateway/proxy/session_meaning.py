"""What the messages of a session mean: for its quotas, its limits, and the names of deployments in it."""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aoai_gateway.quota.access import check_access
from aoai_gateway.wire import errors, session_messages
from aoai_gateway.wire.bodies import parse_body
from aoai_gateway.wire.gateway_error import GatewayError
from aoai_gateway.wire.session_messages import (
    CREATE,
    LARGE_MESSAGE,
    SETTINGS,
    Message,
    message_malformed,
    with_models,
)

if TYPE_CHECKING:
    from mitmproxy.proxy.layer import CommandGenerator

    from aoai_gateway.engine.call import Call
    from aoai_gateway.engine.session_quota import SessionQuota
    from aoai_gateway.proxy.engine_driver import EngineDriver
    from aoai_gateway.proxy.stream_context import StreamContext
    from aoai_gateway.routing.backends import Backend

MOST_MADE = 128
"""Responses of one session that are remembered."""

TRANSCRIBERS = ("whisper-1", "gpt-4o-transcribe", "gpt-4o-mini-transcribe", "gpt-4o-transcribe-diarize")
"""Models that a realtime deployment itself can write down with what it hears; they are no deployments.

A name may have the date of a version behind it.
"""

_DATE = re.compile(r"-\d{4}-\d\d-\d\d$")


class SessionNames:
    """Replaces names both ways, for one session at one backend."""

    def __init__(self, call: Call, backend: Backend) -> None:
        self._call = call
        self._backend = backend
        self._own = backend.deployment(call.deployment)
        self.model: str | None = None
        """The model of the session, as the backend has named it."""

    def real(self, message: Message) -> bytes | None:
        """Make a client's message one for the backend; None if it may go as it is.

        Raises GatewayError for a deployment that the client may not use, or that the backend's endpoint
        does not have.
        """
        return with_models(message, self.real_name)

    def shown(self, message: Message) -> bytes | None:
        """Make a backend's message one for the client; None if it may go as it is."""
        named = message.session_model or message.response_model
        if named is not None and named != self._own:
            self.model = named
        return with_models(message, self._shown)

    def real_name(self, asked: str) -> str:
        """Return the name that a deployment has at the backend; raises as `real`."""
        call = self._call
        config, name = call.setup.config, call.setup.config.spelled(asked)
        if self.is_own(asked):
            return self._own
        if name in config.virtual_deployments:
            check_access(call.client, name)
            here = self._backend.endpoint.name
            pool = call.setup.table.pool(name) or ()
            found = next((each for each in pool if each.endpoint.name == here), None)
            if found is None:
                raise errors.deployment_not_found(asked)
            return found.deployment(name)
        if _DATE.sub("", name) not in TRANSCRIBERS:
            check_access(call.client, name)
            if not config.knows(name):
                raise errors.deployment_not_found(asked)
        return asked

    def is_own(self, asked: str) -> bool:
        """Whether this is the client's name of the session's own deployment."""
        return self._call.setup.config.spelled(asked) in (self._call.deployment, self._call.asked)

    def _shown(self, real: str) -> str:
        call = self._call
        return (call.asked or call.deployment) if real == self._own and call.deployment else real


@dataclass(frozen=True, slots=True)
class Passed:
    """What of a message goes on. ``content`` None: nothing.

    ``error``: what its client is told instead; ``refusal``: the quota that a response does not fit, and
    ``response`` the id of one that has begun all the same.
    """

    content: bytes | None
    error: GatewayError | None = None
    refusal: GatewayError | None = None
    response: str | None = None


class SessionMeaning:
    """Reads the messages of one session. ``of_responses``: it has the form of the Responses API."""

    def __init__(
        self, here: StreamContext, driver: EngineDriver, quota: SessionQuota, *, of_responses: bool
    ) -> None:
        assert here.call is not None and here.call.attempt is not None
        self._here = here
        self._call = here.call
        self._driver = driver
        self._quota = quota
        self._of_responses = of_responses
        self.names = SessionNames(here.call, here.call.attempt.backend)
        self.made: deque[str] = deque(maxlen=MOST_MADE)
        """The last responses, which only the backend's resource has."""

    def told(self, content: bytes) -> CommandGenerator[Passed]:
        """Take in what the backend says of responses and their usage."""
        message = session_messages.read_told(content)
        if message is None:
            if self._call.first_content is None and b".delta" in content[:256]:
                self._call.first_content = self._here.now()
            return Passed(content)
        quota, now = self._quota, self._here.now()
        refusal: GatewayError | None = None
        if message.type == session_messages.CREATED:
            refusal = yield from self._driver.book(quota.created(message.response_id or "", now))
        elif message.type == session_messages.DONE:
            yield from self._driver.book(quota.done(message.response_id, message.usage, now))
            if message.response_id is not None:
                self.made.append(message.response_id)
        elif message.type == session_messages.ERROR:
            yield from self._driver.book(quota.refused())
        elif message.type in session_messages.REPORTS and message.usage is not None:
            quota.report(message.usage)
        elif message.type == session_messages.LIMITS:
            # As with HTTP: of limits, the client is told its own.
            return Passed(None)
        shown = self.names.shown(message) or content
        return Passed(shown, refusal=refusal, response=message.response_id)

    def asked(self, content: bytes) -> CommandGenerator[Passed]:
        """Take in what the client wants."""
        try:
            if self._of_responses:
                return (yield from self._asked_response(content))
            return (yield from self._asked_event(content))
        except GatewayError as error:
            return Passed(None, error)

    def _asked_event(self, content: bytes) -> CommandGenerator[Passed]:
        message = yield from self._read(content)
        passed, bound = self.names.real(message) or content, self._bound(message)
        if bound is not None:
            preview = self._call.target.api == "classic"
            passed = session_messages.with_bound(message, bound, preview=preview)
        if message.type == CREATE:
            return (yield from self._book(passed, bound or message.max_output_tokens))
        if message.type in SETTINGS:
            said = bound or message.max_output_tokens
            self._quota.bound = said if said or message.says_bound else self._quota.bound
        return Passed(passed)

    def _asked_response(self, content: bytes) -> CommandGenerator[Passed]:
        """Take in a message that has the form of a request's body."""
        call, reader = self._call, self._here.gateway.reader
        if len(content) <= LARGE_MESSAGE:
            body = parse_body(call.target, None, content)
        else:
            body = yield from self._here.wait_for(reader.parse(call.target, None, content))
        if body.parsed.get("type") != CREATE:
            return Passed(content)
        name = None if body.model is None else self.names.real_name(body.model)
        if body.model is not None and not self.names.is_own(body.model):
            # It would be served, and be booked, limited and priced as the other one.
            raise message_malformed("A session has one deployment. Open another one for another deployment.")
        bound = self._limit(body.max_tokens)
        passed = body.edited(model=name, max_tokens=bound)
        return (yield from self._book(passed, bound or body.max_tokens))

    def _book(self, passed: bytes, bound: int | None) -> CommandGenerator[Passed]:
        asked = self._quota.ask(bound, self._here.now())
        refusal: GatewayError | None = yield from self._driver.book(asked)
        return Passed(passed) if refusal is None else Passed(None, refusal=refusal)

    def _bound(self, message: Message) -> int | None:
        """Return what the client's limits make of a message's bound; None: it stays. Raises GatewayError."""
        kept = self._quota.bound is not None and not message.says_bound
        is_settings = message.type in SETTINGS and (message.says_bound or not message.is_of_transcription)
        # One that says nothing leaves the session's bound as it is, which holds for its responses.
        if kept or not (is_settings or message.type == CREATE):
            return None
        return self._limit(message.max_output_tokens)

    def _limit(self, asked: int | None) -> int | None:
        return self._here.gateway.engine.admission.response_bound(self._call, asked)

    def _read(self, content: bytes) -> CommandGenerator[Message]:
        """Read a client's message: a large one off the event loop, and of that one only its kind."""
        if len(content) <= LARGE_MESSAGE:
            return session_messages.read_asked(content)
        reader = self._here.gateway.reader
        body = yield from self._here.wait_for(
            reader.parse(session_messages.LARGE, "application/json", content)
        )
        message = Message(str(body.parsed.get("type", "")), body.parsed)
        # Where responses are bounded, it has to be read whole.
        if message.type in SETTINGS or (message.type == CREATE and self._limit(None) is not None):
            raise message_malformed(
                f"A message of the type {message.type} may have {LARGE_MESSAGE:,} bytes at most."
            )
        return message
