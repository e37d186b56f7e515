"""Which client sends a request, by its key, token or certificate."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.x509.oid import NameOID

from aoai_gateway.config.clients import digest_of
from aoai_gateway.wire.credential_errors import invalid_token, token_refused, unauthorized
from aoai_gateway.wire.masking import KnownSecrets
from aoai_gateway.wire.secrets import Credential

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mitmproxy.certs import Cert

    from aoai_gateway.config.clients import CertificateNames
    from aoai_gateway.config.models import Client, Config
    from aoai_gateway.identity.verifier import TokenVerifier, Verified
    from aoai_gateway.wire.secrets import Grant


@dataclass(frozen=True, slots=True)
class Identified:
    """A client, and its credential.

    ``token``: its own, where that goes on to the backend; ``masks``: its masks; ``claims``: those of a
    verified one; ``granted``: the rights of a secret that was made for one session.
    """

    client: Client
    token: str | None = field(default=None, repr=False)
    masks: KnownSecrets | None = None
    claims: Mapping[str, str] = field(default_factory=dict, repr=False)
    granted: Grant | None = None
    verified: bool = True
    """Whether it is known whose credential it is; else only backends know whether the token is one."""


def identify(
    config: Config,
    verifier: TokenVerifier | None,
    shown: Credential | ShownCertificate | None,
    now: float,
) -> Identified | Awaitable[Identified]:
    """Say whose credential it is; a token that is seen for the first time takes a moment.

    ``verifier``: None as long as no issuer is trusted; ``now``: seconds since the epoch. Raises GatewayError,
    as what is awaited does.
    """
    if shown is None:
        raise unauthorized()
    if not isinstance(shown, Credential):
        return Identified(client_with(config, shown, now))
    if shown.kind == "key":
        return _with_key(config, shown.value, now)
    return _with_token(config, verifier, shown.value)


def with_grant(config: Config, grant: Grant, secret: str) -> Identified:
    """Say whose secret it is which was made for one session.

    It goes on to the backend. Raises GatewayError.
    """
    client = config.client_named(grant.client)
    if client is None:
        raise unauthorized()
    return Identified(client, secret, KnownSecrets([secret]), granted=grant)


def _with_key(config: Config, key: str, now: float) -> Identified:
    found = config.known_keys.get(digest_of(key))
    if found is None:
        raise unauthorized()
    if found.not_after is not None and now >= found.not_after:
        raise token_refused("key_expired")
    # The configuration's secrets are masked everywhere; of a hash, the key is known only now.
    return Identified(found.client, masks=_masks_of(key) if found.hashed else None)


@lru_cache(maxsize=1024)
def _masks_of(key: str) -> KnownSecrets:
    return KnownSecrets([key])


def _with_token(
    config: Config, verifier: TokenVerifier | None, token: str
) -> Identified | Awaitable[Identified]:
    passed = config.entra_client
    if verifier is not None and config.tokens:
        verified = verifier.remembered(token)
        if verified is not None:
            return _verified(config, verified, token)
        if passed is None or passed.verifies_tokens or verifier.claims_an_issuer(token):
            return _verify(config, verifier, token)
    if passed is None:
        raise invalid_token("this gateway takes keys only")
    if passed.verifies_tokens:
        raise token_refused("token_keys_unavailable")
    return Identified(passed, token, KnownSecrets([token]), verified=False)


async def _verify(config: Config, verifier: TokenVerifier, token: str) -> Identified:
    return _verified(config, await verifier.verify(token), token)


def _verified(config: Config, verified: Verified, token: str) -> Identified:
    client = verified.client(config)
    if client.uses_entra_id_auth:
        return Identified(client, token, KnownSecrets([token]), verified.claims)
    return Identified(client, None, verified.masks, verified.claims)


# --- certificates --------------------------------------------------------------------------------
#
# A certificate that is looked at here has been checked in the TLS handshake: an authority of
# ``listen.client_ca`` has signed it, and it was valid then.


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
        raise unauthorized()
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
