"""The commands about the gateway itself: its parts, their state, and manual control.

They are renderings of the admin listener's document and of its controls, for users of mitmproxy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mitmproxy import exceptions

from aoai_gateway.admin.controls import ControlError
from aoai_gateway.admin.snapshot import snapshot_at_once
from aoai_gateway.admin.terminal import table
from aoai_gateway.config.switches import KINDS
from aoai_gateway.proxy.health import state_in_words
from aoai_gateway.runtime.mitmproxy_host import command

if TYPE_CHECKING:
    from collections.abc import Callable

    from aoai_gateway.admin.controls import Controls
    from aoai_gateway.runtime.gateway import Gateway

SHARED = "The quotas are counted in a shared store; `aoai-gateway status` shows them."

BREAK_SECONDS = 300


class GatewayStateCommands:
    """Commands about backends, clients, queues, breaks and switches."""

    name = "gatewaystatecommands"

    def __init__(self, gateway: Gateway, controls: Controls) -> None:
        self._gateway = gateway
        self._controls = controls

    # --- looking -----------------------------------------------------------------------------------------

    @command("gateway.backends")
    def backends(self) -> Sequence[str]:
        """The backends: breaks, the free share of their capacity, calls in flight, the last 15 minutes."""
        return self._table("backends")

    @command("gateway.clients")
    def clients(self) -> Sequence[str]:
        """The clients: classes, calls in flight, the last 15 minutes, and how their quotas stand."""
        shown = self._table("clients")
        shared = state_in_words(self._gateway.state) == "shared"
        return [*shown, "", SHARED] if shared else shown

    @command("gateway.line")
    def line(self) -> Sequence[str]:
        """The virtual deployments: how many backends are available, and how many calls wait for how long."""
        return self._table("deployments")

    def _table(self, name: str) -> list[str]:
        return table(snapshot_at_once(self._gateway), name)

    # --- changing ----------------------------------------------------------------------------------------

    @command("gateway.break.places")
    def break_places(self) -> Sequence[str]:
        """The names that can be put into a break: backends and endpoints."""
        state = snapshot_at_once(self._gateway)
        names = [each["name"] for key in ("backends", "endpoints") for each in state[key]]
        return list(dict.fromkeys(names))

    @command("gateway.break.open", where="gateway.break.places")
    def break_open(self, where: str, seconds: int = BREAK_SECONDS, *reason: str) -> str:
        """Skip a backend, or a whole endpoint, for so many seconds (300 if none are given)."""
        return _done(lambda: self._controls.open_break(where, seconds, " ".join(reason)))

    @command("gateway.break.close", where="gateway.break.places")
    def break_close(self, where: str) -> str:
        """End the breaks of a backend, or of a whole endpoint."""
        return _done(lambda: self._controls.close_break(where))

    @command("gateway.switch.states")
    def switch_states(self) -> Sequence[str]:
        """The states that gateway.switch can set."""
        return ["off", "on"]

    @command("gateway.switch.kinds")
    def switch_kinds(self) -> Sequence[str]:
        """The kinds of things that gateway.switch can switch."""
        return list(KINDS)

    @command("gateway.switch", to="gateway.switch.states", kind="gateway.switch.kinds")
    def switch(self, to: str, kind: str, *name: str) -> str:
        """Switch an endpoint, a standin or a client off, or on again; it holds until the restart."""
        return _done(lambda: self._controls.switch(kind, " ".join(name), on=to == "on"))


def _done(act: Callable[[], str]) -> str:
    try:
        return act()
    except ControlError as error:
        raise exceptions.CommandError(str(error)) from None
