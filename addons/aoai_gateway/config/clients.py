"""Who may send, and what they show: keys, hashes of keys, and certificates. As frozen models."""

import hashlib
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, NamedTuple

from pydantic import AfterValidator, BaseModel, BeforeValidator, PlainSerializer

from aoai_gateway.config.fields import Keys, Model, Name, Names, fault, one_or_list
from aoai_gateway.config.issuers import TokenClaimsList
from aoai_gateway.config.policies import Group, Policy

_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)


def _sha256(value: str) -> str:
    low = value.lower()
    if not _SHA256.fullmatch(low):
        raise fault("is not a SHA-256 digest: 64 hexadecimal digits", "`aoai-gateway key new NAME` makes one")
    return low


def _moment(value: object) -> object:
    """A day ends when the next one begins, in UTC; a time must say its zone."""
    if not isinstance(value, str):
        return value
    try:
        if _DAY.fullmatch(value):
            return datetime.combine(date.fromisoformat(value) + timedelta(days=1), datetime.min.time(), UTC)
        moment = datetime.fromisoformat(value)
    except (ValueError, OverflowError):
        raise fault("is not a date", "write it like 2027-12-31, or 2027-12-31T18:00:00Z") from None
    if moment.tzinfo is None:
        raise fault("does not say its time zone", "add Z for UTC, or an offset like +01:00")
    return moment


Sha256 = Annotated[str, AfterValidator(_sha256)]
"""A digest, in lower case."""

NotAfter = Annotated[
    datetime,
    BeforeValidator(_moment, json_schema_input_type=str),
    PlainSerializer(lambda moment: moment.isoformat(), return_type=str),
]
"""The moment from which on something does not count any more."""


class KeyHash(Model):
    """A key of which only the hash is known here."""

    sha256: Sha256
    """SHA-256 of the key, in hexadecimal digits."""
    not_after: NotAfter | None = None
    """The last day on which it counts (UTC), or a time with its zone."""


def _hashes(value: object) -> object:
    several = one_or_list(value)
    if isinstance(several, dict | BaseModel):
        several = (several,)
    if isinstance(several, list | tuple):
        return tuple({"sha256": each} if isinstance(each, str) else each for each in several)
    return several


KeyHashes = Annotated[
    tuple[KeyHash, ...],
    BeforeValidator(_hashes, json_schema_input_type=Sha256 | KeyHash | list[Sha256 | KeyHash]),
]
"""One hash, or several while a key is rotated."""


class CertificateNames(Model):
    """What a client's certificate must say; every field that is written must match, of a list one value."""

    subject: Names = ()
    """The whole subject, as RFC 4514 writes it: `CN=reports,O=Contoso`."""
    cn: Names = ()
    """The common name alone."""
    san: Names = ()
    """A subject alternative name: a DNS name, a URI (such as a SPIFFE id) or an e-mail address."""


class Expiring(NamedTuple):
    """Something that counts until a time only."""

    what: str
    end: datetime


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
