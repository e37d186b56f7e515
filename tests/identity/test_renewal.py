"""A credential is there when calls need it, also when its source fails or hangs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from aoai_gateway.identity import renewal as renewals
from aoai_gateway.identity.renewal import FetchError, Renewal
from aoai_gateway.identity.sources import Secret

DOWN = FetchError("no answer from it", "Start it.")


class Source:
    """Gives what it is told to, one after the other; the last again and again."""

    again_seconds: float | None = None

    def __init__(self, *results: Secret | Exception) -> None:
        self.results = list(results)
        self.asked = 0

    def __call__(self) -> Secret:
        self.asked += 1
        result = self.results.pop(0) if len(self.results) > 1 else self.results[0]
        if isinstance(result, Exception):
            raise result
        return result


class Kept:
    """A renewal with a clock by hand."""

    def __init__(self, source: Callable[[], Secret]) -> None:
        self.now = 1000.0
        self.told: list[str] = []
        self.renewal = Renewal(
            "managed_identity",
            source,  # type: ignore[arg-type]
            lambda renewal: self.told.append(renewal.problem or "there"),
            clock=lambda: self.now,
            draw=lambda low, high: (low + high) / 2,
        )

    def renew(self) -> float:
        return asyncio.run(self.renewal.renew())

    @property
    def value(self) -> str | None:
        secret = self.renewal.value
        return None if secret is None else secret.value


def token(value: str, seconds: float) -> Secret:
    return Secret("token", value, seconds)


def test_a_token_is_renewed_minutes_before_it_expires_and_a_short_one_after_half_its_life() -> None:
    kept = Kept(Source(token("long", 3600), token("short", 20)))
    assert kept.renew() == 3600 - 245
    assert kept.value == "long"
    assert kept.renew() == 10
    assert kept.value == "short"


def test_gateways_do_not_renew_at_the_same_time() -> None:
    drawn = {Kept(Source(token("t", 3600))).renewal._draw(*renewals.AHEAD_SECONDS)}
    assert drawn == {245.0}  # the clock by hand
    real = [Renewal("r", Source(token("t", 3600)), lambda _: None) for _ in range(20)]
    assert len({round(asyncio.run(each.renew()), 3) for each in real}) > 10


def test_a_failed_renewal_is_repeated_and_no_call_notices_while_the_token_is_valid(
    caplog: pytest.LogCaptureFixture,
) -> None:
    kept = Kept(Source(token("one", 600), DOWN, DOWN, DOWN, token("two", 3600)))
    kept.renew()
    kept.now += 400
    assert [kept.renew() for _ in range(3)] == [1.0, 2.0, 4.0]
    assert kept.value == "one"
    kept.renew()
    assert kept.value == "two"
    assert kept.told[-1] == "there"
    assert caplog.text.count("no answer from it") == 1
    assert "as long as it is valid" in caplog.text


def test_an_expired_token_is_not_shown_and_its_end_is_told_in_time() -> None:
    kept = Kept(Source(token("one", 100), DOWN))
    kept.renew()
    kept.now += 90
    for _ in range(8):
        pause = kept.renew()
    assert pause == pytest.approx(5)  # when it ends, less what it needs to arrive
    kept.now += pause
    assert kept.value is None
    kept.renew()
    assert kept.told[-1] == "no answer from it"
    assert kept.renewal.remedy == "Start it."


def test_the_pauses_between_attempts_grow_up_to_a_bound() -> None:
    kept = Kept(Source(DOWN))
    assert [kept.renew() for _ in range(8)] == [1, 2, 4, 8, 16, 30, 30, 30]
    assert kept.renewal.settled.is_set()


def test_what_never_expires_is_looked_at_again_and_kept_when_it_has_gone() -> None:
    source = Source(Secret("key", "old"), Secret("key", "new"), DOWN)
    source.again_seconds = 1.0
    kept = Kept(source)
    assert kept.renew() == 1.0
    kept.renew()
    assert kept.value == "new"
    kept.renew()
    assert kept.value == "new"
    assert kept.renewal.problem == "no answer from it"


def test_a_source_that_never_answers_holds_one_thread_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(renewals, "FETCH_SECONDS", 0.05)
    let_go = threading.Event()
    calls = []

    def hang() -> Secret:
        calls.append(1)
        let_go.wait(60)
        return token("late", 600)

    kept = Kept(hang)

    async def twice() -> None:
        await kept.renewal.renew()
        assert kept.renewal.problem == "no answer within 0.05 s"
        await kept.renewal.renew()
        assert kept.renewal.problem == "an earlier attempt has not ended yet"

    asyncio.run(twice())
    assert calls == [1]
    let_go.set()


def test_a_bug_in_a_source_ends_no_renewal() -> None:
    kept = Kept(Source(RuntimeError("token-in-a-message"), token("t", 600)))
    kept.renew()
    assert kept.renewal.problem == "it failed with RuntimeError"
    kept.renew()
    assert kept.value == "t"


def test_it_goes_on_by_itself_and_at_once_if_asked_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renewals, "RETRY_SECONDS", (0.01, 0.01))
    source = Source(*(token(f"t{number}", 0.02) for number in range(3)), token("last", 600))
    renewal = Renewal("r", source, lambda _: None)

    async def run() -> None:
        task = asyncio.create_task(renewal.run())
        while source.asked < 4:  # noqa: ASYNC110 - a thread counts
            await asyncio.sleep(0.005)
        await renewal.at_once(60)
        task.cancel()

    asyncio.run(run())
    assert source.asked == 5


def test_a_bug_in_what_it_tells_ends_no_renewal(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(renewals, "RETRY_SECONDS", (0.01, 0.01))
    source = Source(token("t", 0.02))

    def fail(_: object) -> None:
        raise RuntimeError

    renewal = Renewal("r", source, fail)

    async def run() -> None:
        task = asyncio.create_task(renewal.run())
        while source.asked < 3:  # noqa: ASYNC110 - a thread counts
            await asyncio.sleep(0.005)
        task.cancel()

    asyncio.run(asyncio.wait_for(run(), 60))
    assert "A bug in the renewal of r" in caplog.text


def test_who_asks_for_it_at_once_waits_within_a_bound() -> None:
    renewal = Renewal("r", Source(DOWN), lambda _: None)
    asyncio.run(asyncio.wait_for(renewal.at_once(0.05), 60))
