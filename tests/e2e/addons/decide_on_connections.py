"""An addon that wants to be asked about each connection to a server."""

import logging

from mitmproxy.proxy.server_hooks import ServerConnectionHookData


def server_connect(data: ServerConnectionHookData) -> None:
    logging.warning("decided on a connection")
