"""Is the installed mitmproxy one that the layers were written for?

They subclass parts of mitmproxy that it does not publish as an API. A version that lacks one of them, or has
it in another form, must be reported at start, not by the first request.
"""

from __future__ import annotations

import inspect

from mitmproxy import version
from mitmproxy.addons import clientplayback, intercept, save, serverplayback, tlsconfig, view
from mitmproxy.proxy import commands, context, layer, mode_servers, server, tunnel
from mitmproxy.proxy.layers import http, tls, websocket

KNOWN = ("12.2.", "12.3.")

_EXPECTED: tuple[tuple[object, str, tuple[str, ...]], ...] = (
    (http.HttpLayer, "event_to_child", ("self", "child", "event")),
    (http.HttpLayer, "get_connection", ("self", "event", "reuse")),
    (http.HttpLayer, "register_connection", ("self", "command")),
    (http.HttpStream, "_handle_event", ("self", "event")),
    (http.Http1Server, "read_headers", ("self", "event")),
    (http.Http1Server, "mark_done", ("self", "request", "response")),
    (http.Http1Connection, "read_body", ("self", "event")),
    (http.Http1Client, "read_headers", ("self", "event")),
    (http.Http1Connection, "make_pipe", ("self",)),
    (http.Http1Connection, "passthrough", ("self", "event")),
    (websocket.WebsocketMessageHook, "__init__", ("self", "flow")),
    (websocket.WebsocketEndHook, "__init__", ("self", "flow")),
    (http.GetHttpConnection, "__init__", ("self", "address", "tls", "via", "transport_protocol")),
    (clientplayback.ReplayHandler, "__init__", ("self", "flow", "options")),
    (clientplayback.MockServer, "__init__", ("self", "flow", "context")),
    (serverplayback.ServerPlayback, "add_flows", ("self", "flows")),
    (serverplayback.ServerPlayback, "load_flows", ("self", "flows")),
    (serverplayback.ServerPlayback, "_hash", ("self", "flow")),
    (view.View, "resolve", ("self", "flow_spec")),
    (view.View, "remove", ("self", "flows")),
    (view.View, "store_count", ("self",)),
    (intercept.Intercept, "should_intercept", ("self", "f")),
    (save.Save, "save_flow", ("self", "flow")),
    (tls.ServerTLSLayer, "start_handshake", ("self",)),
    (tls.TLSLayer, "receive_handshake_data", ("self", "data")),
    (tls.TLSLayer, "on_handshake_error", ("self", "err")),
    (tunnel.TunnelLayer, "_handshake_finished", ("self", "err")),
    (tlsconfig.TlsConfig, "tls_start_server", ("self", "tls_start")),
    (server.ConnectionIO, "__init__", ("self", "handler", "reader", "writer")),
    (commands.RequestWakeup, "__init__", ("self", "delay")),
    (layer.Layer, "__init__", ("self", "context")),
    (mode_servers.ReverseInstance, "listen", ("self", "host", "port")),
    (mode_servers.ReverseInstance, "handle_stream", ("self", "reader", "writer")),
    (server.ConnectionHandler, "__init__", ("self", "context")),
    (server.ConnectionHandler, "handle_client", ("self",)),
    (server.ConnectionHandler, "handle_connection", ("self", "connection")),
    (server.ConnectionHandler, "hook_task", ("self", "hook")),
    (server.ConnectionHandler, "server_event", ("self", "event")),
    (server.ConnectionHandler, "drain_writers", ("self",)),
    (server.TimeoutWatchdog, "register_activity", ("self",)),
    (server.ConnectionHandler, "open_connection", ("self", "command")),
)

_ATTRIBUTES: tuple[tuple[type, tuple[str, ...]], ...] = (
    (layer.Layer, ("context", "_paused", "_paused_event_queue")),
    (context.Context, ("client", "server", "options", "layers")),
    (http.HttpStream, ("stream_id", "flow")),
    (
        http.HttpLayer,
        ("streams", "connections", "waiting_for_establishment", "command_sources"),
    ),
    (server.ConnectionHandler, ("transports", "max_conns", "timeout_watchdog")),
    (mode_servers.AsyncioServerInstance, ("_servers",)),
    (tls.TLSLayer, ("tls",)),
    (tunnel.TunnelLayer, ("child_layer", "tunnel_state")),
)
"""What is used of their state; the classes declare it."""


def problems() -> list[str]:
    """Return what is unknown or different about the installed mitmproxy; nothing, if it is as expected."""
    found = []
    if not version.VERSION.startswith(KNOWN):
        found.append(
            f"mitmproxy {version.VERSION} is not a version that this gateway knows ({', '.join(KNOWN)}x). "
            "Install one of them."
        )
    for owner, name, parameters in _EXPECTED:
        function = getattr(owner, name, None)
        label = f"{getattr(owner, '__name__', owner)}.{name}"
        if function is None:
            found.append(f"mitmproxy {version.VERSION} has no {label}, which the gateway builds on.")
        elif tuple(inspect.signature(function).parameters) != parameters:
            found.append(f"mitmproxy {version.VERSION} has another {label} than the gateway builds on.")
    found.extend(
        f"mitmproxy {version.VERSION} has no {owner.__name__}.{name}, which the gateway builds on."
        for owner, attributes in _ATTRIBUTES
        for name in attributes
        if name not in inspect.get_annotations(owner)
    )
    return found
