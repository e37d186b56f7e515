"""Which parts of a message are secret, how to show them, and which of them is the client's credential.

Azure OpenAI takes a key in ``api-key``, an Entra ID token in ``Authorization: Bearer``, on ``/openai/v1/``
also a key there (the plain OpenAI client sends it so), and, for WebSockets from browsers, which cannot set
headers, a key or a token as a query parameter, or as one of the subprotocols that are offered. Other dialects
have other headers for it (`wire.dialects`), and realtime sessions secrets of their own (`Grant`).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field
from typing import Literal
from urllib.parse import parse_qsl, unquote_plus

from aoai_gateway.wire.hints import Headers

SECRET_HEADERS = frozenset(
    {
        "api-key",
        "apikey",
        "authorization",
        "cookie",
        "ocp-apim-subscription-key",
        "openai-api-key",
        "proxy-authorization",
        "set-cookie",
        "x-access-token",
        "x-api-key",
        "x-api-token",
        "x-apikey",
        "x-auth-key",
        "x-auth-token",
        "x-forwarded-access-token",
        "x-functions-key",
        "x-goog-api-key",
        "x-ms-authorization-auxiliary",
        "x-ms-token-aad-access-token",
        "x-ms-token-aad-id-token",
        "x-openai-api-key",
    }
)
"""Header names, in lower case, whose values never go into a flow, a log or to another party."""

SECRET_PARAMETERS = frozenset(
    {
        "access_token",
        "api-key",
        "api_key",
        "apikey",
        "authorization",
        "client_secret",
        "code",
        "key",
        "sig",
        "subscription-key",
        "token",
    }
)
"""Query parameters, in lower case, of the same kind."""

PROTOCOLS = "sec-websocket-protocol"

SECRET_PROTOCOLS = (
    "openai-insecure-api-key.",
    "api-key.",
    "authorization.",
    "bearer.",
    "openai-ephemeral-user-token.",
)
"""Beginnings of subprotocols, in lower case, whose rest is a key or a token."""

_PAIRED_PROTOCOL = "authorization"
"""A subprotocol after which the next one is a token."""

_OURS_IN_QUERY = ("api-key", "authorization")
"""Query parameters with a client's credential for the gateway."""

_BASE64URL = r"[A-Za-z0-9_-]"
# A JWT's header is the base64url of a JSON object: of '{"', it always begins with eyJ (RFC 7519 §3).
_JWT = re.compile(rf"eyJ{_BASE64URL}+\.{_BASE64URL}+\.{_BASE64URL}*", re.ASCII)
_BEARER = re.compile(r"bearer +(\S+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Credential:
    """The key or token that a client shows. Its repr shows no part of it."""

    kind: Literal["key", "jwt"]
    value: str = field(repr=False)


def client_credential(
    headers: Headers, query: str = "", key_headers: Sequence[str] = ("api-key",)
) -> Credential | None:
    """The credential of a request with these headers and this raw query; None without any.

    ``key_headers`` count before ``Authorization`` (a key that is set by hand is meant; SDKs send one of
    them), both before the query, and that before the subprotocols that a WebSocket's client offers. A bearer
    value in the shape of a JWT is a token, any other a key. Whether it is valid is not decided here.
    """
    for name in key_headers:
        key = (headers.get(name) or "").strip()
        if key:
            return Credential("key", key)
    bearer = _BEARER.fullmatch((headers.get("authorization") or "").strip())
    if bearer:
        return Credential("jwt" if _JWT.fullmatch(bearer[1]) else "key", bearer[1])
    shown = _in_query(query) or next(iter(_split_protocols(headers.get(PROTOCOLS) or "")[1]), "")
    return Credential("jwt" if _JWT.fullmatch(shown) else "key", shown) if shown else None


def credential_fields(
    credential: tuple[bytes, bytes], key_headers: Sequence[str]
) -> list[tuple[bytes, bytes]]:
    """Return the fields in which a backend gets an endpoint's credential: a key in each that is for keys."""
    name, value = credential
    return [credential] if name == b"authorization" else [(key.encode(), value) for key in key_headers]


def _in_query(query: str) -> str:
    """The key or token in a raw query, "" without one."""
    if "api-key" not in query and "authorization" not in query:
        return ""
    try:
        parameters = parse_qsl(query, max_num_fields=64)
    except ValueError:
        return ""
    for wanted in _OURS_IN_QUERY:
        for name, value in parameters:
            if name == wanted and (bare := value.strip()):
                bearer = _BEARER.fullmatch(bare)
                return bearer[1] if bearer and wanted == "authorization" else bare
    return ""


def without_secret_protocols(offered: str) -> str:
    """The subprotocols that a client offers (RFC 6455 §11.3.4), less those that are a key or a token."""
    return ", ".join(_split_protocols(offered)[0])


def _split_protocols(offered: str) -> tuple[list[str], list[str]]:
    """Part the subprotocols that are offered from the secrets that stand among them."""
    kept: list[str] = []
    secrets: list[str] = []
    paired = False
    for protocol in filter(None, (part.strip() for part in offered.split(","))):
        if paired:
            secrets.append(protocol)
            paired = False
            continue
        low = protocol.lower()
        paired = low == _PAIRED_PROTOCOL
        begin = next((each for each in SECRET_PROTOCOLS if low.startswith(each)), None)
        if begin is not None:
            secrets.append(protocol[len(begin) :])
        elif not paired:
            kept.append(protocol)
    return kept, secrets


def without_tokens(text: str) -> str:
    """A text of others with stars in the place of what looks like a JWT."""
    return _JWT.sub("***", text)


def redact_target(target: str) -> str:
    """A request target with the values of secret parameters replaced by ``***``: in its query, and in its
    path too, where some servers take them after a semicolon (RFC 3986 §3.3).
    """
    path, mark, query = target.partition("?")
    path = ";".join(_redact(part) for part in path.split(";")) if ";" in path else path
    if not mark:
        return path
    return path + "?" + "&".join(";".join(map(_redact, pair.split(";"))) for pair in query.split("&"))


def strip_secret_query(target: str) -> str:
    """A request target without the client's credential in its query, to be sent to a backend.

    The rest stays as it is. Other parameters may look secret, but are between the client and Azure.
    """
    path, mark, query = target.partition("?")
    if not mark:
        return target
    kept = [pair for pair in query.split("&") if _name(pair) not in _OURS_IN_QUERY]
    if len(kept) == query.count("&") + 1:
        return target
    return path + mark + "&".join(kept) if kept else path


def _redact(pair: str) -> str:
    name, equals, _ = pair.partition("=")
    return f"{name}=***" if equals and _name(pair) in SECRET_PARAMETERS else pair


def _name(pair: str) -> str:
    # Decoded: a parameter spelled api%2Dkey is the same one.
    return unquote_plus(pair.partition("=")[0]).lower()


_MINTED = "ek_"
"""How a realtime session's secret begins."""

_LONGEST_MINTED = 1_024
_MOST_READ = 256 * 1024
"""Bytes of an answer in which such a secret is looked for."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What a short-lived secret is good for: sessions of a client, for a deployment ("" for none).

    A browser shows one to a realtime session, and so never has a key. It is made by one resource, for one
    session's settings, and is known only there (Azure OpenAI, realtime by WebRTC). The gateway remembers
    whose it is and where it is from, and by its digest only.
    """

    endpoint: str
    client: str
    deployment: str

    def written(self) -> str:
        """The same as text."""
        return json.dumps(astuple(self))

    @classmethod
    def read(cls, text: str) -> Grant | None:
        """Read what `written` gives; None for anything else."""
        try:
            endpoint, client, deployment = json.loads(text)
        except (ValueError, TypeError):
            return None
        return cls(str(endpoint), str(client), str(deployment))


def looks_minted(shown: str) -> bool:
    """Whether a credential has the form of a realtime session's secret."""
    return shown.startswith(_MINTED) and len(shown) <= _LONGEST_MINTED


def digest_of(secret: str) -> str:
    """The name under which a secret is remembered; it says nothing of the secret."""
    return f"secret {hashlib.blake2b(secret.encode(errors='surrogatepass'), digest_size=16).hexdigest()}"


def minted_in(answer: bytes) -> str | None:
    """The secret that an answer (JSON) gives: ``value``, or that of ``client_secret`` in the previews."""
    if len(answer) > _MOST_READ:
        return None
    try:
        told = json.loads(answer)
    except (ValueError, RecursionError):
        return None
    if not isinstance(told, dict):
        return None
    inner = told.get("client_secret")
    value = inner.get("value") if isinstance(inner, dict) else told.get("value")
    return value if isinstance(value, str) and 8 <= len(value) <= _LONGEST_MINTED else None
