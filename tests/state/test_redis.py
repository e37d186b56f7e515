"""What is Redis's own about the Redis store: scripts, keys, credentials, time."""

import asyncio
import socket
import time
from itertools import pairwise

import pytest
import redis
from redis.crc import key_slot

from aoai_gateway.config.shared_store import SharedStore
from aoai_gateway.quota.quotas import Quota, Reservation
from aoai_gateway.state import StateUnavailableError
from aoai_gateway.state.exchange import Exchange
from aoai_gateway.state.redis import RedisState
from tests.e2e import certificates
from tests.redis_server import RedisServer, Security

QUOTAS = (Quota("gpt-4o", 1000, 10, 5000, 50_000), Quota(None, 2000))


def reservation(name: str, tokens: int = 100, client: str = "a {odd} team") -> Reservation:
    return Reservation(name, client, QUOTAS, tokens)


def with_state(url, story, **options):
    async def run():
        state = RedisState(url, **{"timeout": 5.0, **options})
        try:
            return await story(state)
        finally:
            await state.aclose()

    return asyncio.run(run())


def test_every_key_of_a_client_shares_a_slot_and_expires(redis_server):
    async def story(state):
        assert (await state.reserve(reservation("keys"))).admitted
        assert (await state.reserve(reservation("keys2"))).admitted
        await state.settle(reservation("keys2"), 3000)  # with debt
        await state.open_break("sweden/gpt-4o", "batch", 5)

    with_state(redis_server.url, story, prefix="every-key")
    with redis.Redis.from_url(redis_server.url) as client:
        keys = sorted(client.scan_iter("every-key:*"))
        lifetimes = {key.decode().rsplit(":", 1)[1]: client.ttl(key) for key in keys}
    of_client = [key for key in keys if b"breaks" not in key]
    assert len({key_slot(key) for key in of_client}) == 1
    assert lifetimes.keys() == {"leases", "holds", "budgets", "window", "sums", "ended", "{breaks}", "notes"}
    assert all(0 < seconds <= 63 * 86_400 for seconds in lifetimes.values())
    assert lifetimes["{breaks}"] <= 6
    assert lifetimes["notes"] <= 6


DAY = 86_400


def of_user(number: int, name: str = "") -> Reservation:
    """Make a call of an end user who has an account of their own."""
    quotas = (Quota(f"user/{number}", 1000, 10, 5000, 50_000),)
    return Reservation(name or f"call {number}", "team", quotas, 100)


def budgets_of(bench) -> dict[str, str]:
    with redis.Redis.from_url(bench._url, decode_responses=True) as client:
        fields = client.hgetall(f"{bench.state._prefix}:{{team}}:budgets")
    return {field: value for field, value in fields.items() if field != "pruned"}


def test_what_no_call_holds_any_more_leaves_no_field(redis_bench):
    redis_bench.fresh(lease=60)
    now = 1_750_000_000.0
    for number in range(3):
        redis_bench.reserve(of_user(number), now)
    assert len(budgets_of(redis_bench)) == 3 * 4
    redis_bench.settle(of_user(0), 50, now)
    redis_bench.cancel(of_user(1), now)
    redis_bench.peek(of_user(3), now + 61)  # the third one lapses
    assert {field.partition(" ")[0] for field in budgets_of(redis_bench)} == {"user%2F0"}
    assert sorted(budgets_of(redis_bench).values()) == ["50", "50"]


def test_past_periods_are_removed_in_portions_that_are_bounded(redis_bench):
    redis_bench.fresh()
    now, users = 1_750_000_000.0, 3000
    with redis.Redis.from_url(redis_bench._url) as client:
        budgets = f"{redis_bench.state._prefix}:{{team}}:budgets"
        today = int(now // DAY)
        client.hset(budgets, mapping={f"user%2F{n} d{today - 2} s": 7 for n in range(users)})
        client.hset(budgets, mapping={f"user%2F{n} d{today - 1} s": 7 for n in range(100)})
    sizes = []
    for number in range(users // 20):
        redis_bench.reserve(of_user(number), now)
        redis_bench.cancel(of_user(number), now)
        sizes.append(len(budgets_of(redis_bench)))
    assert max(a - b for a, b in pairwise([users + 100, *sizes])) <= 500
    assert sizes[-1] == 100, "yesterday is kept for calls that began in it"


def test_a_new_end_user_does_not_have_all_others_looked_at(redis_bench):
    redis_bench.fresh()
    now = 1_750_000_000.0
    with redis.Redis.from_url(redis_bench._url) as client:
        budgets = f"{redis_bench.state._prefix}:{{team}}:budgets"
        client.hset(budgets, mapping={f"user%2F{n} d{int(now // DAY)} s": 7 for n in range(2000)})
        for number in range(60):  # all have been seen
            redis_bench.reserve(of_user(number), now)
        client.config_resetstat()
        redis_bench.reserve(of_user(99), now)
        redis_bench.settle(of_user(99), 10, now)
        called = client.info("commandstats")
    assert "cmdstat_hkeys" not in called
    assert "cmdstat_hscan" not in called
    assert called["cmdstat_hincrby"]["calls"] < 20


def test_a_restarted_server_gets_the_script_again(redis_server):
    async def story(state):
        await state.reserve(reservation("before"))
        with redis.Redis.from_url(redis_server.url) as client:
            client.script_flush()
            client.client_kill_filter(_type="normal", skipme=True)  # pooled connections are dead, too
        decision = await state.reserve(reservation("after"))
        assert [s.remaining for s in decision.standings] == [800, 8, 4800, 49_800, 1800]

    with_state(redis_server.url, story, prefix="restarted")


def test_past_calls_are_booked_at_their_age(redis_server):
    quota = (Quota(None, 1000, None, 10_000),)

    async def story(state):
        running = Reservation("running", "past", quota, 300)
        await state.book(running, age=50)
        await state.book(running, age=50)  # told twice
        await state.charge(Reservation("ended", "past", quota, 900), 200, age=40)
        await state.charge(Reservation("long ago", "past", quota, 900), 500, age=400)
        refused = await state.reserve(Reservation("next", "past", quota, 600))
        assert [s.remaining for s in refused.standings] == [500, 9000]
        assert refused.retry_after == pytest.approx(10, abs=0.5)
        assert refused.standings[0].reset == pytest.approx(20, abs=0.5)
        await state.charge(running, 100, age=51)  # settles it, for it is held
        await state.charge(running, 0, age=51)
        decision = await state.peek(Reservation("x", "past", quota, 0))
        assert [s.remaining for s in decision.standings] == [700, 9200]

    with_state(redis_server.url, story, prefix="past")


DAILY = (Quota(None, 1000, 10, 10_000),)


async def standing(state) -> list[int]:
    decision = await state.peek(Reservation("x", "twice", DAILY, 0))
    return [s.remaining for s in decision.standings]


def test_what_was_charged_counts_once_however_often_it_is_told(redis_server):
    """A call may be told again, as the answer can be lost after the store has taken it."""

    async def story(state):
        missed = Reservation("missed", "twice", DAILY, 900)
        for _ in range(3):
            await state.charge(missed, 200, age=1)
        assert await standing(state) == [800, 9, 9800]
        held = Reservation("held", "twice", DAILY, 300)
        await state.reserve(held)
        for _ in range(3):
            await state.charge(held, 100, age=1)
        assert await standing(state) == [700, 8, 9700]

    with_state(redis_server.url, story, prefix="charged")


def test_what_was_settled_is_not_charged_again(redis_server):
    async def story(state):
        held = Reservation("held", "twice", DAILY, 300)
        await state.reserve(held)
        await state.settle(held, 100)
        await state.charge(held, 100, age=1)
        assert await standing(state) == [900, 9, 9900]
        await state.book(held, age=2)  # overtaken by its end
        assert await standing(state) == [900, 9, 9900]

    with_state(redis_server.url, story, prefix="settled")


def test_an_end_that_was_told_is_remembered_for_minutes(redis_server):
    async def story(state):
        await state.charge(Reservation("one", "twice", DAILY, 300), 100, age=1)
        with redis.Redis.from_url(redis_server.url) as client:
            assert 200 < client.ttl("ends:{twice}:one:ended") <= 300

    with_state(redis_server.url, story, prefix="ends")


def test_the_server_clock_alone_counts(redis_server):
    async def story(state):
        begun = time.monotonic()
        await state.reserve(reservation("one", 1000), now=0)
        refused = await state.reserve(reservation("two", 1000), now=1e12)
        assert 60 - (time.monotonic() - begun) - 0.01 <= refused.retry_after <= 60

    with_state(redis_server.url, story, prefix="clock")


def test_a_server_that_does_not_answer_is_given_up_in_time():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()

        async def story(state):
            began = time.perf_counter()
            with pytest.raises(StateUnavailableError, match=r"no answer|Timeout"):
                await state.reserve(reservation("silent"))
            assert time.perf_counter() - began < 20  # nothing else would end it

        with_state(f"redis://user:secret@127.0.0.1:{silent.getsockname()[1]}", story, timeout=0.1)


def test_how_long_an_answer_is_waited_for_is_a_setting():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        host = f"127.0.0.1:{silent.getsockname()[1]}"

        async def story():
            store = SharedStore(host=host, answer_seconds=0.125)
            state, exchange = RedisState(store), Exchange(store, "x", "me")
            try:
                with pytest.raises(StateUnavailableError, match=r"no answer in 0\.125 s"):
                    await state.reserve(reservation("silent"))
                with pytest.raises(StateUnavailableError, match=r"no answer in 0\.125 s"):
                    await exchange.tell([1], 0.0)
            finally:
                await state.aclose()
                await exchange.aclose()

        asyncio.run(story())


@pytest.mark.parametrize("path", ["", "/2"])
def test_credentials_are_never_shown(path):
    async def story(state):
        with pytest.raises(StateUnavailableError) as caught:
            await state.reserve(reservation("x"))
        for shown in (repr(state), state.address, str(caught.value), repr(caught.value)):
            assert "hunter2" not in shown
            assert "alice" not in shown

    with_state(f"redis://alice:hunter2@127.0.0.1:1{path}", story)
    with pytest.raises(ValueError, match="redis://") as caught:
        RedisState("alice:hunter2@127.0.0.1")
    assert "hunter2" not in str(caught.value)


@pytest.mark.usefixtures("redis_server")
def test_tls_and_acl(tmp_path):
    """A user who may do no more than what the store needs, over TLS that is verified."""
    made = certificates.make(tmp_path)
    rules = ("on", ">s3cret", "~aoai-gateway:*", "resetchannels", "+@all", "-@dangerous", "-@admin")
    server = RedisServer(
        tmp_path, "--tls-auth-clients", "no", "--user", "default", "off", "--user", "gateway", *rules,
        security=Security(made),
    )  # fmt: skip
    server.start()
    try:

        async def allowed(state):
            assert (await state.reserve(reservation("tls"))).admitted
            await state.open_break("sweden", "batch", 5)

        async def refused(state):
            with pytest.raises(StateUnavailableError) as caught:
                await state.reserve(reservation("tls"))
            assert "s3cret" not in str(caught.value)

        address = f"127.0.0.1:{server.port}/0"
        trusted = f"?ssl_ca_certs={made.ca}"
        with_state(f"rediss://gateway:s3cret@{address}{trusted}", allowed, timeout=20)
        with_state(f"rediss://gateway:wrong@{address}{trusted}", refused, timeout=20)
        with_state(f"rediss://{address}{trusted}", refused, timeout=20)
        with_state(f"rediss://gateway:s3cret@{address}", refused, timeout=20)  # not trusted
    finally:
        server.stop()
