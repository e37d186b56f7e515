"""Start and end of the gateway in a mitmproxy process: listener, simulators, reloads, drain."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from typing import TYPE_CHECKING, Any

from mitmproxy import ctx
from mitmproxy.utils import asyncio_utils

from aoai_gateway.admin.controls import Controls
from aoai_gateway.admin.listener import AdminListener
from aoai_gateway.app import connection_ends, descriptors, listening, signals, start_checks, tls
from aoai_gateway.app.drain import Drain
from aoai_gateway.app.memory import FreeMemory, Garbage
from aoai_gateway.app.quiet_moment import QuietMoments
from aoai_gateway.app.simulators import Simulators
from aoai_gateway.config.loader import ConfigErrors, Problem
from aoai_gateway.config.reload import Watch, waits_for_restart
from aoai_gateway.engine.admission import counts_prompts
from aoai_gateway.runtime.connections import most_connections
from aoai_gateway.runtime.log_records import log_exception
from aoai_gateway.runtime.pool_watch import PoolWatch
from aoai_gateway.runtime.state_sync import StateSync
from aoai_gateway.tokens import load_encodings
from aoai_gateway.wire.authority import authority
from aoai_gateway.wire.masking import known

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from aoai_gateway.app.worker import Worker
    from aoai_gateway.config.loader import Loaded
    from aoai_gateway.config.models import Config, Log
    from aoai_gateway.proxy.http1 import Rest
    from aoai_gateway.routing.breaker import Scope
    from aoai_gateway.runtime.gateway import Gateway

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.5
"""How often the configuration's files are looked at; a change counts when it was seen twice."""

NO_UPSTREAM = "http://aoai-gateway.invalid"
"""mitmproxy's reverse mode wants a target. It is never connected to, and cannot be (RFC 6761 §6.4)."""

UNREADY_SECONDS = 5.0
"""The time that balancers have to notice, without a configured one: two probes of most."""


class Lifecycle:
    """Added to mitmproxy's addons once, so that a reload of the script does not end it."""

    name = "gatewaylifetime"

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self.state_sync = StateSync(gateway)
        gateway.credential_breaks.tell_ends = self._tell_ends
        self.controls = Controls(gateway, self.state_sync)
        """The controls behind mitmproxy's commands; the admin listener has the same."""
        self.admin = AdminListener(gateway, self.controls)
        self._path: Path | None = None
        self._loaded: Loaded | None = None
        self._pool_watch = PoolWatch(gateway)
        self._memory = FreeMemory()
        self._garbage = Garbage()
        self._simulators = Simulators(gateway.counter)
        self._watcher: asyncio.Task[None] | None = None
        self.inspected = False
        """Whether people look at prompts, and so at their numbers of tokens."""
        self.worker: Worker | None = None
        """What this process is among several workers; None: it is alone."""
        self.rest: Callable[[str], Rest | None] = lambda _: None
        """Says since when a client's connection rests, by its id; None: it is busy."""
        self.write_log: Callable[[Log], None] = lambda _: None
        """Has the log written as a configuration says; mitmproxy's own tools keep their format."""
        self._started = False
        self._told_ready = False
        self._started_with: Config | None = None
        self._adopting = asyncio.Lock()
        self._reload = asyncio.Event()

    # --- signals ---------------------------------------------------------------------------------------

    def handle_signals(self) -> None:
        """Have signals reload the configuration and log what runs, instead of ending the process."""
        signals.handle(reload=self.reload, told=self._standing, shut_down=ctx.master.shutdown)

    def reload(self) -> None:
        """Read the configuration again, even if its files look as before; the log says what came of it."""
        if self._watcher is None:
            logger.warning("The gateway is not running yet, or any more; nothing was reloaded.")
        self._reload.set()

    def _standing(self) -> list[str]:
        gateway = self._gateway
        waiting, now = gateway.queued, time.monotonic()
        scopes = {scope for scope, each in gateway.engine.breaks.all() if each.until > now}
        broken = {f"{standin}@{endpoint}" if standin else endpoint for endpoint, standin in scopes}
        return [
            f"{len(gateway.calls) - waiting} calls are under way, {waiting} wait. "
            f"In a break: {', '.join(sorted(broken)) or 'no backend'}."
        ]

    # --- configuration ---------------------------------------------------------------------------------

    @property
    def config(self) -> Config | None:
        """The configuration that was read last without errors."""
        return self._loaded.config if self._loaded is not None else None

    def loaded(self, path: Path, loaded: Loaded) -> None:
        """Take a configuration that was loaded at start, or because its path was changed."""
        self._path, self._loaded = path, loaded
        self.write_log(loaded.config.log)
        if self._started:
            asyncio_utils.create_task(self._adopt(loaded), name="new configuration", keep_ref=True)

    def refuse_other_modes(self) -> None:
        """Log an error if mitmproxy is set to be another kind of proxy than a gateway can be.

        mitmproxy ends a start in which an error was logged, but looks only right after `running`: so nothing
        may be awaited before.
        """
        mode = ctx.options.mode
        if mode != ["regular"] and not all(each.startswith("reverse:") for each in mode):
            logger.error("The gateway works in mitmproxy's reverse mode only, not in %s.", mode)

    async def start(self) -> None:
        """Put the configuration in force, and watch it from now on."""
        if self._started or self._loaded is None:
            return
        self._started = True
        self._started_with = self._loaded.config
        store = self.worker.store if self.worker is not None else None
        if not await self.state_sync.open(self._loaded.config, store):
            logger.error("The gateway answers 503 until this is fixed and it is restarted.")
            return
        await self._adopt(self._loaded)
        await self.state_sync.follow_peers()
        self._come_first()
        self._see_to_descriptors(self._loaded.config)
        self._garbage.begin()
        # Earlier than this, mitmproxy overrides the mode that an addon sets.
        self._take_over_listener(self._loaded.config)
        if self.worker is not None:
            self._gateway.readiness_polls = self.worker.readiness_polls
            await self._listen_as(self.worker, self._loaded.config)
        elif ctx.options.server:
            self.admin.start(self._loaded.config.admin)
        self._watcher = asyncio_utils.create_task(
            self._watch(), name="watcher of the gateway's configuration", keep_ref=True
        )
        if self.inspected and not self._gateway.counter.encodings.by_name:
            # Views show a prompt's tokens, and cannot wait for a process that counts them.
            await self._load_encodings()
            # They stay, and have very many objects.
            self._garbage.set_aside()

    async def _listen_as(self, worker: Worker, config: Config) -> None:
        """Accept connections: not before it could serve them, since a predecessor still does."""
        self.admin.start_for_supervisor(worker.admin_socket, config.admin)
        ctx.options.update(server=True)
        await ctx.master.addons.get("proxyserver").setup_servers()
        worker.is_ready()

    def _see_to_descriptors(self, config: Config) -> None:
        number = self._gateway.connections.descriptors
        if said := descriptors.warning(config.limits, number, most_connections(number)):
            logger.warning("%s.", said)
        descriptors.watch(asyncio.get_running_loop())

    def _close_silent(self) -> None:
        """Close connections in which no HTTP has begun in time; a layer keeps time in all others."""
        gateway, now = self._gateway, self._gateway.clock.monotonic()
        silent = gateway.connections.silent_for(gateway.limits().head_seconds, now)
        connection_ends.cut(silent, "the client was silent for too long")
        stalled = gateway.slow_readers.look(gateway.limits().unread_seconds, now)
        if stalled:
            connection_ends.tell_of_slow_reader()
        connection_ends.cut(stalled, "the client did not read")

    def _come_first(self) -> None:
        """Be the first addon that learns of the end: others close files that calls are still written to."""
        addons = ctx.master.addons
        # A new list, since the old one may just be gone through.
        addons.chain = [self, *(addon for addon in addons.chain if addon is not self)]

    def _take_over_listener(self, config: Config) -> None:
        """Have mitmproxy listen for us, unless its options name a place."""
        options = ctx.options
        changes: dict[str, Any] = {}
        if options.mode == ["regular"]:
            changes["mode"] = [f"reverse:{NO_UPSTREAM}"]
        if not options.listen_host:
            changes["listen_host"] = config.listen.host
        if options.listen_port is None:
            changes["listen_port"] = config.listen.port
        if config.aoai.trusted_ca is not None and options.ssl_verify_upstream_trusted_ca is None:
            changes["ssl_verify_upstream_trusted_ca"] = str(tls.bundle(config.aoai.trusted_ca))
        options.update(**changes)

    async def _adopt(self, loaded: Loaded) -> None:
        async with self._adopting:
            config = await self._with_simulators(loaded.config)
            if counts_prompts(config):
                # Before the configuration is in force: its first calls are to be counted, not estimated.
                await self._load_encodings()
            self._gateway.catch_up()  # These calls are for the sinks as they were.
            # Some need libraries that take a while to load.
            gone = await asyncio.to_thread(self._gateway.sinks.adopt, config)
            await asyncio.to_thread(self._gateway.sinks.close, gone)
            await self._gateway.prepare(config)
            # With many keys it takes a while, and calls do not wait for it.
            await asyncio.to_thread(known, config.secrets)
            self._gateway.expiries = await asyncio.to_thread(start_checks.expiries, config)
            self._gateway.adopt(config)
            self._gateway.config_file, self._gateway.config_errors = str(loaded.files[0]), ()
            self._loaded = loaded
            self.write_log(config.log)

    def _tell_ends(self, scopes: Sequence[Scope]) -> None:
        told = self.state_sync.tell_end(scopes)
        asyncio_utils.create_task(told, name="breaks that ended", keep_ref=True)

    async def _load_encodings(self) -> None:
        if self._gateway.counter.encodings.by_name:
            return
        gateway = self._gateway
        quiet = QuietMoments(lambda: not gateway.calls)
        encodings = await asyncio.to_thread(load_encodings, before_building=quiet.wait)
        for problem in encodings.problems:
            logger.warning("%s", problem)
        self._gateway.counter.encodings = encodings

    async def _with_simulators(self, config: Config) -> Config:
        wanted = config.simulated_endpoints
        if not wanted:
            await self._simulators.keep_only(wanted)
            return config
        if self.worker is None:
            await self._load_encodings()
        get = self._simulators.get if self.worker is None else self.worker.simulate
        found = {name: await get(name, endpoint) for name, endpoint in wanted.items()}
        await self._simulators.keep_only(wanted)
        urls, keys = ({name: pair[n] for name, pair in found.items()} for n in (0, 1))
        return config.with_simulators(urls, keys)

    async def _watch(self) -> None:
        """Look at the configuration's files, and at connections and queues, every `POLL_SECONDS`."""
        assert self._path is not None
        path = self._path
        watch = Watch(path, env=os.environ, loaded=self._loaded)
        while True:
            slept = time.monotonic()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._reload.wait(), POLL_SECONDS)
            asked = self._reload.is_set()
            self._reload.clear()
            if not asked:
                self._gateway.metrics.lag(time.monotonic() - slept - POLL_SECONDS)
            # Each has a `try` of its own: what one of them raises is no reason to do without the other.
            try:
                self._look_around(time.monotonic())
            except Exception as error:
                log_exception("where connections and queues are looked at; it is tried again.", error)
            try:
                if path != self._path:
                    path = self._path
                    watch = Watch(path, env=os.environ, loaded=self._loaded)
                await self.state_sync.look()
                await self._take(path, await asyncio.to_thread(watch.read if asked else watch.poll))
            except Exception as error:
                log_exception("while the configuration was reloaded; the one in force stays.", error)

    def _look_around(self, now: float) -> None:
        """Do what is due at each look, apart from the configuration's files."""
        gateway = self._gateway
        self._told_ready = self._told_ready or self._say_ready()
        gateway.look_for_listeners(ctx.master.addons)
        self._close_silent()
        gateway.early.look(now)
        gateway.opened_ahead.look()
        if self._memory.look(now, gateway.held.given_back):
            gateway.held.given_back = 0
        self._garbage.look(now, gateway.idle_seconds(now))
        gateway.catch_up()
        self._pool_watch.look()
        waiting = gateway.queued
        gateway.traffic.seen(in_flight=len(gateway.calls) - waiting, waiting=waiting, now=now)

    async def _take(self, path: Path, found: Loaded | ConfigErrors | None) -> None:
        """Put a configuration in force that was found in the file; one with errors is logged."""
        if isinstance(found, ConfigErrors):
            for problem in found.problems:
                logger.error("%s", problem)
            logger.error("%s has errors; the configuration in force stays.", path)
            self._gateway.config_errors = tuple(map(str, found.problems))
        elif found is not None:
            self._warn_of_restart(found)
            news = self._new_warnings(found)
            await self._adopt(found)
            for warning in news:
                logger.warning("%s", warning)
            logger.info("%s was reloaded.", path)

    def _say_ready(self) -> bool:
        """Log, once it listens, where. Returns whether that was said."""
        server = ctx.master.addons.get("proxyserver")
        addresses = server.listen_addrs() if server is not None else []
        if not addresses or self._loaded is None:
            return False
        scheme = "https" if self._loaded.config.listen.certificate else "http"
        for host, port, *_ in addresses:
            logger.info("Ready at %s://%s", scheme, authority(host, port))
        return True

    def _new_warnings(self, found: Loaded) -> list[Problem]:
        """Return the warnings that the configuration in force did not have, wherever they stand."""
        told = {(each.path, each.message) for each in self._loaded.warnings} if self._loaded else set()
        return [each for each in found.warnings if (each.path, each.message) not in told]

    def _warn_of_restart(self, found: Loaded) -> None:
        if self._loaded is not None and self._started_with is not None:
            for said in waits_for_restart(self._started_with, self._loaded.config, found.config):
                logger.warning("%s", said)

    # --- the end ---------------------------------------------------------------------------------------

    async def done(self) -> None:
        """Take no more connections, let running calls finish within their limit, and tidy up."""
        gateway = self._gateway
        await self._leave()
        await gateway.opened_ahead.close()
        if self._watcher is not None:
            self._watcher.cancel()
        await self._stop_accepting()
        drain = Drain(gateway, ctx.master.addons.get("proxyserver").connections, self.rest)
        await drain.end_sessions(at_once=False)
        if gateway.setup is not None:
            await drain.wait(gateway.config.drain_seconds)
        await drain.end_sessions(at_once=True)
        gateway.draining = True
        await drain.hang_up()
        await self.admin.stop()
        await gateway.close()
        await self.state_sync.close()
        gateway.catch_up()
        gateway.early.close()
        await asyncio.to_thread(gateway.sinks.close, gateway.sinks.take_all())
        if self.worker is not None:
            await self.worker.leave(gateway.metrics.text())
        await self._simulators.keep_only(())
        logger.info("Stopped.", extra={"event": "gateway.stopped"})

    async def _leave(self) -> None:
        """Report not to be ready while calls are still taken, until balancers have noticed."""
        gateway = self._gateway
        gateway.leaving = True
        self._garbage.end()
        if gateway.has_successor or gateway.setup is None:
            return
        seconds = gateway.config.drain.unready_seconds
        if seconds is None:
            polled = gateway.readiness_polls.goes_on(time.monotonic())
            seconds = UNREADY_SECONDS if polled else 0.0
        if seconds:
            logger.info("Not ready any more; calls are still taken for %g s.", seconds)
            await asyncio.sleep(seconds)

    async def _stop_accepting(self) -> None:
        """Close the port, and lose no connection that waits there."""
        servers = ctx.master.addons.get("proxyserver").servers
        own = self.worker.sockets if self.worker is not None else ()
        await listening.stop_accepting(servers, own, empty_queues=not self._gateway.has_successor)
        ctx.options.update(server=False)
