"""The command line: ``aoai-gateway [serve|web|check|status|…]``, which ``run.sh`` opens, too.

Exit codes: 0 it worked; 1 the gateway could not start or the checked file has errors (or, for ``rerun``, a
run that could not be made or that is to be strict and found differences, or, for ``test``,
what pytest said); 2 the command line is wrong. A user's mistake is answered with a sentence, never with a
traceback. The commands import their modules when they run, so that ``--help`` and ``check`` stay quick;
``serve`` and ``web`` are in :mod:`~aoai_gateway.app.serving`.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import secrets
import subprocess  # the tests alone run so
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise

from aoai_gateway.app.loading import (
    CHECKOUT,
    StartError,
    add_config_option,
    check_start,
    existing_config,
    load_config,
)
from aoai_gateway.app.mitmproxy_options import OptionError
from aoai_gateway.app.serving import own_version, serve, web, worker_count
from aoai_gateway.command_line import PROGRAM, UsageError, parser_of, prepare_standard_files
from aoai_gateway.config.problems import did_you_mean, listed

PARTS_OF_THE_TESTS = (
    # A file's tests stay together, since many share a gateway; and in their order: units come first.
    ["-n", "auto", "--dist", "loadfile", "--no-loadscope-reorder", "-m", "not serial"],
    ["-m", "serial"],
)
"""pytest's options for ``test`` without arguments: all cores, and then what needs the machine alone."""


KEY_BYTES = 32
"""The random bytes of a key whose hash can be public: 256 bits cannot be guessed."""

KEY_PREFIX = "gw-"
"""The prefix by which people and scanners for secrets recognise a key."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (without the program's name; default: this process's) and return its exit code."""
    prepare_standard_files()
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


def _check(words: list[str]) -> int:
    parser = parser_of("check", "List the errors of a configuration, and show what the gateway makes of it.")
    add_config_option(parser)
    parser.add_argument("file", nargs="?", help="the file to check (default: as --config)")
    parser.add_argument(
        "--workers", metavar="N", type=worker_count, default=1, help="check it for `serve --workers N`"
    )
    args = parser.parse_args(words)
    if args.file and args.config:
        parser.error("FILE and --config say the same; give one of them")
    path = existing_config(args.file or args.config)
    loaded = load_config(path)
    check_start(loaded.config, workers=args.workers, listening=True)

    from aoai_gateway.config.describe import describe

    print(describe(loaded))
    return 0


def _of_a_running_one(command: str) -> Callable[[list[str]], int]:
    """Return a command that asks a running gateway."""

    def run(words: list[str]) -> int:
        from aoai_gateway.admin import commands

        try:
            return commands.COMMANDS[command](words)
        except commands.AdminError as error:
            raise StartError(str(error)) from None

    return run


def _simulator(words: list[str]) -> int:
    from aoai_simulator.command import main as simulator_main

    own = [word.partition("=")[0] for word in words]
    if not {"--config", "--spec", "-h", "--help"} & set(own):
        # Without either, the simulator looks into the current folder only.
        words = ["--config", str(existing_config(None)), *words]
    return simulator_main(words)


def _report(words: list[str]) -> int:
    from aoai_gateway.analysis.report_command import main as report_main

    return report_main(words, lambda path: load_config(existing_config(path)).config)


def _export(words: list[str]) -> int:
    from aoai_gateway.analysis.export import main as export_main

    return export_main(words)


def _backtest(words: list[str]) -> int:
    from aoai_gateway.analysis.backtest import main as backtest_main

    return backtest_main(words, lambda path: load_config(existing_config(path)).config)


def _benchmark(words: list[str]) -> int:
    from aoai_gateway.benchmark.command import main as benchmark_main

    return benchmark_main(words)


def _key(words: list[str]) -> int:
    """Make a client's key, of which the configuration holds a hash only."""
    from aoai_gateway.config.clients import digest_of

    parser = parser_of("key", "Make keys for clients.")
    actions = parser.add_subparsers(required=True, metavar="new", dest="action")
    new = actions.add_parser("new", help="make a key, and print it once with the lines to paste")
    new.add_argument("name", metavar="NAME", help="the client's name")
    new.add_argument("--not-after", metavar="DATE", type=_date, help="the last day on which it counts (UTC)")
    args = parser.parse_args(words)
    key = KEY_PREFIX + secrets.token_urlsafe(KEY_BYTES)
    print(f"The key of {args.name}; it is shown only now:\n\n  {key}\n")
    print("In the configuration, under clients:\n")
    print(f"  - name: {json.dumps(args.name, ensure_ascii=False)}")
    print(f"    key_sha256: {digest_of(key).hex()}")
    if args.not_after is not None:
        print(f"    not_after: {args.not_after}")
    return 0


def _date(text: str) -> str:
    from pydantic import TypeAdapter, ValidationError

    from aoai_gateway.config.clients import NotAfter

    try:
        TypeAdapter(NotAfter).validate_python(text)
    except ValidationError as error:
        raise argparse.ArgumentTypeError(f"{text!r} {error.errors()[0]['msg']}") from None
    return text


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


def _version() -> str:
    return (
        f"{PROGRAM} {own_version()}, mitmproxy {importlib.metadata.version('mitmproxy')}, "
        f"Python {platform.python_version()}"
    )


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "serve": serve,
    "web": web,
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
  check      list the errors of a configuration, and show what the gateway makes of it
  status     show the state of a running gateway (--watch, --json)
  break      open or close a break of a running gateway by hand
  switch     switch an endpoint, a standin or a client of a running gateway off or on
  key        make a key for a client, of which the configuration holds a hash only
  rerun      make the calls of a captured session again, and show what has changed
  report     who used what, who was refused and why, and how much quota each needs: from usage records
  export     usage records as a Parquet file, for your own queries
  backtest   what would have happened under other configurations: from usage records
  benchmark  send calls at a rate to a gateway or an Azure OpenAI, and measure its answers
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
