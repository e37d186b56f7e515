"""What clients show besides plain keys: keys that are kept as hashes, dates, and certificates."""

import re
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, NamedTuple

from pydantic import AfterValidator, BaseModel, BeforeValidator, PlainSerializer

from aoai_gateway.config.fields import Name, fault, one_or_list
from aoai_gateway.config.model import Model

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

Names = Annotated[tuple[Name, ...], BeforeValidator(one_or_list, json_schema_input_type=Name | list[Name])]


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
