"""Known secrets in heads: masked in what backends send, taken out of what clients send."""

from __future__ import annotations

import gzip
from urllib.parse import quote

import pytest
from mitmproxy import http
from mitmproxy.test import tutils

from aoai_gateway.proxy.masks import mask_decoded, mask_head, strip_known
from aoai_gateway.wire.masking import KnownSecrets

KEY = "Kq7/w+Zr93=xPLk2"
SECRETS = (KnownSecrets([KEY]), KnownSecrets(["token-of-this-call"]))
PATH = "/openai/v1/chat/completions"


def test_a_head_is_masked_everywhere() -> None:
    response = http.Response.make(200, b"", {"x": f"a {KEY}", "y": "token-of-this-call", "z": "fine"})
    response.reason = f"OK {KEY}"
    mask_head(response, SECRETS)
    assert response.reason == "OK " + "*" * 16
    assert response.headers["x"] == "a " + "*" * 16
    assert response.headers["y"] == "*" * 18
    assert response.headers["z"] == "fine"


def test_a_head_without_any_stays_the_same_object() -> None:
    response = http.Response.make(200, b"", {"x": "fine"})
    fields = response.data.headers.fields
    mask_head(response, SECRETS)
    assert response.data.headers.fields is fields


def test_an_encoded_body_is_given_decoded_if_it_holds_one() -> None:
    response = http.Response.make(200, b"", {"content-encoding": "gzip"})
    response.data.content = gzip.compress(f"<{KEY}>".encode())
    decoded = mask_decoded(response, f"<{KEY}>".encode(), SECRETS)
    assert decoded == response.data.content == b"<" + b"*" * 16 + b">"
    assert "content-encoding" not in response.headers


def test_an_encoded_body_without_any_stays_encoded() -> None:
    packed = gzip.compress(b"fine")
    response = http.Response.make(200, b"", {"content-encoding": "gzip"})
    response.data.content = packed
    assert mask_decoded(response, b"fine", SECRETS) == b"fine"
    assert response.data.content is packed
    assert mask_decoded(response, None, SECRETS) == b""


@pytest.mark.parametrize(
    ("target", "left"),
    [
        (f"{PATH}?api_key={quote(KEY, safe='')}", PATH),
        (f"{PATH}?a=1&token={KEY.replace('+', '%2B')}&b=2", f"{PATH}?a=1&b=2"),
        (f"{PATH}?a=x{KEY}y", PATH),
        (f"{PATH}?{KEY}", PATH),
        (f"{PATH}?a=%4Bq7/w%2BZr93%3dxPLk2", PATH),
        (f"{PATH};k={KEY}", f"{PATH};k={'*' * 16}"),
        (f"{PATH}?a=1", f"{PATH}?a=1"),
        (f"{PATH}?", f"{PATH}?"),
        ("/%4Bq7/w%2BZr93%3dxPLk2", "/" + "*" * 22),
    ],
)
def test_a_target_is_stripped(target: str, left: str) -> None:
    request = tutils.treq(path=target.encode())
    strip_known(request, SECRETS)
    assert request.path == left


def test_fields_of_any_name_are_stripped() -> None:
    fields = [(b"x-any", f"it is {KEY}".encode()), (KEY.encode(), b"1"), (b"x-fine", b"fine")]
    request = tutils.treq(headers=http.Headers(fields))
    strip_known(request, SECRETS)
    assert request.headers.fields == ((b"x-fine", b"fine"),)
