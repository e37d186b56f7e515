"""Known secrets are masked, in each form and cut at each place."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aoai_gateway.wire.masking import KnownSecrets, Screen

KEY = "Kq7/w+Zr93=xPLk2"
OTHER = "0123456789abcdef0123456789abcdef"
KNOWN = KnownSecrets([KEY, OTHER, "short"])


@pytest.mark.parametrize(
    "echo",
    [
        KEY,
        OTHER,
        f"key={KEY}&x",
        quote(KEY, safe=""),
        "Kq7%2fw%2bZr93%3dxPLk2",
        json.dumps({"message": f"the key {KEY} is wrong"}),
        json.dumps(KEY).replace("/", "\\/"),
        json.dumps(json.dumps(KEY).replace("/", "\\/")),
        json.dumps(json.dumps({"error": KEY})),
        KEY.replace("+", "\\u002B"),
        KEY.replace("+", "\\u002b"),
        *(base64.b64encode(f"{'u' * n}:{KEY}".encode()).decode() for n in range(6)),
        *(base64.urlsafe_b64encode(f"{'u' * n}:{KEY}{'v' * n}".encode()).decode() for n in range(6)),
    ],
)
@pytest.mark.parametrize("before", range(0, 40, 3))
def test_an_echo_is_masked(echo: str, before: int) -> None:
    data = b"." * before + echo.encode() + b"...."
    masked = KNOWN.mask(data)
    assert len(masked) == len(data)
    assert b"********" in masked
    assert KNOWN.mask(masked) == masked
    for secret in (KEY, OTHER):
        assert secret.encode() not in masked
        assert quote(secret, safe="").encode() not in masked


def test_what_holds_none_is_the_same_object() -> None:
    data = b'data: {"choices":[{"index":0,"delta":{"content":" word"}}]}\n\n' * 20
    assert KNOWN.mask(data) is data
    assert KNOWN.mask_text("Büro") == "Büro"
    assert not KNOWN.are_in(data)


def test_a_short_secret_is_no_reason_to_mask_words() -> None:
    assert KNOWN.mask(b"in short") == b"in short"
    assert not KnownSecrets(["short"])


def test_json_stays_json() -> None:
    document = {"a": KEY, KEY: [OTHER]}
    assert json.loads(KNOWN.mask(json.dumps(document).encode())) == {"a": "*" * 16, "*" * 16: ["*" * 32]}


def test_a_text_is_masked_too() -> None:
    assert KNOWN.mask_text(f"Büro {KEY} \ud800") == f"Büro {'*' * 16} \ud800"


def test_nothing_is_shown_of_them() -> None:
    assert KEY not in repr(KNOWN)


# --- in pieces -----------------------------------------------------------------------------------------


def passed(screen: Screen, pieces: list[bytes]) -> bytes:
    return b"".join([*(screen.feed(piece) for piece in pieces), screen.finish()])


@pytest.mark.parametrize("cut", range(len(KEY) + 8))
def test_a_secret_that_is_cut_anywhere_is_masked(cut: int) -> None:
    data = b"say " + KEY.encode() + b" end"
    assert passed(Screen(KNOWN), [data[:cut], data[cut:]]) == b"say " + b"*" * 16 + b" end"


def test_a_secret_in_single_bytes_is_masked() -> None:
    data = b"say " + KEY.encode() + OTHER.encode() + b" end"
    assert passed(Screen(KNOWN), [bytes([b]) for b in data]) == b"say " + b"*" * 48 + b" end"


def test_only_what_may_be_the_beginning_of_a_secret_waits() -> None:
    screen = Screen(KNOWN)
    assert screen.feed(b"data: {}\n\n") == b"data: {}\n\n"
    assert screen.feed(b"xyz Kq7/") == b"xyz "
    assert screen.feed(b" no") == b"Kq7/ no"
    assert screen.feed(b"Kq7/w+Zr93=xPLk") == b""
    assert screen.finish() == b"Kq7/w+Zr93=xPLk"


def test_one_that_is_the_beginning_of_another_hides_neither() -> None:
    known = KnownSecrets(["key-of-a", "key-of-anybody"], plain=True)
    assert passed(Screen(known), [b"<key-of-a", b"nybody>"]) == b"<" + b"*" * 14 + b">"
    assert passed(Screen(known), [b"<key-of-a", b">"]) == b"<" + b"*" * 8 + b">"


def test_the_end_of_one_may_be_the_beginning_of_another() -> None:
    known = KnownSecrets(["abcdefgh", "ghijklmn"], plain=True)
    assert passed(Screen(known), [b"<abcdefgh", b"ijklmn>"]) == b"<" + b"*" * 14 + b">"
    assert passed(Screen(known), [b"<abcdefgh", b">"]) == b"<" + b"*" * 8 + b">"


def test_a_calls_own_token_is_masked_beside_the_others() -> None:
    token = "eyJhbGciOi." + "x" * 1500 + ".c2ln"
    screen = Screen(KNOWN, KnownSecrets([token], plain=True))
    data = f"{KEY} {token} {OTHER}".encode()
    for size in (1, 7, 100, 5000):
        pieces = [data[i : i + size] for i in range(0, len(data), size)]
        assert passed(screen, pieces).replace(b"*", b"") == b"  "


def test_without_secrets_everything_passes() -> None:
    assert Screen().feed(b"x") == b"x"
    assert Screen(KnownSecrets([])).finish() == b""


@given(
    st.lists(st.text("abK7", min_size=8, max_size=14), max_size=5),
    st.lists(st.binary(max_size=6) | st.sampled_from([b"a", b"bK", b"7a", b"\n"]), max_size=40),
    st.lists(st.integers(0, 4), max_size=12),
)
def test_pieces_are_masked_as_the_whole_is(
    secrets: list[str], filling: list[bytes], which: list[int]
) -> None:
    known = KnownSecrets(secrets, plain=True)
    for number in which:
        if number < len(secrets):
            filling.insert(number, secrets[number][:4].encode())
            filling.insert(number + 1, secrets[number][4:].encode())
    whole = b"".join(filling)
    masked = known.mask(whole)
    assert passed(Screen(known), filling) == masked
    naive = bytearray(whole)
    for secret in secrets:
        at = whole.find(secret.encode())
        while at >= 0:
            naive[at : at + len(secret)] = b"*" * len(secret)
            at = whole.find(secret.encode(), at + 1)
    assert masked == bytes(naive)


def test_a_secret_that_begins_like_a_longer_one_is_masked_in_its_own_length() -> None:
    secrets = KnownSecrets(["key-of-a", "key-of-anybody"])
    assert secrets.mask(b"my key-of-a") == b"my ********"
    assert secrets.mask(b"my key-of-anybody") == b"my **************"
