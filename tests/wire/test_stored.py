"""Stored bodies read as if they were in memory."""

from __future__ import annotations

import random

import pytest

from aoai_gateway.wire import stored as module
from aoai_gateway.wire.bodies import is_upload, parse_body, parse_upload
from aoai_gateway.wire.forms import NotAFormError, read_form
from aoai_gateway.wire.gateway_error import GatewayError
from aoai_gateway.wire.stored import Pieces, StoredText
from aoai_gateway.wire.targets import parse_target

TRANSCRIPTIONS = parse_target("POST", "/openai/v1/audio/transcriptions")
FILES = parse_target("POST", "/openai/v1/files")
CHAT = parse_target("POST", "/openai/v1/chat/completions")
FORM = "multipart/form-data; boundary=xyz"


class Kept:
    """A body in memory that counts how much of it is read at a time."""

    def __init__(self, data: bytes) -> None:
        self.data, self.largest = data, 0

    def __len__(self) -> int:
        return len(self.data)

    def read(self, start: int, end: int) -> bytes:
        self.largest = max(self.largest, end - start)
        return self.data[start:end]


def form(*parts: tuple[str, bytes], end: bytes = b"--xyz--\r\n") -> bytes:
    head = 'content-disposition: form-data; name="{}"'
    return (
        b"".join(b"--xyz\r\n%s\r\n\r\n%s\r\n" % (head.format(name).encode(), value) for name, value in parts)
        + end
    )


def test_what_is_hostile_is_not_read_over_and_over() -> None:
    kept = Kept(b"\r\n--a" * 300_000)
    reads: list[int] = []
    kept.read = lambda start, end: (reads.append(end - start), kept.data[start:end])[1]  # type: ignore[method-assign]
    assert StoredText(kept).count(b"\r\n--a") == module.MOST_COUNTED
    assert sum(reads) <= module.BLOCK * 2
    after = Kept(b"--xyz--" + bytes(8_000_000))
    with pytest.raises(NotAFormError):
        read_form(StoredText(after), FORM)
    assert after.largest <= module.BLOCK + 10


@pytest.mark.parametrize("seed", range(30))
def test_it_finds_what_bytes_find(seed: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "BLOCK", 7)
    drawn = random.Random(seed)
    data = bytes(drawn.choice(b"ab\r\n") for _ in range(200))
    text = StoredText(Kept(data))
    for _ in range(50):
        found = bytes(drawn.choice(b"ab\r\n") for _ in range(drawn.randint(1, 9)))
        start, end = sorted((drawn.randint(0, 210), drawn.randint(0, 210)))
        assert text.find(found, start, end) == data.find(found, start, end)
        assert text.find(found, start) == data.find(found, start)
        assert text.count(found) == data.count(found)
        assert text.startswith(found, start) == data.startswith(found, start)
        assert (found in text) == (found in data)
        assert text[start:end] == data[start:end]
        assert text[start:] == data[start:]


@pytest.mark.parametrize(
    "parts",
    [
        (("model", b"whisper"), ("file", b"\x00" * 5_000)),
        (("file", b"\r\n--xy" * 1_000), ("model", b"whisper"), ("stream", b"true")),
    ],
)
def test_a_forms_facts_are_found_before_and_behind_its_file(parts, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "BLOCK", 64)
    kept = Kept(form(*parts))
    found = parse_upload(TRANSCRIPTIONS, FORM, kept)
    whole = parse_body(TRANSCRIPTIONS, FORM, kept.data)
    assert (found.model, found.stream, found.parsed) == (whole.model, whole.stream, whole.parsed)
    assert (found.raw, found.size) == (b"", len(kept))
    assert kept.largest <= 2_000, "it is never all in memory"
    sent = found.edited_upload("whisper-ptu")
    assert b"".join(sent.blocks()) == whole.edited("whisper-ptu")
    assert len(sent) == len(whole.edited("whisper-ptu"))
    assert b"".join(sent.blocks()) == b"".join(sent.blocks()), "it can be sent again"
    assert b"".join(found.edited_upload(None).blocks()) == kept.data


@pytest.mark.parametrize(
    "data",
    [
        form(("model", b"a"), end=b""),
        form(("model", b"a"), ("model", b"b")),
        b"--other\r\n",
        form(("file", b"x\n--xyz\n")),
        form(("model", b"a"), end=b"--xyz--\r\nmore"),
    ],
)
def test_a_faulty_form_is_refused_like_one_in_memory(data: bytes):
    with pytest.raises(GatewayError) as whole:
        parse_body(TRANSCRIPTIONS, FORM, data)
    with pytest.raises(GatewayError) as found:
        parse_upload(TRANSCRIPTIONS, FORM, Kept(data))
    assert (found.value.status, found.value.message) == (whole.value.status, whole.value.message)


def test_only_forms_and_bytes_are_uploads():
    assert is_upload(TRANSCRIPTIONS, FORM)
    assert is_upload(FILES, FORM)
    assert not is_upload(CHAT, FORM)
    assert not is_upload(CHAT, "application/json")
    unknown = parse_target("POST", "/openai/v1/something/new")
    assert is_upload(unknown, "application/octet-stream")
    assert not is_upload(unknown, "application/json; charset=utf-8")
    assert not is_upload(unknown, None)


def test_pieces_are_what_they_replace():
    pieces = Pieces(Kept(b"0123456789"), [((2, 4), b"xyz"), ((9, 9), b"!")])
    assert b"".join(pieces.blocks()) == b"01xyz45678!9"
    assert len(pieces) == 12


@pytest.mark.parametrize("seed", range(30))
def test_many_changes_are_made_wherever_the_blocks_end(seed: int, monkeypatch: pytest.MonkeyPatch):
    drawn = random.Random(seed)
    monkeypatch.setattr(module, "BLOCK", drawn.randint(1, 12))
    data = bytes(drawn.randrange(256) for _ in range(100))
    places = sorted(drawn.randint(0, 100) for _ in range(2 * drawn.randint(0, 20)))
    changes = [
        ((start, end), b"x" * drawn.randint(0, 5))
        for start, end in zip(places[::2], places[1::2], strict=True)
    ]
    pieces, wanted, at = Pieces(Kept(data), changes), b"", 0
    for (start, end), new in changes:
        wanted += data[at:start] + new
        at = end
    wanted += data[at:]
    assert b"".join(pieces.blocks()) == b"".join(pieces.blocks()) == wanted
    assert len(pieces) == len(wanted)
