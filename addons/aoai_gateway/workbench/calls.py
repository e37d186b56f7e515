"""The calls that the workbench shows: which operation each is, and the pages that are told of changes.

A mitmproxy addon sees flows begin, end and change. It keeps references only: as long as no page is open,
nothing is read of a flow but its path and the sizes of its bodies. Pages hear of changes in batches
(`Feed`), which take a bounded part of the event loop however busy the gateway is.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import OrderedDict
from functools import lru_cache
from typing import TYPE_CHECKING

from mitmproxy.http import HTTPFlow

from aoai_gateway.inspect.views.facts import operation_of
from aoai_gateway.rerun.case_set import PATHS
from aoai_gateway.wire.gateway_error import GatewayError
from aoai_gateway.wire.operations import UNKNOWN_NAME
from aoai_gateway.wire.targets import parse_target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mitmproxy.addons.view import View
    from mitmproxy.flow import Flow

LONGEST_REMEMBERED = 256
"""Characters of a path: clients use few, but may make up many."""

LEFT_OUT = frozenset({UNKNOWN_NAME, "models", "models.retrieve"})
"""No calls here, but lists of models."""


def kind_of(method: str, path: str) -> tuple[str, str]:
    """Return the operation, and the deployment that the path names; both empty for what is no call.

    ``method`` and ``path`` as they came, the path with its query.
    """
    return (_remembered if len(path) <= LONGEST_REMEMBERED else _kind_of)(method, path)


def _kind_of(method: str, path: str) -> tuple[str, str]:
    found = operation_of(path)
    if found[0]:
        return found
    try:
        target = parse_target(method, path)
    except GatewayError:
        return "", ""
    name = target.operation.name
    return ("", "") if name in LEFT_OUT else (name, target.deployment or "")


_remembered = lru_cache(maxsize=1024)(_kind_of)


def can_be_run(operation: str) -> bool:
    """Whether calls of an operation can be edited and run: it takes a prompt in JSON."""
    return operation in PATHS


class News:
    """Whether a page has something to hear, or has been closed; each has its own, so all hear at once."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.closed = False

    def tell(self) -> None:
        """Wake the page's stream."""
        self._event.set()

    def close(self) -> None:
        """Wake it for the last time: the page is gone."""
        self.closed = True
        self._event.set()

    def heard(self) -> None:
        """Wait for the next news; after this call, send all that there is."""
        if not self.closed:
            self._event.clear()

    async def wait(self, seconds: float) -> bool:
        """Wait for news, for so many seconds at most. False if there were none."""
        try:
            await asyncio.wait_for(self._event.wait(), seconds)
        except TimeoutError:
            return False
        return True


MOST_CALLS = 10_000
MOST_BYTES = 128 * 1024 * 1024
"""The most bytes of bodies, where no flow list of mitmproxy's says which flows are kept."""

MOST_ATTEMPTS = 32
"""Failed attempts that are kept of one call."""


class Feed:
    """What one page has yet to hear: the ids of calls that are new or changed, and of those that are gone."""

    def __init__(self, news: News) -> None:
        """``news`` is the page's, and hears that there is something."""
        self.changed: dict[str, None] = {}
        self.gone: list[str] = []
        self._news = news

    def tell(self, ident: str, *, gone: bool = False) -> None:
        """Note a change."""
        if gone:
            self.changed.pop(ident, None)
            self.gone.append(ident)
        else:
            self.changed[ident] = None
        self._news.tell()

    def take(self, most: int) -> tuple[list[str], list[str]]:
        """Return the next changes, and all that is gone."""
        changed = list(itertools.islice(self.changed, most))
        for ident in changed:
            del self.changed[ident]
        gone, self.gone = self.gone, []
        if not self.changed:
            self._news.heard()
        return changed, gone


class Calls:
    """Follows the calls of a gateway.

    Args:
        view: mitmproxy's flow list, where there is one: then a call stays as long as it is in it.
        say: writes on a flow what became of its call, if that was put off until the flow is looked at.

    """

    name = "gatewayworkbench"
    gateway_asks = True

    def __init__(self, view: View | None = None, say: Callable[[HTTPFlow], None] | None = None) -> None:
        self._say = say
        self._flows: OrderedDict[str, HTTPFlow] = OrderedDict()
        self._attempts: dict[str, list[HTTPFlow]] = {}
        self._sizes: dict[str, int] = {}
        self._bytes = 0
        self._bounded = view is None
        self._view = view
        self.feeds: set[Feed] = set()
        if view is not None:
            view.sig_store_remove.connect(self._removed)
            view.sig_store_refresh.connect(self._refreshed)

    def __len__(self) -> int:
        return len(self._flows)

    def __iter__(self) -> Iterator[HTTPFlow]:
        """Return the calls, the oldest first, with or without what became of them: see `get`."""
        return iter(list(self._flows.values()))

    def get(self, ident: str) -> HTTPFlow | None:
        """Return the flow of a call, with what became of it; None if it is not here any more."""
        flow = self._flows.get(ident)
        if flow is not None and self._say is not None:
            self._say(flow)
        return flow

    def attempts_of(self, flow: HTTPFlow) -> list[HTTPFlow]:
        """Return the flows of a call's failed attempts, in their order."""
        return self._attempts.get(str(flow.metadata.get("gateway_call", "")), [])

    def touched(self, ident: str) -> None:
        """Tell pages that a call has changed."""
        if ident in self._flows:
            for feed in self.feeds:
                feed.tell(ident)

    # --- mitmproxy's events ------------------------------------------------------------------------------

    def seen(self, flow: HTTPFlow) -> None:
        """Take a call whose request is complete, and see its end, with or without an answer."""
        if "gateway_attempt" in flow.metadata:
            self._put_attempt(flow)
            return
        if flow.id not in self._flows:
            if not kind_of(flow.request.method, flow.request.path)[0]:
                return
            self._flows[flow.id] = flow
        self._measure(flow)
        if self._bounded and (self._bytes > MOST_BYTES or len(self._flows) > MOST_CALLS):
            self._make_room()
        if self.feeds:
            self.touched(flow.id)

    request = response = websocket_end = error = seen

    def update(self, flows: Sequence[Flow]) -> None:
        """See what a person has changed: held, released, edited."""
        if self.feeds:
            for flow in flows:
                self.touched(flow.id)

    def _put_attempt(self, flow: HTTPFlow) -> None:
        attempts = self._attempts.setdefault(str(flow.metadata.get("gateway_call", "")), [])
        while len(self._attempts) > MOST_CALLS:
            # Of calls that were replayed since, and so have another id now.
            for each in self._attempts.pop(next(iter(self._attempts))):
                self._bytes -= self._sizes.pop(each.id, 0)
        if flow not in attempts and len(attempts) < MOST_ATTEMPTS:
            attempts.append(flow)
            self._measure(flow)

    def _measure(self, flow: HTTPFlow) -> None:
        response = flow.response
        size = len(flow.request.data.content or b"")
        if response is not None:
            size += len(response.data.content or b"")
        self._bytes += size - self._sizes.get(flow.id, 0)
        self._sizes[flow.id] = size

    # --- room --------------------------------------------------------------------------------------------

    def _make_room(self) -> None:
        while len(self._flows) > MOST_CALLS or (self._bytes > MOST_BYTES and len(self._flows) > 1):
            self._forget(next(iter(self._flows)))

    def _forget(self, ident: str) -> None:
        flow = self._flows.pop(ident, None)
        if flow is None:
            return
        for each in (flow, *self._attempts.pop(str(flow.metadata.get("gateway_call", "")), ())):
            self._bytes -= self._sizes.pop(each.id, 0)
        for feed in self.feeds:
            feed.tell(ident, gone=True)

    def _removed(self, flow: Flow) -> None:
        self._forget(flow.id)

    def _refreshed(self) -> None:
        """Check that the flow list was cleared, or tidied."""
        assert self._view is not None
        for ident in [ident for ident in self._flows if self._view.get_by_id(ident) is None]:
            self._forget(ident)
