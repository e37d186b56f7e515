"""How the two vendors' APIs that a gateway serves say what both of them say.

Azure's resources have OpenAI's API, and beside it Anthropic's, for Claude. Where the two differ in all that
is asked of them, the difference is a member of a `Dialect`, and no other module asks for a vendor's name:
where paths begin, where a client puts its key, how errors look, what a stream's events mean. What differs
from one operation to another is a row of `wire.operations`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aoai_gateway.wire import anthropic
from aoai_gateway.wire.gateway_error import GatewayError
from aoai_gateway.wire.stream_kinds import EventReader


@dataclass(frozen=True, slots=True)
class Dialect:
    """One vendor's way to say things.

    ``base``: what an SDK's base address ends in; ``root``: the segments that paths begin with (OpenAI's API
    has a second, classic form: `wire.targets`); ``short``: those that may stand without the first one of the
    root, empty if none may; ``key_headers``: those that can hold a client's key, the one
    that counts first in front, and those in which a backend gets its own; ``error_body`` writes an error of
    the gateway's own, with the call's id if there is one; ``error_event`` appends it to a stream that broke;
    ``event_reader`` makes what reads the events of a stream, None where that depends on the operation.
    ``model`` and ``model_list``: how the models of a client are listed, by their names. ``headers``: those
    that each request has to have, with the values that this gateway knows; ``request_id``: the one in which
    SDKs look for a request's id. ``names``: of members of a body that OpenAI's API has elsewhere, by their
    name there. ``provider``: the vendor in OpenTelemetry's GenAI conventions.
    """

    name: str
    root: tuple[str, ...]
    base: str
    key_headers: tuple[str, ...]
    error_body: Callable[[GatewayError, str | None], bytes]
    model: Callable[[str], dict[str, Any]]
    model_list: Callable[[Sequence[dict[str, Any]]], dict[str, Any]]
    error_event: Callable[[GatewayError], bytes] | None = None
    event_reader: Callable[[], EventReader] | None = None
    short: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    request_id: str | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    provider: str = "azure.ai.openai"

    def __repr__(self) -> str:
        return f"Dialect({self.name!r})"

    def __reduce__(self) -> tuple[object, ...]:
        """Stay the same object in another process."""
        return _named, (self.name,)


OPENAI = Dialect(
    "openai",
    root=("openai", "v1"),
    base="/openai/v1",
    key_headers=("api-key",),
    error_body=lambda error, _: error.body(),
    model=lambda name: {"id": name, "object": "model", "created": 0, "owned_by": "aoai-gateway"},
    model_list=lambda models: {"object": "list", "data": models},
)

ANTHROPIC = Dialect(
    "anthropic",
    root=("anthropic", "v1"),
    base="/anthropic",
    short=("v1", "messages"),
    # Its SDK for Foundry sends both, the same key in each.
    key_headers=("x-api-key", "api-key"),
    error_body=anthropic.error_body,
    model=anthropic.model,
    model_list=anthropic.model_list,
    error_event=anthropic.error_event,
    event_reader=anthropic.MessageEvents,
    headers=(("anthropic-version", "2023-06-01"),),
    request_id="request-id",
    names={"user": "metadata.user_id"},
    provider="anthropic",
)

DIALECTS: Mapping[str, Dialect] = {each.name: each for each in (OPENAI, ANTHROPIC)}


def _named(name: str) -> Dialect:
    return DIALECTS[name]
