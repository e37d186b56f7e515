"""What the page sends back -> the request that is to be sent."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mitmproxy import connection, exceptions, http

from aoai_gateway.inspect.replays import aimed, as_call
from aoai_gateway.inspect.views.shapes import Unreadable, decode
from aoai_gateway.rerun.case_set import PATHS, with_variables
from aoai_gateway.workbench.documents import content_of
from aoai_gateway.workbench.shape import dump, filled, has_stand_ins

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mitmproxy.http import HTTPFlow

    from aoai_gateway.engine.call import Setup

LONGEST_NAME = 64


class EditError(Exception):
    """What was sent cannot be run; the text says why."""


@dataclass(frozen=True, slots=True)
class Edited:
    """A prompt as the page sends it.

    ``body`` may hold stand-ins for strings of ``origin``'s body; ``variables`` are put in for ``{{name}}``.
    """

    operation: str
    body: Mapping[str, Any]
    client: str
    run_by: str
    origin: HTTPFlow | None = None
    variables: Mapping[str, str] = field(default_factory=dict)


def body_of(edited: Edited) -> dict[str, Any]:
    """Give the body that is sent. Raises EditError."""
    body: Any = edited.body
    if has_stand_ins(body):
        if edited.origin is None:
            raise EditError("It refers to the call that it was made of, and that is no longer here.")
        try:
            body = filled(body, decode(content_of(edited.origin.request)))
        except (KeyError, Unreadable):
            raise EditError("It refers to a part of the original call that is not there.") from None
    if not isinstance(body, dict):
        raise EditError("A request is a JSON object.")
    return {key: with_variables(value, edited.variables) for key, value in body.items()}


def flow_for(edited: Edited, body: Mapping[str, Any], place: str, setup: Setup) -> HTTPFlow:
    """Make the flow of a run, to go to one place. Raises EditError."""
    if setup.config.client_named(edited.client) is None:
        raise EditError(f"There is no client {edited.client!r}.")
    try:
        # A copy: one that is held, or still under way, can be tried elsewhere meanwhile.
        base = as_call(edited.origin.copy()) if edited.origin is not None else _new(edited.operation)
        if "model" not in body and "/deployments/" not in base.request.path:
            # Where it goes is said by the place.
            body = {"model": place.partition("@")[0], **body}
        base.request.content = dump(body)
        base.request.headers["content-type"] = "application/json"
        flow = aimed(base, place, setup)
    except exceptions.CommandError as error:
        raise EditError(str(error)) from None
    flow.metadata["gateway_client"] = edited.client
    flow.metadata["gateway_run_by"] = " ".join(edited.run_by.split())[:LONGEST_NAME] or "workbench"
    return flow


def _new(operation: str) -> HTTPFlow:
    """Make the flow of a prompt that was written anew."""
    path = PATHS.get(operation)
    if path is None:
        raise EditError(f"There is no operation {operation!r}: {', '.join(PATHS)}.")
    client = connection.Client(peername=("127.0.0.1", 0), sockname=("127.0.0.1", 0), timestamp_start=0)
    flow = http.HTTPFlow(client, connection.Server(address=None))
    flow.request = http.Request.make("POST", f"http://localhost{path}", b"{}")
    return flow
