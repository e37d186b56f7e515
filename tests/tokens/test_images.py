import base64
import struct
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aoai_gateway.tokens.images import Patches, Size, Tiles, size_of


@pytest.mark.parametrize(
    ("size", "tokens", "mini_tokens"),
    [
        # The two examples of Azure OpenAI's overview page, and OpenAI's square one.
        ((2048, 4096), 1105, 36_835),
        ((1024, 1024), 765, 25_501),
        ((1, 1), 255, 8_500),
        ((512, 512), 255, 8_500),
        ((513, 512), 425, 14_167),
        ((1_000_000, 1), 765, 25_501),
        ((2049, 513), 1445, 48_169),  # 512.7 rounds to 513: two rows
        ((2050, 513), 765, 25_501),  # 512.5- rounds to 512: one row
    ],
)
def test_tiles(size: Size, tokens: int, mini_tokens: int) -> None:
    assert Tiles(85, 170).tokens(size) == tokens
    assert Tiles(2833, 5667).tokens(size) == mini_tokens


def test_low_detail_costs_the_base() -> None:
    assert Tiles(85, 170).tokens((9999, 9999), low_detail=True) == 85


@pytest.mark.parametrize(
    ("size", "factor", "tokens"),
    [((1024, 1024), 1.0, 1024), ((128, 64), 1.72, 14), ((4000, 4000), 1.62, 2489), ((1, 1), 1.0, 1)],
)
def test_patches(size: Size, factor: float, tokens: int) -> None:
    assert Patches(factor).tokens(size) == tokens
    assert Patches(factor).tokens(size, low_detail=True) == tokens


@given(width=st.integers(0, 2**32), height=st.integers(0, 2**32))
def test_no_size_costs_more_than_the_largest_image(width: int, height: int) -> None:
    assert 255 <= Tiles(85, 170).tokens((width, height)) <= 85 + 8 * 170
    assert 1 <= Patches(1.0).tokens((width, height)) <= 1536


def url(head: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(head).decode()}"


PNG = b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" + struct.pack(">II", 640, 480) + bytes(20)
GIF = b"GIF89a" + struct.pack("<HH", 640, 480) + bytes(20)
LOSSY = (
    b"RIFF\0\0\0\0WEBPVP8 "
    + bytes(4)
    + b"\0\0\0\x9d\x01\x2a"
    + struct.pack("<HH", 640 | 0x4000, 480)
    + bytes(9)
)
LOSSLESS = b"RIFF\0\0\0\0WEBPVP8L" + bytes(4) + b"\x2f" + struct.pack("<I", 639 | 479 << 14) + bytes(9)
EXTENDED = (
    b"RIFF\0\0\0\0WEBPVP8X" + bytes(8) + (639).to_bytes(3, "little") + (479).to_bytes(3, "little") + bytes(9)
)


def jpeg(*before: bytes, frame: int = 0xC0) -> bytes:
    start = b"\xff\xd8" + b"".join(before)
    return start + bytes((0xFF, frame)) + struct.pack(">HBHH", 17, 8, 480, 640) + bytes(20)


def segment(marker: int, size: int) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", size + 2) + bytes(size)


@pytest.mark.parametrize(
    "head",
    [
        PNG,
        GIF,
        LOSSY,
        LOSSLESS,
        EXTENDED,
        jpeg(),
        jpeg(segment(0xE0, 14), segment(0xE1, 60_000), segment(0xC4, 30), frame=0xC2),
        jpeg(b"\xff\xff\xff", segment(0xDB, 64)),
    ],
    ids=[
        "png",
        "gif",
        "webp lossy",
        "webp lossless",
        "webp extended",
        "jpeg",
        "jpeg with exif",
        "jpeg filled",
    ],
)
def test_the_header_tells_the_size(head: bytes) -> None:
    assert size_of(url(head)) == (640, 480)
    assert size_of(url(head + bytes(500_000))) == (640, 480)


@pytest.mark.parametrize(
    "value",
    [
        None,
        7,
        "",
        "https://example.org/image.png",
        "data:",
        "data:image/png;base64,",
        "data:image/png;base64,!!!!",
        "data:image/png;base64,é",
        "data:image/svg+xml,<svg/>",
        url(b"nothing known"),
        url(PNG[:20]),
        url(GIF[:8]),
        url(LOSSY[:25]),
        url(b"RIFF\0\0\0\0WEBPXXXX" + bytes(30)),
        url(b"\xff\xd8"),
        url(jpeg()[:8]),
        url(jpeg(segment(0xE1, 60_000), segment(0xE1, 60_000))),  # too far in to be cheap
        url(PNG.replace(struct.pack(">I", 480), bytes(4))),  # no height
    ],
)
def test_each_other_value_has_no_known_size(value: object) -> None:
    assert size_of(value) is None


@given(
    st.binary(max_size=200),
    st.sampled_from([b"", b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF0000WEBPVP8L"]),
)
def test_any_bytes_are_tolerated(data: bytes, magic: bytes) -> None:
    size = size_of(url(magic + data))
    assert size is None or min(size) > 0


def test_an_endless_jpeg_is_given_up() -> None:
    before = time.thread_time()
    assert size_of(url(b"\xff\xd8" + b"\xff" * 5_000_000)) is None
    assert size_of(url(b"\xff\xd8" + b"\xff\xe0\0\0" * 1_000_000)) is None
    assert time.thread_time() - before < 2
