"""Real redis-servers that belong together: a primary that Sentinels watch, and a Cluster.

Those that are stopped and started again are as new: nothing is on the disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any, Protocol

from redis.crc import key_slot
from redis.exceptions import RedisError

from tests.e2e.processes import eventually
from tests.ports import free_port
from tests.redis_server import OPEN, RedisServer, Security

HOST = "127.0.0.1"
MASTER = "mymaster"
SLOTS = 16384
DOWN_MS = 2500
"""Milliseconds of silence after which a server counts as gone: no shorter, since the machine may be busy."""


class Group(Protocol):
    """Servers of which one has what is shared, until another one takes its place."""

    state: Any
    """What the configuration's ``state`` is."""
    servers: list[RedisServer]

    def start(self) -> None:
        """Start all of them, and wait until one can take the place of another."""

    def stop(self) -> None:
        """Kill all of them."""

    def primary(self) -> RedisServer:
        """Return the one that has what is shared now, once all that run name the same one."""

    def take_back(self, server: RedisServer) -> None:
        """Have one that was killed or stunned, and runs again, follow the one that has taken its place."""


class Sentinels:
    """A primary, a replica, and Sentinels that have the replica take its place.

    ``security`` is that of all servers, ``password`` the Sentinels' own.
    """

    def __init__(
        self, folder: Path, *, count: int = 3, security: Security = OPEN, password: str | None = None
    ) -> None:
        own = replace(security, password=password)
        auth = ("--masterauth", security.password) if security.password else ()
        self.servers = [RedisServer(each, *auth, security=security) for each in folders(folder, "redis", 2)]
        self.sentinels = [Sentinel(each, own) for each in folders(folder, "sentinel", count)]
        self.state = security.state()
        self.state["sentinel"] = {
            "master": MASTER,
            "hosts": [f"{HOST}:{sentinel.port}" for sentinel in self.sentinels],
        }
        if password is not None:
            self.state["sentinel"]["password"] = password

    def start(self) -> None:
        """Start all of them, and wait until the replica can be promoted."""
        primary, replica = self.servers
        for server in self.servers:
            server.start()
        replica.ask("REPLICAOF", HOST, primary.port)
        follows(replica)
        for sentinel in self.sentinels:
            sentinel.start()
            sentinel.watch(primary, len(self.sentinels) // 2 + 1)
        eventually(lambda: all(map(self._knows_all, self.sentinels)), "Sentinels that know each other")

    def _knows_all(self, sentinel: RedisServer) -> bool:
        found = sentinel.ask("SENTINEL MASTERS")[MASTER]
        return (found["num-slaves"], found["num-other-sentinels"]) == (1, len(self.sentinels) - 1)

    def stop(self) -> None:
        """Kill all of them."""
        for server in (*self.sentinels, *self.servers):
            server.stop()

    def primary(self) -> RedisServer:
        """Return the server that the Sentinels name; those that did not promote it hear of it later."""
        return eventually(self._named_by_all, "Sentinels that name one primary")

    def _named_by_all(self) -> RedisServer | None:
        running = filter(is_running, self.sentinels)
        ports = {int(each.ask("SENTINEL GET-MASTER-ADDR-BY-NAME", MASTER)[1]) for each in running}
        return next(server for server in self.servers if server.port in ports) if len(ports) == 1 else None

    def take_back(self, server: RedisServer) -> None:
        """Do what the Sentinels would do only after ten seconds."""
        server.ask("REPLICAOF", HOST, self.primary().port)
        follows(server)


class Sentinel(RedisServer):
    """A Sentinel: the same program as a server."""

    def __init__(self, folder: Path, security: Security) -> None:
        super().__init__(folder, security=security)
        self._file = folder / "sentinel.conf"
        self._command = [
            "redis-server", str(self._file), "--sentinel", *security.options(self.port), "--bind", HOST
        ]  # fmt: skip

    def start(self) -> None:
        """Start it, without knowledge."""
        self._file.write_text("")  # it writes there what it knows
        super().start()

    def watch(self, primary: RedisServer, quorum: int) -> None:
        """Have it watch a primary."""
        self.ask("SENTINEL", "MONITOR", MASTER, HOST, primary.port, quorum)
        settings: dict[str, Any] = {"down-after-milliseconds": DOWN_MS, "failover-timeout": 1500}
        if primary.security.password:
            settings["auth-pass"] = primary.security.password
        for key, value in settings.items():
            self.ask("SENTINEL", "SET", MASTER, key, value)


class Cluster:
    """Three primaries; the shard with the keys of one prefix has a replica, too."""

    def __init__(self, folder: Path, prefix: str, *, security: Security = OPEN) -> None:
        self.slot = key_slot(f"{{{prefix}}}".encode())
        self._bus = [free_port() for _ in range(4)]
        options = ["--cluster-enabled", "yes", "--cluster-node-timeout", str(DOWN_MS)]
        # A replica takes over however long the machine has kept it from its primary.
        options += ["--cluster-replica-validity-factor", "0"]
        if security.password:
            options += ["--masterauth", security.password]
        self.servers = [
            RedisServer(each, *options, "--cluster-port", str(bus), security=security)
            for each, bus in zip(folders(folder, "node", 4), self._bus, strict=True)
        ]
        self.state = security.state()
        self.state["cluster"] = [f"{HOST}:{server.port}" for server in self.servers[:2]]

    def start(self) -> None:
        """Start all nodes, and wait until the Cluster works and the replica can be promoted."""
        for server in self.servers:
            server.start()
        *primaries, replica = self.servers
        for number, server in enumerate(primaries):
            server.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            server.ask("CLUSTER", "ADDSLOTS", *range(number * SLOTS // 3, (number + 1) * SLOTS // 3))
            server.ask("CLUSTER", "MEET", HOST, replica.port, self._bus[3])
        eventually(lambda: all(map(self._knows_all, self.servers)), "nodes that have met")
        eventually(lambda: all(map(self._is_well, self.servers)), "nodes that know of all slots")
        owner = self.owner_of(self.slot)
        replica.ask("CLUSTER", "REPLICATE", owner.ask("CLUSTER MYID").decode())
        follows(replica)
        eventually(lambda: all(map(self._knows_replica, self.servers)), "nodes that know of the replica")

    def _knows_all(self, server: RedisServer) -> bool:
        return len(server.ask("CLUSTER NODES")) == len(self.servers)

    def _is_well(self, server: RedisServer) -> bool:
        return bool(server.ask("CLUSTER INFO")["cluster_state"] == "ok")

    def _knows_replica(self, server: RedisServer) -> bool:
        replicas = sum("slave" in node["flags"] for node in server.ask("CLUSTER NODES").values())
        return replicas == 1 and self._is_well(server)

    def stop(self) -> None:
        """Kill all of them."""
        for server in self.servers:
            server.stop()

    def primary(self) -> RedisServer:
        """Return the node that has the prefix's slot; gossip takes it to the other nodes."""
        return eventually(self._owner_for_all, "nodes that name one owner")

    def _owner_for_all(self) -> RedisServer | None:
        owners = {self._owner(self.slot, witness) for witness in filter(is_running, self.servers)}
        return owners.pop() if len(owners) == 1 else None

    def owner_of(self, slot: int) -> RedisServer:
        """Return the node that has a slot, as the first one that runs sees it."""
        return self._owner(slot, next(filter(is_running, self.servers)))

    def _owner(self, slot: int, witness: RedisServer) -> RedisServer:
        for begin, end, (_, port, *_), *_ in witness.ask("CLUSTER SLOTS"):
            if begin <= slot <= end:
                return next(server for server in self.servers if server.port == port)
        raise LookupError(f"no node has the slot {slot}")

    def take_back(self, server: RedisServer) -> None:
        """Wait: a node knows from its file which others there are."""
        follows(server)

    def move(self, slot: int, to: RedisServer) -> Iterator[None]:
        """Move a slot as a resharding does; yields after each of its steps."""
        source = self.owner_of(slot)
        ids = {each.port: each.ask("CLUSTER MYID").decode() for each in (source, to)}
        to.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source.port])
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[to.port])
        yield
        while keys := source.ask("CLUSTER", "GETKEYSINSLOT", slot, 1):
            source.ask("MIGRATE", HOST, to.port, keys[0], 0, 5000, "REPLACE")
            yield
        for server in (to, source, *(each for each in self.servers if each not in (to, source))):
            try:
                server.ask("CLUSTER", "SETSLOT", slot, "NODE", ids[to.port])
            except RedisError:
                continue  # a replica is told by its primary
        yield


is_running = attrgetter("is_running")


def follows(server: RedisServer) -> None:
    """Wait until a server is a replica that has all of its primary."""

    def is_so() -> bool:
        role, *more = server.ask("ROLE")
        return role == b"slave" and more[2] == b"connected"

    eventually(is_so, "a replica that follows")


def folders(folder: Path, name: str, count: int) -> list[Path]:
    """Make numbered folders."""
    made = [folder / f"{name}-{number}" for number in range(count)]
    for each in made:
        each.mkdir()
    return made
