"""Taking known secrets out of messages: out of what backends send, and of what clients show in odd places."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from aoai_gateway.wire.masking import KnownSecrets, known

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mitmproxy import http

    from aoai_gateway.config.models import Config


def secrets_of(
    config: Config, fetched: Iterable[KnownSecrets] = (), token: KnownSecrets | None = None
) -> tuple[KnownSecrets, ...]:
    """Return what is to be masked in a call.

    ``fetched``: credentials that the configuration does not hold; ``token``: the client's own.
    """
    ours = (known(config.secrets), *fetched)
    return ours if token is None else (*ours, token)


def mask_head(response: http.Response, secrets: Sequence[KnownSecrets]) -> None:
    """Mask secrets in a response's reason phrase and header fields."""
    data = response.data
    fields = data.headers.fields
    everything = b"\n".join((data.reason, *chain.from_iterable(fields)))
    if not _are_in(everything, secrets):
        return
    data.reason = masked(data.reason, secrets)
    data.headers.fields = tuple((masked(name, secrets), masked(value, secrets)) for name, value in fields)


def mask_decoded(response: http.Response, decoded: bytes | None, secrets: Sequence[KnownSecrets]) -> bytes:
    """Mask secrets in a body that came encoded, where they could not be seen as it passed.

    ``decoded``: the body as text. Returns it without secrets; if it had any, it replaces the encoded one.
    """
    if not decoded or not is_coded(response):
        return decoded or b""
    found = masked(decoded, secrets)
    if found is not decoded:
        response.data.content = found
        del response.headers["content-encoding"]
    return found


def is_coded(response: http.Response) -> bool:
    """Whether a response says that its body is in a content coding."""
    for name, value in response.data.headers.fields:
        if name.lower() == b"content-encoding" and value.lower() != b"identity":
            return True
    return False


def strip_known(request: http.Request, secrets: Sequence[KnownSecrets]) -> None:
    """Take known secrets out of a request's head, wherever they stand in it.

    A field and a query parameter go as a whole; in a path, stars take the place. The client shows its key in
    one of the documented places; but what it has put elsewhere too must not reach a backend or a file.
    """
    fields, path = request.data.headers.fields, request.data.path
    head = b"\n".join((path, *chain.from_iterable(fields)))
    if not _are_in(head, secrets) and not (b"%" in path and _are_in(unquote_to_bytes(path), secrets)):
        return
    request.headers.fields = tuple(f for f in fields if not _are_in(f[0] + b": " + f[1], secrets))
    before, mark, query = path.partition(b"?")
    kept = [pair for pair in query.split(b"&") if not _holds(pair, secrets)]
    shown = masked(before, secrets)
    if shown is before and _holds(before, secrets):
        shown = b"/" + b"*" * (len(before) - 1)
    request.data.path = shown + mark + b"&".join(kept) if kept else shown


def _holds(part: bytes, secrets: Sequence[KnownSecrets]) -> bool:
    """Whether a part of a target holds a secret, however much of it is percent-encoded."""
    return _are_in(part, secrets) or (b"%" in part and _are_in(unquote_to_bytes(part), secrets))


def _are_in(data: bytes, secrets: Sequence[KnownSecrets]) -> bool:
    return any(each.are_in(data) for each in secrets)


def masked(data: bytes, secrets: Sequence[KnownSecrets]) -> bytes:
    """Return the data with stars in the place of secrets; the same object if there are none."""
    for each in secrets:
        data = each.mask(data)
    return data
