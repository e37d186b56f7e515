"""An issuer's public keys: from its metadata document, an address or a file. Everything here blocks.

Sources of the rules: OpenID Connect Discovery 1.0 §4, RFC 7517 (JSON Web Key).
"""

from __future__ import annotations

import http.client
import json
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import certifi
import jwt

from aoai_gateway.config.fields import is_loopback
from aoai_gateway.config.issuers import ANY_TENANT
from aoai_gateway.identity.renewal import Fetch, FetchError, read_at_most

if TYPE_CHECKING:
    from pathlib import Path

    from aoai_gateway.config.issuers import Issuer

HOUR = 3600.0
"""How often published keys are read again, without a token that asks for another one."""

FILE_SECONDS = 2.0

REQUEST_SECONDS = 5.0
"""The time for one step of one request; and for all of an answer."""

LARGEST_DOCUMENT = 512 * 1024
MOST_KEYS = 100
LONGEST_KID = 256
MOST_TRIED = 4
"""Keys of one id, or without any, that a token's signature is checked with."""

RSA_BITS = range(2048, 8192 + 1)
"""Shorter ones are weak, and longer ones take milliseconds."""

FAMILIES: Final[Mapping[str, str]] = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}
"""The type of key that an algorithm needs, by the beginning of its name (RFC 7518 §6.1, RFC 8037 §2)."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """One key. ``algorithm``: the only one it is for, if its issuer names one."""

    kid: str | None
    kind: str
    algorithm: str | None
    key: Any = field(repr=False, compare=False)
    thumbprint: str = ""

    def is_for(self, algorithm: str) -> bool:
        """Whether signatures of this kind are made with it."""
        return self.kind == FAMILIES.get(algorithm[:2]) and self.algorithm in (None, algorithm)


@dataclass(frozen=True, slots=True)
class KeySet:
    """All keys of an issuer."""

    keys: frozenset[PublicKey]
    seconds: float | None = field(default=None, compare=False)

    def find(self, kid: str | None, algorithm: str) -> tuple[PublicKey, ...]:
        """Return the keys of this id; where a token names none, all that it can be signed with.

        An id should be that of one key (RFC 7517 §4.5). Some issuers rotate keys under one, or write a key
        twice.
        """
        fitting = [key for key in self.keys if key.is_for(algorithm) and (kid is None or key.kid == kid)]
        return tuple(fitting) if len(fitting) <= MOST_TRIED else ()


def key_fetcher(issuer: Issuer) -> Fetch[KeySet]:
    """Return what gets an issuer's keys."""
    return _KeysInFile(issuer.jwks_file) if issuer.jwks_file is not None else _PublishedKeys(issuer)


class _KeysInFile:
    again_seconds = FILE_SECONDS

    def __init__(self, file: Path) -> None:
        self._file = file

    def __call__(self) -> KeySet:
        content = read_at_most(self._file, LARGEST_DOCUMENT, "Put the issuer's JSON Web Key Set there.")
        return read_keys(content, str(self._file))


class _PublishedKeys:
    again_seconds = HOUR

    def __init__(self, issuer: Issuer) -> None:
        self._issuer = issuer
        self._opener: urllib.request.OpenerDirector | None = None

    def __call__(self) -> KeySet:
        # Made here, in a thread: to read a bundle of authorities takes a while.
        if self._opener is None:
            try:
                context = _context(self._issuer.trusted_ca)
            except OSError:  # ssl.SSLError is one
                raise FetchError(
                    f"{self._issuer.trusted_ca} is no file of certificates", "Write a PEM file as trusted_ca."
                ) from None
            # Redirects could lead from https to anywhere.
            https = urllib.request.HTTPSHandler(context=context)
            self._opener = urllib.request.build_opener(https, _NoRedirects())
        address = self._issuer.jwks_uri or self._address_in_metadata()
        return read_keys(self._get(address), address)

    def _address_in_metadata(self) -> str:
        issuer, where = self._issuer, self._issuer.metadata_address
        document = _document(self._get(where), where)
        named, address = document.get("issuer"), document.get("jwks_uri")
        # Where it is for several tenants, Entra ID writes {tenantid} in the tenant's place.
        allowed = issuer.addresses("{tenantid}" if issuer.tenant in ANY_TENANT else issuer.tenant or "")
        if named not in allowed:
            raise FetchError(f"{where} is about another issuer", "Write the issuer as its metadata have it.")
        if not isinstance(address, str):
            raise FetchError(f"{where} names no jwks_uri", "Write jwks_uri or jwks_file beside the issuer.")
        return address

    def _get(self, address: str) -> bytes:
        parts = urlsplit(address)
        remedy = "See whether this machine can reach it; jwks_file does without."
        if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(parts.hostname or "")):
            raise FetchError(f"{parts.hostname} is not reached by https", "Keys must come by https.")
        end = time.monotonic() + REQUEST_SECONDS
        assert self._opener is not None
        try:
            # Both schemes are allowed ones.
            with self._opener.open(address, timeout=REQUEST_SECONDS) as answer:
                content = b""
                while chunk := answer.read1(LARGEST_DOCUMENT + 1 - len(content)):
                    content += chunk
                    if time.monotonic() > end:
                        raise FetchError(f"{parts.hostname} is too slow", remedy)
                return content
        except urllib.error.HTTPError as error:
            raise FetchError(f"{parts.hostname} answered {error.code}", remedy) from None
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            told = getattr(reason, "strerror", None) or type(reason).__name__
            raise FetchError(f"{parts.hostname} cannot be reached: {told}", remedy) from None


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        """Follow none."""


def _context(trusted_ca: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    if trusted_ca is not None:
        context.load_verify_locations(str(trusted_ca))
    return context


def _document(content: bytes, where: str) -> dict[str, Any]:
    remedy = "It must be a JSON document."
    if len(content) > LARGEST_DOCUMENT:
        raise FetchError(f"{where} is larger than {LARGEST_DOCUMENT // 1024} KB", remedy)
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        raise FetchError(f"{where} is not JSON", remedy) from None
    if not isinstance(document, dict):
        raise FetchError(f"{where} is not what it should be", remedy)
    return document


def read_keys(content: bytes, where: str) -> KeySet:
    """Read a JSON Web Key Set; keys of kinds that are not for signatures are passed over (RFC 7517 §5)."""
    written = _document(content, where).get("keys")
    remedy = "It must be a JSON Web Key Set with public keys for signatures."
    if not isinstance(written, list):
        raise FetchError(f"{where} holds no keys", remedy)
    if len(written) > MOST_KEYS:
        raise FetchError(
            f"{where} holds more than {MOST_KEYS} keys", "Give only those that sign in jwks_file."
        )
    keys = frozenset(key for each in written if (key := _public_key(each)) is not None)
    if not keys:
        raise FetchError(f"{where} holds no key that can be used", remedy)
    return KeySet(keys)


def _public_key(written: Any) -> PublicKey | None:
    if not isinstance(written, dict) or written.get("use", "sig") != "sig":
        return None
    kid, kind, algorithm = written.get("kid"), written.get("kty"), written.get("alg")
    # A symmetric key would be a secret that is published.
    if kind not in FAMILIES.values() or (kid is not None and not isinstance(kid, str)):
        return None
    if kid is not None and len(kid) > LONGEST_KID:
        return None
    public = {name: value for name, value in written.items() if name not in ("d", "p", "q", "dp", "dq", "qi")}
    try:
        key = jwt.PyJWK(public)
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return None
    if kind == "RSA" and key.key.key_size not in RSA_BITS:
        return None
    algorithm = algorithm if isinstance(algorithm, str) else None
    return PublicKey(kid, str(kind), algorithm, key.key, json.dumps(public, sort_keys=True, default=str))
