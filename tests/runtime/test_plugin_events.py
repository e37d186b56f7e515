"""The events that other addons implement."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest
from mitmproxy import exceptions
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.addons.tlsconfig import TlsConfig
from mitmproxy.test import taddons, tflow

from aoai_gateway.config.models import Client
from aoai_gateway.runtime import stream_hooks
from aoai_gateway.runtime.plugin_events import (
    FLOW_HOOKS,
    LISTENED_TO,
    OUR_EVENTS,
    ClientIdentified,
    GatewayClientIdentifiedHook,
    Listeners,
    ask,
)
from aoai_gateway.runtime.stream_hooks import Ask
from aoai_gateway.wire.errors import forbidden


def hook() -> GatewayClientIdentifiedHook:
    client = Client(name="anybody", key="key-of-anybody")
    return GatewayClientIdentifiedHook(ClientIdentified(tflow.tflow(), client))


class Hears:
    """Listens to one of the gateway's events and to one of mitmproxy's."""

    def __init__(self) -> None:
        self.heard: list[ClientIdentified] = []

    def gateway_client_identified(self, data: ClientIdentified) -> None:
        self.heard.append(data)

    def request(self, flow: object) -> None: ...


class HearsLater(Hears):
    """The same, as a coroutine."""

    async def gateway_client_identified(self, data: ClientIdentified) -> None:  # type: ignore[override]
        self.heard.append(data)


class Nested:
    """An addon made of addons, as a script is."""

    def __init__(self, *addons: object) -> None:
        self.addons = addons


def test_until_it_is_known_everything_is_heard() -> None:
    listeners = Listeners(FLOW_HOOKS + OUR_EVENTS)
    assert all(name in listeners.events for name in FLOW_HOOKS + OUR_EVENTS)


def test_only_events_that_an_addon_implements_are_heard() -> None:
    listeners = Listeners(FLOW_HOOKS + OUR_EVENTS)
    with taddons.context(Hears(), loadcore=False) as tctx:
        listeners.refresh(tctx.master.addons)
        heard = {name for name in FLOW_HOOKS + OUR_EVENTS if name in listeners.events}
        assert heard == {"gateway_client_identified", "request"}
        tctx.master.addons.clear()
        listeners.refresh(tctx.master.addons)
        assert "request" not in listeners.events


@pytest.mark.parametrize(
    ("names", "requests", "calls"),
    [
        ((), False, False),
        (("server_connect", "running", "update"), False, False),
        *(((name,), True, False) for name in FLOW_HOOKS),
        *(((name,), True, True) for name in OUR_EVENTS),
    ],
)
def test_requests_and_calls_are_kept_for_those_who_may_look_at_them(
    names: tuple[str, ...], requests: bool, calls: bool
) -> None:
    listeners = Listeners(LISTENED_TO)
    assert (listeners.requests_are_wanted, listeners.calls_are_wanted) == (True, True), "until it is known"
    addon = type("Addon", (), {name: lambda self, *arguments: None for name in names})()
    with taddons.context(addon, loadcore=False) as tctx:
        listeners.refresh(tctx.master.addons)
        assert (listeners.requests_are_wanted, listeners.calls_are_wanted) == (requests, calls)
        tctx.master.addons.clear()
        listeners.refresh(tctx.master.addons)
    assert (listeners.requests_are_wanted, listeners.calls_are_wanted) == (False, False)


def test_scripts_within_scripts_are_heard() -> None:
    listeners = Listeners(OUR_EVENTS)
    with taddons.context(Nested(Nested(Hears())), loadcore=False) as tctx:
        listeners.refresh(tctx.master.addons)
    assert "gateway_client_identified" in listeners.events


def test_what_is_no_function_does_not_listen() -> None:
    class Odd:
        request = None

    listeners = Listeners(FLOW_HOOKS)
    with taddons.context(Odd(), loadcore=False) as tctx:
        listeners.refresh(tctx.master.addons)
    assert "request" not in listeners.events


@pytest.mark.anyio
@pytest.mark.parametrize("kind", [Hears, HearsLater])
async def test_asking_reaches_functions_and_coroutines(kind: type[Hears]) -> None:
    addon, asked = kind(), hook()
    with taddons.context(Nested(addon), loadcore=False) as tctx:
        await ask(tctx.master.addons, asked)
    assert addon.heard == [asked.data]


@pytest.mark.anyio
@pytest.mark.parametrize("error", [forbidden("Not today."), RuntimeError("a bug")])
async def test_what_a_listener_raises_is_raised(error: Exception) -> None:
    class Refuses:
        def gateway_client_identified(self, data: ClientIdentified) -> None:
            raise error

    later = Hears()
    with taddons.context(Refuses(), later, loadcore=False) as tctx:
        with pytest.raises(type(error)):
            await ask(tctx.master.addons, hook())
        kept = Ask(hook())
        await kept.perform(tctx.master.addons)
    assert kept.error is error
    assert later.heard == [], "a refusal is final"


@pytest.mark.anyio
async def test_an_ask_without_objection_has_no_error() -> None:
    with taddons.context(Hears(), loadcore=False) as tctx:
        asked = Ask(hook())
        await asked.perform(tctx.master.addons)
    assert asked.error is None


@pytest.mark.anyio
async def test_a_plugin_that_does_not_answer_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hangs:
        async def gateway_client_identified(self, data: ClientIdentified) -> None:
            await asyncio.Event().wait()

    monkeypatch.setattr(stream_hooks, "PLUGIN_SECONDS", 0.01)
    with taddons.context(Hangs(), loadcore=False) as tctx:
        asked = Ask(hook())
        await asked.perform(tctx.master.addons)
    assert isinstance(asked.error, TimeoutError)
    assert str(asked.error) == "No answer to gateway_client_identified within 0.01 s."
    assert not asked.performed


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Waits:
    """Listens with a plain function that has something to wait for; its end may be an exception."""

    def __init__(self, told: list[str], end: Exception | None = None) -> None:
        self.told, self.end = told, end

    def request(self, flow: object) -> Awaitable[None]:
        self.told.append("begin")

        async def later() -> None:
            await asyncio.sleep(0)
            self.told.append("end")
            if self.end is not None:
                raise self.end

        return later()


class Tells:
    """Tells of events."""

    def __init__(self, told: list[str]) -> None:
        self.told = told

    def request(self, flow: object) -> None:
        self.told.append("next")

    def update(self, flows: object) -> None:
        self.told.append("update")


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("end", "next_one"),
    [(None, ["next"]), (ValueError("a bug"), ["next"]), (exceptions.AddonHalt(), [])],
)
async def test_a_plain_function_may_have_something_to_wait_for(
    end: Exception | None, next_one: list[str]
) -> None:
    listeners, told = Listeners(FLOW_HOOKS), list[str]()
    last = Nested(Waits(told))
    last.addons[0].name = "last"  # type: ignore[attr-defined]  # each has a name of its own
    with taddons.context(Waits(told, end), Tells(told), last, loadcore=False) as tctx:
        listeners.refresh(tctx.master.addons)
        assert listeners.can_be_called("request")
        flow = tflow.tflow()
        rest = listeners.call("request", flow)
        assert told == ["begin"], "the next one comes when it has waited"
        assert rest is not None
        await rest
    others = [*next_one, "begin", "end"] if next_one else []
    assert told == ["begin", "end", *others, "update"]


def test_without_something_to_wait_for_nothing_is_left() -> None:
    listeners, told = Listeners(FLOW_HOOKS), list[str]()
    with taddons.context(Tells(told), loadcore=False) as tctx:
        listeners.refresh(tctx.master.addons)
        flow = tflow.tflow()
        assert listeners.call("request", flow) is None
    assert told == ["next", "update"]


def test_addons_are_told_apart_though_one_takes_anothers_place_in_memory() -> None:
    listeners = Listeners(FLOW_HOOKS)
    for _ in range(20):
        kinds = (Hears, Silent)
        for kind in kinds:
            with taddons.context(kind(), loadcore=False) as tctx:
                listeners.refresh(tctx.master.addons)
                assert ("request" in listeners.events) is (kind is Hears)


class Silent:
    """Listens to nothing."""


class Opens:
    """Wants to be asked about each connection to a server."""

    def server_connect(self, data: object) -> None: ...


def test_a_plugin_that_decides_on_connections_is_known() -> None:
    listeners = Listeners(OUR_EVENTS)
    assert listeners.plugins_open, "until it is known, there may be one"
    # mitmproxy's own listen to both events.
    with taddons.context(Proxyserver(), TlsConfig(), Hears()) as tctx:
        listeners.refresh(tctx.master.addons)
        assert not listeners.plugins_open
        tctx.master.addons.add(nested := Nested(Opens()))
        listeners.refresh(tctx.master.addons)
        assert listeners.plugins_open
        tctx.master.addons.remove(nested)
        listeners.refresh(tctx.master.addons)
        assert not listeners.plugins_open
