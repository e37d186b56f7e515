"""Drives the gateway's layer without a socket: one client connection, its backends, and a clock by hand.

What the client sends and backends answer are bytes; what the layer wants (connections, timers, hooks) is
carried out here as mitmproxy's server would, in the order in which it comes.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from mitmproxy.connection import ConnectionState, Server
from mitmproxy.options import Options
from mitmproxy.proxy import commands, context, events
from mitmproxy.proxy.mode_specs import ProxyMode
from mitmproxy.test import taddons, tflow

from aoai_gateway.config.models import Config
from aoai_gateway.proxy.layer import GatewayLayer
from aoai_gateway.runtime.gateway import Gateway
from aoai_gateway.runtime.stream_hooks import GatewayAskHook


class Clock:
    """Stands for the module `time`."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return 1_700_000_000.0 + self.now


class Connection:
    """A client's connection to the gateway. ``refusing``: names of hosts that do not take connections."""

    def __init__(self, gateway: Gateway, clock: Clock, options: Options) -> None:
        self.gateway, self.clock = gateway, clock
        self.client = tflow.tclient_conn()
        self.client.proxy_mode = ProxyMode.parse("reverse:http://aoai-gateway.invalid")
        self.client.sockname = ("127.0.0.1", 8080)
        self.client.alpn = None
        self.layer = GatewayLayer(context.Context(self.client, options), gateway)
        self.refusing: set[str] = set()
        self.hanging: set[str] = set()
        self.servers: list[Server] = []
        self.opening: dict[str, commands.OpenConnection] = {}
        self.received = b""
        """What the client got."""
        self.sent: dict[str, bytes] = {}
        """What each backend got, by host."""
        self.hooks: list[commands.StartHook] = []
        self.logged: list[str] = []
        self.timers: list[tuple[float, commands.RequestWakeup]] = []
        self.on_hook: Callable[[commands.StartHook], None] = lambda hook: None
        self.takes_time: type[commands.StartHook] | tuple[()] = ()
        """A kind of hook that is done only when the test says so."""
        self.feed(events.Start())

    # --- what happens --------------------------------------------------------------------------------

    def feed(self, event: events.Event) -> None:
        waiting = [event]
        while waiting:
            for command in self.layer.handle_event(waiting.pop(0)):
                waiting += self._do(command)

    def _do(self, command: commands.Command) -> list[events.Event]:
        match command:
            case commands.OpenConnection(connection=Server() as server):
                assert server.address is not None
                host = server.address[0]
                if host in self.hanging:
                    self.opening[host] = command
                    return []
                if host in self.refusing:
                    server.error = "Connection refused"
                    return [events.OpenConnectionCompleted(command, "Connection refused")]
                server.state = ConnectionState.OPEN
                server.timestamp_tcp_setup = self.clock.time()
                self.servers.append(server)
                return [events.OpenConnectionCompleted(command, None)]
            case commands.SendData(connection=Server() as server):
                assert server.address is not None
                host = server.address[0]
                self.sent[host] = self.sent.get(host, b"") + command.data
            case commands.SendData():
                self.received += command.data
            case commands.CloseConnection(connection=connection):
                if isinstance(connection, Server) and connection.address:
                    opening = self.opening.pop(connection.address[0], None)
                    if opening is not None:
                        connection.error = "connection cancelled"
                        return [events.OpenConnectionCompleted(opening, "connection cancelled")]
                was_open, connection.state = connection.connected, ConnectionState.CLOSED
                if connection is not self.client and was_open:
                    return [events.ConnectionClosed(connection)]
            case commands.RequestWakeup():
                self.timers.append((self.clock.now + command.delay, command))
            case commands.StartHook():
                self.hooks.append(command)
                self.on_hook(command)
                if command.blocking and not isinstance(command, self.takes_time):
                    return [events.HookCompleted(command)]
            case commands.Log():
                self.logged.append(command.message)
        return []

    def run_timers(self, seconds: float = 0) -> None:
        """Let time pass, and fire what is due on the way."""
        end = self.clock.now + seconds
        while due := sorted((t for t in self.timers if t[0] <= end), key=lambda t: t[0]):
            at, timer = due[0]
            self.timers.remove((at, timer))
            self.clock.now = max(self.clock.now, at)
            self.feed(events.Wakeup(timer))
        self.clock.now = end

    # --- short ways ----------------------------------------------------------------------------------

    def ask(
        self,
        *,
        key: str = "key-of-anybody",
        version: str = "1.1",
        connection: str = "",
        origin: str = "",
        waits: float = 600.0,
        **members: Any,
    ) -> None:
        """Send a call of a client that waits so many seconds for its answer."""
        body = json.dumps({"model": "gpt", "messages": [], **members}).encode()
        head = (
            f"POST /openai/v1/chat/completions HTTP/{version}\r\nhost: gw\r\napi-key: {key}\r\n"
            f"connection: {connection}\r\norigin: {origin}\r\nx-stainless-read-timeout: {waits}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        self.feed(events.DataReceived(self.client, head.encode() + body))

    def server(self, host: str) -> Server:
        """Return the last connection to a backend."""
        return [s for s in self.servers if s.address and s.address[0] == f"{host}.example"][-1]

    def answer(self, host: str, data: bytes) -> None:
        """Have a backend send bytes, and give what comes of it its turn."""
        self.feed(events.DataReceived(self.server(host), data))
        self.run_timers()

    def respond(self, host: str, status: int, body: bytes = b"{}") -> None:
        """Have a backend answer."""
        length = f"content-length: {len(body)}\r\n"
        head = f"HTTP/1.1 {status} x\r\ncontent-type: application/json\r\n{length}\r\n"
        self.answer(host, head.encode() + body)

    def hang_up(self, who: str | None = None) -> None:
        """Have a backend, or the client, close its connection."""
        connection = self.client if who is None else self.server(who)
        connection.state = ConnectionState.CLOSED
        self.feed(events.ConnectionClosed(connection))
        self.run_timers()

    def result(self) -> tuple[int, bytes]:
        """Return the last answer's status and body, and forget it."""
        head, _, body = self.received.partition(b"\r\n\r\n")
        self.received = b""
        return int(head.split()[1]), body

    @property
    def at_rest(self) -> bool:
        """Whether nothing is left of any call."""
        layer = self.layer
        gateway = self.gateway
        left = (layer.streams, layer.waiting_for_establishment, layer._deadlines._due, gateway.calls)
        return not any(left) and not gateway.held.total


class Other:
    """An addon that hears no event of the gateway's; without an addon, no flow is looked at."""


def listen(gateway: Gateway, *listeners: object) -> None:
    """Say who listens to events, and leave it at that."""
    with taddons.context(Other(), *listeners, loadcore=False) as tctx:
        gateway.heard.refresh(tctx.master.addons)
    # It would hand what is logged to a loop that is closed.
    tctx.master._legacy_log_events.uninstall()
    gateway.heard.refresh = lambda addons: None  # type: ignore[method-assign]


def over_plain_http(configuration: Config) -> Config:
    """Return a configuration whose endpoints speak no TLS, so that what is sent to them can be read."""
    endpoints = tuple(e.but(url=f"http://{e.name}.example/") for e in configuration.aoai.endpoints)
    return configuration.but(aoai=configuration.aoai.but(endpoints=endpoints))


def connect(configuration: Config, options: Options) -> Connection:
    """Make a gateway with a clock by hand, and a connection to it."""
    clock = Clock()
    gateway = Gateway(clock)
    gateway.adopt(configuration)
    listen(gateway)
    return Connection(gateway, clock, options)


def await_it(hook: commands.StartHook) -> None:
    """Do what the layer asks of the addon, at once."""
    if isinstance(hook, GatewayAskHook):
        asyncio.run(hook.data.perform(None))  # type: ignore[arg-type]  # it asks no addon
