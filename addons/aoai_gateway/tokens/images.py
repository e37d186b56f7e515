"""An image -> tokens, without decoding it.

Three published schemes (Azure OpenAI's overview page; OpenAI's vision guide; Anthropic's vision guide):

- *tiles*: fit into 2048 x 2048, shrink the shortest side to 768, pay per started 512 x 512 tile, plus
  a base. `detail: low` pays the base alone. 2048 x 4096 with gpt-4o: 6 tiles, 1,105 tokens.
- *patches*: pay per started 32 x 32 patch, at most 1,536 of them, times a factor of the model.
- *pixels*: fit into 1568 x 1568, pay for each 750 pixels.

The dimensions stand in the first bytes of a `data:` URL; of a remote image nothing is known, so a
screenshot (1920 x 1080) is assumed.
"""

from __future__ import annotations

import base64
import binascii
import math
from dataclasses import dataclass

Size = tuple[int, int]
"""Width and height in pixels."""

ASSUMED_SIZE: Size = (1920, 1080)

HEADER_BASE64_CHARS = 128 * 1024
"""The beginning of an image's base64 in which its dimensions are. A JPEG's follow its metadata segments: an
EXIF thumbnail, a colour profile."""

_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


@dataclass(frozen=True, slots=True)
class Tiles:
    """Tokens per image = base + tile x number of tiles."""

    base: int
    tile: int

    def tokens(self, size: Size, *, low_detail: bool = False) -> int:
        """Tokens of one image of that size."""
        if low_detail:
            return self.base
        width, height = (max(side, 1) for side in size)
        shrink = min(1.0, 2048 / max(width, height))
        shrink = min(shrink, 768 / min(width, height))
        across, down = (max(1, math.ceil(round(side * shrink) / 512)) for side in (width, height))
        return self.base + self.tile * across * down


@dataclass(frozen=True, slots=True)
class Patches:
    """Tokens per image = factor x number of patches; a low detail changes nothing."""

    factor: float

    def tokens(self, size: Size, *, low_detail: bool = False) -> int:
        """Tokens of one image of that size."""
        width, height = size
        # Beyond the cap the service shrinks the image to *at most* 1,536 patches; up to 6 % less is
        # paid than assumed here.
        patches = min(1536, max(1, -(-width // 32) * -(-height // 32)))
        return math.ceil(patches * self.factor)


@dataclass(frozen=True, slots=True)
class Pixels:
    """Tokens per image = its pixels / per token; a low detail changes nothing."""

    per_token: int
    longest: int
    """Pixels of the longer side, to which a larger image is shrunk."""
    most: int
    """Tokens, to which one that is still too large is shrunk."""

    def tokens(self, size: Size, *, low_detail: bool = False) -> int:
        """Tokens of one image of that size."""
        width, height = (max(side, 1) for side in size)
        shrink = min(1.0, self.longest / max(width, height))
        return min(self.most, math.ceil(width * height * shrink * shrink / self.per_token))


ImageRule = Tiles | Patches | Pixels


def size_of(url: object) -> Size | None:
    """Width and height of the image in a base64 `data:` URL, or None if that cannot be read cheaply."""
    if not isinstance(url, str) or not url.startswith("data:"):
        return None
    start = url.find(";base64,", 0, 200)
    if start < 0:
        return None
    start += len(";base64,")
    encoded = url[start : start + HEADER_BASE64_CHARS]
    try:
        size = _size_in(base64.b64decode(encoded[: len(encoded) // 4 * 4]))
    except (ValueError, binascii.Error):
        return None
    return size if size and min(size) > 0 else None


def _size_in(head: bytes) -> Size | None:
    if head.startswith(b"\x89PNG\r\n\x1a\n") and len(head) >= 24:
        return int.from_bytes(head[16:20]), int.from_bytes(head[20:24])
    if head.startswith((b"GIF87a", b"GIF89a")) and len(head) >= 10:
        return _little(head, 6, 2), _little(head, 8, 2)
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP" and len(head) >= 30:
        return _webp_size(head)
    if head.startswith(b"\xff\xd8"):
        return _jpeg_size(head)
    return None


def _webp_size(head: bytes) -> Size | None:
    """RFC 9649: three kinds of first chunk, three places for the size."""
    match head[12:16]:
        case b"VP8 ":
            return _little(head, 26, 2) & 0x3FFF, _little(head, 28, 2) & 0x3FFF
        case b"VP8L":
            packed = _little(head, 21, 4)
            return (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1
        case b"VP8X":
            return _little(head, 24, 3) + 1, _little(head, 27, 3) + 1
    return None


def _jpeg_size(head: bytes) -> Size | None:
    """Walk the marker segments to the first frame header (ITU T.81, B.2.2)."""
    at = 2
    while at + 9 <= len(head) and head[at] == 0xFF:
        marker = head[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker in _JPEG_FRAMES:
            return int.from_bytes(head[at + 7 : at + 9]), int.from_bytes(head[at + 5 : at + 7])
        at += 2 + max(2, int.from_bytes(head[at + 2 : at + 4]))
    return None


def _little(data: bytes, at: int, size: int) -> int:
    return int.from_bytes(data[at : at + size], "little")
