"""The lean host: mitmproxy's proxy server with nothing in it that a gateway does not need.

mitmdump offers every hook of every request to some 35 addons. Without a user interface most of
them have no listener, so ``serve`` loads only the addons that carry connections.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from typing import TYPE_CHECKING, Any

from mitmproxy import ctx, exceptions
from mitmproxy.addons import core, errorcheck, next_layer, proxyserver, script, tlsconfig
from mitmproxy.master import Master
from mitmproxy.options import Options

from aoai_gateway.app import log_format
from aoai_gateway.app.addon import ADDON, GatewayAddon
from aoai_gateway.app.lifecycle import NO_UPSTREAM
from aoai_gateway.app.mitmproxy_options import OptionCheck
from aoai_gateway.config.models import Log

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence
    from pathlib import Path

    from aoai_gateway.app.worker import Worker

QUIET = ("mitmproxy.proxy.server", "mitmproxy.proxy.mode_servers", "mitmproxy.addons.clientplayback")
"""They log every connection."""


class LeanTlsConfig(tlsconfig.TlsConfig):
    """mitmproxy's, without its authority: the certificate is the configuration's, and nothing is signed here.

    So no key is made in the home folder, which may be read-only, and no request is looked into for the
    authority's CRL. Certificates of mitmproxy's own option ``certs`` bring the authority with them.
    """

    request = None  # type: ignore[assignment]  # mitmproxy passes over a hook that is not callable
    running = None  # type: ignore[assignment]  # it would only load the authority again

    def configure(self, updated: set[str]) -> None:
        """Take changed options; those of the authority only where there are ``certs``."""
        others = {name for name in updated if name.startswith(("tls_", "ciphers_"))}
        super().configure(updated if ctx.options.certs else others)  # type: ignore[no-untyped-call]  # mitmproxy has not typed it


def run(serving: Coroutine[Any, Any, int]) -> int:
    """Run what `serve` returns. Returns the process's exit code: 0, or 1 if it could not start."""
    try:
        return asyncio.run(serving)
    except SystemExit as exited:
        return exited.code if isinstance(exited.code, int) else 1


async def serve(
    config: Path,
    *,
    host: str | None,
    port: int | None,
    addons: Sequence[str],
    options: Sequence[str],
    capture: Path | None = None,
    worker: Worker | None = None,
) -> int:
    """Serve until SIGTERM or SIGINT. ``addons``: scripts; ``options``: mitmproxy's, as ``name=value``.

    ``capture``: the file that all calls are appended to; ``worker``: what this process is among several.
    """
    # What a process draws at random, and when it began, must not be the same in all forks.
    ours = ADDON if worker is None else GatewayAddon()
    if worker is not None:
        worker.prepare()
        ours.lifecycle.worker = worker
        if worker.encodings is not None:
            ours.gateway.counter.encodings = worker.encodings
    master = _master_of(ours, options, capture, listens=worker is None)
    opts = master.options
    log_format.apply(Log())
    ours.lifecycle.write_log = log_format.apply
    # Not deferred: mitmproxy sets deferred options while an addon is being added, without `configure`.
    opts.update(gateway_config=str(config))
    setup = ours.lifecycle.config
    opts.update(
        listen_host=host or (setup.listen.host if setup else "127.0.0.1"),
        listen_port=port if port is not None else (setup.listen.port if setup else 0),
        scripts=list(addons),
    )
    try:
        opts.set(*options, defer=True)
    except exceptions.OptionsError as error:
        logging.getLogger(__name__).error("%s", error)
        return 1
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _end, ours, master, False)
    if worker is not None:
        loop.add_signal_handler(signal.SIGUSR2, _end, ours, master, True)
    await master.run()
    return 0


def _master_of(ours: GatewayAddon, options: Sequence[str], capture: Path | None, *, listens: bool) -> Master:
    capturing = []
    if capture is not None:
        from aoai_gateway.inspect.capture import Capture

        capturing = [Capture(capture)]
    master = Master(Options(), with_termlog=True)
    logging.getLogger().setLevel(logging.INFO)
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    master.options.update(mode=[f"reverse:{NO_UPSTREAM}"], server=listens)
    master.addons.add(
        core.Core(),
        proxyserver.Proxyserver(),
        ours,
        script.ScriptLoader(),
        next_layer.NextLayer(),
        LeanTlsConfig(),
        *capturing,
        OptionCheck(options),
        errorcheck.ErrorCheck(),
    )
    return master


def _end(ours: GatewayAddon, master: Master, has_successor: bool) -> None:
    """End. ``has_successor``: another process listens already, so that no balancer need be told."""
    ours.gateway.has_successor = has_successor
    master.shutdown()
