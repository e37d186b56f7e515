"""What calls for images and audio ask for, in the units in which they are priced.

Some models report tokens, others nothing, or how many seconds they have heard. Before a call is sent, the
most is taken: of images, the tokens of OpenAI's table by quality and size; of what is heard, the seconds of
a file of low bit rate. Afterwards, what the answer tells, or an estimate by the file's size.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from aoai_gateway.engine.call import Call
    from aoai_gateway.wire.request_body import RequestBody

IMAGE_TOKENS: Final[Mapping[str, tuple[int, int, int]]] = {
    "low": (272, 408, 400),
    "medium": (1056, 1584, 1568),
    "high": (4160, 6240, 6208),
}
"""Tokens of one image of gpt-image, by quality: square, portrait, landscape (OpenAI's guide to images)."""

PARTIAL_TOKENS: Final = 100
"""Tokens of each ``partial_images`` of a stream (the same guide)."""

MOST_IMAGES: Final = 10
"""The largest ``n`` that Azure takes."""

MOST_PARTIAL: Final = 3

LOW_BYTES_PER_SECOND, USUAL_BYTES_PER_SECOND = 4_000, 8_000
"""The rates of a file of speech, in the usual coded formats: 32 and 64 kbit/s."""

MOST_BYTES_PER_SECOND: Final = 400_000
"""The rate of a WAV file: 96 kHz, 16 bits, two channels. One that claims more would be priced as nearly
nothing."""

HEARD_TOKENS_PER_SECOND: Final = 10
"""Audio in a prompt has a token for each 100 ms (OpenAI's guide to realtime costs)."""

SAID_TOKENS_PER_SECOND: Final = 5
"""The rate of fast speech."""

SPOKEN_TOKENS_PER_CHARACTER: Final = 2
"""Audio in an answer has a token for each 50 ms; slow speech has ten characters a second."""

_SIZE = re.compile(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})", re.ASCII)
_WAVE = struct.Struct("<4s4x4s4s4xHHIIHH")
_SEARCHED = 16 * 1024


@dataclass(frozen=True, slots=True)
class Media:
    """Images that are made, seconds that are heard, characters that are spoken."""

    images: int = 0
    image_tokens: int = 0
    """The most that the images can take."""
    seconds: float = 0.0
    characters: int = 0


NONE: Final = Media()

_KINDS: Final = ("images.", "audio.")
"""How the names of operations begin that are priced in such units."""


def asked(call: Call) -> Media:
    """Return what a call asks for, at most; `NONE` for what is no image and no audio."""
    name, body = call.target.operation.name, call.body
    assert body is not None
    if not name.startswith(_KINDS):
        return NONE
    match name:
        case "images.generations" | "images.edits":
            return Media(images=_images(body), image_tokens=image_tokens(body))
        case "audio.transcriptions" | "audio.translations":
            return Media(seconds=_seconds(body, LOW_BYTES_PER_SECOND))
        case "audio.speech":
            return Media(characters=_characters(body))
        case _:
            return NONE


def given(call: Call) -> Media:
    """Return what a call has got, as far as its answer tells, else by an estimate."""
    found = asked(call)
    if not found.seconds:
        return found
    assert call.body is not None
    heard = call.heard_seconds
    return Media(seconds=_seconds(call.body, USUAL_BYTES_PER_SECOND) if heard is None else heard)


def makes_images(call: Call) -> bool:
    """Whether the answer is images, so that its tokens are theirs."""
    return call.target.operation.name.startswith("images.")


def image_tokens(body: RequestBody) -> int:
    """Return the tokens that the images can have which a call asks for."""
    quality = body.parsed.get("quality")
    square, portrait, landscape = IMAGE_TOKENS.get(str(quality), IMAGE_TOKENS["high"])
    one = max(square, portrait, landscape)
    size = _SIZE.fullmatch(str(body.parsed.get("size")))
    if size is not None:
        across, down = int(size[1]), int(size[2])
        one = square if across == down else portrait if across < down else landscape
    partial = _number(body.parsed.get("partial_images"), 0, MOST_PARTIAL)
    return _images(body) * (one + PARTIAL_TOKENS * partial)


def _images(body: RequestBody) -> int:
    return _number(body.parsed.get("n"), 1, MOST_IMAGES)


def _number(written: Any, default: int, most: int) -> int:
    """Read a number of JSON or of a form. Azure refuses anything else."""
    text = str(written)
    return min(int(text), most) if text.isascii() and text.isdigit() and len(text) < 6 else default


def _characters(body: RequestBody) -> int:
    text = body.parsed.get("input")
    return len(text) if isinstance(text, str) else body.text_size


def _seconds(body: RequestBody, bytes_per_second: int) -> float:
    """Return how long a file sounds: exactly if it is a WAV file in memory, else as long as it may."""
    size = body.size
    at = body.raw.find(b"RIFF", 0, _SEARCHED)
    if at >= 0 and len(body.raw) >= at + _WAVE.size:
        riff, wave, fmt, _, _, _, rate, _, _ = _WAVE.unpack_from(body.raw, at)
        if (riff, wave, fmt) == (b"RIFF", b"WAVE", b"fmt ") and 0 < rate <= MOST_BYTES_PER_SECOND:
            return size / float(rate)
    return size / bytes_per_second
