"""The command line's part of it: ``status``, ``break`` and ``switch``, against a gateway that runs."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from aoai_gateway.admin.client import DEFAULT_URL, TOKEN_VARIABLE, AdminClient, AdminError
from aoai_gateway.admin.terminal import paint, render
from aoai_gateway.wire.authority import authority, reachable

if TYPE_CHECKING:
    from aoai_gateway.config.models import Admin

type Parser = Callable[[str, str], argparse.ArgumentParser]
"""Makes a parser for a command (its words) with a description."""

KINDS = ("endpoint", "standin", "client")
"""As in `aoai_gateway.config.switches`, which takes half a second to import."""

WATCH_SECONDS = 1.0
DEFAULT_BREAK = 300.0

CLEAR = "\x1b[H\x1b[J"
"""Cursor home, erase to the end (ECMA-48 §8.3.21, §8.3.39)."""


def status(words: list[str], parser: Parser) -> int:
    """Show the state: as tables, as JSON, or as tables again and again."""
    made = parser("status", "Show the state of a running gateway.")
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


def breaks(words: list[str], parser: Parser) -> int:
    """Open or close breaks."""
    made = parser("break", "Skip a backend or endpoint for a while, or end its break.")
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
        print(client.open_break(args.name, args.seconds, args.reason))
    else:
        print(client.close_break(args.name))
    return 0


def switch(words: list[str], parser: Parser) -> int:
    """Switch something off or on."""
    made = parser("switch", "Switch an endpoint, standin or client off, or on again, until the restart.")
    made.add_argument("to", choices=("off", "on"))
    made.add_argument("kind", choices=KINDS)
    made.add_argument("name", metavar="NAME", help="a standin is written standin@endpoint")
    _add_url(made)
    args = made.parse_args(words)
    print(_client(args).switch(args.kind, args.name, on=args.to == "on"))
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
    """Read the section ``admin``. Errors elsewhere do not matter: the gateway may have other variables.

    :raises AdminError: it cannot be read.
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


COMMANDS: dict[str, Callable[[list[str], Parser], int]] = {
    "status": status,
    "break": breaks,
    "switch": switch,
}
"""The commands by name."""
