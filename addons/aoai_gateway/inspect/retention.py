"""Flat memory where flows are kept to be looked at.

mitmweb and mitmproxy keep every flow until a user deletes it (mitmproxy issues 4129 and 6398), so an
afternoon of traffic fills the memory. With this addon they keep so many; the oldest calls go first, each
with all of its attempts. What a user still needs stays: a call that is under way or held, and one that a
person has marked. The gateway's own markers say what happened to a call, not that it is to be kept.

Nothing of this is loaded where no flow list is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from mitmproxy import ctx, exceptions

from aoai_gateway.inspect.annotate import is_marked_by_a_person

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from mitmproxy.addonmanager import AddonManager, Loader
    from mitmproxy.addons.view import View
    from mitmproxy.flow import Flow
    from mitmproxy.http import HTTPFlow

KEEP_FLOWS = 2_000
"""A flow with a prompt of some pages takes about 50 KB."""

KEEP_MESSAGES = 1_000

FIRST_MESSAGES = 20
"""A realtime session begins with its settings; without them, what follows cannot be understood."""


class Retention:
    """Bounds the flow list, and the messages of each realtime session in it."""

    name = "gatewaykeptflows"

    def __init__(self, view: View, is_looked_at: Callable[[Flow], bool]) -> None:
        """``is_looked_at``: whether a user has a flow before them just now, as far as that is known."""
        self._view = view
        self._is_looked_at = is_looked_at
        self._look_at = 0
        """How many flows there must be until it is worth looking for some that can go."""

    def load(self, loader: Loader) -> None:
        """Register the options."""
        loader.add_option(
            "gateway_keep_flows",
            int,
            KEEP_FLOWS,
            "Keep so many flows; the oldest calls go first, but none that you have marked, that is held or "
            "that is under way. 0 keeps all.",
        )
        loader.add_option(
            "gateway_keep_messages",
            int,
            KEEP_MESSAGES,
            f"Keep the first {FIRST_MESSAGES} and so many of the last messages of a realtime session. "
            "0 keeps all.",
        )

    def configure(self, updated: Collection[str]) -> None:
        """Check that the bounds are not negative."""
        for name in ("gateway_keep_flows", "gateway_keep_messages"):
            if name in updated and getattr(ctx.options, name) < 0:
                raise exceptions.OptionsError(f"{name} must be 0, which keeps all, or more.")
        if "gateway_keep_flows" in updated:
            self._look_at = 0
            self._tidy()

    def requestheaders(self, flow: HTTPFlow) -> None:
        """Make room for a flow that was added."""
        self._tidy()

    def websocket_message(self, flow: HTTPFlow) -> None:
        """Make room in a session for a message that was added."""
        kept, session = ctx.options.gateway_keep_messages, flow.websocket
        if kept <= 0 or session is None or len(session.messages) <= FIRST_MESSAGES + kept:
            return
        # A tenth more than must, so that the list is not moved for each message.
        gone = len(session.messages) - FIRST_MESSAGES - kept + kept // 10
        del session.messages[FIRST_MESSAGES : FIRST_MESSAGES + gone]
        already = flow.metadata.get("gateway_messages_gone", 0)
        flow.metadata["gateway_messages_gone"] = already + gone

    def _tidy(self) -> None:
        bound: int = ctx.options.gateway_keep_flows
        count = self._view.store_count()
        if bound <= 0 or count <= max(bound, self._look_at):
            return
        # To look through all flows for each new one would cost ever more; so a twentieth more goes than must.
        step = bound // 20
        for flow in surplus(self._view.resolve("@all"), count - bound + step, self._is_needed):
            # One by one: several at once are announced in the log.
            self._view.remove([flow])
        left = self._view.store_count()
        # If that many are needed, there is no use in looking again before some more have come.
        self._look_at = left + step if left > bound else 0

    def _is_needed(self, flow: Flow) -> bool:
        return flow.live or flow.intercepted or is_marked_by_a_person(flow) or self._is_looked_at(flow)


def surplus(flows: Iterable[Flow], count: int, is_needed: Callable[[Flow], bool]) -> list[Flow]:
    """Choose the flows that are to go: whole calls, the oldest first, until there are ``count`` of them.

    A call is all flows with the same id: its own, its failed attempts, and copies that a user has made
    of them. It is as old as its youngest flow, in the order of ``flows``, and stays if one of them is needed.
    """
    calls: dict[str, list[Flow]] = {}
    needed: set[str] = set()
    for flow in flows:
        call = str(flow.metadata.get("gateway_call", flow.id))
        group = calls.pop(call, [])
        group.append(flow)
        calls[call] = group
        if is_needed(flow):
            needed.add(call)
    chosen: list[Flow] = []
    for call, group in calls.items():
        if len(chosen) >= count:
            break
        if call not in needed:
            chosen += group
    return chosen


def install(addons: AddonManager) -> None:
    """Bound the flow list, where there is one; once, however often it is called."""
    view = cast("View | None", addons.get("view"))
    if view is None or addons.get(Retention.name) is not None:
        return

    def is_looked_at(flow: Flow) -> bool:
        # In mitmweb it is the browser that knows.
        return addons.get("consoleaddon") is not None and view.focus.flow is flow

    addons.add(Retention(view, is_looked_at))
