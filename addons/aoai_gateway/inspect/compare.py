"""The same prompt to several deployments, or several edits of it: sent again, and laid out side by side.

Each answer is a flow of its own. The comparison is one more, without a call behind it, whose response is a
text: so every user interface can show it, and it is saved with the rest.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from mitmproxy import ctx, exceptions, flow, http
from mitmproxy.hooks import UpdateHook
from mitmproxy.proxy.layers.http import (
    HttpRequestHeadersHook,
    HttpRequestHook,
    HttpResponseHeadersHook,
    HttpResponseHook,
)
from mitmproxy.utils import asyncio_utils

from aoai_gateway.inspect.annotate import COMPARED
from aoai_gateway.inspect.answers import said_in
from aoai_gateway.inspect.asked import last_words
from aoai_gateway.inspect.client_replay import play
from aoai_gateway.inspect.comparison import Entry, side_by_side
from aoai_gateway.inspect.replays import aimed, as_call, deployment_of
from aoai_gateway.runtime.log_records import log_exception
from aoai_gateway.wire.content_coding import readable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mitmproxy.proxy.commands import StartHook

    from aoai_gateway.engine.call import Setup

AT_ONCE = 4
"""Calls of a comparison that run at the same time."""

MOST = 32
"""Calls of one comparison; each is paid for."""

LONGEST_SECONDS = 900.0
"""The time for one answer. Every call has bounds of its own; a user who holds it by `intercept` has none."""

NOWHERE = "aoai-gateway.invalid"
"""The host of a comparison's flow. It is never connected to, and cannot be (RFC 6761 §6.4)."""


def prepare(
    flows: Sequence[flow.Flow], wheres: Sequence[str], setup: Setup
) -> list[tuple[str, http.HTTPFlow]]:
    """Copy the flows for a comparison, each with a title. Raises CommandError if there is nothing to compare.

    Args:
        flows: the calls, or edits of one.
        wheres: deployments and backends that each of them goes to; without any, where it went.
        setup: the configuration in force.

    """
    count = len(flows) * max(1, len(wheres))
    if count < 2:
        raise exceptions.CommandError("Name two deployments or backends at least, or select several flows.")
    if count > MOST:
        raise exceptions.CommandError(f"That would be {count} calls; {MOST} is the most of one comparison.")
    entries = []
    for number, each in enumerate(flows, 1):
        edit = f"#{number} " if len(flows) > 1 else ""
        if not wheres:
            copy = as_call(each)
            only = copy.metadata.get("gateway_only_backend")
            entries.append((f"{edit}{only or deployment_of(copy.request)}", copy))
        entries += [(edit + where, aimed(each, where, setup)) for where in wheres]
    return entries


class Comparison:
    """A comparison under way, and its flow."""

    def __init__(self, entries: Sequence[tuple[str, http.HTTPFlow]], setup: Setup) -> None:
        self._entries = entries
        self._setup = setup
        self._several = len({_asked(copy.request) for _, copy in entries}) > 1
        self._answered = 0
        first = entries[0][1]
        self.flow = http.HTTPFlow(first.client_conn.copy(), first.server_conn.copy())
        names = quote("+".join(title for title, _ in entries), safe="@+")
        self.flow.request = http.Request.make("GET", f"http://{NOWHERE}/compare/{names}")
        self.flow.marked = COMPARED
        self.flow.comment = self._comment()

    def start(self) -> None:
        """Show the comparison, and send its calls."""
        asyncio_utils.create_task(self._run(), name="comparison of answers", keep_ref=True)

    def _comment(self) -> str:
        count = len(self._entries)
        state = f"{self._answered} of {count} answered" if self._answered < count else f"{count} answers"
        return f"comparison: {state} · " + ", ".join(title for title, _ in self._entries)

    async def _run(self) -> None:
        try:
            await self._tell(HttpRequestHeadersHook(self.flow), HttpRequestHook(self.flow))
            places = asyncio.Semaphore(AT_ONCE)
            await asyncio.gather(*(self._ask(copy, places) for _, copy in self._entries))
            # In a thread: long answers take a moment, and calls are served meanwhile.
            answer = await asyncio.to_thread(self._laid_out)
            self.flow.response = http.Response.make(
                200, answer, {"content-type": "text/plain; charset=utf-8"}
            )
            self.flow.response.timestamp_end = time.time()
            await self._tell(HttpResponseHeadersHook(self.flow), HttpResponseHook(self.flow))
            view = ctx.master.addons.get("view")
            if view is not None and self.flow in view:
                # Where the list has a focus, in the console, it is what one has waited for.
                view.focus.flow = self.flow
        except Exception as error:
            log_exception("in a comparison of answers; it was given up.", error)

    async def _ask(self, copy: http.HTTPFlow, places: asyncio.Semaphore) -> None:
        async with places:
            try:
                await asyncio.wait_for(play(copy), LONGEST_SECONDS)
            except TimeoutError:
                copy.error = flow.Error(f"No answer within {LONGEST_SECONDS:.0f} s.")
        self._answered += 1
        self.flow.comment = self._comment()
        await ctx.master.addons.trigger_event(UpdateHook([self.flow]))

    async def _tell(self, *hooks: StartHook) -> None:
        for hook in hooks:
            await ctx.master.addons.handle_lifecycle(hook)
        if self.flow.intercepted:
            # There is nothing to hold.
            self.flow.resume()

    def _laid_out(self) -> str:
        return side_by_side([self._entry(title, copy) for title, copy in self._entries])

    def _entry(self, title: str, copy: http.HTTPFlow) -> Entry:
        said, response = said_in(copy), copy.response
        deployment = _name(copy.metadata, "gateway_deployment")
        price = self._setup.config.price_of(deployment, said.model or None)
        usage = said.usage
        taken, given = (
            _number(copy.metadata, "gateway_tokens_in"),
            _number(copy.metadata, "gateway_tokens_out"),
        )
        return Entry(
            title=title,
            text=said.text,
            status=response.status_code if response is not None else None,
            error="" if response is not None else "no answer",
            backend=_name(copy.metadata, "gateway_backend"),
            attempts=_number(copy.metadata, "gateway_attempts"),
            first_content_ms=_number(copy.metadata, "gateway_first_content_ms"),
            duration_ms=_number(copy.metadata, "gateway_duration_ms"),
            input_tokens=taken,
            output_tokens=given,
            cost=price.cost(taken, given or 0, usage.cached_tokens if usage else 0)
            if price is not None and taken is not None
            else None,
            asked=_asked(copy.request) if self._several else "",
        )


def _asked(request: http.Request) -> str:
    """Return the end of what a request asks, in one line."""
    try:
        body = json.loads(readable(request.raw_content, request.headers.get("content-encoding")))
    except (ValueError, RecursionError):
        return ""
    return last_words(body) if isinstance(body, Mapping) else ""


def _name(metadata: Mapping[Any, Any], key: str) -> str:
    value = metadata.get(key)
    return value if isinstance(value, str) else ""


def _number(metadata: Mapping[Any, Any], key: str) -> int | None:
    value = metadata.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
