"""A simulated AOAI: one port per endpoint, and one for the control plane."""

from __future__ import annotations

import random
import secrets
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from tornado.httpserver import HTTPServer

from aoai_gateway.config.models import SimulatedEndpoint
from aoai_gateway.simulator import control
from aoai_gateway.simulator.blackhole import bound_socket
from aoai_gateway.simulator.faults import Fault, FaultQueue
from aoai_gateway.simulator.listener import Listener, Numbers
from aoai_gateway.simulator.log import RequestLog
from aoai_gateway.simulator.resource import Resource, Settings
from aoai_gateway.simulator.tokenizer import ByteTokenizer, Tokenizer


class Simulator:
    """A started simulator; `start` makes one.

    `urls`, `keys` and `listeners` are by endpoint name; a URL has no slash at its end. `control_url` is the
    base of the control plane's paths. `faults`, `log` and `settings` are shared by all endpoints.
    """

    def __init__(self, faults: Iterable[Fault], settings: Settings) -> None:
        self.listeners: dict[str, Listener] = {}
        self.urls: dict[str, str] = {}
        self.keys: dict[str, str] = {}
        self.control_url = ""
        self.faults = FaultQueue(faults)
        self.log = RequestLog()
        self.settings = settings
        self._numbers = Numbers()
        self._initial_settings = replace(settings)
        self._control: HTTPServer | None = None

    def __repr__(self) -> str:
        return f"Simulator({dict(self.urls)}, control_url={self.control_url!r})"

    def open(self, resource: Resource, host: str, port: int, tls: ssl.SSLContext | None) -> None:
        """Start an endpoint."""
        listener = Listener(resource, self.faults, self.log, self.settings, self._numbers, tls=tls)
        self.listeners[resource.name] = listener
        self.keys[resource.name] = resource.key
        self.urls[resource.name] = _url("https" if tls else "http", host, listener.open(host, port))

    def open_control(self, host: str, port: int) -> None:
        """Start the control plane."""
        bound = bound_socket(host, port)
        bound.listen(128)
        self._control = HTTPServer(control.application(self))
        self._control.add_sockets([bound])
        self.control_url = _url("http", host, bound.getsockname()[1])

    def reset(self) -> None:
        """Be as after the start, but for the connections that are open."""
        self.faults.clear()
        self.log.clear()
        self.settings.update(asdict(self._initial_settings))
        for listener in self.listeners.values():
            listener.resource.reset()
            listener.go_on()
            for connection in listener.connections:
                connection.doomed = None

    async def stop(self) -> None:
        """Close all ports and connections."""
        for listener in self.listeners.values():
            await listener.shut_down()
        if self._control is not None:
            self._control.stop()
            await self._control.close_all_connections()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()


async def start(
    endpoints: Mapping[str, SimulatedEndpoint],
    *,
    host: str = "127.0.0.1",
    ports: Mapping[str, int] | None = None,
    control_port: int | None = 0,
    keys: Mapping[str, str] | None = None,
    tls_certificate: Path | None = None,
    tls_private_key: Path | None = None,
    faults: Iterable[Fault] = (),
    settings: Settings | None = None,
    tokenizer: Tokenizer | None = None,
    randomness: random.Random | None = None,
) -> Simulator:
    """Start a simulator in the running event loop.

    Every endpoint gets a port: the one in `ports`, else a free one; and a key: the one in `keys`, else
    a generated one. `control_port` None opens no control plane. With `tls_certificate` (PEM, with its
    chain; `tls_private_key` if not in the same file) the endpoints speak TLS; the control plane never
    does. `faults` are queued from the start, `tokenizer` counts tokens (by bytes if it is
    None), `randomness` draws ids. Raises OSError when a port is taken.
    """
    context = None
    if tls_certificate is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(tls_certificate, tls_private_key)
    source = randomness or random.Random()  # noqa: S311 (request ids, no secrets)
    simulator = Simulator(faults, settings or Settings())
    try:
        for name, spec in endpoints.items():
            key = (keys or {}).get(name) or secrets.token_hex(16)
            resource = Resource(
                name,
                spec,
                key,
                settings=simulator.settings,
                randomness=source,
                tokenizer=tokenizer or ByteTokenizer(),
            )
            simulator.open(resource, host, (ports or {}).get(name, 0), context)
        if control_port is not None:
            simulator.open_control(host, control_port)
    except BaseException:
        await simulator.stop()
        raise
    return simulator


def _url(scheme: str, host: str, port: int) -> str:
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
