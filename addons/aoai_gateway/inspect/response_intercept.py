"""Holding a flow (``intercept``) in a way that ends.

mitmproxy holds a flow after all addons have had their say, and waits for nothing but its being resumed: the
client of a flow that is killed while it is held gets no answer, and one that hangs up leaves it held. This
addon comes last, and waits in mitmproxy's place.

A call that was edited into something that is no call any more is not let go: its client would get an error
for what it has not sent, and the edit would be lost. It stays held; its comment says where the mistake is.

What was held and edited is part of the call's story, as ``gateway_held`` in the flow's metadata.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, cast

from mitmproxy import ctx, hooks
from mitmproxy.log import ALERT
from mitmproxy.net.http.validate import validate_headers

from aoai_gateway.inspect.annotate import HELD, add_to_story
from aoai_gateway.proxy.heads import CONTROL, NOT_IN_TARGET
from aoai_gateway.proxy.request_head import target_of
from aoai_gateway.quota.access import visible_deployments
from aoai_gateway.runtime.stream_hooks import let_go
from aoai_gateway.wire import errors
from aoai_gateway.wire.bodies import LARGE_BODY, parse_body
from aoai_gateway.wire.gateway_error import GatewayError

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from mitmproxy.addonmanager import AddonManager
    from mitmproxy.addons.intercept import Intercept
    from mitmproxy.http import HTTPFlow, Message, Request

    from aoai_gateway.runtime.gateway import Gateway

logger = logging.getLogger(__name__)

NOT_SENT = "not sent, since it cannot be as it is now: "


class ResponseIntercept:
    """Waits for the end of a flow's being held."""

    name = "gatewayhold"
    gateway_asks = True

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    # Plain functions: a coroutine would have every call wait for tasks, whether it is held or not.

    def request(self, flow: HTTPFlow) -> Awaitable[None] | None:
        """Hold a call before anything is decided about it, and until it is one that can be sent."""
        return self._hold_request(flow) if flow.intercepted else None

    def response(self, flow: HTTPFlow) -> Awaitable[None] | None:
        """Hold an answer before the client gets it."""
        return self._hold_response(flow) if flow.intercepted and flow.response is not None else None

    async def _hold_request(self, flow: HTTPFlow) -> None:
        begun, before, comment = time.monotonic(), _parts(flow.request), flow.comment
        await self._hold(flow)
        while (edited := _differences(before, _parts(flow.request))) and _is_waited_for(flow):
            mistake = await self._mistake(flow)
            if mistake is None:
                break
            flow.comment = NOT_SENT + mistake
            logger.log(ALERT, "The call stays held. It was %s", flow.comment)
            flow.intercept()
            await self._hold(flow)
        if flow.comment.startswith(NOT_SENT):
            flow.comment = comment
        flow.metadata[HELD] = _in_words("held", begun, edited)

    async def _hold_response(self, flow: HTTPFlow) -> None:
        assert flow.response is not None
        begun, before = time.monotonic(), _parts(flow.response)
        await self._hold(flow)
        if flow.response is not None:
            held = _in_words("answer held", begun, _differences(before, _parts(flow.response)))
            self._gateway.say(flow)
            add_to_story(flow, held)

    async def _hold(self, flow: HTTPFlow) -> None:
        if not flow.live:
            # A failed attempt, or a flow from a file: it is over, and no client waits for it.
            flow.resume()
            return
        # mitmproxy tells the user interface after this event, which would be too late.
        await ctx.master.addons.trigger_event(hooks.UpdateHook([flow]))
        await let_go(flow)

    async def _mistake(self, flow: HTTPFlow) -> str | None:
        """Return why a request is no call that can be sent; None if it is one."""
        try:
            await self._check(flow)
        except GatewayError as error:
            return error.message
        return None

    async def _check(self, flow: HTTPFlow) -> None:
        request = flow.request
        _check_head(request)
        target = target_of(request)
        if not target.operation.has_prompt:
            return
        content_type, raw = request.headers.get("content-type"), request.raw_content or b""
        if len(raw) <= LARGE_BODY:
            body = parse_body(target, content_type, raw)
        else:
            body = await self._gateway.reader.parse(target, content_type, raw)
        setup = self._gateway.in_force()
        name = setup.config.spelled(body.deployment(target))
        if setup.table.pool(name) is None:
            client = setup.config.client_named(str(flow.metadata.get("gateway_client", "")))
            visible = visible_deployments(client, setup.table.deployments) if client is not None else ()
            raise errors.deployment_not_found(name, visible)


def _check_head(request: Request) -> None:
    try:
        validate_headers(request)
    except ValueError:
        raise GatewayError(400, "head_malformed", "Its headers are not valid HTTP.") from None
    for name, value in request.headers.fields:
        if CONTROL.search(value):
            text = f"The header '{name.decode('latin-1')}' holds a control character."
            raise GatewayError(400, "head_malformed", text)
    if NOT_IN_TARGET.search(request.data.path):
        raise errors.invalid_target("The path holds a character that must be percent-encoded.")


def _is_waited_for(flow: HTTPFlow) -> bool:
    return flow.live and flow.error is None and flow.client_conn.connected


def _parts(message: Message) -> dict[str, object]:
    """Return what a user can edit, by its name."""
    parts: dict[str, object] = {"headers": message.headers.fields, "body": message.raw_content}
    for name in ("method", "path", "status_code", "reason"):
        if hasattr(message, name):
            parts[name.replace("_code", "")] = getattr(message, name)
    return parts


def _differences(before: dict[str, object], after: dict[str, object]) -> list[str]:
    changed = [name for name, value in before.items() if after[name] != value]
    # An edited body brings its own length.
    return [name for name in changed if name != "headers" or "body" not in changed]


def _in_words(what: str, begun: float, edited: list[str]) -> str:
    how = f"edited: {', '.join(edited)}" if edited else "not edited"
    return f"{what} by hand for {time.monotonic() - begun:.1f} s, {how}"


def install(gateway: Gateway, addons: AddonManager) -> None:
    """Have holds end, where flows can be held; once, however often it is called."""
    intercept = cast("Intercept | None", addons.get("intercept"))
    if intercept is not None:
        gateway.is_held = intercept.should_intercept
        if addons.get(ResponseIntercept.name) is None:
            addons.add(ResponseIntercept(gateway))
