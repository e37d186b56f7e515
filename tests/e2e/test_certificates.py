"""The tests' own certificates must satisfy a strict client, or every https test would be in vain."""

from __future__ import annotations

import socket
import ssl
import threading

import pytest

from tests.e2e.certificates import Certificates


def shake_hands(tls: Certificates, name: str, context: ssl.SSLContext) -> str | None:
    """Connect to a server that has the leaf; returns the TLS version."""
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_context.load_cert_chain(tls.certificate, tls.private_key)
    ours, theirs = socket.socketpair()

    def serve() -> None:
        try:
            server_context.wrap_socket(theirs, server_side=True).close()
        except (ssl.SSLError, OSError):  # the client's side says what is wrong
            theirs.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with context.wrap_socket(ours, server_hostname=name) as connection:
            return connection.version()
    finally:
        thread.join()


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "::1"])
def test_a_strict_client_that_trusts_the_authority_accepts_the_leaf(tls: Certificates, name: str) -> None:
    context = ssl.create_default_context(cafile=tls.ca)
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    assert shake_hands(tls, name, context) == "TLSv1.3"


def test_another_name_and_an_unknown_authority_are_refused(tls: Certificates) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(tls, "example.com", ssl.create_default_context(cafile=tls.ca))
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(tls, "localhost", ssl.create_default_context())
