"""Which client sends a request, by its key, token or certificate."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

from aoai_gateway.config.clients import digest_of
from aoai_gateway.identity.certificates import ShownCertificate, client_with
from aoai_gateway.wire import errors
from aoai_gateway.wire.masking import KnownSecrets
from aoai_gateway.wire.secrets import Credential
from aoai_gateway.wire.token_errors import token_refused

if TYPE_CHECKING:
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
        raise errors.unauthorized()
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
        raise errors.unauthorized()
    return Identified(client, secret, KnownSecrets([secret]), granted=grant)


def _with_key(config: Config, key: str, now: float) -> Identified:
    found = config.known_keys.get(digest_of(key))
    if found is None:
        raise errors.unauthorized()
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
        raise errors.invalid_token("this gateway takes keys only")
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
