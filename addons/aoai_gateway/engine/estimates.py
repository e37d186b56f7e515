"""How much a call takes, as far as that can be told before it is answered: tokens, images, and audio.

Its prompt's tokens were counted; how far such counts are off, the usage of earlier answers has taught. Its
completion takes at most what the client bounds it to, or what its model can write at all.

Images and audio are priced in units of their own (`Media`). Some models report tokens for them, others
nothing, or how many seconds they have heard. Before a call is sent, the most is taken: of images, the tokens
of OpenAI's table by quality and size; of what is heard, the seconds of a file of low bit rate. Afterwards,
what the answer tells, or an estimate by the file's size.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from aoai_gateway.bounded import Recent
from aoai_gateway.engine.call import LARGEST_BOUND
from aoai_gateway.tokens import Correction
from aoai_gateway.tokens.models import most_output_tokens
from aoai_gateway.wire.operation import Cost
from aoai_gateway.wire.operations import CHAT_COMPLETIONS, RESPONSES

if TYPE_CHECKING:
    from aoai_gateway.engine.call import Call
    from aoai_gateway.wire.request_body import RequestBody

DEFAULT_COMPLETION = 512
"""Tokens that usually suffice for a completion without a bound."""

MOST_DEPLOYMENTS = 10_000
"""The one unused for longest is forgotten: where every deployment is known, clients make up the names."""

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


class Estimates:
    """What the answers of a gateway have taught about its deployments. All amounts are tokens."""

    def __init__(self) -> None:
        self._corrections: Recent[Correction] = Recent(MOST_DEPLOYMENTS)
        self._models: Recent[str] = Recent(MOST_DEPLOYMENTS)
        """The base model of each deployment, as its answers named it."""

    def learn(self, call: Call) -> None:
        """Take from a call that has ended what its answer says of its deployment."""
        if call.prompt is not None and not call.prompt.exact and call.usage is not None:
            before = self._corrections.get(call.deployment) or Correction()
            self._corrections.put(call.deployment, before.learned(call.prompt, call.usage.input_tokens))
        if call.model is None or call.target.operation.prompt_form == "responses":
            # In the Responses API, Azure names the deployment there.
            return
        if call.setup.config.model_of(call.deployment) is None:
            self._models.put(call.deployment, call.model)

    def model(self, call: Call) -> str | None:
        """Return the base model, as far as it is known."""
        return call.setup.config.model_of(call.deployment) or self._models.get(call.deployment)

    def prompt_tokens(self, call: Call) -> int:
        """Return the tokens of a call's prompt; 0 if they were not counted."""
        if call.prompt is None:
            return 0
        if call.prompt.exact:
            return call.prompt.tokens
        return (self._corrections.get(call.deployment) or Correction()).tokens(call.prompt)

    def least(self, call: Call) -> int:
        """Return the tokens that a call takes, if nothing says how long its answer is: usually enough."""
        return self.prompt_tokens(call) + completion_tokens(call)

    def most(self, call: Call) -> int:
        """Return the tokens that a call can take."""
        if call.target.operation not in (CHAT_COMPLETIONS, RESPONSES):
            return self.least(call)
        bound = call.completion_bound()
        if bound is None:
            bound = min(most_output_tokens(self.model(call)) * call.answers(), LARGEST_BOUND)
        return self.prompt_tokens(call) + bound


def completion_tokens(call: Call) -> int:
    """Return the tokens that are booked for a call's completion."""
    if makes_images(call):
        assert call.body is not None
        return image_tokens(call.body)
    bound = call.completion_bound()
    return min(DEFAULT_COMPLETION * call.answers(), LARGEST_BOUND) if bound is None else bound


def costs(call: Call) -> bool:
    """Whether a call of its kind costs tokens at all."""
    return call.target.operation.cost is not Cost.NONE


@dataclass(frozen=True, slots=True)
class Media:
    """Images that are made, seconds that are heard, characters that are spoken."""

    images: int = 0
    image_tokens: int = 0
    """The most that the images can take."""
    seconds: float = 0.0
    characters: int = 0


NO_MEDIA: Final = Media()


def media_asked(call: Call) -> Media:
    """Return what a call asks for, at most; `NO_MEDIA` for what is no image and no audio."""
    body = call.body
    assert body is not None
    match call.target.operation.name:
        case "images.generations" | "images.edits":
            return Media(images=_images(body), image_tokens=image_tokens(body))
        case "audio.transcriptions" | "audio.translations":
            return Media(seconds=_seconds(body, LOW_BYTES_PER_SECOND))
        case "audio.speech":
            return Media(characters=_characters(body))
        case _:
            return NO_MEDIA


def media_given(call: Call) -> Media:
    """Return what a call has got, as far as its answer tells, else by an estimate."""
    found = media_asked(call)
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
