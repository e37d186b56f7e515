"""Counters in Redis, shared by every gateway process that uses the same URL.

Each decision is one atomic script, called by its digest; a server that does not know the script
(restarted, flushed) is sent its text. Time is the server's, so the clocks of the gateways do not
matter. All keys of a client share a hash tag, in a Cluster all keys of a prefix do, and every key
expires by itself.

Every command is bounded in time, and a failure of any kind is a `StateUnavailableError`, which
`failover` handles.
"""

import json
import math
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import lru_cache, partial
from importlib.resources import files
from itertools import batched
from typing import Final, NamedTuple
from urllib.parse import quote

from aoai_gateway.config.shared_store import StoreAddress, answer_seconds
from aoai_gateway.quota.counters import LEASE
from aoai_gateway.quota.quotas import Decision, Quota, Reservation, Standing
from aoai_gateway.quota.window import microseconds
from aoai_gateway.state import Break, Left, StateUnavailableError
from aoai_gateway.state.outbox import Used
from aoai_gateway.state.scripts import Outcome, Reply, Runner, Script
from aoai_gateway.state.store_client import NOT_REDIS, StoreClient, keys_prefix, packed_words

FORMS_KEPT: Final = 4_000
"""The forms of clients, with some of their quotas: a kilobyte or so each."""

SERVER_CLOCK: Final = """
local function clock()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end
"""


class RedisState:
    """A store in Redis at `store`: one server, behind Sentinels, or a Cluster.

    `prefix` starts every key. `timeout` (None: the one of `store`) and `lease` are in seconds. `clock` is the
    Lua source of a function clock() that returns the time in microseconds; tests put a virtual one there.

    All methods are as in `aoai_gateway.state.State`, are awaited, ignore `now`, and raise
    StateUnavailableError.
    """

    degraded_since: float | None = None

    def __init__(
        self,
        store: StoreAddress,
        *,
        prefix: str = "aoai-gateway",
        timeout: float | None = None,
        lease: float = LEASE,
        clock: str = SERVER_CLOCK,
    ) -> None:
        timeout = answer_seconds(store) if timeout is None else timeout
        self._prefix = keys_prefix(store, prefix)
        self._lease = microseconds(lease)
        breaks = f"{self._prefix}:{{breaks}}"
        self._breaks_keys = (breaks, f"{breaks}:notes")
        self._client = StoreClient(store, key=breaks, connect_seconds=timeout, answer_seconds=timeout)
        self._scripts = Runner(self._client, timeout)
        self._quotas = _script(clock, "quotas.lua")
        self._breaks = _script(clock, "breaks.lua")

    @property
    def address(self) -> str:
        """Where it is, without user and password."""
        return self._client.address

    def __repr__(self) -> str:
        return f"RedisState({self.address})"

    async def aclose(self) -> None:
        """Close the connection."""
        await self._scripts.aclose()
        await self._client.aclose()

    async def peek(self, reservation: Reservation, now: float = 0) -> Decision:
        """Return what `reserve` would answer, booking nothing."""
        return await self._decision("peek", reservation)

    async def reserve(self, reservation: Reservation, now: float = 0) -> Decision:
        """Book the reservation against all of its quotas, or against none."""
        return await self._decision("reserve", reservation)

    async def book(self, reservation: Reservation, age: float) -> None:
        """Book a call that was admitted `age` seconds ago without this store, and is running."""
        await self._run("book", reservation, age=age)

    async def charge(
        self, reservation: Reservation, tokens: int, age: float, cost: int | None = None
    ) -> None:
        """Settle a call if it is held here, else count what it used, admitted `age` seconds ago."""
        await self._run("charge", reservation, (tokens, cost), age)

    async def settle(
        self, reservation: Reservation, tokens: int, now: float = 0, cost: int | None = None
    ) -> None:
        """Replace what was reserved by the tokens used, and the money."""
        await self._run("settle", reservation, _checked(tokens, cost))

    async def cancel(self, reservation: Reservation, now: float = 0) -> None:
        """Take back a reservation that no backend served."""
        await self._run("cancel", reservation)

    def tell_end(
        self,
        reservation: Reservation,
        used: Used | None,
        took: Callable[[StateUnavailableError | None], None],
    ) -> None:
        """Settle with what was ``used``, or cancel, without a caller that waits.

        ``took`` hears of it once, later: with what went wrong, if anything did. At the end of the process
        nothing is to be done about that any more: the lease lapses.
        """

        def take(outcome: Outcome) -> None:
            took(self._client.unavailable(outcome) if isinstance(outcome, Exception) else None)

        operation, used = ("cancel", None) if used is None else ("settle", _checked(*used))
        self._scripts.tell(self._quotas, *self._words(operation, reservation, used), take)

    async def renew(self, reservations: Iterable[Reservation], now: float = 0) -> None:
        """Keep reservations from lapsing; one script call per client."""
        ids: dict[str, list[str]] = defaultdict(list)
        for reservation in reservations:
            ids[reservation.client].append(reservation.id)
        for client, of_client in ids.items():
            keys = _client_keys(self._prefix, client)
            await self._answer(self._scripts.run(self._quotas, keys, ["renew", self._lease, *of_client]))

    async def open_break(
        self, backend: str, priority: str, seconds: float, now: float = 0, note: str = ""
    ) -> None:
        """Skip a backend for a priority for `seconds`; a longer break stays."""
        await self._break("open", (backend, priority), microseconds(seconds), note)

    async def close_break(self, backend: str, priority: str, now: float = 0) -> None:
        """End a break before its time."""
        await self._break("close", (backend, priority))

    async def breaks(self, now: float = 0) -> Mapping[Break, Left]:
        """Return all open breaks with the seconds that are left of each."""
        return self._understood(_breaks, await self._break("list", ("", "")))

    # ---------------------------------------------------------------------------------------------

    async def _decision(self, operation: str, reservation: Reservation) -> Decision:
        answer = await self._run(operation, reservation)
        return self._understood(partial(_decision, reservation), answer)

    def _understood[T](self, read: Callable[[Reply], T], answer: Reply) -> T:
        try:
            return read(answer)
        except (TypeError, ValueError) as error:
            raise StateUnavailableError(f"{self.address}: {NOT_REDIS}") from error

    def _run(
        self, operation: str, reservation: Reservation, used: Used | None = None, age: float = 0
    ) -> Awaitable[Reply]:
        count, words = self._words(operation, reservation, used, age)
        return self._answer(self._scripts.ask(self._quotas, count, words))

    def _words(
        self, operation: str, reservation: Reservation, used: Used | None = None, age: float = 0
    ) -> tuple[int, bytes]:
        """Return how many words ask for an operation, and how they travel."""
        quotas, id_ = reservation.quotas, reservation.id.encode()
        form = _form(self._prefix, reservation.client, quotas, self._lease)
        microseconds_ago = max(0, microseconds(age))
        varying: list[int | bytes] = [
            *(form.ended_length + len(id_), id_, len(operation), operation.encode()),
            *(len(id_), id_, len(str(microseconds_ago)), microseconds_ago),
        ]
        for quota in quotas:
            tokens, requests = reservation.asked(quota)
            if used is not None:
                tokens = reservation.used(quota, *used)
            varying += (len(str(tokens)), tokens, len(str(requests)), requests)
        return form.number, form.words % tuple(varying)

    async def _break(self, operation: str, of: Break, length: int = 0, note: str = "") -> Reply:
        arguments = (operation, json.dumps(of), length, note)
        return await self._answer(self._scripts.run(self._breaks, self._breaks_keys, arguments))

    async def _answer(self, asked: Awaitable[Reply]) -> Reply:
        try:
            return await asked
        except Exception as error:
            raise self._client.unavailable(error) from error


CLIENT_KEYS: Final = ("leases", "holds", "budgets")


@lru_cache(FORMS_KEPT)
def _tagged(prefix: str, client: str) -> str:
    # In a cluster, keys with the same words in braces are on the same node.
    return f"{prefix}:{{{quote(client, safe='')}}}"


def _client_keys(prefix: str, client: str) -> list[str]:
    return [f"{_tagged(prefix, client)}:{key}" for key in CLIENT_KEYS]


class _Form(NamedTuple):
    """How a client's operations on some of its quotas travel, but for what each call has of its own.

    ``words``: so many (``number``), packed, with the place of each length and value that varies.
    ``ended_length``: of the key of a reservation that has ended, in bytes, without the reservation's id.
    """

    number: int
    words: bytes
    ended_length: int


_VARYING_NUMBER: Final = b"$%d\r\n%d\r\n"
_VARYING_TEXT: Final = b"$%d\r\n%b\r\n"


@lru_cache(FORMS_KEPT)
def _form(prefix: str, client: str, quotas: tuple[Quota, ...], lease: int) -> _Form:
    tagged = _tagged(prefix, client)
    # A quoted name is never "*", so the account over all has a name of its own.
    names = ["*" if quota.deployment is None else quote(quota.deployment, safe="") for quota in quotas]
    keys = _client_keys(prefix, client)
    keys += [f"{tagged}:{name}:{key}" for name in names for key in ("window", "sums")]
    before, after = (_fixed(part) for part in (f"{tagged}:", ":ended"))
    parts = [
        *(_fixed_words(len(keys) + 1, *keys), b"$%d\r\n", before, b"%b", after, b"\r\n"),
        *(_VARYING_TEXT, _VARYING_TEXT, _fixed_words(lease), _VARYING_NUMBER),  # operation, id, lease, age
    ]
    for name, quota in zip(names, quotas, strict=True):
        limits = [-1 if limit is None else limit for limit in quota.limits]
        parts += (_fixed_words(name), _VARYING_NUMBER, _VARYING_NUMBER, _fixed_words(*limits))
    number = 1 + len(keys) + 1 + 4 + 7 * len(quotas)
    return _Form(number, b"".join(parts), len(f"{tagged}::ended".encode()))


def _fixed_words(*words: str | int) -> bytes:
    return packed_words(words).replace(b"%", b"%%")


def _fixed(text: str) -> bytes:
    return text.encode().replace(b"%", b"%%")


def _script(clock: str, name: str) -> Script:
    return Script.of(clock + files("aoai_gateway.state").joinpath(name).read_text("utf-8"))


def _decision(reservation: Reservation, answer: Reply) -> Decision:
    if not isinstance(answer, bytes):
        raise TypeError("no decision")
    admitted, *figures = map(int, answer.split())
    limits = [(quota, *each) for quota in reservation.quotas for each in quota.set_limits]
    standings = [
        Standing(
            quota.deployment,
            kind,
            limit,
            remaining,
            math.inf if wait < 0 else wait / 1e6,
            math.inf if reset < 0 else reset / 1e6,
            math.inf if soonest < 0 else soonest / 1e6,
            quota.in_money,
        )
        for (quota, kind, limit), (remaining, wait, reset, soonest) in zip(
            limits, batched(figures, 4), strict=True
        )
    ]
    return Decision(bool(admitted), tuple(standings))


def _checked(tokens: int, cost: int | None) -> Used:
    if tokens < 0 or (cost or 0) < 0:
        raise ValueError(f"cannot settle with {tokens} tokens and a cost of {cost}")
    return tokens, cost


def _breaks(answer: Reply) -> dict[Break, Left]:
    if not isinstance(answer, list):
        raise TypeError("no list of breaks")
    return {
        _break(field): Left(left / 1e6, note.decode(errors="replace"))
        for field, left, note in zip(answer[::3], answer[1::3], answer[2::3], strict=True)
        if isinstance(field, bytes) and isinstance(left, int) and isinstance(note, bytes)
    }


def _break(field: bytes) -> Break:
    backend, priority = json.loads(field)
    return backend, priority
