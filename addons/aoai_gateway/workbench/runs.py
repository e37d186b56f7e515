"""An edited prompt to several places at once, streaming; every run is a call like any other.

Of the prompt and each place a flow is made, and sent; of its answer, the text is read as it streams.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mitmproxy import connection, exceptions, http
from mitmproxy import flow as flows
from mitmproxy.utils import asyncio_utils

from aoai_gateway.bounded import Bounded
from aoai_gateway.inspect.client_replay import aim, as_call, play
from aoai_gateway.inspect.views.shapes import Unreadable, decode, mapping, mappings, text
from aoai_gateway.rerun.case_set import PATHS
from aoai_gateway.runtime.log_records import log_exception
from aoai_gateway.wire.gateway_error import GatewayError
from aoai_gateway.wire.targets import dialect_of, parse_target
from aoai_gateway.workbench.calls import News
from aoai_gateway.workbench.page_requests import EditError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mitmproxy.http import HTTPFlow

    from aoai_gateway.engine.call import Setup
    from aoai_gateway.workbench.prompts import Body

LONGEST_NAME = 64
MOST = 32
"""Calls of one run; each is paid for."""

AT_ONCE = 6
LONGEST_SECONDS = 900.0
MOST_RUNS = 50
"""Runs that are remembered; their calls are in the list like all others."""

MOST_TEXT = 200_000
"""Characters of a stream that are passed on as they come; the whole answer can be read at its end."""

LONGEST_EVENT = 1024 * 1024
"""Bytes of an event that is waited for; a longer one is passed over."""

_TEXT_DELTAS = ("response.output_text.delta", "response.refusal.delta")


@dataclass(frozen=True, slots=True)
class Edited:
    """A prompt that is ready to be sent, as a client; ``origin``: the call that it was made of."""

    operation: str
    body: Body
    client: str
    run_by: str
    origin: HTTPFlow | None = None


def flow_for(edited: Edited, place: str, setup: Setup) -> HTTPFlow:
    """Make the flow of a run, to go to one place; its body is not read. Raises EditError."""
    if setup.config.client_named(edited.client) is None:
        raise EditError(f"There is no client {edited.client!r}.")
    try:
        # A copy: one that is held, or still under way, can be tried elsewhere meanwhile.
        flow = as_call(edited.origin.copy()) if edited.origin is not None else _new(edited.operation)
        target = parse_target(flow.request.method, flow.request.path)
        deployment, only = aim(
            target.deployment or edited.body.model or place.partition("@")[0], place, setup
        )
        flow.request.path = target.with_deployment(deployment)
    except exceptions.CommandError as error:
        raise EditError(str(error)) from None
    except GatewayError as error:
        raise EditError(error.message) from None
    flow.metadata.pop("gateway_only_backend", None)
    if only is not None:
        flow.metadata["gateway_only_backend"] = only
    flow.request.headers.pop("content-encoding", None)
    flow.request.headers["content-type"] = "application/json"
    in_body = deployment if target.deployment is None else edited.body.model
    flow.request.content = edited.body.asking_for(in_body)
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
    flow.request = http.Request.make("POST", f"http://localhost{path}", b"")
    for name, value in dialect_of(path).headers:
        flow.request.headers[name] = value
    return flow


@dataclass(slots=True)
class Entry:
    """One call of a run: where it goes, and what of it has come."""

    flow: HTTPFlow
    place: str
    number: int
    """Its number among several to the same place, from 1."""
    text: str = ""
    state: str = "waiting"
    """``waiting``, ``running``, ``done`` or ``failed``."""
    first: float | None = None
    began: float | None = None

    def told(self, since: int) -> dict[str, Any]:
        """Return what a page does not know yet, of which it has ``since`` characters."""
        return {
            "id": self.flow.id,
            "place": self.place,
            "number": self.number,
            "state": self.state,
            "text": self.text[since:],
            "since": since,
        }


@dataclass(slots=True)
class Run:
    """Calls that belong together."""

    ident: str
    entries: list[Entry]
    followers: set[News] = field(default_factory=set)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    @property
    def is_over(self) -> bool:
        """Whether all of them have ended."""
        return all(entry.state in ("done", "failed") for entry in self.entries)

    def tell(self) -> None:
        """Tell all pages that follow it that something has changed."""
        for each in self.followers:
            each.tell()

    def cancel(self) -> None:
        """Give up what is still under way."""
        for entry, task in zip(self.entries, self.tasks, strict=True):
            if entry.state in ("waiting", "running"):
                if entry.flow.killable:
                    entry.flow.kill()
                task.cancel()


class Taps:
    """A mitmproxy addon that reads the streams of runs as they pass."""

    name = "gatewayworkbenchruns"
    gateway_asks = True

    def __init__(self) -> None:
        self.under_way: dict[str, tuple[Run, Entry]] = {}

    def responseheaders(self, flow: HTTPFlow) -> None:
        """Look at a run's stream as it passes."""
        known = self.under_way.get(flow.id)
        if known is not None and flow.response is not None:
            flow.response.stream = _tap(*known, flow.response.stream)


class Runs:
    """Starts runs. ``listen`` adds what reads their streams, when it is first needed."""

    def __init__(self, listen: Callable[[Taps], None]) -> None:
        self._runs: Bounded[str, Run] = Bounded(MOST_RUNS)
        self._taps = Taps()
        self._listen: Callable[[Taps], None] | None = listen

    def get(self, ident: str) -> Run | None:
        """Return a run, None if it is not (any more) known."""
        return self._runs.get(ident)

    def start(self, edited: Edited, places: Sequence[str], count: int, setup: Setup) -> Run:
        """Send a prompt to each place, so many times. Raises EditError."""
        if not places:
            raise EditError("Choose where it is to run.")
        if count < 1 or len(places) * count > MOST:
            raise EditError(f"{MOST} calls are the most of one run.")
        entries = [
            Entry(flow_for(edited, place, setup), place, number)
            for place in places
            for number in range(1, count + 1)
        ]
        if self._listen is not None:
            self._listen(self._taps)
            self._listen = None
        run = Run(entries[0].flow.id, entries)
        self._runs.put(run.ident, run)
        room = asyncio.Semaphore(AT_ONCE)
        for entry in entries:
            self._taps.under_way[entry.flow.id] = run, entry
            sent = self._send(run, entry, room)
            run.tasks.append(asyncio_utils.create_task(sent, name="run of the workbench", keep_ref=True))
        return run

    async def _send(self, run: Run, entry: Entry, room: asyncio.Semaphore) -> None:
        try:
            async with room:
                entry.state, entry.began = "running", time.monotonic()
                run.tell()
                await asyncio.wait_for(play(entry.flow), LONGEST_SECONDS)
            response = entry.flow.response
            entry.state = "done" if response is not None and response.status_code < 400 else "failed"
        except TimeoutError:
            entry.flow.error = flows.Error(f"No answer within {LONGEST_SECONDS:.0f} s.")
            entry.state = "failed"
        except asyncio.CancelledError:
            entry.state = "failed"
            raise
        except Exception as error:
            entry.state = "failed"
            log_exception("in a run of the workbench; it was given up.", error)
        finally:
            self._taps.under_way.pop(entry.flow.id, None)
            run.tell()


def _tap(run: Run, entry: Entry, before: Any) -> Callable[[bytes], Any]:
    """Return what reads a stream's text on its way, after another addon that looks at it."""
    reader = TextReader()

    def pass_on(data: bytes) -> Any:
        passed = before(data) if callable(before) else data
        if data and len(entry.text) < MOST_TEXT:
            entry.text += reader.feed(data)
            run.tell()
        return passed

    return pass_on


class TextReader:
    """Takes the bytes of an event stream as they come."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> str:
        """Return the text that has come with these bytes."""
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        if len(self._rest) > LONGEST_EVENT:
            self._rest = b""
        return "".join(map(_text_of, lines))


def _text_of(line: bytes) -> str:
    if not line.startswith(b"data:"):
        return ""
    try:
        event = mapping(decode(line[5:].strip()))
    except (Unreadable, RecursionError):
        return ""
    if event.get("type") in _TEXT_DELTAS:
        return text(event.get("delta"))
    if event.get("type") == "content_block_delta":
        return text(mapping(event.get("delta")).get("text"))
    choices = mappings(event.get("choices"))
    if not choices or choices[0].get("index", 0) != 0:
        return ""
    return text(mapping(choices[0].get("delta")).get("content")) or text(choices[0].get("text"))
