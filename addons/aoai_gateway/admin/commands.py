"""The commands ``status``, ``break`` and ``switch``, and the client by which they ask a gateway that runs."""

from __future__ import annotations

import argparse
import http.client
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO
from urllib.parse import SplitResult, urlsplit

from aoai_gateway.admin.terminal import paint, render
from aoai_gateway.command_line import parser_of
from aoai_gateway.wire.authority import authority, reachable

if TYPE_CHECKING:
    from aoai_gateway.config.models import Admin

KINDS = ("endpoint", "standin", "client")
"""As in `aoai_gateway.config.switches`, which takes half a second to import."""

WATCH_SECONDS = 1.0
DEFAULT_BREAK = 300.0

CLEAR = "\x1b[H\x1b[J"
"""Cursor home, erase to the end (ECMA-48 §8.3.21, §8.3.39)."""


def status(words: list[str]) -> int:
    """Show the state: as tables, as JSON, or as tables again and again."""
    made = parser_of("status", "Show the state of a running gateway.")
    _add_url(made)
    made.add_argument("--json", action="store_true", help="print it as JSON")
    made.add_argument("--watch", action="store_true", help="show it again each second, until Ctrl-C")
    args = made.parse_args(words)
    client = _client(args)
    if args.json:
        print(json.dumps(client.status(), indent=2))
    elif args.watch:
        _watch(client, sys.stdout)
    else:
        print(_rendered(client, sys.stdout))
    return 0


def breaks(words: list[str]) -> int:
    """Open or close breaks."""
    made = parser_of("break", "Skip a backend or endpoint for a while, or end its break.")
    commands = made.add_subparsers(dest="command", required=True, metavar="open|close")
    opening = commands.add_parser("open", help="skip it for a while")
    opening.add_argument("name", metavar="BACKEND", help="standin@endpoint, or an endpoint for all of it")
    opening.add_argument(
        "--seconds", type=float, default=DEFAULT_BREAK, help=f"for how long (default: {DEFAULT_BREAK:.0f})"
    )
    opening.add_argument("--reason", default="", help="why; others will see it")
    closing = commands.add_parser("close", help="end its break")
    closing.add_argument("name", metavar="BACKEND", nargs="?", help="standin@endpoint, or an endpoint")
    closing.add_argument("--all", action="store_true", help="end all breaks")
    for each in (opening, closing):
        _add_url(each)
    args = made.parse_args(words)
    if args.command == "close" and bool(args.name) == args.all:
        made.error("name a backend or endpoint, or say --all")
    client = _client(args)
    if args.command == "open":
        print(client.do("/api/breaks/open", name=args.name, seconds=args.seconds, reason=args.reason))
    elif args.all:
        print(client.do("/api/breaks/close"))
    else:
        print(client.do("/api/breaks/close", name=args.name))
    return 0


def switch(words: list[str]) -> int:
    """Switch something off or on."""
    made = parser_of("switch", "Switch an endpoint, standin or client off, or on again, until the restart.")
    made.add_argument("to", choices=("off", "on"))
    made.add_argument("kind", choices=KINDS)
    made.add_argument("name", metavar="NAME", help="a standin is written standin@endpoint")
    _add_url(made)
    args = made.parse_args(words)
    print(_client(args).do("/api/switch", kind=args.kind, name=args.name, on=args.to == "on"))
    return 0


def _add_url(parser: argparse.ArgumentParser) -> None:
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--url",
        default=DEFAULT_URL,
        help=f"the gateway's status page (default: {DEFAULT_URL}); its token, if any, from {TOKEN_VARIABLE}",
    )
    where.add_argument(
        "--config", metavar="FILE", help="the gateway's configuration: it names the status page and its token"
    )


def _client(args: argparse.Namespace) -> AdminClient:
    """Return the client of the gateway that is meant. The token may come from the environment, too."""
    token = os.environ.get(TOKEN_VARIABLE)
    if args.config is None:
        return AdminClient(args.url, token)
    admin = _admin_of(Path(os.path.expanduser(args.config)))
    if not admin.enabled:
        raise AdminError(f"{args.config} says admin.enabled: false, so its gateway has no status page.")
    if admin.port == 0:
        raise AdminError(f"{args.config} says admin.port: 0, a free one: the log names it; say --url.")
    if token is None and admin.token is not None:
        token = admin.token.get_secret_value()
    return AdminClient(f"http://{authority(reachable(admin.host), admin.port)}", token)


def _admin_of(path: Path) -> Admin:
    """Read the section ``admin``. Raises AdminError.

    Errors elsewhere do not matter: the gateway may have other variables.
    """
    # Loaded only now: without --config, a command answers in a quarter of the time.
    from aoai_gateway.config.loader import ConfigErrors, load

    try:
        return load(path, env=os.environ).config.admin
    except ConfigErrors as errors:
        mine = [each for each in errors.problems if not each.path or each.path.startswith("admin")]
        if errors.rest is None or mine:
            raise AdminError("\n".join(map(str, mine or errors.problems))) from None
        return errors.rest.admin


def _rendered(client: AdminClient, out: TextIO) -> str:
    # https://no-color.org: set and not empty
    colour = out.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    # Outside of a terminal (a pipe, a file), nothing is to be cut off.
    width = shutil.get_terminal_size().columns if out.isatty() else 1000
    return render(client.status(), width=width, colour=colour)


def _watch(client: AdminClient, out: TextIO) -> None:
    """Show the state again and again; a gateway that does not answer may be restarting."""
    while True:
        try:
            text = _rendered(client, out)
        except AdminError as error:
            text = paint(str(error), "red") if out.isatty() else str(error)
        out.write(f"{CLEAR}{text}\n" if out.isatty() else f"{text}\n\n")
        out.flush()
        time.sleep(WATCH_SECONDS)


COMMANDS: Mapping[str, Callable[[list[str]], int]] = {"status": status, "break": breaks, "switch": switch}
"""The commands by name."""


DEFAULT_URL = "http://127.0.0.1:8090"
TOKEN_VARIABLE = "AOAI_GATEWAY_ADMIN_TOKEN"  # noqa: S105 - the name of a variable is no secret
SECONDS = 10.0


class AdminError(Exception):
    """The gateway did not answer, or refused; the message names a remedy."""


class AdminClient:
    """One gateway's admin listener. ``token``: its token; None without one. Raises AdminError."""

    def __init__(self, url: str = DEFAULT_URL, token: str | None = None) -> None:
        self.url = url.rstrip("/")
        self._token = token
        self._where = _split(url)

    def status(self) -> dict[str, Any]:
        """Return the state, as :mod:`~aoai_gateway.admin.snapshot` documents it. Raises AdminError."""
        return self._ask("GET", "/api/status")

    def do(self, path: str, **members: Any) -> str:
        """Ask for an action. Returns a sentence about it. Raises AdminError."""
        return str(self._ask("POST", path, members)["done"])

    def _ask(self, method: str, path: str, document: dict[str, Any] | None = None) -> dict[str, Any]:
        headers = {"accept": "application/json"}
        body = None
        if document is not None:
            body = json.dumps(document)
            headers["content-type"] = "application/json"
        if self._token:
            headers["authorization"] = f"Bearer {self._token}"
        where = self._where
        secure = where.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        connection = kind(where.hostname or "", where.port, timeout=SECONDS)
        try:
            connection.request(method, where.path.rstrip("/") + path, body=body, headers=headers)
            answer = connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise AdminError(
                f"no gateway's status page answers at {self.url} ({reason}). "
                "Is it running, and is its section admin on this address? --url names another."
            ) from None
        finally:
            connection.close()
        return self._read(answer.status, content)

    def _read(self, status: int, content: bytes) -> dict[str, Any]:
        try:
            found = json.loads(content)
            if status < 300 and isinstance(found, dict):
                return found
            message = found["error"]["message"]
        except (ValueError, LookupError, TypeError):
            raise AdminError(
                f"the server at {self.url} is not a gateway's status page (status {status})."
            ) from None
        if status == 401:
            raise AdminError(f"{message} Set it as {TOKEN_VARIABLE}.")
        raise AdminError(str(message))


def _split(url: str) -> SplitResult:
    try:
        where = urlsplit(url)
        good = (
            where.scheme in ("http", "https")
            and bool(where.hostname)
            and (where.port is None or where.port > 0)
        )
    except ValueError:
        good = False
    if not good:
        raise AdminError(f"--url {url}: write it like {DEFAULT_URL}")
    return where
