"""What only one resource can resolve, found in bodies of any size within a moment."""

from __future__ import annotations

import time

import pytest

from aoai_gateway.wire.references import DIGESTED, MOST_ITEMS, SEARCHED, is_id, references_in
from tests.machine_speed import slowness


def item(text: str) -> bytes:
    return b'{"type":"reasoning","encrypted_content" : "%s"}' % text.encode()


def encrypted(data: bytes) -> list[str]:
    return [name for name in references_in(data) if name.startswith("encrypted ")]


def test_the_last_items_are_remembered_the_last_one_first() -> None:
    items = [item(f"secret {n}") for n in range(2 * MOST_ITEMS)]
    alone = [encrypted(each)[0] for each in items]
    assert encrypted(b",".join(items)) == alone[::-1][:MOST_ITEMS]
    assert len(set(alone)) == 2 * MOST_ITEMS


@pytest.mark.parametrize("rest", [b":", b':"', b':""', b': null, "id": "x"'])
def test_what_is_no_item_has_no_name(rest: bytes) -> None:
    assert encrypted(b'"encrypted_content"' + rest) == []


def test_long_items_are_told_apart_by_their_ends_and_their_length() -> None:
    middle = "m" * 4 * DIGESTED
    texts = [f"a{middle}z", f"b{middle}z", f"a{middle}y", f"a{middle}mz"]
    assert len({encrypted(item(text))[0] for text in texts}) == 4
    assert encrypted(item(texts[0])) == encrypted(b"x" * 10 + item(texts[0]))


def test_ids_are_found_at_both_ends() -> None:
    first, middle, last = (f"resp_{letter * 20}1" for letter in "abc")
    filler = b"x" * 2 * SEARCHED
    data = filler.join(f'"{name}"'.encode() for name in (first, middle, last))
    assert references_in(data) == (first, last)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("resp_" + "aZ-_9" * 100 + "=", True),
        ("resp_" + "a" * 2_048, True),
        ("resp_" + "a" * 2_049, False),
        ("file_search_preview_2025_03_11", False),
        ("run_step2_details_long", False),
    ],
)
def test_a_long_id_may_have_the_alphabet_of_base64_urls(text: str, found: bool) -> None:
    """Other gateways write their route into ids; words with underscores are shorter than those."""
    assert is_id(text) is found
    assert references_in(b'{"id":"%s"}' % text.encode()) == ((text,) if found else ())


MEGABYTES = 8 * 1024 * 1024


@pytest.mark.parametrize(
    "piece",
    [
        b"x",
        b'"',
        b'"resp_abcdefghijk-abcdef",',
        b'"resp_%s",' % (b"abcdefghij_" * 100),
        b'"resp_%s",' % (b"abcdefghij_" * 300),
        b'"encrypted_content":',
        b'"encrypted_content":"x",',
        b'"encrypted_content":"%s",' % (b"A" * 60_000),
    ],
    ids=["text", "quotes", "ids", "long ids", "no ids", "names", "items", "long items"],
)
def test_a_large_text_takes_a_moment(piece: bytes) -> None:
    data, took = piece * (MEGABYTES // len(piece)), []
    for _ in range(5):
        begin = time.thread_time()
        references_in(data)
        took.append(time.thread_time() - begin)
    assert min(took) < 0.02 * slowness()
