"""A started simulator: its endpoints, and their shared state."""

from __future__ import annotations

import ssl
from collections import deque
from collections.abc import Iterable
from dataclasses import asdict, replace

from tornado.httpserver import HTTPServer
from tornado.web import Application

from aoai_simulator.blackhole import bound_socket
from aoai_simulator.connection import MAX_ENTRIES, Entry
from aoai_simulator.faults import Fault, FaultQueue
from aoai_simulator.listener import Listener, Numbers
from aoai_simulator.resource import Resource
from aoai_simulator.settings import Settings


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
        self.log: deque[Entry] = deque(maxlen=MAX_ENTRIES)
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

    def open_control(self, application: Application, host: str, port: int) -> None:
        """Start the control plane."""
        bound = bound_socket(host, port)
        bound.listen(128)
        self._control = HTTPServer(application)
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


def _url(scheme: str, host: str, port: int) -> str:
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
