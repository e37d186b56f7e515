"""The calls of one client, caught before they are sent: edited in the same boxes, and let go.

mitmproxy's own ``intercept`` does it; here its filter is written, and what it holds is edited. A filter that
a person has set in mitmweb is replaced, and can be seen there.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mitmproxy import ctx, hooks

from aoai_gateway.workbench import bodies
from aoai_gateway.workbench.page_requests import EditError
from aoai_gateway.workbench.prompts import ready

if TYPE_CHECKING:
    from mitmproxy.http import HTTPFlow


def is_possible() -> bool:
    """Whether this mitmproxy can hold flows."""
    return "intercept" in ctx.options


def hold(client: str | None) -> None:
    """Hold the calls of a client from now on; None holds none."""
    ctx.options.update(intercept=_filter(client) if client else None)


def held() -> str | None:
    """Name the client whose calls are held; ``*`` where another filter is set, None where there is none."""
    if not is_possible() or not ctx.options.intercept or not ctx.options.intercept_active:
        return None
    found = re.fullmatch(r'~q & ~meta "\^gateway_client: (.*)\$"', ctx.options.intercept)
    if found is None:
        return "*"
    # Unquoted twice, as `_filter` quotes.
    return re.sub(r"\\(.)", r"\1", re.sub(r"\\(.)", r"\1", found[1]))


def _filter(client: str) -> str:
    # In a filter, a backslash quotes once more.
    quoted = re.escape(client).replace("\\", "\\\\").replace('"', '\\"')
    return f'~q & ~meta "^gateway_client: {quoted}$"'


async def edit(flow: HTTPFlow, asked: bytes) -> None:
    """Give a held call another body, as the page sends it. Raises EditError, and ChildError."""
    if flow.intercepted:
        body = await bodies.read(ready, (flow.request,), asked, {})
    if not flow.intercepted:
        raise EditError("The call is not held any more.")
    flow.request.headers.pop("content-encoding", None)
    flow.request.content = body.asking_for(body.model)
    _tell(flow)


def release(flow: HTTPFlow) -> None:
    """Let a held call go."""
    if flow.intercepted:
        flow.resume()
        _tell(flow)


def drop(flow: HTTPFlow) -> None:
    """End a held call; its client is told that it was ended."""
    if flow.intercepted and flow.killable:
        flow.kill()
        _tell(flow)


def _tell(flow: HTTPFlow) -> None:
    ctx.master.addons.trigger(hooks.UpdateHook([flow]))
