"""The commands ``serve`` and ``web``: their options, and what must be right before anything starts."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from aoai_gateway.app import signals
from aoai_gateway.app.arguments import add_config_option, capture_file, port_number, worker_count
from aoai_gateway.app.greeting import CHECKOUT, Address, greet
from aoai_gateway.app.loading import StartError, check_start, existing_config, load_config
from aoai_gateway.app.mitmproxy_options import as_settings, run_mitmweb
from aoai_gateway.command_line import PROGRAM, UsageError, parser_of

if TYPE_CHECKING:
    import argparse

    from aoai_gateway.app.worker import Worker
    from aoai_gateway.config.loader import Loaded


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
    from aoai_gateway.app.host import serve as serve_here

    greet(args.config, loaded, address, inspector=False)
    where = {"host": args.host, "port": args.port}
    what = {"addons": args.script, "options": options, "capture": args.capture}
    if args.workers == 1:
        return serve_here(args.config, **where, **what)
    from aoai_gateway.app.supervisor import StartFailedError, Supervisor

    def run(worker: Worker) -> int:
        return serve_here(args.config, **where, **what, worker=worker)

    try:
        return Supervisor(args.config, loaded, (address.host, address.port), args.workers, run).run()
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
        "--port", type=port_number, help="listen on this port (default: as configured, else 8080)"
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
    _check_free(address)
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


def _check_free(address: Address) -> None:
    from aoai_gateway.app import ports

    if found := ports.refusal(address.host, address.port):
        raise StartError(found.message)
