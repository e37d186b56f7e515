"""The commands ``serve`` and ``web``: their options, what must be right before a start, and what it says."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from aoai_gateway.app import signals
from aoai_gateway.app.loading import (
    CHECKOUT,
    StartError,
    add_config_option,
    check_start,
    existing_config,
    load_config,
)
from aoai_gateway.app.mitmproxy_options import as_settings, run_mitmweb
from aoai_gateway.command_line import PROGRAM, UsageError, parser_of, whole_number
from aoai_gateway.wire.authority import authority, reachable

if TYPE_CHECKING:
    from aoai_gateway.app.worker import Worker
    from aoai_gateway.config.loader import Loaded

MOST_WORKERS = 64

DEMO_KEY = "demo-key"
"""The client key of the shipped ``gateway.yaml``: public, so it may be shown. No other key ever is."""


def serve(words: list[str]) -> int:
    """Serve on the lean host. Returns the exit code."""
    args, rest = _proxy_arguments("serve", words)
    options = as_settings(rest)
    if any(option.startswith("save_stream_file=") for option in options):
        raise UsageError("say --capture FILE before the --: this host has none of mitmproxy's files")
    signals.ignore_until_running()
    loaded, address = _prepare(args)

    from aoai_gateway.app import lean_addons

    lean_addons.install()  # before anything of mitmproxy's is imported
    from aoai_gateway.app.host import run
    from aoai_gateway.app.host import serve as serve_here

    greet(args.config, loaded, address, inspector=False)
    where = {"host": args.host, "port": args.port}
    what = {"addons": args.script, "options": options, "capture": args.capture}
    serving = partial(serve_here, args.config, **where, **what)
    if args.workers == 1:
        return run(serving())
    from aoai_gateway.app.supervisor import StartFailedError, Supervisor

    def serve_one(worker: Worker) -> int:
        return run(serving(worker=worker))

    try:
        return Supervisor(args.config, loaded, (address.host, address.port), args.workers, serve_one).run()
    except StartFailedError as error:
        raise StartError(str(error)) from None


def web(words: list[str]) -> int:
    """Serve inside mitmweb. Returns the exit code."""
    args, rest = _proxy_arguments("web", words)
    if args.workers != 1:
        raise UsageError("the inspector shows the calls of one process: leave --workers out")
    settings = as_settings(rest)
    signals.ignore_until_running()
    loaded, address = _prepare(args)

    script = CHECKOUT / "addons" / "gateway.py"
    if not script.is_file():
        raise StartError(f"{script} is missing: the inspector runs from a checkout of the project.")
    if not any(setting.startswith("confdir=") for setting in settings):
        _look_at_mitmproxys_folder()
    arguments = ["--scripts", str(script)]
    for path in args.script:
        arguments += ["--scripts", path]
    ours = [f"gateway_config={args.config}", f"listen_host={address.host}", f"listen_port={address.port}"]
    if not any(setting.partition("=")[0] == "store_streamed_bodies" for setting in settings):
        # Without it the inspector would show streamed answers as empty.
        ours.append("store_streamed_bodies=true")
    for setting in (*ours, *settings):
        arguments += ["--set", setting]

    greet(args.config, loaded, address, inspector=True)
    from aoai_gateway.inspect.capture import Capture

    addons = [Capture(args.capture)] if args.capture is not None else []
    return run_mitmweb(arguments, settings=settings, addons=addons)


def _proxy_arguments(command: str, words: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Parse the options that `serve` and `web` share. Returns the arguments and the words after ``--``."""
    own, rest = words, []
    if "--" in words:
        cut = words.index("--")
        own, rest = words[:cut], words[cut + 1 :]
    about, example = {
        "serve": ("Serve on the lean host: no user interface, and the fastest.", "--ssl-insecure"),
        "web": ("Serve inside mitmweb: every prompt, attempt and decision to look at.", "--web-port 9000"),
    }[command]
    parser = parser_of(
        command, about, epilog=f"What follows -- goes to mitmproxy: {PROGRAM} {command} -- {example}"
    )
    add_config_option(parser)
    parser.add_argument("--host", help="listen on this address (default: as configured, else 127.0.0.1)")
    parser.add_argument(
        "--port",
        type=whole_number(0, 65535, "port: a number up to 65535 is, or 0 for a free one"),
        help="listen on this port (default: as configured, else 8080)",
    )
    parser.add_argument(
        "-s",
        "--script",
        metavar="ADDON",
        action="append",
        default=[],
        help="load this addon file too; may be given several times",
    )
    parser.add_argument(
        "--capture",
        metavar="FILE",
        type=capture_file,
        help="append every call to this file, with prompt and answer but without keys",
    )
    parser.add_argument(
        "--workers",
        metavar="N",
        type=worker_count,
        default=1,
        help="so many processes on the same port, or auto: one for each core (default: 1; serve only)",
    )
    args = parser.parse_args(own)
    args.config = existing_config(args.config)
    for path in args.script:
        if not os.path.isfile(os.path.expanduser(path)):
            raise UsageError(f"-s {path}: there is no such file.")
    return args, rest


def _prepare(args: argparse.Namespace) -> tuple[Loaded, Address]:
    """Load the configuration and see that its address is free, before anything starts."""
    loaded = load_config(args.config)
    check_start(loaded.config, workers=args.workers)
    listen = loaded.config.listen
    address = Address(
        args.host or listen.host,
        listen.port if args.port is None else args.port,
        listen.certificate is not None,
    )
    # Loaded by `check_start`, too; `--help` does without it.
    from aoai_gateway.app.start_checks import refusal

    if found := refusal(address.host, address.port):
        raise StartError(found.message)
    return loaded, address


def _look_at_mitmproxys_folder() -> None:
    """Look whether mitmproxy has its authority, or a place to keep it. Raises StartError."""
    folder = os.path.expanduser("~/.mitmproxy")
    if os.path.isfile(os.path.join(folder, "mitmproxy-ca.pem")):
        return
    with suppress(OSError):
        if not folder.startswith("~"):  # There may be no home.
            os.makedirs(folder, exist_ok=True)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise StartError(
            f"mitmproxy keeps its settings in {folder}, which cannot be written; name another folder behind "
            f"--: {PROGRAM} web -- --set confdir=FOLDER"
        )


# --- what a start says -----------------------------------------------------------------------------------


class Address(NamedTuple):
    """Where the gateway listens."""

    host: str
    port: int
    tls: bool

    @property
    def url(self) -> str:
        """How a client on this machine reaches it, without a slash at the end."""
        return f"{'https' if self.tls else 'http'}://{authority(reachable(self.host), self.port)}"


def own_version() -> str:
    """Return the version that is installed."""
    return importlib.metadata.version(PROGRAM)


def greet(path: Path, loaded: Loaded, address: Address, *, inspector: bool) -> None:
    """Say where it listens and, on a configuration that only simulates, how to try it; on stderr.

    Standard output belongs to mitmproxy's log and to usage records.
    """
    config = loaded.config
    lines = [
        f"{PROGRAM} {own_version()} with {path}",
        f"  listening  {address.url if address.port else 'on a free port, see below'}",
    ]
    if (
        address.port
        and config.client_for_key(DEMO_KEY)
        and all(e.simulated for e in config.aoai.endpoints if e.enabled)
    ):
        body = '{"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}'
        insecure = "-k " if address.tls else ""
        lines += [
            "  demo       the endpoints are simulated, so it answers without an Azure account. Try:",
            "",
            f"    curl {insecure}{address.url}/openai/v1/chat/completions -H 'api-key: {DEMO_KEY}' \\",
            f"         -H 'content-type: application/json' -d '{body}'",
            "",
            f'    OpenAI(base_url="{address.url}/openai/v1/", api_key="{DEMO_KEY}")  # pip install openai',
            "",
        ]
    if inspector:
        lines.append("  inspector  its address, with the token that opens it, follows in the log")
    else:
        # In a checkout, ours is not on PATH before the environment is active.
        program = "./run.sh" if (CHECKOUT / "run.sh").is_file() else PROGRAM
        lines.append(f"  inspector  `{program} web` serves the same inside mitmweb")
    print("\n".join(lines), file=sys.stderr, flush=True)


# --- words of the command line ---------------------------------------------------------------------------


def worker_count(text: str) -> int:
    """Read a number of workers; ``auto`` is one for each core."""
    if text == "auto":
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return whole_number(1, MOST_WORKERS, f"number of workers: 1 to {MOST_WORKERS} is, or auto")(text)


def capture_file(text: str) -> Path:
    """Read the name of a file that can be written."""
    path = Path(os.path.expanduser(text)).absolute()
    try:
        # A fault is to be reported now, and not when the first call is lost.
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text} cannot be written: {error.strerror}") from None
    return path
