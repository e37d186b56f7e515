"""The admin listener: the status page, its JSON, and the controls, on an address of its own.

Its paths, and the members of each request, are in docs/reference/admin-api.md. A control answers
``{"done": "<a sentence>"}``; an error is ``{"error": {"message"}}`` with 400, 401, 403, 404, 405, 409 or 415.
See :mod:`~aoai_gateway.admin.guard` for access.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import math
import os
import re
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, override

from tornado import netutil, web
from tornado.httpserver import HTTPServer

from aoai_gateway.admin import guard, metrics
from aoai_gateway.admin.answers import ReadInTimeHandler, headers
from aoai_gateway.admin.controls import LONGEST_BREAK, ControlError, NothingOfThatNameError
from aoai_gateway.admin.snapshot import snapshot
from aoai_gateway.proxy import health
from aoai_gateway.wire.authority import authority
from aoai_gateway.wire.json_members import read_document
from aoai_gateway.wire.printing import is_encodable

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable

    from tornado.routing import Rule

    from aoai_gateway.admin.controls import Controls
    from aoai_gateway.config.models import Admin
    from aoai_gateway.runtime.gateway import Gateway

logger = logging.getLogger(__name__)

LARGEST_BODY = 16 * 1024
IDLE_SECONDS = 60.0

PAGE = Path(__file__).with_name("page.html").read_bytes()


def _hashes(tag: bytes) -> str:
    """Name the contents of all elements of a kind as CSP does (W3C CSP Level 3 §2.3.1)."""
    contents = re.findall(rb"<%s>(.*?)</%s>" % (tag, tag), PAGE, re.DOTALL)
    digests = (base64.b64encode(hashlib.sha256(each).digest()).decode() for each in contents)
    return " ".join(f"'sha256-{digest}'" for digest in digests)


CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        f"script-src {_hashes(b'script')}",
        f"style-src {_hashes(b'style')}",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)

HEADERS = headers(CONTENT_SECURITY_POLICY)


def bind(admin: Admin) -> list[socket.socket]:
    """Open the sockets of the status page, and say where it is.

    An address that is not to be had is logged, and stops nothing: there are no sockets then.
    """
    try:
        sockets = netutil.bind_sockets(admin.port, admin.host)
    except OSError as error:
        logger.warning(
            "There is no status page: %s:%d cannot be listened on (%s). The gateway serves without it; "
            "admin.port names another port.",
            admin.host,
            admin.port,
            os.strerror(error.errno) if error.errno else error,
        )
        return []
    logger.info("Status page at http://%s/", authority(admin.host, sockets[0].getsockname()[1]))
    return sockets


class AdminListener:
    """The listener of one gateway; `start` it once, and `stop` it in the end."""

    def __init__(self, gateway: Gateway, controls: Controls) -> None:
        self._gateway = gateway
        self._controls = controls
        self._server: HTTPServer | None = None
        self._more: list[Rule | tuple[Any, ...]] = []
        self.url: str | None = None
        """Where it is, without a slash at the end; None as long as it does not listen."""

    def extend(self, rules: Iterable[Rule | tuple[Any, ...]]) -> None:
        """Serve more than the status page; before `start`. The handlers decide themselves who may ask."""
        self._more += rules

    def start(self, admin: Admin) -> None:
        """Listen as configured. An address that is not to be had is logged, and stops nothing."""
        if not admin.enabled:
            return
        sockets = bind(admin)
        if not sockets:
            return
        self._serve(sockets, admin)
        self.url = f"http://{authority(admin.host, sockets[0].getsockname()[1])}"
        if self._more:
            logger.info("Workbench at %s/workbench", self.url)

    def start_for_supervisor(self, path: Path, admin: Admin) -> None:
        """Listen on a Unix socket, for the process that shows all workers together."""
        path.unlink(missing_ok=True)
        self._serve([netutil.bind_unix_socket(str(path))], admin)

    def _serve(self, sockets: list[socket.socket], admin: Admin) -> None:
        settings = {"gateway": self._gateway, "controls": self._controls, "tokens": tuple(admin.holders())}
        application = web.Application(
            [
                (r"/", PageHandler, settings),
                (r"/api/status", StatusHandler, settings),
                (r"/metrics", MetricsHandler, settings),
                (r"/api/breaks/open", OpenBreakHandler, settings),
                (r"/api/breaks/close", CloseBreakHandler, settings),
                (r"/api/switch", SwitchHandler, settings),
                (r"/(?:health/live|healthz|health/ready|readyz)", HealthHandler, settings),
                *self._more,
            ],
            default_handler_class=NothingHandler,
            default_handler_args=settings,
            log_function=lambda handler: None,
        )
        self._server = HTTPServer(
            application,
            max_body_size=LARGEST_BODY,
            max_header_size=LARGEST_BODY,
            idle_connection_timeout=IDLE_SECONDS,
            body_timeout=IDLE_SECONDS,
        )
        self._server.add_sockets(sockets)

    async def stop(self) -> None:
        """Stop listening, and close what is connected."""
        if self._server is not None:
            self._server.stop()
            await self._server.close_all_connections()


class _Handler(ReadInTimeHandler):
    """The base of all handlers: headers, errors as JSON, and no pages of tornado's own."""

    default_headers = HEADERS

    def initialize(self, gateway: Gateway, controls: Controls, tokens: guard.Tokens) -> None:
        self.gateway, self.controls, self.tokens = gateway, controls, tokens
        self.names = {name.lower(): value for name, value in self.request.headers.items()}

    @override
    def write_error(self, status_code: int, **kwargs: Any) -> None:
        if status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            self.set_header("Allow", "POST" if isinstance(self, _Control) else "GET")
        self.fail(status_code, f"{HTTPStatus(status_code).phrase}.")

    @override
    def log_exception(self, *args: Any) -> None:
        if not isinstance(args[1], web.HTTPError):
            logger.error("A bug in the admin listener.", exc_info=args)

    def fail(self, status: int, message: str) -> None:
        """Answer with an error."""
        self.set_status(status)
        self.answer({"error": {"message": message}})

    def answer(self, document: dict[str, Any]) -> None:
        """Answer with a document."""
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps(document, separators=(",", ":")))

    def passes(self, refusal: guard.Refusal | None) -> bool:
        """Whether the request may go on; if not, it has been answered."""
        if refusal is None:
            return True
        if refusal.status == HTTPStatus.UNAUTHORIZED:
            self.set_header("WWW-Authenticate", 'Bearer realm="aoai-gateway"')
        self.fail(refusal.status, refusal.message)
        return False


class NothingHandler(_Handler):
    """Any other path."""

    @override
    def prepare(self) -> None:
        self.fail(404, "There is nothing here; the page is at /.")


class PageHandler(_Handler):
    """The page holds no data, so it needs no token: it asks for one."""

    def get(self) -> None:
        """Return the page."""
        if not self.tokens and not self.passes(guard.is_local(self.names)):
            return
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.finish(PAGE)


class StatusHandler(_Handler):
    """The state."""

    async def get(self) -> None:
        """Return the state as JSON."""
        if self.passes(guard.may_see(self.names, self.tokens)):
            self.answer(await snapshot(self.gateway))


class MetricsHandler(_Handler):
    """For Prometheus."""

    async def get(self) -> None:
        """Send all metrics as text."""
        if self.passes(guard.may_see(self.names, self.tokens)):
            body = await metrics.metrics(self.gateway)
            self.set_header("Content-Type", metrics.CONTENT_TYPE)
            self.finish(body)


class HealthHandler(_Handler):
    """Probes of orchestrators."""

    def get(self) -> None:
        """Answer as the main listener does."""
        found = health.answer(self.gateway, "GET", self.request.path)
        assert found is not None
        self.set_status(found.status_code)
        self.set_header("Content-Type", "application/json")
        self.finish(found.content or b"")


class _Control(_Handler):
    """A request that changes something."""

    @property
    def by(self) -> str:
        """The name of the holder of the token that was shown; empty without one."""
        holder = guard.holder_of(self.names, self.tokens)
        return holder.name if holder is not None else ""

    def post(self) -> None:
        """Carry the action out, and answer with a sentence about it."""
        if not self.passes(guard.may_change(self.names, self.tokens)):
            return
        try:
            members = read_document(self.request.body.decode(errors="replace"))
            act = self.understood({member.key: member.value for member in members})
        except ValueError as error:
            self.fail(400, f"The request is not understood: {error}.")
            return
        # Nothing has been done so far; from here on, what is not understood would be done by half.
        try:
            done = act()
        except NothingOfThatNameError as error:
            self.fail(404, _sentence(error))
        except ControlError as error:
            self.fail(409, _sentence(error))
        else:
            self.answer({"done": done})

    def understood(self, asked: dict[str, Any]) -> Callable[[], str]:
        """Return the action that is asked for, all of it checked. Raises ValueError for a malformed request.

        The action gives a sentence about what it has done, or raises ControlError.
        """
        raise NotImplementedError


class OpenBreakHandler(_Control):
    """Opens a break."""

    @override
    def understood(self, asked: dict[str, Any]) -> Callable[[], str]:
        name, seconds, reason = _text(asked, "name"), asked.get("seconds"), _text(asked, "reason", "")
        if isinstance(seconds, bool) or not isinstance(seconds, int | float):
            raise ValueError('"seconds" must be a number')
        if not -LONGEST_BREAK <= seconds <= LONGEST_BREAK:
            # An integer can have more digits than a float can hold.
            seconds = math.inf
        return partial(self.controls.open_break, name, float(seconds), reason, by=self.by)


class CloseBreakHandler(_Control):
    """Closes a break, or all."""

    @override
    def understood(self, asked: dict[str, Any]) -> Callable[[], str]:
        if "name" not in asked:
            return partial(self.controls.close_all_breaks, by=self.by)
        return partial(self.controls.close_break, _text(asked, "name"), by=self.by)


class SwitchHandler(_Control):
    """Switches something off or on."""

    @override
    def understood(self, asked: dict[str, Any]) -> Callable[[], str]:
        on = asked.get("on")
        if not isinstance(on, bool):
            raise ValueError('"on" must be true or false')
        return partial(self.controls.switch, _text(asked, "kind"), _text(asked, "name"), on=on, by=self.by)


def _sentence(error: ControlError) -> str:
    text = str(error)
    return text if text.endswith("?") else f"{text}."


def _text(asked: dict[str, Any], key: str, default: str | None = None) -> str:
    value = asked.get(key, default)
    if not isinstance(value, str):
        raise ValueError(f'"{key}" must be a text')
    if not is_encodable(value):
        raise ValueError(f'"{key}" must be a text; it holds half of a surrogate pair')
    return value
