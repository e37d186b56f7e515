"""The words after ``--`` on the command line: mitmproxy's own options, checked for misspellings.

mitmproxy keeps ``--set`` names that it does not know for an addon that may yet be loaded, so a typing error
goes unnoticed. Here the flags are checked against mitmproxy's own parser, and the names once every addon has
been loaded.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, NoReturn

from aoai_gateway.command_line import Parser, UsageError
from aoai_gateway.config.problems import did_you_mean

if TYPE_CHECKING:
    from mitmproxy.options import Options

logger = logging.getLogger(__name__)

_OWN_FLAGS = {
    "listen_host": "--host",
    "listen_port": "--port",
    "scripts": "-s ADDON",
    "gateway_config": "--config",
}
"""mitmproxy's options for which the gateway's command line has an option of its own."""


class OptionError(UsageError):
    """An option that mitmproxy does not know, or that does not apply; the text names the remedy."""


def as_settings(words: Sequence[str]) -> list[str]:
    """Turn mitmproxy's flags (``-w FILE``, ``-k``, ``--set name=value``) into "name=value" strings.

    Names given to ``--set`` are passed on unchecked: only the host knows what its addons define. Raises
    OptionError for an unknown flag, a malformed value, or an option that has its own word here.
    """
    if not words:
        return []
    # Imported here: mitmproxy takes about a second, which `check` and `--help` need not wait for.
    from mitmproxy.tools import cmdline

    known = stock_options()
    parser = _Parser(prog="mitmproxy", usage="-- [mitmproxy options]", allow_abbrev=False)
    cmdline.common_options(parser, known)
    known.make_parser(parser, "web_open_browser")
    known.make_parser(parser, "web_port", metavar="PORT")
    known.make_parser(parser, "web_host", metavar="HOST")
    args, unknown = parser.parse_known_args(words)
    if unknown:
        hint = did_you_mean(unknown[0].partition("=")[0], parser.flags)
        raise OptionError(
            f"mitmproxy has no option {unknown[0]!r}; "
            + (hint or "the words after -- must be its own options, which `mitmdump --help` lists")
        )
    if args.version or args.options or args.commands:
        raise OptionError("for mitmproxy's --version, --options and --commands run `mitmdump` itself")
    # As mitmproxy.tools.main.process_options reads these two (there is no dumper here).
    if args.quiet:
        args.termlog_verbosity = "error"
    if args.verbose:
        args.termlog_verbosity = "debug"

    settings = list(args.setoptions)
    for name, value in vars(args).items():
        if name in known and value is not None:
            settings += _settings(name, value)
    for setting in settings:
        name = setting.partition("=")[0]
        if name in _OWN_FLAGS:
            raise OptionError(f"say {_OWN_FLAGS[name]} before the --, not mitmproxy's {name!r} after it")
    return settings


def _settings(name: str, value: object) -> list[str]:
    if isinstance(value, bool):
        return [f"{name}={str(value).lower()}"]
    if isinstance(value, list):
        return [f"{name}={item}" for item in value]
    return [f"{name}={value}"]


def stock_options() -> Options:
    """Return every option that mitmweb and the lean host can have, at its default."""
    from mitmproxy.addonmanager import Loader
    from mitmproxy.addons import default_addons, termlog
    from mitmproxy.options import Options
    from mitmproxy.tools.web import webaddons

    options = Options()
    # Of a master, the loader uses these two.
    loader = Loader(SimpleNamespace(options=options, commands=SimpleNamespace(add=lambda path, func: None)))
    log = termlog.TermLog()
    log.uninstall()  # it has begun to listen to the log by being made
    for addon in (*default_addons(), log, webaddons.WebAddon(), webaddons.WebAuth()):
        if load := getattr(addon, "load", None):
            load(loader)
    return options


class OptionCheck:
    """A mitmproxy addon for a host that has ErrorCheck: a misspelt option ends the start.

    ``settings``: the user's, as "name=value" or only the name.
    """

    def __init__(self, settings: Iterable[str]) -> None:
        self._named = {setting.partition("=")[0] for setting in settings}

    def running(self) -> None:
        """Log an error for each name that is still unknown, now that every -s file has been loaded."""
        from mitmproxy import ctx

        for message in unclaimed(self._named, ctx.options):
            logger.error("%s", message)


def run_mitmweb(arguments: Sequence[str], *, settings: Iterable[str], addons: Sequence[object] = ()) -> int:
    """Run mitmweb in this process until it is stopped; returns its exit code.

    ``arguments``: of mitmweb's own command line; ``settings``: the user's in it, for :class:`OptionCheck`;
    ``addons``: to be loaded beside its own.
    """
    from mitmproxy.tools import cmdline
    from mitmproxy.tools.main import run
    from mitmproxy.tools.web.master import WebMaster

    class CheckedWebMaster(WebMaster):
        def __init__(self, options: Options) -> None:
            super().__init__(options)
            self.addons.add(*addons, OptionCheck(settings))

    try:
        run(CheckedWebMaster, cmdline.mitmweb, arguments)
    except SystemExit as end:  # mitmproxy has printed the reason
        return end.code if isinstance(end.code, int) else 1
    return 0


def unclaimed(named: Iterable[str], options: Options) -> list[str]:
    """Say which of the `named` options no addon has defined, once all of them have been loaded."""
    return [
        f"mitmproxy and the loaded addons have no option {name!r}"
        + (f"; {hint}" if (hint := did_you_mean(name, options.keys())) else "")
        for name in sorted(set(named))
        if name not in options
    ]


class _Parser(Parser):
    @property
    def flags(self) -> list[str]:
        return list(self._option_string_actions)

    def error(self, message: str) -> NoReturn:
        raise OptionError(f"mitmproxy's options: {message}")
