"""Clients' certificates: the names in a certificate, and the client they belong to.

A certificate that is looked at here has been checked in the TLS handshake: an authority of
``listen.client_ca`` has signed it, and it was valid then.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.x509.oid import NameOID

from aoai_gateway.wire import errors
from aoai_gateway.wire.token_errors import token_refused

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mitmproxy.certs import Cert

    from aoai_gateway.config.clients import CertificateNames
    from aoai_gateway.config.models import Client, Config


@dataclass(frozen=True, slots=True)
class ShownCertificate:
    """The names in a client's certificate. ``expires``: seconds since the epoch."""

    subject: str
    cn: frozenset[str]
    san: frozenset[str]
    expires: float


@lru_cache(maxsize=1024)
def read_certificate(cert: Cert) -> ShownCertificate:
    """Read what names a client."""
    made = cert.to_cryptography()
    cn = frozenset(str(each.value) for each in made.subject.get_attributes_for_oid(NameOID.COMMON_NAME))
    expires = made.not_valid_after_utc.timestamp()
    return ShownCertificate(made.subject.rfc4514_string(), cn, frozenset(_alternatives(made)), expires)


def _alternatives(made: x509.Certificate) -> Iterator[str]:
    try:
        names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return
    for name in names:
        if isinstance(name, x509.DNSName):
            yield name.value.lower()
        elif isinstance(name, x509.UniformResourceIdentifier | x509.RFC822Name):
            yield name.value


def client_with(config: Config, shown: ShownCertificate, now: float) -> Client:
    """Return the client that a certificate names. ``now``: seconds since the epoch. Raises a 401 or 403."""
    if now >= shown.expires:
        raise token_refused("certificate_expired")
    found = [
        client
        for client in config.clients
        if client.enabled and client.certificate is not None and _matches(client.certificate, shown)
    ]
    if not found:
        raise errors.unauthorized()
    if len(found) > 1:
        raise token_refused("token_client_ambiguous")
    return found[0]


def _matches(wanted: CertificateNames, shown: ShownCertificate) -> bool:
    return (
        (not wanted.subject or shown.subject in wanted.subject)
        and (not wanted.cn or bool(shown.cn & set(wanted.cn)))
        and (not wanted.san or bool(shown.san & set(map(_as_shown, wanted.san))))
    )


def _as_shown(name: str) -> str:
    """Return a name as `ShownCertificate.san` has it: hosts in lower case, URIs and mail as they are."""
    return name if ":" in name or "@" in name else name.lower()
