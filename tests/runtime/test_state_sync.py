"""What a gateway makes of the breaks that it finds in the shared store."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from aoai_gateway.config.models import Priority
from aoai_gateway.config.priorities import IMPLICIT
from aoai_gateway.quota.quotas import Reservation
from aoai_gateway.routing.backends import RoutingTable
from aoai_gateway.routing.breaker import Break, FailedCall
from aoai_gateway.runtime import state_sync
from aoai_gateway.runtime.gateway import Gateway
from aoai_gateway.runtime.state_sync import CLOSED, StateSync, process_name
from aoai_gateway.state import Left
from tests.engine_driver import config

pytestmark = pytest.mark.anyio

SWEDEN, FRANCE = ("sweden", "ptu"), ("france", None)
(PTU,) = RoutingTable(config("ptu@sweden")).backends


class Store:
    """A shared store that holds breaks: seconds left by backend."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, str], float] = {}
        self.opened: list[tuple[str, str, float]] = []
        self.closed: list[tuple[str, str]] = []
        self.notes: list[str] = []
        self.renewed: list[str] = []

    def renew(self, reservations: Iterable[Reservation], now: float) -> None:
        self.renewed += [reservation.id for reservation in reservations]

    def breaks(self, now: float) -> Mapping[tuple[str, str], float]:
        return self.found

    def open_break(self, name: str, cls: str, seconds: float, now: float, note: str = "") -> None:
        self.opened.append((name, cls, seconds))
        self.notes.append(note)

    def close_break(self, name: str, cls: str, now: float) -> None:
        self.closed.append((name, cls))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def shared() -> tuple[Gateway, StateSync, Store]:
    gateway, store = Gateway(), Store()
    state_sync: Any = StateSync(gateway)
    state_sync._failover = store
    return gateway, state_sync, store


async def looked(state_sync: StateSync, gateway: Gateway) -> dict[Any, Break]:
    await state_sync.look()
    return dict(gateway.engine.breaks.all())


async def test_a_break_of_another_process_holds_here_until_it_is_ended() -> None:
    gateway, state_sync, store = shared()
    store.found = {("sweden\nptu", "*"): 9.0, ("france\n*", "*"): 5.0}
    found = await looked(state_sync, gateway)
    assert {scope: round(brk.until - time.monotonic()) for scope, brk in found.items()} == {
        SWEDEN: 9,
        FRANCE: 5,
    }
    store.found = {("france\n*", "*"): 4.5}
    assert set(await looked(state_sync, gateway)) == {FRANCE}


async def test_a_break_of_its_own_keeps_its_reason_and_can_be_withdrawn() -> None:
    gateway, state_sync, store = shared()
    now = time.monotonic()
    gateway.engine.breaks.open(SWEDEN, Break(now, now + 9, "429 RateLimitReached", "call 1"))
    store.found = {("sweden\nptu", "*"): 9.01}
    found = await looked(state_sync, gateway)
    assert found[SWEDEN].reason == "429 RateLimitReached"
    gateway.engine.breaks.withdraw(SWEDEN, "call 1")
    assert dict(gateway.engine.breaks.all()) == {}


async def test_a_longer_break_of_another_process_counts() -> None:
    gateway, state_sync, store = shared()
    now = time.monotonic()
    gateway.engine.breaks.open(SWEDEN, Break(now, now + 9, "429 RateLimitReached", "call 1"))
    store.found = {("sweden\nptu", "*"): 30.0}
    assert "another gateway process" in (await looked(state_sync, gateway))[SWEDEN].reason


async def test_what_is_closed_by_hand_elsewhere_is_closed_here_though_this_process_opened_it() -> None:
    gateway, state_sync, store = shared()
    now = time.monotonic()
    for scope in (SWEDEN, FRANCE):
        gateway.engine.breaks.open(scope, Break(now, now + 50, "429", "call"))
    store.found = {("sweden\nptu", CLOSED): 2.0}
    assert set(await looked(state_sync, gateway)) == {FRANCE}
    # It is said once: what is opened after it stays, though the store still tells of the closing.
    gateway.engine.breaks.open(SWEDEN, Break(now, now + 50, "429", "another call"))
    assert set(await looked(state_sync, gateway)) == {SWEDEN, FRANCE}
    store.found = {}
    await state_sync.look()
    store.found = {("sweden\nptu", CLOSED): 2.0}
    assert set(await looked(state_sync, gateway)) == {FRANCE}


async def test_a_closing_is_told_and_does_not_come_back() -> None:
    gateway, state_sync, store = shared()
    gateway.adopt(config("ptu@sweden"))
    told: list[tuple[str, str]] = []

    def tell(backend: str, cls: str, *rest: float | str) -> None:
        told.append((backend, cls))

    other: Any = store
    other.open_break, other.close_break = tell, tell
    await state_sync.tell_closed([SWEDEN])
    assert told == [("sweden\nptu", "*"), ("sweden\nptu", CLOSED)]
    now = time.monotonic()
    gateway.engine.breaks.open(SWEDEN, Break(now, now + 50, "429", "call"))
    store.found = {("sweden\nptu", CLOSED): 1.9}
    assert set(await looked(state_sync, gateway)) == {SWEDEN}


# --- why, and by which process ------------------------------------------------------------------------


async def test_the_echo_of_its_own_break_does_not_hide_its_reason() -> None:
    # Without priorities there is one class, which is told under another name.
    gateway, state_sync, store = shared()
    gateway.adopt(config("ptu@sweden"))
    now, breaks = time.monotonic(), gateway.engine.breaks
    lengths = {cls.name: cls.breaks for cls in gateway.config.priority_classes}
    breaks.open_for(FailedCall(SWEDEN, now, 9, "429 RateLimitReached", "call 1"), lengths)
    store.found = {("sweden\nptu", "*"): 9.01}
    await state_sync.look()
    brk = breaks.on(PTU, now, IMPLICIT)
    assert brk is not None
    assert brk.reason == "429 RateLimitReached"
    breaks.withdraw(SWEDEN, "call 1")
    assert breaks.on(PTU, now, IMPLICIT) is None


async def test_another_process_learns_why_and_where_a_break_was_opened() -> None:
    _, state_sync, store = shared()
    await state_sync.tell_break(SWEDEN, {IMPLICIT: 10.0}, "401 invalid\nkey" + "x" * 1_000)
    (note,) = store.notes
    gateway, other, elsewhere = shared()
    elsewhere.found = {("sweden\nptu", "*"): Left(10.0, note)}
    reason = (await looked(other, gateway))[SWEDEN].reason
    assert reason.startswith("401 invalid key")
    assert reason.endswith(f"(at another gateway process, {process_name()})")
    assert len(reason) < 300


# --- breaks of single classes ------------------------------------------------------------------------


async def test_a_break_of_a_class_holds_for_that_class() -> None:
    gateway, state_sync, store = shared()
    store.found = {("sweden\nptu", "critical"): 3.0, ("sweden\nptu", "batch"): 30.0}
    await state_sync.look()
    breaks, now = gateway.engine.breaks, time.monotonic()
    lengths = {cls: breaks.on(PTU, now, cls) for cls in ("critical", "standard", "batch")}
    assert {cls: brk and round(brk.remaining(now)) for cls, brk in lengths.items()} == {
        "critical": 3,
        "standard": None,
        "batch": 30,
    }


async def test_each_class_of_its_own_break_is_compared_by_itself() -> None:
    gateway, state_sync, store = shared()
    now, breaks = time.monotonic(), gateway.engine.breaks
    breaks.open(SWEDEN, Break(now, now + 5, "429 here", "call 1", "critical"))
    breaks.open(SWEDEN, Break(now, now + 5, "429 here", "call 1", "batch"))
    store.found = {("sweden\nptu", "critical"): 5.01, ("sweden\nptu", "batch"): 40.0}
    await state_sync.look()
    reasons = {cls: brk.reason for cls in ("critical", "batch") if (brk := breaks.on(PTU, now, cls))}
    assert reasons == {"critical": "429 here", "batch": "in a break at another gateway process"}


async def test_a_break_that_ends_elsewhere_for_one_class_stays_for_the_others() -> None:
    gateway, state_sync, store = shared()
    breaks = gateway.engine.breaks
    store.found = {("sweden\nptu", "critical"): 9.0, ("sweden\nptu", "batch"): 9.0}
    await state_sync.look()
    store.found = {("sweden\nptu", "batch"): 8.5}
    await state_sync.look()
    now = time.monotonic()
    assert breaks.on(PTU, now, "critical") is None
    assert breaks.on(PTU, now, "batch") is not None


async def test_those_in_line_look_again_when_a_break_elsewhere_begins_or_ends() -> None:
    gateway, state_sync, store = shared()
    looked: list[None] = []
    gateway.waiting.changed = lambda: looked.append(None)  # type: ignore[method-assign]
    store.found = {("sweden\nptu", "critical"): 9.0}
    await state_sync.look()
    assert len(looked) == 1
    store.found = {("sweden\nptu", "critical"): 8.5}
    await state_sync.look()
    assert len(looked) == 1, "nothing has changed but the time"
    store.found = {}
    await state_sync.look()
    assert len(looked) == 2


async def test_a_break_is_told_for_each_class_and_its_end_for_all() -> None:
    gateway, state_sync, store = shared()
    classes = tuple(Priority(name=name) for name in ("critical", "batch"))
    gateway.adopt(config("ptu@sweden", priorities=classes))
    await state_sync.tell_break(SWEDEN, {"critical": 1.5, "batch": 6.0})
    await state_sync.tell_break(FRANCE, {IMPLICIT: 10.0})
    assert store.opened == [
        ("sweden\nptu", "critical", 1.5),
        ("sweden\nptu", "batch", 6.0),
        ("france\n*", "*", 10.0),
    ]
    await state_sync.tell_end([SWEDEN])
    assert store.closed == [("sweden\nptu", "*"), ("sweden\nptu", "critical"), ("sweden\nptu", "batch")]


async def test_those_in_line_look_again_when_their_own_break_is_closed_elsewhere_or_one_gets_shorter() -> (
    None
):
    gateway, state_sync, store = shared()
    looked: list[None] = []
    gateway.waiting.changed = lambda: looked.append(None)  # type: ignore[method-assign]
    now = time.monotonic()
    gateway.engine.breaks.open(SWEDEN, Break(now, now + 60, "429", "call 1"))
    store.found = {("sweden\nptu", CLOSED): 2.0}
    await state_sync.look()
    assert not dict(gateway.engine.breaks.all())
    assert len(looked) == 1
    store.found = {("sweden\nptu", "*"): 60.0}
    await state_sync.look()
    looked.clear()
    store.found = {("sweden\nptu", "*"): 5.0}
    await state_sync.look()
    assert len(looked) == 1


async def test_leases_are_renewed_once_here_or_by_what_shares_a_store(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(state_sync, "RENEWAL_SECONDS", 0.0)
    gateway, sync, store = shared()
    gateway.reservations["call"] = Reservation("call", "Ann", (), 5)
    gateway.state = store  # type: ignore[assignment]  # no more of it is asked here
    await sync.look()
    assert store.renewed == [], "it renews them itself"
    sync._failover = None
    await sync.look()
    assert store.renewed == ["call"]


def remembering(gateway: Gateway) -> str | None:
    return gateway.engine.affinity.home("resp_1", time.monotonic())


async def test_affinity_is_kept_in_its_file_from_one_life_to_the_next(tmp_path: Path) -> None:
    made = config("ptu@sweden", affinity_file=tmp_path / "kept")
    first, second = Gateway(), Gateway()
    sync = StateSync(first)
    assert await sync.open(made)
    first.engine.affinity.remember("resp_1", "sweden", time.monotonic())
    await sync.close()
    other = StateSync(second)
    assert await other.open(made)
    assert remembering(second) == "sweden"
    await other.close()


async def test_a_gateway_does_not_start_with_a_file_that_is_another(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "kept").write_text("notes of a person\n")
    sync = StateSync(Gateway())
    assert not await sync.open(config("ptu@sweden", affinity_file=tmp_path / "kept"))
    await sync.close()
    assert "name another one, or remove it" in caplog.text
    assert (tmp_path / "kept").read_text() == "notes of a person\n"
