"""The same prompt to several deployments, or several edits of it: sent again, and laid out side by side.

Each answer is a flow of its own. The comparison is one more, without a call behind it, whose response is a
text: so every user interface can show it, and it is saved with the rest.
"""

from __future__ import annotations

import asyncio
import json
import textwrap
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING
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
from aoai_gateway.inspect.asked import last_words
from aoai_gateway.inspect.client_replay import aimed, as_call, deployment_of, play
from aoai_gateway.inspect.said import Said, said, unread
from aoai_gateway.inspect.views.contentviews import facts_in
from aoai_gateway.inspect.views.facts import Facts
from aoai_gateway.runtime.log_records import log_exception
from aoai_gateway.wire.content_coding import readable
from aoai_gateway.wire.printing import cut, width_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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
        found, response = said_in(copy), copy.response
        facts, usage = Facts(metadata=copy.metadata), found.usage
        price = self._setup.config.price_of(facts.name("gateway_deployment"), found.model or None)
        taken, given = facts.number("gateway_tokens_in"), facts.number("gateway_tokens_out")
        return Entry(
            title=title,
            text=found.text,
            status=response.status_code if response is not None else None,
            error="" if response is not None else "no answer",
            backend=facts.name("gateway_backend"),
            attempts=facts.number("gateway_attempts"),
            first_content_ms=facts.number("gateway_first_content_ms"),
            duration_ms=facts.number("gateway_duration_ms"),
            input_tokens=taken,
            output_tokens=given,
            cost=price.cost(int(taken), int(given or 0), usage.cached_tokens if usage else 0)
            if price is not None and taken is not None
            else None,
            asked=_asked(copy.request) if self._several else "",
        )


def said_in(flow: http.HTTPFlow) -> Said:
    """Read the answer of a flow; no content of it raises an exception."""
    response = flow.response
    if response is None or response.raw_content is None:
        return unread(flow)
    data = readable(response.raw_content, response.headers.get("content-encoding"))
    return said(data, facts_in(flow, response))


def _asked(request: http.Request) -> str:
    """Return the end of what a request asks, in one line."""
    try:
        body = json.loads(readable(request.raw_content, request.headers.get("content-encoding")))
    except (ValueError, RecursionError):
        return ""
    return last_words(body) if isinstance(body, Mapping) else ""


# --- laid out as text ----------------------------------------------------------------------------------

WIDTH = 74
"""Columns of the whole text: what fits beside mitmweb's flow list in a window of 1,280 pixels."""

NARROWEST = 32
"""Columns that an answer needs to be read beside others."""

LONGEST_TEXT = 100_000
"""Characters of an answer that are laid out; the answer's own flow has all of it."""

MOST_COLUMNS = 4
"""Answers whose figures stand beside each other; of more, some are below."""

GAP = " │ "


@dataclass(frozen=True, slots=True)
class Entry:
    """One answer, as far as it is known. Times are in milliseconds, ``cost`` in the currency of `prices`."""

    title: str
    """Its name among the others: the deployment, the backend, or the number of the edit."""
    text: str = ""
    status: int | None = None
    error: str = ""
    backend: str = ""
    attempts: float | None = None
    first_content_ms: float | None = None
    duration_ms: float | None = None
    input_tokens: float | None = None
    output_tokens: float | None = None
    cost: float | None = None
    asked: str = ""
    """The end of the prompt, where the prompts differ."""


def side_by_side(entries: Sequence[Entry]) -> str:
    """Lay entries out; "" for none."""
    if not entries:
        return ""
    places = range(0, len(entries), MOST_COLUMNS)
    tables = (_table(entries[place : place + MOST_COLUMNS]) for place in places)
    return "\n\n".join(tables) + "\n\n" + "\n".join(_texts(entries)) + "\n"


def _table(entries: Sequence[Entry]) -> str:
    columns = len(entries)
    share = (WIDTH - 14 - len(GAP) * (columns - 1)) // columns
    widths = [max(10, min(max(map(width_of, _cells(entry))), max(share, 20))) for entry in entries]
    lines = [_row("", [entry.title for entry in entries], widths)]
    lines.append("─" * min(WIDTH, max(map(width_of, lines))))
    for label, cell in ROWS:
        cells = [cell(entry) for entry in entries]
        if any(cells):
            lines.append(_row(label, [text or "–" for text in cells], widths))
    return "\n".join(lines)


def _figure(value: float | None, unit: str = "") -> str:
    return "" if value is None else f"{value:,.0f}{unit}"


def _speed(entry: Entry) -> str:
    if not entry.output_tokens or not entry.duration_ms:
        return ""
    seconds = (entry.duration_ms - (entry.first_content_ms or 0.0)) / 1000
    return f"{entry.output_tokens / seconds:,.0f} tokens/s" if seconds > 0 else ""


def _cost(entry: Entry) -> str:
    return "" if entry.cost is None else f"{entry.cost:.6f}"


ROWS: tuple[tuple[str, Callable[[Entry], str]], ...] = (
    ("asked", lambda e: e.asked),
    ("status", lambda e: e.error or _figure(e.status)),
    ("backend", lambda e: e.backend),
    ("attempts", lambda e: _figure(e.attempts)),
    ("first token", lambda e: _figure(e.first_content_ms, " ms")),
    ("total", lambda e: _figure(e.duration_ms, " ms")),
    ("speed", _speed),
    ("tokens in", lambda e: _figure(e.input_tokens)),
    ("tokens out", lambda e: _figure(e.output_tokens)),
    ("cost", _cost),
)
"""The figures, in their order; a row without any value is left out."""


def _cells(entry: Entry) -> list[str]:
    return [entry.title, *(cell(entry) for _, cell in ROWS)]


def _texts(entries: Sequence[Entry]) -> list[str]:
    first = entries[0].text
    if len(entries) > 1 and first and all(entry.text == first for entry in entries):
        return ["All answers are the same:", "", _text(entries[0])]
    width = (WIDTH - len(GAP) * (len(entries) - 1)) // len(entries)
    if width < NARROWEST:
        lines: list[str] = []
        for entry in entries:
            lines += [f"── {entry.title} ".ljust(WIDTH, "─"), *_wrapped(_text(entry), WIDTH), ""]
        return lines
    columns = [_wrapped(_text(entry), width) for entry in entries]
    heads = [f"── {_cut(entry.title, width - 4)} ".ljust(width, "─") for entry in entries]
    rows = (
        GAP.join(_padded(cell, width) for cell in cells).rstrip()
        for cells in zip_longest(*columns, fillvalue="")
    )
    return [GAP.join(heads), *rows]


def _text(entry: Entry) -> str:
    if len(entry.text) <= LONGEST_TEXT:
        return entry.text or "(no answer)"
    return f"{entry.text[:LONGEST_TEXT]}\n[{len(entry.text):,} characters; its own flow has them all]"


def _wrapped(text: str, width: int) -> list[str]:
    lines: list[str] = []
    for line in text.expandtabs(4).splitlines():
        kept = textwrap.wrap(line, width, drop_whitespace=False, replace_whitespace=False) or [""]
        for piece in kept:
            while width_of(piece) > width:
                head = cut(piece, width, dots="")
                lines.append(head)
                piece = piece[len(head) :]
            lines.append(piece.rstrip())
    return lines or [""]


def _row(label: str, cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [_padded(_cut(cell, width), width) for cell, width in zip(cells, widths, strict=True)]
    return f"{label:<12}  {GAP.join(padded)}".rstrip()


def _padded(text: str, width: int) -> str:
    return text + " " * max(0, width - width_of(text))


def _cut(text: str, width: int) -> str:
    return cut(text.replace("\n", " "), width)
