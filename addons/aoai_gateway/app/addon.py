"""The mitmproxy addon, which ``-s addons/gateway.py`` and the lean host load.

mitmproxy executes the script again when its file changes, and then calls the same hooks of the same
instance here again, so every hook can be called twice. The parts that must end in an orderly way with
the process are in :mod:`aoai_gateway.app.lifecycle`.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from mitmproxy import ctx
from mitmproxy.connection import Server
from mitmproxy.proxy import tunnel
from mitmproxy.proxy.layers import modes
from mitmproxy.proxy.mode_specs import ReverseMode
from mitmproxy.utils import asyncio_utils

from aoai_gateway.app import (
    ahead,
    connection_ends,
    descriptors,
    log_format,
    mitmproxy_shortcuts,
    relay,
    saved_flows,
    selfcheck,
    tls,
)
from aoai_gateway.app.ahead import AheadConnection
from aoai_gateway.app.lifecycle import Lifecycle
from aoai_gateway.config.loader import ConfigErrors, load
from aoai_gateway.engine.attempt import FailureKind
from aoai_gateway.proxy.layer import BEFORE_HTTP, GatewayLayer
from aoai_gateway.proxy.own_responses import RefusedConnection
from aoai_gateway.proxy.request_head import address_of
from aoai_gateway.proxy.upstream import BackendTls
from aoai_gateway.runtime import log_records
from aoai_gateway.runtime.attempt_log import AttemptLog
from aoai_gateway.runtime.connections import Place
from aoai_gateway.runtime.gateway import Gateway
from aoai_gateway.runtime.log_records import log_exception
from aoai_gateway.runtime.mitmproxy_host import is_unset
from aoai_gateway.runtime.plugin_events import (
    BackendFailed,
    CallFinished,
    GatewayBackendFailedHook,
    GatewayCallFinishedHook,
)
from aoai_gateway.wire import errors

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from mitmproxy import tls as mtls
    from mitmproxy.addonmanager import Loader
    from mitmproxy.connection import Client, Connection
    from mitmproxy.proxy.layer import Layer, NextLayer
    from mitmproxy.proxy.server import ConnectionHandler

    from aoai_gateway.proxy.http1 import Rest
    from aoai_gateway.routing.breaker import Scope
    from aoai_gateway.runtime.observer import Observer
    from aoai_gateway.runtime.stream_hooks import Ask, AttemptFailed

logger = logging.getLogger(__name__)

DEFAULT_CONFIG = Path(__file__).resolve().parents[3] / "gateway.yaml"
"""The configuration of the checkout that the package runs from."""

TOO_MANY = "There are too many connections."

NO_FORWARD_PROXY = "This is an Azure OpenAI gateway, not a forward proxy."

SPEAKS_HTTP = "This gateway speaks http here, not https. Begin its address with http://."

TLS_HANDSHAKE = 0x16
"""First byte of a TLS connection (RFC 8446 §5.1, ContentType handshake)."""


class GatewayAddon:
    """Puts the gateway's layer into mitmproxy's connections, and serves its hooks."""

    def __init__(self) -> None:
        self.gateway = Gateway()
        self.lifecycle = Lifecycle(self.gateway)
        self._config_path: Path | None = None
        self._certificate = tls.ServerCertificate()
        self._layers: WeakValueDictionary[str, GatewayLayer] = WeakValueDictionary()
        """The layers of clients' connections, by the connection's id."""
        self.lifecycle.rest = self._rest
        self._attempt_log = AttemptLog()
        self._crowded = descriptors.Rarely(logging.WARNING)
        self._followed = False
        """Whether flows are looked at or saved, so that it is worth telling their calls' stories."""

    # --- life ------------------------------------------------------------------------------------------

    def load(self, loader: Loader) -> None:
        """Register the options; see that mitmproxy is one that we know."""
        log_records.install(lambda: self.gateway.written, lambda: self.gateway.credentials.masks)
        log_format.write_whole_lines()
        self.lifecycle.handle_signals()
        mitmproxy_shortcuts.check_fields_quickly()
        connection_ends.install(
            lambda: self.gateway.limits().unread_seconds, self._connection_opened, self._opened_ahead
        )
        # Looked up each time, as by mitmproxy.
        mitmproxy_shortcuts.ask_directly(lambda ask: self.gateway_ask(ask))
        self.gateway.opened_ahead.open = ahead.open_ahead
        self.gateway.slow_readers.unread = connection_ends.unread
        self.gateway.written_out = connection_ends.written_out
        self.gateway.is_reset = connection_ends.is_reset
        self.gateway.connections.descriptors = descriptors.raise_limit()
        loader.add_option(
            "gateway_config", str, str(DEFAULT_CONFIG), "The gateway's configuration file (gateway.yaml)."
        )
        for problem in selfcheck.problems():
            logger.error("%s", problem)
        self.gateway.make_observer = self._make_inspector
        # `in` would look for an addon whose class is str: it compares names of objects, not strings.
        if ctx.master.addons.get(Lifecycle.name) is None:
            ctx.master.addons.add(self.lifecycle)
        self._serve_replays()
        self._serve_viewers()
        # Before the listener is up: no client is connected, and only this machine can connect.
        ctx.options.update(connection_strategy="lazy", http2=False)

    def _connection_opened(self, handler: ConnectionHandler, connection: Connection) -> None:
        layer = self._layers.get(handler.client.id)
        if not isinstance(connection, Server):
            relay.put_before(handler, connection, None)
        elif layer is not None:
            relay.put_before(handler, connection, layer)

    def _opened_ahead(self, handler: ConnectionHandler, connection: Connection) -> AheadConnection | None:
        """Give a connection that was opened ahead to a client's call, if it may have one."""
        layer = self._layers.get(handler.client.id)
        tls_layer = layer.connections.get(connection) if layer is not None else None
        if not isinstance(tls_layer, BackendTls) or tls_layer.fresh or not isinstance(connection, Server):
            return None
        assert connection.address is not None
        taken = self.gateway.opened_ahead.take(connection.address)
        if not isinstance(taken, AheadConnection):
            return None
        tls_layer.established = taken.tls
        return taken

    def _make_inspector(self) -> Observer:
        """Load the inspector, when flows are seen."""
        from aoai_gateway.inspect.inspector import Inspector

        return Inspector(self.gateway.heard, lambda: self._followed, lambda: self.gateway.setup)

    def _serve_replays(self) -> None:
        """Where mitmproxy can replay flows, have it replay them through the gateway."""
        if ctx.master.addons.get("clientplayback") is not None:
            from aoai_gateway.inspect import client_replay as playback

            playback.install(self.gateway)
        if ctx.master.addons.get("serverplayback") is not None:
            from aoai_gateway.inspect import server_replay as recorded

            recorded.install(ctx.master.addons)

    def _serve_viewers(self) -> None:
        """Load the views of prompts and answers where flows are looked at; never in the lean host."""
        view, dumper = map(ctx.master.addons.get, ("view", "dumper"))
        if view is None and dumper is None:
            return
        saved_flows.keep_private()
        from tornado.web import Application

        from aoai_gateway.admin.flow_commands import GatewayStateCommands
        from aoai_gateway.inspect import response_intercept, retention
        from aoai_gateway.inspect.commands import GatewayCommands
        from aoai_gateway.inspect.views import contentviews, mitmweb_page, prompt_editor

        application = getattr(ctx.master, "app", None)
        if isinstance(application, Application):
            from aoai_gateway.workbench import setup as workbench

            # Before what waits for the end of a hold, so that held calls are seen.
            workbench.extend(application, self.gateway, ctx.master.addons)
        retention.install(ctx.master.addons)
        response_intercept.install(self.gateway, ctx.master.addons)
        if ctx.master.addons.get("gatewaycommands") is None:
            state = GatewayStateCommands(self.gateway, self.lifecycle.controls)
            ctx.master.addons.add(GatewayCommands(self.gateway), state)
        contentviews.register(self.gateway.counter, self._model_of)
        if isinstance(application, Application):
            mitmweb_page.extend(application)
            prompt_editor.extend(application)
        self.lifecycle.inspected = True
        if view is not None and is_unset(ctx.options, "store_streamed_bodies"):
            # Without it mitmweb and mitmproxy would show streamed answers as empty.
            ctx.options.update(store_streamed_bodies=True)

    def _model_of(self, deployment: str) -> str | None:
        setup = self.gateway.setup
        return setup.config.model_of(deployment) if setup is not None else None

    def configure(self, updated: Collection[str]) -> None:
        """Load the configuration when its path is set; all that is wrong with it is logged."""
        if ahead.TLS_OPTIONS.intersection(updated):
            self.gateway.opened_ahead.drop()
        if "save_stream_file" in updated:
            viewed = ctx.master.addons.get("view") is not None
            self._followed = viewed or bool(ctx.options.save_stream_file)
            save = ctx.master.addons.get("save")
            if save is not None and ctx.options.save_stream_file:
                saved_flows.make_private(ctx.options.save_stream_file, save.current_path)
        if "gateway_config" not in updated:
            return
        path = Path(os.path.expanduser(ctx.options.gateway_config)).absolute()
        if path == self._config_path and self.gateway.setup is not None:
            return
        self._config_path = path
        try:
            loaded = load(path, env=os.environ)
        except ConfigErrors as errors:
            worker = self.lifecycle.worker
            if self.lifecycle.config is None and worker is not None:
                self.lifecycle.loaded(path, worker.last_good)
                # A warning, since mitmproxy ends a start in which an error was logged. The watcher has them.
                logger.warning("%s has errors; the last configuration without any is in force.", path)
                return
            report(errors)
            if self.lifecycle.config is None:
                give_up(errors)
            return
        self.lifecycle.loaded(path, loaded)
        for warning in loaded.warnings:
            logger.warning("%s", warning)

    def running(self) -> None:
        """Take over the listener, and begin to watch the configuration."""
        self._serve_workbench()
        self.gateway.look_for_listeners(ctx.master.addons)
        self.lifecycle.refuse_other_modes()
        asyncio_utils.create_task(self.lifecycle.start(), name="start of the gateway", keep_ref=True)

    def _serve_workbench(self) -> None:
        """Serve the workbench on the admin listener, where it is wanted and there is no mitmweb."""
        config, addons = self.lifecycle.config, ctx.master.addons
        if config is None:
            return
        web_url = getattr(ctx.master, "web_url", None)
        if isinstance(web_url, str):
            address, _, token = web_url.partition("?")
            logger.info("Workbench at %sworkbench%s", address, f"?{token}" if token else "")
            return
        if self.lifecycle.worker is not None:
            if config.workbench.enabled:
                logger.warning("There is no workbench where several workers serve: start with one.")
            return
        if config.workbench.enabled or addons.get("gatewaycapture") is not None:
            from aoai_gateway.workbench import setup as workbench

            self._followed = True
            tokens = tuple(config.admin.holders())
            self.lifecycle.admin.extend(workbench.on_listener(self.gateway, addons, tokens))

    # --- connections -----------------------------------------------------------------------------------

    def client_connected(self, client: Client) -> None:
        """Refuse what is not for the gateway: until its mode is set, mitmproxy would be an open proxy."""
        if not isinstance(client.proxy_mode, ReverseMode):
            client.error = NO_FORWARD_PROXY
            return
        address = address_of(client) or ""
        gateway = self.gateway
        place = gateway.connections.opened(client.id, address, gateway.limits(), gateway.clock.monotonic())
        if place is Place.FULL:
            client.error = TOO_MANY
        if place is not Place.ORDINARY:
            self._crowded.tell("There are too many connections; more are refused. See limits.connections.")

    def client_disconnected(self, client: Client) -> None:
        """Count the connection no more."""
        self.gateway.connections.closed(client.id)

    def _rest(self, connection: str) -> Rest | None:
        layer = self._layers.get(connection)
        return BEFORE_HTTP if layer is None else layer.rest

    def next_layer(self, nextlayer: NextLayer) -> None:
        """Put the gateway's layer where mitmproxy would put its own."""
        try:
            layer = self._layer(nextlayer)
        except Exception as error:
            log_exception("where a connection begins; it was refused.", error)
            layer = RefusedConnection(nextlayer.context, errors.internal())
        if layer is not None:
            nextlayer.layer = layer

    def _layer(self, nextlayer: NextLayer) -> Layer | None:
        context = nextlayer.context
        if len(context.layers) != 1:
            return None
        if not isinstance(context.layers[0], modes.ReverseProxy):
            return RefusedConnection(context, errors.invalid_target(NO_FORWARD_PROXY))
        stack = tunnel.LayerStack()
        if nextlayer.data_client()[:1] == bytes([TLS_HANDSHAKE]):
            setup = self.gateway.setup
            if setup is None or setup.config.listen.certificate is None:
                # mitmproxy would make a certificate up.
                return RefusedConnection(context, errors.invalid_target(SPEAKS_HTTP))
            stack /= tls.ClientTls(context)
        ours = self._layers[context.client.id] = GatewayLayer(context, self.gateway)
        stack /= ours
        return stack[0]

    def tls_start_client(self, data: mtls.TlsData) -> None:
        """Show the configured certificate."""
        setup = self.gateway.setup
        if setup is not None and setup.config.listen.certificate is not None:
            data.ssl_conn = self._certificate.connection(setup.config.listen)

    # --- calls -----------------------------------------------------------------------------------------

    async def gateway_ask(self, ask: Ask) -> None:
        """Ask the other addons."""
        await ask.perform(ctx.master.addons)

    async def gateway_attempt_failed(self, failed: AttemptFailed) -> None:
        """Show a failed attempt as a flow of its own."""
        try:
            self._attempt_log.log(failed, self.gateway.clock.monotonic())
            attempt = failed.attempt
            # That one process has no credential says nothing of others.
            shared = attempt.failure is not FailureKind.CREDENTIAL
            if shared and attempt.scope and attempt.breaks is not None and attempt.break_seconds is not None:
                await self.lifecycle.state_sync.tell_break(attempt.scope, attempt.breaks, attempt.reason)
            if self.gateway.observer is not None:
                await self.gateway.observer.attempt_failed(ctx.master.addons, failed)
            if "gateway_backend_failed" in self.gateway.heard.events:
                event = BackendFailed(failed.flow, failed.call, attempt)
                await ctx.master.addons.trigger_event(GatewayBackendFailedHook(event))
        except Exception as error:
            log_exception("where a failed attempt is shown; it was not.", error)

    async def gateway_breaks_withdrawn(self, scopes: Sequence[Scope]) -> None:
        """Tell other processes of breaks that a call had opened without a reason."""
        await self.lifecycle.state_sync.tell_end(scopes)

    async def gateway_call_ended(self, finished: CallFinished) -> None:
        """Tell the listeners of `gateway_call_finished`."""
        await ctx.master.addons.trigger_event(GatewayCallFinishedHook(finished))


def report(errors: ConfigErrors) -> None:
    """Log all errors of a configuration, a line each."""
    for problem in errors.problems:
        logger.error("%s", problem)


def give_up(errors: ConfigErrors) -> None:
    """End the process at once, as its start has failed.

    mitmproxy opens its listener before it reads scripts, and ends a start with errors only after that. Here,
    clients that have connected since have not been served yet. In tests there is no `errorcheck`, and so no
    start.
    """
    errorcheck = ctx.master.addons.get("errorcheck")
    if errorcheck is None:
        return
    if errorcheck.repeat_errors_on_stderr:
        # The log is in a window that will not open.
        for problem in errors.problems:
            print(problem, file=sys.stderr)
    raise SystemExit(1)


ADDON = GatewayAddon()
"""The one instance of this process; it survives reloads of the script."""

addons = [ADDON]
