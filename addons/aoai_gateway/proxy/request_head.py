"""May this request come in? Decided by its head alone, before its body is read."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from aoai_gateway.identity.identify import read_certificate
from aoai_gateway.proxy import heads
from aoai_gateway.proxy.heads import HeaderIndex, set_fields
from aoai_gateway.quota.access import check_passed_on
from aoai_gateway.wire import errors
from aoai_gateway.wire.bodies import LARGE_BODY, coding_of, is_upload
from aoai_gateway.wire.credential_errors import invalid_token, unauthorized
from aoai_gateway.wire.errors import upgrade_required
from aoai_gateway.wire.masking import are_in, known, masked
from aoai_gateway.wire.operations import REALTIME
from aoai_gateway.wire.secrets import (
    PROTOCOLS,
    SECRET_HEADERS,
    client_credential,
    strip_secret_query,
    without_secret_protocols,
)
from aoai_gateway.wire.targets import dialect_of, parse_target

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from mitmproxy import http
    from mitmproxy.connection import Client as ClientConnection

    from aoai_gateway.config.models import Client, Config
    from aoai_gateway.engine.call import Setup
    from aoai_gateway.identity.identify import Identified, ShownCertificate
    from aoai_gateway.runtime.gateway import Gateway
    from aoai_gateway.wire.masking import KnownSecrets
    from aoai_gateway.wire.secrets import Credential, Grant
    from aoai_gateway.wire.targets import Target

SPOOLED_ABOVE = 1024 * 1024
"""Bytes of an upload up to which it stays in memory."""

ONCE = frozenset({b"content-encoding", b"content-type"})
"""Fields that say how the body is read; of two, backends could heed another one than we do."""

HANDSHAKE_ONCE = frozenset({b"upgrade", b"sec-websocket-key", b"sec-websocket-version"})

WEBSOCKET_KEY = re.compile(r"[A-Za-z0-9+/]{22}==")

OFFER = frozenset({b"upgrade", b"http2-settings"})

SECRET_FIELDS = frozenset(name.encode() for name in SECRET_HEADERS)
_PROTOCOLS = PROTOCOLS.encode()

HOST = re.compile(r"[A-Za-z0-9._~:%\[\]-]{1,255}")


@dataclass(frozen=True, slots=True)
class AcceptedRequest:
    """A request whose client is known: the configuration that counts for it, and who it is from.

    ``token`` is the client's own bearer token, where that goes on to the backend; ``secrets`` what is masked
    in the answer; ``only_backend`` the one backend to which a user of the inspector sends it; ``run_by`` the
    user of the workbench who does; ``granted``: what it is good for, if a secret of a session was shown.
    """

    setup: Setup
    client: Client
    token: str | None
    secrets: tuple[KnownSecrets, ...]
    only_backend: str | None = None
    claims: Mapping[str, str] = field(default_factory=dict, repr=False)
    run_by: str | None = None
    granted: Grant | None = None
    unproven: bool = False
    """Whether its token may be made up: no backend has accepted it yet."""

    @property
    def share(self) -> str:
        """The name by which it has its share of memory and turns; those with unproven tokens have one."""
        return f"{self.client.name} (unproven)" if self.unproven else self.client.name

    def __repr__(self) -> str:
        return f"AcceptedRequest({self.client.name!r})"


def place(request: http.Request, connection: ClientConnection) -> None:
    """Give a request the address at which it came in, to be shown as long as it has gone nowhere."""
    if connection.sockname is not None:
        request.data.host, request.data.port = connection.sockname[0], connection.sockname[1]
    request.data.scheme = b"https" if connection.tls else b"http"
    request.data.authority = b""


def address_of(connection: ClientConnection) -> str | None:
    """Return the IP address that a client's connection comes from."""
    return connection.peername[0] if connection.peername else None


def credential_in(
    setup: Setup, request: http.Request, connection: ClientConnection
) -> Credential | ShownCertificate | None:
    """Look at the head of a request, and give what its client shows to be let in. Raises GatewayError.

    A key or token counts before the certificate of the connection.
    """
    head = HeaderIndex(request.data.headers.fields)
    _check_form(request, head)
    if setup.config.listen.certificate is not None and not connection.tls:
        raise errors.invalid_target("This gateway speaks https only. Begin its address with https://.")
    keys = dialect_of(request.path).key_headers
    shown = client_credential(head, request.path.partition("?")[2], keys)
    if shown is None and setup.config.listen.client_ca is not None and connection.certificate_list:
        return read_certificate(connection.certificate_list[0])
    return shown


def accept_request(
    gateway: Gateway, setup: Setup, request: http.Request, identified: Identified
) -> AcceptedRequest:
    """Accept the request of an identified client, and take its credential out.

    Whether what is asked for may be had is for `check_request`.
    """
    strip_secrets(request)
    request.path = strip_secret_query(request.path)
    secrets = secrets_of(setup.config, gateway.credentials.masks, identified.masks)
    strip_known(request, secrets)
    token = identified.token
    unproven = not identified.verified and token is not None and not gateway.token_trials.is_accepted(token)
    return AcceptedRequest(
        setup,
        identified.client,
        token,
        secrets,
        claims=identified.claims,
        granted=identified.granted,
        unproven=unproven,
    )


def accept_replayed(
    gateway: Gateway, request: http.Request, metadata: Mapping[str, object]
) -> AcceptedRequest:
    """Accept a flow's request once more, as that of the client that its metadata names. Raises GatewayError.

    Metadata are what the inspector writes, never what a client has sent.
    """
    setup = gateway.in_force()
    client = setup.config.client_named(str(metadata.get("gateway_client", "")))
    if client is None:
        raise unauthorized()
    if client.uses_entra_id_auth:
        raise invalid_token("it was not kept, so the call cannot be replayed")
    only, run_by = (metadata.get(f"gateway_{name}") for name in ("only_backend", "run_by"))
    secrets = secrets_of(setup.config, gateway.credentials.masks)
    return AcceptedRequest(
        setup, client, None, secrets, str(only) if only else None, run_by=str(run_by) if run_by else None
    )


def _check_form(request: http.Request, head: HeaderIndex) -> None:
    """Check that the head, which is valid HTTP, asks for what a gateway does. Raises GatewayError."""
    if request.data.scheme or request.data.authority:
        # Absolute form, and CONNECT: a target that names a host is for a forward proxy.
        raise errors.invalid_target("This is a gateway, not a forward proxy: send a path only.")
    if ONCE & head.repeated:
        raise errors.head_malformed()
    may_lack_host = request.data.http_version == b"HTTP/1.0" and b"host" not in head
    if not may_lack_host and (b"host" in head.repeated or not HOST.fullmatch(head.get("host") or "")):
        raise errors.invalid_target("The request needs one valid Host header.")
    if not OFFER.isdisjoint(head) and not asks_for_websocket(request):
        # Other protocols are an offer, which a server may ignore; it is not passed on (RFC 9110 §7.8).
        set_fields(request, OFFER, ())
    coding_of(head.get("content-encoding"))


def asks_for_websocket(request: http.Request) -> bool:
    """Whether a request asks for its connection to become a WebSocket."""
    return any(
        protocol.partition(b"/")[0].strip(b" \t").lower() == b"websocket"
        for name, value in request.data.headers.fields
        if name.lower() == b"upgrade"
        for protocol in value.split(b",")
    )


def check_request(
    gateway: Gateway,
    setup: Setup,
    request: http.Request,
    granted: Grant | None = None,
    head: HeaderIndex | None = None,
) -> Target:
    """Check that an identified client's request is one that can be served, before its body is read.

    ``head``: the request's fields, where they were read. Returns what it asks for. Raises GatewayError.
    """
    head = HeaderIndex(request.data.headers.fields) if head is None else head
    if gateway.draining:
        raise errors.unavailable("The gateway is shutting down.")
    target = target_of(request, head)
    if not target.operation.known:
        check_passed_on(setup.config, target)
    if granted is not None and (target.operation.family != REALTIME.name or target.operation.mints):
        raise errors.forbidden("This secret was made for a realtime session, and is good for nothing else.")
    if target.operation.websocket:
        _check_handshake(request, head)
    return target


def body_limit(setup: Setup, head: HeaderIndex, *, spooled: bool) -> int:
    """Return how many bytes a request's body may have. Raises GatewayError (413) if it announces more.

    ``spooled``: whether it goes to disk.
    """
    limits = setup.config.limits
    most = limits.upload_bytes if spooled else limits.body_bytes
    if (head.length or 0) > most:
        raise errors.body_too_large(most)
    return most


def is_spooled(gateway: Gateway, head: HeaderIndex, target: Target) -> bool:
    """Whether a request's body goes to disk: it is an upload, it is large, and nothing looks at it."""
    if not may_be_large(head) or gateway.heard.requests_are_wanted:
        return False
    if (head.get("content-encoding") or "identity").lower() != "identity":
        return False
    length = head.length
    return is_upload(target, head.get("content-type")) and (length is None or length > SPOOLED_ABOVE)


def may_be_large(head: HeaderIndex) -> bool:
    """Whether a request, by its head, can have a large body."""
    length = head.length
    return b"transfer-encoding" in head if length is None else length > LARGE_BODY


def target_of(request: http.Request, head: HeaderIndex | None = None) -> Target:
    """Return what a request asks for. ``head``: its fields, where they were read. Raises GatewayError."""
    websocket = (head is None or b"upgrade" in head) and asks_for_websocket(request)
    return parse_target(request.method, request.path, websocket=websocket)


def _check_handshake(request: http.Request, head: HeaderIndex) -> None:
    """Check that a request for a WebSocket is its handshake (RFC 6455 §4.2.1). Raises GatewayError (426)."""
    wrong = (
        request.data.http_version != b"HTTP/1.1"
        or b"upgrade" not in heads.connection_options(request.data.headers.fields)
        or head.get("sec-websocket-version") != "13"
        or not WEBSOCKET_KEY.fullmatch(head.get("sec-websocket-key") or "")
        or bool(HANDSHAKE_ONCE & head.repeated)
        or b"transfer-encoding" in head
        or head.length not in (None, 0)
    )
    if wrong:
        raise upgrade_required()


def secrets_of(
    config: Config, fetched: Iterable[KnownSecrets] = (), token: KnownSecrets | None = None
) -> tuple[KnownSecrets, ...]:
    """Return what is to be masked in a call.

    ``fetched``: credentials that the configuration does not hold; ``token``: the client's own.
    """
    ours = (known(config.secrets), *fetched)
    return ours if token is None else (*ours, token)


def strip_secrets(request: http.Request) -> None:
    """Take the credentials out of a client's request, before an addon sees it."""
    headers = request.data.headers
    names = {name.lower() for name, _ in headers.fields}
    if not names.isdisjoint(SECRET_FIELDS):
        headers.fields = tuple([f for f in headers.fields if f[0].lower() not in SECRET_FIELDS])
    if _PROTOCOLS in names:
        offered: str = headers[PROTOCOLS]
        kept = without_secret_protocols(offered)
        if kept != offered:
            headers.pop(PROTOCOLS)
        if kept and kept != offered:
            headers[PROTOCOLS] = kept


def strip_known(request: http.Request, secrets: Sequence[KnownSecrets]) -> None:
    """Take known secrets out of a request's head, wherever they stand in it.

    A field and a query parameter go as a whole; in a path, stars take the place. The client shows its key in
    one of the documented places; but what it has put elsewhere too must not reach a backend or a file.
    """
    fields, path = request.data.headers.fields, request.data.path
    head = b"\n".join((path, *chain.from_iterable(fields)))
    if not are_in(head, secrets) and not (b"%" in path and are_in(unquote_to_bytes(path), secrets)):
        return
    request.headers.fields = tuple(f for f in fields if not are_in(f[0] + b": " + f[1], secrets))
    before, mark, query = path.partition(b"?")
    kept = [pair for pair in query.split(b"&") if not _holds(pair, secrets)]
    shown = masked(before, secrets)
    if shown is before and _holds(before, secrets):
        shown = b"/" + b"*" * (len(before) - 1)
    request.data.path = shown + mark + b"&".join(kept) if kept else shown


def _holds(part: bytes, secrets: Sequence[KnownSecrets]) -> bool:
    """Whether a part of a target holds a secret, however much of it is percent-encoded."""
    return are_in(part, secrets) or (b"%" in part and are_in(unquote_to_bytes(part), secrets))
