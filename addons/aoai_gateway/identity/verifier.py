"""Verification of clients' tokens.

A token's issuer is looked for first, by its claim; then its signature is checked with a key of that
issuer, and only then its other claims. Keys are fetched in the background. A token that names a key which is
not at hand has them fetched anew, once for all tokens that wait, and not more often than every few seconds; a
key that is not there even then is remembered for a minute, so that made-up ones cost nothing.

A token that was found right is remembered by its digest, as long as it is valid, its issuer trusted and its
key published.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import math
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import jwt

from aoai_gateway.bounded import Recent
from aoai_gateway.identity.claims import Values, clients_by_token, values_of
from aoai_gateway.identity.jwks import LONGEST_KID, KeySet, PublicKey, key_fetcher
from aoai_gateway.identity.renewal import Renewal, cancel_all, wait_for_all
from aoai_gateway.wire.credential_errors import token_refused
from aoai_gateway.wire.gateway_error import GatewayError
from aoai_gateway.wire.masking import KnownSecrets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from aoai_gateway.config.issuers import Issuer
    from aoai_gateway.config.models import Client, Config

LONGEST_TOKEN = 16 * 1024
"""Bytes. A token of Entra ID has about two thousand, and less than twice as many with 200 groups in it."""

MOST_VERIFIED = 4096
MOST_UNKNOWN = 1024

UNKNOWN_SECONDS = 60.0
"""The time for which a key that an issuer does not have is taken to be made up."""

BETWEEN_FETCHES = 5.0
"""Seconds at least between two fetches of one issuer's keys for the sake of tokens."""

WAIT_SECONDS = 5.0
"""The time that a call waits for an issuer's keys."""

LONGEST_CLAIM = 256
"""Characters of a claim that is kept; longer ones match no client."""


@dataclass(slots=True)
class Verified:
    """A token that is right."""

    issuer: Issuer
    key: PublicKey
    expires: float
    """Seconds since the epoch, leeway included."""
    said: Values
    claims: Mapping[str, str]
    """Its claims that are short texts, by name."""
    masks: KnownSecrets = field(repr=False)
    """Masks it as it is; no backend sees it that could write it in another form."""
    lacks_groups: bool = False
    """Whether its issuer left out the groups of its sender because there are too many of them.

    Source: Microsoft identity platform, groups overage claim (``_claim_names``; ``hasgroups``)."""
    _client: tuple[Config, Client] | None = field(default=None, repr=False)

    def client(self, config: Config) -> Client:
        """Return the client whose token it is. Raises a 403."""
        if self._client is None or self._client[0] is not config:
            try:
                self._client = (config, clients_by_token(config).find(self.said))
            except GatewayError as error:
                if self.lacks_groups and error.code == "token_client_unknown":
                    raise token_refused("token_groups_left_out") from None
                raise
        return self._client[1]


class TokenVerifier:
    """Knows the issuers that are trusted, their keys, and the tokens that were right."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._keys: dict[Issuer, Renewal[KeySet]] = {}
        self._tasks: dict[Issuer, asyncio.Task[None]] = {}
        self._asked: dict[Issuer, float] = {}
        """When each issuer's keys were fetched for the sake of a token last."""
        self._verified: OrderedDict[bytes, Verified] = OrderedDict()
        self._unknown: Recent[float] = Recent(MOST_UNKNOWN)

    # --- issuers ---------------------------------------------------------------------------------------

    async def adopt(self, issuers: Iterable[Issuer]) -> None:
        """Trust these from now on, and no others; comes back when their keys are there, or have failed."""
        wanted = dict.fromkeys(issuers)
        for issuer in self._keys.keys() - wanted.keys():
            del self._keys[issuer]
            self._asked.pop(issuer, None)
            self._tasks.pop(issuer).cancel()
        for issuer in wanted.keys() - self._keys.keys():
            renewal = Renewal(f"Keys of {issuer.issuer}", key_fetcher(issuer), lambda _: None)
            self._keys[issuer] = renewal
            self._tasks[issuer] = asyncio.create_task(renewal.run(), name=renewal.name)
        await wait_for_all(self._keys.values(), WAIT_SECONDS)

    def all(self) -> Iterator[Renewal[KeySet]]:
        """Iterate over what keeps the keys of each issuer."""
        yield from self._keys.values()

    async def close(self) -> None:
        """Fetch nothing any more."""
        await cancel_all(self._tasks)

    # --- tokens ----------------------------------------------------------------------------------------

    def remembered(self, token: str) -> Verified | None:
        """Return what is known of a token that was found right before, if it still is. Raises a 401."""
        digest = _digest(token)
        found = self._verified.get(digest)
        if found is None:
            return None
        renewal = self._keys.get(found.issuer)
        keys = renewal.value if renewal is not None else None
        if keys is None or found.key not in keys.keys:
            del self._verified[digest]
            return None
        if time.time() >= found.expires:
            raise token_refused("token_expired")
        self._verified.move_to_end(digest)
        return found

    def claims_an_issuer(self, token: str) -> bool:
        """Whether a token claims to come from one of the issuers and to be for this gateway.

        One that cannot be read may claim it, too: `verify` refuses that.
        """
        try:
            _, said = _unverified(token)
        except GatewayError:
            return True
        try:
            return _is_for(self._issuer_of(said), said)
        except GatewayError:
            return False

    async def verify(self, token: str) -> Verified:
        """Check a token. Waits, within a bound, for keys that are not at hand. Raises GatewayError."""
        header, said = _unverified(token)
        issuer = self._issuer_of(said)
        # What is critical and not understood must not be passed over (RFC 7515 §4.1.11).
        if "crit" in header:
            raise token_refused("token_malformed")
        algorithm, kid = header.get("alg"), header.get("kid")
        if algorithm not in issuer.algorithms:
            raise token_refused("token_algorithm")
        if kid is not None and not (isinstance(kid, str) and 0 < len(kid) <= LONGEST_KID):
            raise token_refused("token_key_unknown")
        verified = _checked_with_one(token, issuer, await self._fitting(issuer, kid, algorithm), algorithm)
        self._verified[_digest(token)] = verified
        while len(self._verified) > MOST_VERIFIED:
            self._verified.popitem(last=False)
        return verified

    def _issuer_of(self, said: Mapping[str, Any]) -> Issuer:
        """Find the issuer that a token claims to come from; of several entries the one with its audience."""
        iss, tid = said.get("iss"), said.get("tid")
        tenant = tid if isinstance(tid, str) and "/" not in tid else ""
        found = [issuer for issuer in self._keys if iss in issuer.addresses(tenant)]
        if not isinstance(iss, str) or not found:
            raise token_refused("token_issuer_unknown")
        return next((issuer for issuer in found if _is_for(issuer, said)), found[0])

    async def _fitting(self, issuer: Issuer, kid: str | None, algorithm: str) -> tuple[PublicKey, ...]:
        renewal = self._keys[issuer]
        keys = renewal.value
        found = keys.find(kid, algorithm) if keys is not None else ()
        if found:
            return found
        name = f"{issuer.issuer}\n{kid}"
        if keys is not None and (self._unknown.get(name) or 0.0) > self._clock():
            raise token_refused("token_key_unknown")
        is_fresh = await self._fetch_again(issuer, renewal)
        keys = renewal.value
        found = keys.find(kid, algorithm) if keys is not None else ()
        if found:
            return found
        if not renewal.settled.is_set() or renewal.problem:
            raise token_refused("token_keys_unavailable")
        if is_fresh:
            self._unknown.put(name, self._clock() + UNKNOWN_SECONDS)
        # Else it was not there some seconds ago. The next fetch may bring it.
        raise token_refused("token_key_unknown")

    async def _fetch_again(self, issuer: Issuer, renewal: Renewal[KeySet]) -> bool:
        """Have an issuer's keys fetched, unless that was just done. Whether they were."""
        now = self._clock()
        if now - self._asked.get(issuer, -math.inf) >= BETWEEN_FETCHES:
            self._asked[issuer] = now
            await renewal.at_once(WAIT_SECONDS)
        elif not renewal.settled.is_set():
            await renewal.wait(WAIT_SECONDS)
        else:
            return False
        return True


def _digest(token: str) -> bytes:
    # What a client sends as a token may hold anything, and is refused as any other.
    return hashlib.sha256(token.encode(errors="surrogatepass")).digest()


def _is_for(issuer: Issuer, said: Mapping[str, Any]) -> bool:
    aud = said.get("aud")
    return any(each in issuer.audience for each in (aud if isinstance(aud, list) else [aud]))


def _unverified(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Decode a token's header and claims, to find out with which key it has to be checked."""
    if len(token) > LONGEST_TOKEN:
        raise token_refused("token_too_large")
    try:
        first, second, _ = token.split(".")
        header, said = (json.loads(_decoded(part)) for part in (first, second))
    except (ValueError, RecursionError):
        raise token_refused("token_malformed") from None
    if not isinstance(header, dict) or not isinstance(said, dict):
        raise token_refused("token_malformed")
    return header, said


def _decoded(part: str) -> bytes:
    return base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)


_CODES = (
    (jwt.ExpiredSignatureError, "token_expired"),
    (jwt.ImmatureSignatureError, "token_not_yet_valid"),
    (jwt.InvalidAudienceError, "token_audience"),
    (jwt.InvalidIssuerError, "token_issuer_unknown"),
    (jwt.InvalidAlgorithmError, "token_algorithm"),
    (jwt.InvalidSignatureError, "token_signature"),
)


def _checked_with_one(token: str, issuer: Issuer, keys: tuple[PublicKey, ...], algorithm: str) -> Verified:
    """Check a token with the keys that it may be signed with. Raises GatewayError."""
    *others, last = keys
    for key in others:
        try:
            return _checked(token, issuer, key, algorithm)
        except GatewayError as error:
            # What is said of its claims is said by a key that has signed them.
            if error.code not in ("token_signature", "token_malformed"):
                raise
    return _checked(token, issuer, last, algorithm)


def _checked(token: str, issuer: Issuer, key: PublicKey, algorithm: str) -> Verified:
    """Check the signature, then the claims. Raises GatewayError."""
    try:
        claims: dict[str, Any] = jwt.decode(
            token,
            key.key,
            algorithms=[algorithm],
            audience=issuer.audience,
            leeway=issuer.leeway_seconds,
            options={"require": ["exp", "iss", "aud"], "verify_iss": False},
        )
        expires = float(claims["exp"]) + issuer.leeway_seconds
    except Exception as error:
        # It raises many kinds of exceptions; with any of them, the token does not count.
        code = next((code for kind, code in _CODES if isinstance(error, kind)), "token_malformed")
        raise token_refused(code) from None
    tid = claims.get("tid")
    if claims["iss"] not in issuer.addresses(tid if isinstance(tid, str) else ""):
        raise token_refused("token_issuer_unknown")
    if issuer.tenants and tid not in issuer.tenants:
        raise token_refused("token_tenant")
    texts = {n: v for n, v in claims.items() if isinstance(v, str) and 0 < len(v) <= LONGEST_CLAIM}
    masks = KnownSecrets([token], plain=True)
    return Verified(issuer, key, expires, values_of(issuer, claims), texts, masks, _lacks_groups(claims))


def _lacks_groups(claims: Mapping[str, Any]) -> bool:
    elsewhere = claims.get("_claim_names")
    return claims.get("hasgroups") is True or (isinstance(elsewhere, dict) and "groups" in elsewhere)
