"""Who may send, as frozen models."""

import hashlib
from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

from aoai_gateway.config.client_credentials import CertificateNames, Expiring, KeyHashes, NotAfter
from aoai_gateway.config.fields import Keys, Name
from aoai_gateway.config.issuers import TokenClaimsList
from aoai_gateway.config.policies import Group, Policy


class KnownKey(NamedTuple):
    """A client that has a key. ``not_after``: seconds since the epoch; ``hashed``: a hash is written."""

    client: "Client"
    not_after: float | None
    hashed: bool


class Client(Policy):
    """A consumer, identified by a key or by its token."""

    name: Name
    """Its name in logs and records."""
    description: str = ""
    """For people."""
    key: Keys = ()
    """Its API key, or a list of them while one is rotated; best as `${ENV_VAR}`."""
    uses_entra_id_auth: bool = False
    """`true` for the one client to which all calls with an Entra ID token belong."""
    enabled: bool = True
    """`false` locks the client out."""
    key_sha256: KeyHashes = ()
    """Hashes of its keys, in the place of the keys themselves; `aoai-gateway key new NAME` makes one."""
    not_after: NotAfter | None = None
    """The last day on which its keys count (UTC), or a time with its zone."""
    certificate: CertificateNames | None = None
    """What its certificate says, which an authority of `listen.client_ca` has signed."""
    token: TokenClaimsList = ()
    """What its tokens say, which an issuer of `tokens` has issued; a list if several kinds are its own."""
    verify: bool | None = None
    """`false`, beside `uses_entra_id_auth`: its tokens are verified by Azure alone, not here."""
    group: Name | None = None
    """The group whose values count where the client has none of its own."""

    @property
    def verifies_tokens(self) -> bool:
        """Whether tokens are this client's only once they are verified; what `token` says needs that."""
        return bool(self.verify) or (self.verify is None and bool(self.token))

    @property
    def brings_own_token(self) -> bool:
        """Whether all of its calls come with a token that is passed on to the endpoint."""
        own = self.key or self.key_sha256 or self.certificate or self.token
        return self.uses_entra_id_auth and not own

    def digests(self) -> Iterator[tuple[bytes, datetime | None]]:
        """Iterate over its keys as SHA-256 digests, each with the time from which on it does not count."""
        for key in self.key:
            yield digest_of(key.get_secret_value()), self.not_after
        for each in self.key_sha256:
            ends = [end for end in (each.not_after, self.not_after) if end is not None]
            yield bytes.fromhex(each.sha256), min(ends, default=None)

    def expiring(self) -> Iterator[Expiring]:
        """Iterate over those of its keys that end at a date."""
        seen: set[datetime] = set()
        for number, (_, end) in enumerate(self.digests(), 1):
            if end is not None and end not in seen:
                seen.add(end)
                which = f"key {number} of" if len(self.key) + len(self.key_sha256) > 1 else "the key of"
                yield Expiring(f"{which} the client {self.name}", end)

    def within(self, group: Group) -> "Client":
        """Return this client with what the group says where it says nothing itself.

        ``model_fields_set`` stays: it tells what is the client's own.
        """
        values = {name: getattr(self, name) for name in Client.model_fields} | self.inherited(group)
        return Client.model_construct(self.model_fields_set, **values)


def digest_of(key: str) -> bytes:
    """Return the digest by which a key is known."""
    # surrogatepass: what a client sends as a key may hold anything, and gets its 401 all the same.
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
