"""The command line: ``aoai-gateway [serve|web|check|status|…]``, which ``run.sh`` opens, too.

Exit codes: 0 it worked; 1 the gateway could not start or the checked file has errors (or, for ``rerun``, a
run that could not be made or that is to be strict and found differences, or, for ``test``,
what pytest said); 2 the command line is wrong. A user's mistake is answered with a sentence, never with a
traceback. The commands import their modules when they run, so that ``--help`` and ``check`` stay quick.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import re
import subprocess  # the tests alone run so
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from aoai_gateway.app import signals
from aoai_gateway.app.arguments import (
    add_config_option,
    capture_file,
    port_number,
    worker_count,
)
from aoai_gateway.app.greeting import CHECKOUT, Address, greet, own_version
from aoai_gateway.app.mitmproxy_options import OptionError, as_settings, run_mitmweb
from aoai_gateway.command_line import PROGRAM, UsageError, parser_of
from aoai_gateway.config.problems import did_you_mean, listed

if TYPE_CHECKING:
    from aoai_gateway.app.worker import Worker
    from aoai_gateway.config.loader import Loaded
    from aoai_gateway.config.models import Config


PARTS_OF_THE_TESTS = (
    # A file's tests stay together, since many share a gateway; and in their order: units come first.
    ["-n", "auto", "--dist", "loadfile", "--no-loadscope-reorder", "-m", "not serial"],
    ["-m", "serial"],
)
"""pytest's options for ``test`` without arguments: all cores, and then what needs the machine alone."""


class StartError(Exception):
    """The command line is right, but the command can't do its work."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (without the program's name; default: this process's) and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _dispatch(words)
        sys.stdout.flush()
    except (UsageError, OptionError) as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 2
    except StartError as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `aoai-gateway check | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code


def _dispatch(words: list[str]) -> int:
    # Without a command, it is `serve`, also with options alone.
    if not words or (words[0].startswith("-") and words[0] not in ("-h", "--help", "-V", "--version")):
        words = _command_first(words)
    if words[0] in ("-V", "--version"):
        print(_version())
        return 0
    if words[0] in ("-h", "--help"):
        print(_HELP)
        return 0
    if words[0] in RENAMED:
        now = RENAMED[words[0]]
        said = f"`{words[0]}` is now `{now}`; the old name ends with this version."
        print(f"{PROGRAM}: {said}", file=sys.stderr)
        words = [now, *words[1:]]
    command = COMMANDS.get(words[0])
    if command is None:
        raise UsageError(
            f"there is no command {words[0]!r}; "
            + (did_you_mean(words[0], COMMANDS) or f"the commands are {listed(COMMANDS)}")
        )
    return command(words[1:])


def _command_first(words: list[str]) -> list[str]:
    """Put the command before options that stand before it; `serve` where there is none.

    ``--config FILE check`` is what users of other programs write. A word right behind an option is its value.
    """
    ours = words[: words.index("--")] if "--" in words else words
    for number, (before, word) in enumerate(pairwise(ours), 1):
        if word in COMMANDS and (not before.startswith("-") or "=" in before):
            return [word, *words[:number], *words[number + 1 :]]
    return ["serve", *words]


# --- serve and web ------------------------------------------------------------------------------------------


def _serve(words: list[str]) -> int:
    args, rest = _proxy_arguments("serve", words)
    options = as_settings(rest)
    if any(option.startswith("save_stream_file=") for option in options):
        raise UsageError("say --capture FILE before the --: this host has none of mitmproxy's files")
    signals.ignore_until_running()
    loaded, address = _prepare(args)

    from aoai_gateway.app import lean_addons

    lean_addons.install()  # before anything of mitmproxy's is imported
    from aoai_gateway.app.host import serve

    greet(args.config, loaded, address, inspector=False)
    where = {"host": args.host, "port": args.port}
    what = {"addons": args.script, "options": options, "capture": args.capture}
    if args.workers == 1:
        return serve(args.config, **where, **what)
    from aoai_gateway.app.supervisor import StartFailedError, Supervisor

    def run(worker: Worker) -> int:
        return serve(args.config, **where, **what, worker=worker)

    try:
        return Supervisor(args.config, loaded, (address.host, address.port), args.workers, run).run()
    except StartFailedError as error:
        raise StartError(str(error)) from None


def _web(words: list[str]) -> int:
    args, rest = _proxy_arguments("web", words)
    if args.workers != 1:
        raise UsageError("the inspector shows the calls of one process: leave --workers out")
    settings = as_settings(rest)
    signals.ignore_until_running()
    loaded, address = _prepare(args)

    script = CHECKOUT / "addons" / "gateway.py"
    if not script.is_file():
        raise StartError(f"{script} is missing: the inspector runs from a checkout of the project.")
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
    args.config = _existing_config(args.config)
    for path in args.script:
        if not Path(path).expanduser().is_file():
            raise UsageError(f"-s {path}: there is no such file.")
    return args, rest


def _prepare(args: argparse.Namespace) -> tuple[Loaded, Address]:
    """Load the configuration and see that its address is free, before anything starts."""
    loaded = _load(args.config)
    _check_start(loaded.config, workers=args.workers)
    listen = loaded.config.listen
    address = Address(
        args.host or listen.host,
        listen.port if args.port is None else args.port,
        listen.certificate is not None,
    )
    _check_free(address)
    return loaded, address


def _check_start(config: Config, *, workers: int = 1, listening: bool = False) -> None:
    """Check that this machine can serve the configuration; a certificate that expires soon is a warning.

    ``workers``: processes that are to serve it. ``listening``: check the ports that it names, too.
    """
    from aoai_gateway.app import start_checks

    found = start_checks.errors(config, workers=workers)
    warnings = start_checks.warnings(config)
    if listening:
        refused, taken = start_checks.ports(config)
        found, warnings = found + refused, warnings + taken
    for warning in warnings:
        print(f"aoai-gateway: {warning}", file=sys.stderr)
    if found:
        raise StartError("\n".join(found))


def _check_free(address: Address) -> None:
    from aoai_gateway.app import ports

    if found := ports.refusal(address.host, address.port):
        raise StartError(found.message)


# --- check, status, break, switch, simulator, test -------------------------------------------------------


def _check(words: list[str]) -> int:
    parser = parser_of("check", "Say everything that is wrong with a configuration, and what it amounts to.")
    add_config_option(parser)
    parser.add_argument("file", nargs="?", help="the file to check (default: as --config)")
    parser.add_argument(
        "--workers", metavar="N", type=worker_count, default=1, help="check it for `serve --workers N`"
    )
    args = parser.parse_args(words)
    if args.file and args.config:
        parser.error("FILE and --config say the same; give one of them")
    path = _existing_config(args.file or args.config)
    loaded = _load(path)
    _check_start(loaded.config, workers=args.workers, listening=True)

    from aoai_gateway.config.describe import describe

    print(describe(loaded))
    return 0


def _of_a_running_one(command: str) -> Callable[[list[str]], int]:
    """Return a command that asks a gateway which runs."""

    def run(words: list[str]) -> int:
        from aoai_gateway.admin import commands
        from aoai_gateway.admin.client import AdminError

        try:
            return commands.COMMANDS[command](words, parser_of)
        except AdminError as error:
            raise StartError(str(error)) from None

    return run


def _simulator(words: list[str]) -> int:
    from aoai_simulator.command import main as simulator_main

    own = [word.partition("=")[0] for word in words]
    if not {"--config", "--spec", "-h", "--help"} & set(own):
        # Without either, the simulator looks into the current folder only.
        words = ["--config", str(_existing_config(None)), *words]
    return simulator_main(words)


def _report(words: list[str]) -> int:
    from aoai_gateway.analysis.report_command import main as report_main

    return report_main(words, lambda path: _load(_existing_config(path)).config)


def _export(words: list[str]) -> int:
    from aoai_gateway.analysis.export_command import main as export_main

    return export_main(words)


def _backtest(words: list[str]) -> int:
    from aoai_gateway.analysis.backtest_command import main as backtest_main

    return backtest_main(words, lambda path: _load(_existing_config(path)).config)


def _benchmark(words: list[str]) -> int:
    from aoai_gateway.benchmark.command import main as benchmark_main

    return benchmark_main(words)


def _key(words: list[str]) -> int:
    from aoai_gateway.app.keys import main as key_main

    return key_main(words, parser_of)


def _rerun(words: list[str]) -> int:
    from aoai_gateway.rerun.command import main as rerun_main

    return rerun_main(words)


def _test(words: list[str]) -> int:
    if not (CHECKOUT / "tests").is_dir():
        raise StartError(f"the tests are part of the checkout, and {CHECKOUT} is none.")
    try:
        import pytest
    except ImportError:
        raise StartError("pytest is not installed: `./run.sh test` does that.") from None
    # Paths among the arguments, and pytest's own configuration, are relative to the checkout.
    os.chdir(CHECKOUT)
    if words:
        return int(pytest.main(words))
    codes = [_part_of_the_tests(options) for options in PARTS_OF_THE_TESTS]
    return next(filter(None, codes), 0)


def _part_of_the_tests(options: list[str]) -> int:
    """Run a part of the suite in a process of its own, since pytest leaves its modules behind."""
    command = [sys.executable, "-P", "-m", "pytest", *options]
    return subprocess.run(command, check=False).returncode  # noqa: S603 - this Python, options of ours


# --- shared -------------------------------------------------------------------------------------------------


def _existing_config(given: str | None) -> Path:
    path = Path(given).expanduser() if given else CHECKOUT / "gateway.yaml"
    if path.is_file():
        return path
    if given is None:
        raise UsageError(f"there is no {path}. Say which configuration to use: --config FILE")
    what = "is a directory; name the file in it" if path.is_dir() else "does not exist"
    raise UsageError(f"the configuration {given} {what}.")


def _load(path: Path) -> Loaded:
    from aoai_gateway.config.loader import ConfigErrors, load

    try:
        return load(path, env=os.environ)
    except ConfigErrors as errors:
        for problem in errors.problems:
            print(problem, file=sys.stderr)
        for warning in errors.warnings:
            print(f"warning: {warning}", file=sys.stderr)
        count = len(errors.problems)
        if errors.rest is not None:
            count += _tell_of_the_machine(errors.rest, {problem.path for problem in errors.problems})
        raise StartError(f"{count} error{'s' if count != 1 else ''} in the configuration.") from None


def _tell_of_the_machine(config: Config, broken: set[str]) -> int:
    """Say what this machine lacks for the sections without problems, and return how many things these are."""
    from aoai_gateway.app import start_checks

    sections = {re.split(r"[.\[]", path)[0] for path in broken}
    told = start_checks.errors(config) + start_checks.ports(config)[0]
    found = [each for each in told if re.split(r"[.:]", each)[0] not in sections]
    for each in found:
        print(each, file=sys.stderr)
    return len(found)


def _version() -> str:
    return (
        f"{PROGRAM} {own_version()}, mitmproxy {importlib.metadata.version('mitmproxy')}, "
        f"Python {platform.python_version()}"
    )


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "serve": _serve,
    "web": _web,
    "check": _check,
    "status": _of_a_running_one("status"),
    "break": _of_a_running_one("break"),
    "switch": _of_a_running_one("switch"),
    "key": _key,
    "rerun": _rerun,
    "report": _report,
    "export": _export,
    "backtest": _backtest,
    "benchmark": _benchmark,
    "simulator": _simulator,
    "test": _test,
}

RENAMED = {"replay": "rerun"}
"""Commands by an earlier name, which answers for one version more."""

_HELP = f"""\
usage: {PROGRAM} [COMMAND] [options] [-- mitmproxy options]

An Azure OpenAI gateway that lives inside mitmproxy.

  serve      serve the configured endpoints, headless (what happens when no command is named)
  web        the same inside mitmweb, to inspect and replay every call
  check      say what is wrong with a configuration, and what it amounts to
  status     show the state of a running gateway (--watch, --json)
  break      open or close a break of its by hand
  switch     switch an endpoint, a standin or a client of its off or on
  key        make a key for a client, of which the configuration holds a hash only
  rerun      make a captured session's calls again, and say what has become different
  report     who used what, who was refused and why, and how much quota each needs: from usage records
  export     usage records as a Parquet file, for queries of one's own
  backtest   what would have happened under other configurations: from usage records
  benchmark  put a load on a gateway or an Azure OpenAI, and say how it bears it
  simulator  run simulated Azure OpenAI endpoints on their own
  test       run the project's tests; what follows goes to pytest

options of serve and web:
  --config FILE   the configuration (default: the checkout's gateway.yaml)
  --host HOST     listen on this address (default: as configured, else 127.0.0.1)
  --port PORT     listen on this port (default: as configured, else 8080)
  -s ADDON        load this addon file too; may be given several times
  --capture FILE  append every call to this file, with prompt and answer but without keys
  --workers N     serve with so many processes on one port, or auto: one for each core (serve only)

`{PROGRAM} COMMAND --help` says more; --version prints the versions."""


if __name__ == "__main__":
    sys.exit(main())
