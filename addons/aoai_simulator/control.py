"""The control plane, on a port of its own, so that faults never touch it.

All bodies are JSON. An error is `{"error": "what is wrong"}` with status 400 or 404.

| path under /_simulator | method | |
|---|---|---|
| `faults` | GET, POST, DELETE | the queued faults; queue one or a list; forget all |
| `requests` | GET, DELETE | the request log (filters: `?endpoint=`, `?deployment=`, `?outcome=`); forget it |
| `active` | GET | calls in flight and open connections, in all and per endpoint |
| `listening` | GET, POST | `{"endpoint": "*", "on": false}` refuses connections (more below) |
| `limits` | GET, POST | `{"endpoint": "*", "deployment": "*", "set": "full", "seconds": 30}`, or `empty` |
| `settings` | GET, POST | see `Settings`; POST changes those that it names |
| `reset` | POST | as after the start: no faults, no log, empty windows, listening, settings as then |

`listening` also takes `"silently": true`, and connection attempts are not even answered; and
`"close_connections": false`, and the open connections live on. The fields of a fault are in `faults`, those
of a log entry in `connection`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from tornado.web import Application, RequestHandler

from aoai_simulator import limits
from aoai_simulator.deployments import Deployment
from aoai_simulator.faults import FaultError, read_fault

if TYPE_CHECKING:
    from aoai_simulator.listener import Listener
    from aoai_simulator.simulator import Simulator


def application(simulator: Simulator) -> Application:
    """The control plane of a simulator."""
    routes = {
        "faults": _Faults,
        "requests": _Requests,
        "active": _Active,
        "listening": _Listening,
        "limits": _Limits,
        "settings": _Settings,
        "reset": _Reset,
    }
    return Application(
        [(f"/_simulator/{name}", handler, {"simulator": simulator}) for name, handler in routes.items()],
        default_handler_class=_NotFound,
        default_handler_args={"simulator": simulator},
        log_function=lambda _handler: None,
    )


class _WrongError(Exception):
    """A request that makes no sense; the text gives the reason."""


class _Handler(RequestHandler):
    def initialize(self, simulator: Simulator) -> None:
        self.simulator = simulator

    def object(self) -> dict[str, Any]:
        value = self.json()
        if not isinstance(value, dict):
            raise _WrongError("the body must be a JSON object")
        return value

    def json(self) -> Any:
        try:
            return json.loads(self.request.body or b"{}")
        except ValueError:
            raise _WrongError("the body is not JSON") from None

    def answer(self, value: Any) -> None:
        self.set_header("content-type", "application/json")
        self.finish(json.dumps(value))

    def endpoints(self, name: str) -> Mapping[str, Listener]:
        found = {key: item for key, item in self.simulator.listeners.items() if name in ("*", key)}
        if not found:
            raise _WrongError(f"unknown endpoint {name!r}; there are: {', '.join(self.simulator.listeners)}")
        return found

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        error = kwargs.get("exc_info", (None, None, None))[1]
        if isinstance(error, _WrongError | FaultError):
            self.set_status(400)
            self.answer({"error": str(error)})
        else:
            self.answer({"error": self._reason})

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        if not isinstance(value, _WrongError | FaultError):
            super().log_exception(typ, value, tb)


class _NotFound(_Handler):
    def prepare(self) -> None:
        self.set_status(404)
        self.answer({"error": "unknown path; they are listed in aoai_simulator/control.py"})


class _Faults(_Handler):
    def get(self) -> None:
        self.answer([fault.as_dict() for fault in self.simulator.faults])

    def post(self) -> None:
        items = self.json()
        items = items if isinstance(items, list) else [items]
        if not all(isinstance(item, dict) for item in items):
            raise _WrongError("a fault must be a JSON object")
        faults = [read_fault(item) for item in items]
        for fault in faults:
            self.endpoints(fault.endpoint)
        for fault in faults:
            self.simulator.faults.add(fault)
        self.get()

    def delete(self) -> None:
        self.simulator.faults.clear()
        self.answer([])


class _Requests(_Handler):
    def get(self) -> None:
        wanted = {
            name: self.get_query_argument(name)
            for name in ("endpoint", "deployment", "outcome")
            if self.get_query_argument(name, None) is not None
        }
        self.answer(
            [
                asdict(entry)
                for entry in self.simulator.log
                if all(getattr(entry, name) == value for name, value in wanted.items())
            ]
        )

    def delete(self) -> None:
        self.simulator.log.clear()
        self.answer([])


class _Active(_Handler):
    def get(self) -> None:
        each = {
            name: {"in_flight": listener.in_flight, "connections": listener.connection_count}
            for name, listener in self.simulator.listeners.items()
        }
        total = {key: sum(item[key] for item in each.values()) for key in ("in_flight", "connections")}
        self.answer({**total, "endpoints": each})


class _Listening(_Handler):
    def get(self) -> None:
        self.answer({name: item.listening for name, item in self.simulator.listeners.items()})

    def post(self) -> None:
        body = self.object()
        on = body.get("on")
        if not isinstance(on, bool):
            raise _WrongError('"on" must be true or false')
        for listener in self.endpoints(str(body.get("endpoint", "*"))).values():
            if on:
                listener.go_on()
            else:
                listener.go_off(
                    silently=body.get("silently") is True,
                    close_connections=body.get("close_connections", True) is True,
                )
        self.get()


class _Limits(_Handler):
    def get(self) -> None:
        now = asyncio.get_running_loop().time()
        self.answer(
            {
                name: {key: _state(item, now) for key, item in listener.resource.deployments.items()}
                for name, listener in self.simulator.listeners.items()
            }
        )

    def post(self) -> None:
        body = self.object()
        action, wanted = body.get("set"), body.get("deployment", "*")
        seconds = body.get("seconds", 60)
        if action not in ("full", "empty"):
            raise _WrongError('"set" must be "full" or "empty"')
        if not isinstance(seconds, int | float) or not 0 < seconds <= 60:
            raise _WrongError('"seconds" must be a number above 0, at most 60')
        now = asyncio.get_running_loop().time()
        deployments = [
            deployment
            for listener in self.endpoints(str(body.get("endpoint", "*"))).values()
            for deployment in listener.resource.deployments.values()
            if wanted in ("*", deployment.name)
        ]
        if not deployments:
            raise _WrongError(f"unknown deployment {wanted!r}")
        for item in deployments:
            item.state = (
                item.limits.empty()
                if action == "empty"
                else limits.fill(item.limits, item.state, now, float(seconds))
            )
        self.get()


def _state(deployment: Deployment, now: float) -> dict[str, Any]:
    return limits.describe(deployment.limits, deployment.state, now)


class _Settings(_Handler):
    def get(self) -> None:
        self.answer(asdict(self.simulator.settings))

    def post(self) -> None:
        try:
            self.simulator.settings.update(self.object())
        except ValueError as error:
            raise _WrongError(str(error)) from None
        self.get()


class _Reset(_Handler):
    def post(self) -> None:
        self.simulator.reset()
        self.answer({})
