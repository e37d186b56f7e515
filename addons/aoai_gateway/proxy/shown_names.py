"""The names of deployments in answers, and in the messages of sessions: clients know virtual ones."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from aoai_gateway.quota.access import check_access
from aoai_gateway.wire import errors
from aoai_gateway.wire.resource_names import ModelNames
from aoai_gateway.wire.session_messages import Message, with_models

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aoai_gateway.engine.call import Call
    from aoai_gateway.routing.backends import Backend


NONE = ModelNames({})


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
        return NONE if real == asked.lower() else ModelNames({real: asked})
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
