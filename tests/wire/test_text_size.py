"""How much text a body holds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from aoai_gateway.wire.bodies import SHORTEST_ATTACHMENT, SMALL_BODY, text_size


def plainly(raw: bytes) -> int:
    """The same rule, string by string."""
    if len(raw) < SMALL_BODY:
        return len(raw)
    long = (part for part in raw.split(b'"') if len(part) >= SHORTEST_ATTACHMENT)
    return len(raw) - sum(len(p) for p in long if p.isascii() and b" " not in p and b"\\u" not in p)


LENGTHS = st.sampled_from(
    [0, 1, 5, 700, SHORTEST_ATTACHMENT - 1, SHORTEST_ATTACHMENT, SHORTEST_ATTACHMENT + 1, 3000]
)
FILLINGS = st.sampled_from([b"A", b"a b", b"\\u00e9", "é".encode(), b"\\n"])


@given(st.lists(st.tuples(FILLINGS, LENGTHS), max_size=30), st.binary(max_size=20))
def test_every_long_string_without_blanks_is_left_out(parts: list[tuple[bytes, int]], end: bytes) -> None:
    raw = b'"'.join((filling * length)[:length] for filling, length in parts) + end
    assert text_size(raw) == plainly(raw)


def test_prose_counts_and_base64_does_not() -> None:
    prose, picture = b"a word " * 2000, b"iVBORw0KGgo" * 2000
    assert text_size(b'{"text":"%s","url":"%s"}' % (prose, picture)) == len(prose) + len(
        '{"text":"","url":""}'
    )


def test_a_small_body_counts_as_it_is() -> None:
    assert text_size(b"A" * (SMALL_BODY - 1)) == SMALL_BODY - 1
