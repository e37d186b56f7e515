"""TLS: the gateway's own certificate towards clients, and whom it trusts among the endpoints."""

from __future__ import annotations

import atexit
import errno
import logging
import os
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import certifi
from mitmproxy.proxy.layers import ClientTLSLayer
from OpenSSL import SSL

if TYPE_CHECKING:
    from mitmproxy.proxy.layer import CommandGenerator

    from aoai_gateway.config.models import Listen

logger = logging.getLogger(__name__)

DESCRIPTORS = Path("/proc/self/fd")
"""Where an open file has a path, also one in memory; not everywhere is it mounted."""


class ServerCertificate:
    """The configured certificate. Its files are read again when they change, as they do when renewed.

    A renewal writes one file after the other. While they do not fit, the last that did stays.
    """

    def __init__(self) -> None:
        self._seen: tuple[object, ...] = ()
        self._context: SSL.Context | None = None
        self._told = False
        """Whether it has been logged that the files do not fit."""

    def connection(self, listen: Listen) -> SSL.Connection:
        """Make the server side of a TLS connection. Raises OpenSSL's error if the files do not fit."""
        assert listen.certificate is not None
        certificate, key = listen.certificate, listen.private_key or listen.certificate
        files = (certificate, key, *([listen.client_ca] if listen.client_ca is not None else []))
        try:
            seen = tuple(_seen(path) for path in files)
            if seen != self._seen:
                self._seen = seen
                self._context = server_context(certificate, key, listen.client_ca)
        except (SSL.Error, OSError) as error:
            if self._context is None:
                self._seen = ()
                raise
            if not self._told:
                logger.warning("The certificate stays the last good one, until its files fit (%s).", error)
            self._told = True
        else:
            self._told = False
        assert self._context is not None
        connection = SSL.Connection(self._context)
        connection.set_accept_state()
        return connection


def _seen(path: Path) -> tuple[Path, int]:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        # To open a FIFO would be to wait for a writer, on the event loop.
        raise OSError(errno.EINVAL, f"{path} is not a file")
    return path, status.st_mtime_ns


class ClientTls(ClientTLSLayer):
    """TLS with a client, without a log of the bytes that were none: a key may be among them."""

    def on_handshake_error(self, err: str) -> CommandGenerator[None]:
        """Log why a handshake failed."""
        yield from super().on_handshake_error(UNREADABLE if err.startswith(UNREADABLE) else err)


UNREADABLE = "Cannot parse ClientHello"


def server_context(certificate: Path, key: Path, client_ca: Path | None = None) -> SSL.Context:
    """Make the context of a certificate chain and its key. Raises SSL.Error or OSError if they do not fit.

    ``client_ca``: the authorities whose certificates clients may show; one of others ends the handshake.
    """
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.use_certificate_chain_file(str(certificate))
    context.use_privatekey_file(str(key))
    context.check_privatekey()
    context.set_alpn_select_callback(_http1)
    if client_ca is not None:
        context.load_verify_locations(str(client_ca))
        # Keys and tokens still do without one.
        context.set_verify(SSL.VERIFY_PEER)
        # A resumed session would not be checked again.
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        context.set_options(SSL.OP_NO_TICKET)
    return context


def _http1(_: SSL.Connection, offers: list[bytes]) -> bytes | SSL._NoOverlappingProtocols:
    # mitmproxy would hold an HTTP/2 client to five calls at a time.
    return b"http/1.1" if b"http/1.1" in offers else SSL.NO_OVERLAPPING_PROTOCOLS


def bundle(trusted_ca: Path) -> Path:
    """Put the usual certificate authorities and the given ones into one file; mitmproxy takes just one.

    Where the system can do that, the file is in memory, and gone with the process, also when that is killed:
    its folder for temporary files would fill up under a container that crashes in a loop.
    """
    authorities = Path(certifi.where()).read_bytes() + b"\n" + trusted_ca.read_bytes()
    return _in_memory(authorities) or _in_temporary_file(authorities)


def _in_memory(content: bytes) -> Path | None:
    """Make a file in memory; None where the system has no such files, refuses them, or gives them no path."""
    if not hasattr(os, "memfd_create"):
        return None
    try:
        number = os.memfd_create("certificate authorities")
    except OSError:
        return None
    path = DESCRIPTORS / str(number)
    try:
        with open(number, "wb", closefd=False) as file:
            file.write(content)
        if path.exists():
            return path
    except OSError:
        pass
    os.close(number)
    return None


def _in_temporary_file(content: bytes) -> Path:
    with tempfile.NamedTemporaryFile("wb", prefix="aoai-gateway-", suffix=".pem", delete=False) as file:
        file.write(content)
    path = Path(file.name)
    atexit.register(path.unlink, missing_ok=True)
    return path
