"""TLS: the gateway's own certificate towards clients, and whom it trusts among the endpoints."""

from __future__ import annotations

import atexit
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import certifi
from OpenSSL import SSL

if TYPE_CHECKING:
    from aoai_gateway.config.models import Listen


class ServerCertificate:
    """The configured certificate. Its files are read again when they change, as they do when renewed."""

    def __init__(self) -> None:
        self._seen: tuple[object, ...] = ()
        self._context: SSL.Context | None = None

    def connection(self, listen: Listen) -> SSL.Connection:
        """Make the server side of a TLS connection. Raises OpenSSL's error if the files do not fit."""
        assert listen.certificate is not None
        certificate, key = listen.certificate, listen.private_key or listen.certificate
        seen = tuple((path, path.stat().st_mtime_ns) for path in (certificate, key))
        if self._context is None or seen != self._seen:
            context = SSL.Context(SSL.TLS_SERVER_METHOD)
            context.set_min_proto_version(SSL.TLS1_2_VERSION)
            context.use_certificate_chain_file(str(certificate))
            context.use_privatekey_file(str(key))
            context.check_privatekey()
            context.set_alpn_select_callback(_http1)
            self._context, self._seen = context, seen
        connection = SSL.Connection(self._context)
        connection.set_accept_state()
        return connection


def _http1(_: SSL.Connection, offers: list[bytes]) -> bytes | SSL._NoOverlappingProtocols:
    # mitmproxy would hold an HTTP/2 client to five calls at a time.
    return b"http/1.1" if b"http/1.1" in offers else SSL.NO_OVERLAPPING_PROTOCOLS


def bundle(trusted_ca: Path) -> Path:
    """Write the usual certificate authorities and the given ones into one file; mitmproxy takes just one."""
    with tempfile.NamedTemporaryFile("wb", prefix="aoai-gateway-", suffix=".pem", delete=False) as file:
        file.write(Path(certifi.where()).read_bytes() + b"\n" + trusted_ca.read_bytes())
    path = Path(file.name)
    atexit.register(path.unlink, missing_ok=True)
    return path
