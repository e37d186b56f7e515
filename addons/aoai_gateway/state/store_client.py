"""redis-py's clients of a store, however it is reached: one server, Sentinels that know it, or a Cluster.

All of them find the store anew when they connect: a host by its name, the primary by the Sentinels, the node
of a slot by the Cluster. So what has to be done about a store that has moved is the same: let go of the
connections. No client repeats a command by itself, for that would repeat what may have been done.

In a Cluster all keys of the gateways with one prefix are in one slot, by a hash tag. One batch of scripts is
one round trip then, in the order in which it was asked, and the counters are lost and come back as a whole:
keys on three shards would be lost three times as often. So one shard carries it all, as a single Redis would.

redis-py finds and opens the connection and signs in on it, with its own reader: hiredis makes room for
as much as a wrong server says that it will send (see `ReplyReader`). Its commands and
pipelines are not used: for each command they take a connection out of a pool and give it back, set several
timers and pack each argument anew, which is most of what a decision costs this process. What is asked goes
through a `Channel`.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from redis._parsers import _AsyncRESP2Parser
from redis.asyncio import Redis, RedisCluster, Sentinel
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError
from redis.backoff import NoBackoff
from redis.exceptions import (
    AskError,
    ClusterDownError,
    MovedError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

from aoai_gateway.config.shared_store import (
    REDIS_PORT,
    SENTINEL_PORT,
    SharedStore,
    StoreAddress,
    StoreTls,
    host_and_port,
    shown_address,
)
from aoai_gateway.config.shared_store import Sentinel as SentinelAddress
from aoai_gateway.state import StateUnavailableError
from aoai_gateway.state.channel import Channel

if TYPE_CHECKING:
    from redis.asyncio.connection import AbstractConnection

SENTINEL_SECONDS: Final = 0.25
"""The least time that one Sentinel has to answer, before the next is asked. Few share the time to connect."""

CLOSING_SECONDS: Final = 0.25
"""The time that connections have to close; then they are left to themselves."""

LONGEST_TOLD: Final = 200
"""Characters of an error; it may repeat a line of 64 KB that the server has sent."""

NOT_REDIS: Final = "what answers there does not speak as Redis does"


READER: Final = {"parser_class": _AsyncRESP2Parser}
"""What reads the answers until the connection is open."""

ELSEWHERE: Final = (AskError, ClusterDownError, ReadOnlyError, TryAgainError, RedisConnectionError)
"""What a server answers that does not, or not now, hold the keys: another one may."""


class StoreClient:
    """One connection to a store, within one event loop; what is asked together is one round trip.

    ``key``: one of the keys that are asked for, all of which are in one slot, in a Cluster.
    ``connect_seconds``: for one connection. What is asked has no bound here, and the caller bounds it as a
    whole; ``answer_seconds`` is that bound, for messages. After what was given up or failed, `drop`.
    """

    def __init__(
        self, store: StoreAddress, *, key: str, connect_seconds: float, answer_seconds: float
    ) -> None:
        self.address = shown_address(store)
        self._seconds = answer_seconds
        self._key = key
        self._connection: AbstractConnection | None = None
        self._channel: Channel | None = None
        """What goes through the connection, once it is open."""
        self._redis: Redis | None = None
        self._cluster: RedisCluster | None = None
        self._sentinels: Sentinel | None = None
        options: dict[str, Any] = {
            "socket_connect_timeout": connect_seconds,
            "socket_timeout": None,
            "retry": Retry(NoBackoff(), 0),
            "protocol": 2,  # its answers are lists, texts and numbers, and nothing comes unasked
        }
        if isinstance(store, str):
            self._redis = Redis.from_url(store, **options)
        elif store.sentinel is not None:
            self._sentinels = _sentinels(store.sentinel, store, options)
            self._redis = self._sentinels.master_for(store.sentinel.master)
        elif store.cluster is not None:
            nodes = [ClusterNode(host, port) for host, port in _pairs(store.cluster, REDIS_PORT)]
            self._cluster = RedisCluster(startup_nodes=nodes, **options, **_sign_in(store), **_tls(store.tls))
            # It has the two methods that the client calls, and is no subclass: redis-py's own reads COMMAND.
            self._cluster.commands_parser = _NoCommands()  # type: ignore[assignment]  # has the method that is called
            # Its first nodes have copies of what it knows of connections.
            self._cluster.connection_kwargs.update(READER)
            for node in self._cluster.nodes_manager.startup_nodes.values():
                node.connection_kwargs.update(READER)
        else:
            host, port = host_and_port(store.host or "", REDIS_PORT)
            more = _sign_in(store) | _tls(store.tls)
            self._redis = Redis(host=host, port=port, db=store.database, **options, **more)
        if self._redis is not None:
            self._redis.connection_pool.connection_kwargs.update(READER)

    @property
    def channel(self) -> Channel | None:
        """The connection, if there is one."""
        channel = self._channel
        return channel if channel is not None and channel.is_open else None

    async def ask(self, commands: Sequence[bytes]) -> list[Any]:
        """Send commands (see `packed`) and return their answers, connecting if need be.

        One that is an error is an exception in the list. Raises what redis-py does if the store is not there,
        or what answers does not hold the keys.
        """
        channel = self.channel
        if channel is None:
            # One that the server has closed is not closed on this side yet.
            if self._channel is not None:
                await self.drop()
            self._connection = await self._connected()
            channel = self._channel = Channel.on(self._connection)
        return of_the_keeper(await channel.ask(b"".join(commands), len(commands)))

    async def _connected(self) -> AbstractConnection:
        """Return a connection to where the keys are now."""
        if self._redis is not None:
            if self._connection is None:
                pool = self._redis.connection_pool
                return cast("AbstractConnection", await pool.get_connection())  # type: ignore[no-untyped-call]  # redis-py has not typed it
            # Through the Sentinels, if there are any.
            await self._connection.connect()  # type: ignore[no-untyped-call]  # redis-py has not typed it
            return self._connection
        assert self._cluster is not None
        await self._cluster.initialize()
        node = self._cluster.get_node_from_key(self._key)
        assert node is not None  # only replicas may be missing
        # The node's own connections are counted, and would have to be given back.
        options = node.connection_kwargs | {"retry": Retry(NoBackoff(), 0)}
        connection: AbstractConnection = node.connection_class(**options)
        await connection.connect()  # type: ignore[no-untyped-call]  # redis-py has not typed it
        return connection

    async def drop(self) -> None:
        """Let go of the connection: what was asked through it gets no answer, and the next looks anew."""
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()
        with contextlib.suppress(RedisError, OSError):
            async with asyncio.timeout(CLOSING_SECONDS):
                if self._cluster is not None:
                    connection, self._connection = self._connection, None
                    if connection is not None:
                        await connection.disconnect()
                    await self._cluster.aclose()  # it can be used again
                elif self._redis is not None:
                    await self._redis.connection_pool.disconnect()

    async def aclose(self) -> None:
        """Close the connection, and those to the Sentinels."""
        await self.drop()
        if self._redis is not None:
            await self._redis.aclose()
        if self._sentinels is not None:
            for each in self._sentinels.sentinels:
                await each.aclose()

    def unavailable(self, error: Exception) -> StateUnavailableError:
        """Say that the store is out of reach, where it is, and why; without users and passwords."""
        return StateUnavailableError(f"{self.address}: {self._reason(error)}")

    def _reason(self, error: Exception) -> str:
        if isinstance(error, TimeoutError):
            return f"no answer in {self._seconds:g} s"
        if isinstance(error, MasterNotFoundError):
            # Each failure stands behind all that redis-py knows of the Sentinel: hundreds of characters.
            failed = dict.fromkeys(re.findall(r"\)> - (?:\w+:)?(\w+)", str(error)))
            found = f" ({', '.join(failed)})" if failed else "; is the name of the master right?"
            return f"no Sentinel names a primary that is up{found}"
        if isinstance(error, MovedError) and self._cluster is None:
            return 'it is a part of a Cluster: write "state: {cluster: …}"'
        if isinstance(error, (RedisError, RedisClusterException, OSError)):
            return f"{type(error).__name__}: {str(error)[:LONGEST_TOLD]}"
        # On bytes of another protocol, the client's parser may raise any exception.
        return NOT_REDIS


def of_the_keeper(answers: list[Any]) -> list[Any]:
    """Return answers that are those of the server that holds the keys. Raises the first of `ELSEWHERE`."""
    for answer in answers:
        if isinstance(answer, ELSEWHERE):
            raise answer
    return answers


class _NoCommands:
    """Knows no commands: nothing here asks for them.

    RedisCluster would have the server tell it of all commands at each connect: while it reads that, the
    event loop stands still for tens of milliseconds.
    """

    async def initialize(self, node: ClusterNode | None = None) -> None:
        """Do nothing."""


def packed(*words: bytes | str | int) -> bytes:
    """Return a command as it travels: its words, each with its length."""
    return b"*%d\r\n" % len(words) + packed_words(words)


def packed_words(words: Iterable[bytes | str | int]) -> bytes:
    """Return some words of a command as they travel, for parts of which the rest is known already."""
    return b"".join([_word(word) for word in words])


def _word(word: bytes | str | int) -> bytes:
    raw = word if isinstance(word, bytes) else str(word).encode()
    return b"$%d\r\n%b\r\n" % (len(raw), raw)


def keys_prefix(store: StoreAddress, prefix: str) -> str:
    """Return what the keys begin with: in a Cluster, a hash tag, so that all of them are in one slot."""
    if isinstance(store, SharedStore) and store.cluster is not None:
        # A tag ends with the first brace, and Redis ignores an empty tag.
        return f"{{{prefix.replace('}', '%7D')}}}"
    return prefix


def _sentinels(sentinel: SentinelAddress, store: SharedStore, options: dict[str, Any]) -> Sentinel:
    seconds = max(SENTINEL_SECONDS, options["socket_connect_timeout"] / len(sentinel.hosts))
    quick = dict.fromkeys(("socket_connect_timeout", "socket_timeout"), seconds)
    sentinels = Sentinel(  # type: ignore[no-untyped-call]  # redis-py has not typed it
        _pairs(sentinel.hosts, SENTINEL_PORT),
        sentinel_kwargs=options | quick | _sign_in(sentinel) | _tls(store.tls),
        db=store.database,
        **(options | _sign_in(store) | _tls(store.tls)),
    )
    for each in sentinels.sentinels:
        each.connection_pool.connection_kwargs.update(READER)
    return sentinels


def _pairs(hosts: Sequence[str], port: int) -> list[tuple[str, int]]:
    return [host_and_port(host, port) for host in hosts]


def _sign_in(who: SharedStore | SentinelAddress) -> dict[str, Any]:
    password = None if who.password is None else who.password.get_secret_value()
    return {"username": who.username, "password": password}


def _tls(tls: StoreTls) -> dict[str, Any]:
    if not tls.enabled:
        return {}
    files = {"ca_certs": tls.ca, "certfile": tls.certificate, "keyfile": tls.private_key or tls.certificate}
    found: dict[str, Any] = {f"ssl_{name}": str(file) for name, file in files.items() if file is not None}
    return {"ssl": True, "ssl_cert_reqs": "required", "ssl_check_hostname": True, **found}
