"""The prompt of a request: its texts, and the tokens of everything else.

An image, a sound or a file is never counted as text (a megabyte of base64 is not a million tokens).
Unpublished rules are assumed, each assumption a named constant, and make the prompt inexact: good
enough to reserve with; the returned usage settles it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aoai_gateway.tokens.images import ASSUMED_SIZE, size_of
from aoai_gateway.tokens.models import Family
from aoai_gateway.tokens.text import estimate, repaired, sample, too_much

AUDIO_TOKENS_PER_SECOND = 10
RAW_AUDIO_BYTES_PER_SECOND = 32_000
COMPRESSED_AUDIO_BYTES_PER_SECOND = 8_000
"""16 kHz mono and 64 kbit/s: the lower end in use, so that a sound's length is not underrated."""

FILE_BYTES_PER_PAGE = 65_536
FILE_TOKENS_PER_PAGE = 1_600
"""A PDF's page is shown as an image and as its text."""
UNSEEN_FILE_PAGES = 4
"""The estimated pages of a file that is named by its id or URL."""

ENCRYPTED_CHARS_PER_TOKEN = 6
"""Reasoning handed back encrypted: base64 of text at about 4.5 bytes per token."""

# Members that address, authorise or steer; the model does not read them.
_NOT_READ = frozenset(
    ("id", "call_id", "file_id", "type", "status", "strict", "server_url", "authorization", "headers")
)
_IMAGE_MEMBERS = frozenset(("image_url", "result", "partial_image_b64"))
_DATA_MEMBERS = frozenset(("data", "file_data"))


@dataclass(slots=True)
class Prompt:
    """An accumulator; every method takes any JSON value from a body and skips values that make no sense."""

    family: Family
    texts: list[str] = field(default_factory=list)
    tokens: int = 0
    """Framing, images, sounds, token arrays."""
    exact: bool = True
    partial: bool = False
    """The service adds context that it has kept and that this body only refers to."""

    chars: int | None = None
    """Characters of all the texts, where `texts` is but a sample of them."""
    estimated: int = 0
    """Tokens of all the texts without an encoding, in the same case."""

    def condense(self) -> None:
        """Keep of the texts only what is going to be counted, ready to go to another process."""
        if too_much(self.texts):
            self.chars = sum(map(len, self.texts))
            self.estimated = sum(map(estimate, self.texts))
            self.texts = sample(self.texts)
        # It would be done for the count anyhow; and surrogates are slow to pickle, one by one.
        self.texts = [text if text.isascii() else repaired(text) for text in self.texts]

    def text(self, value: object) -> None:
        """A text, if it is one."""
        if isinstance(value, str) and value:
            self.texts.append(value)

    def assume(self, tokens: int) -> None:
        """Tokens by an assumption."""
        self.tokens += tokens
        self.exact = False

    def content(self, value: object) -> None:
        """A message's content: a string, or parts as chat completions and Responses know them."""
        if isinstance(value, str):
            self.text(value)
        elif isinstance(value, list):
            for part in value:
                if isinstance(part, Mapping):
                    self._part(part)
                else:
                    self.text(part)

    def _part(self, part: Mapping[str, Any]) -> None:
        match part.get("type"):
            case "text" | "input_text" | "output_text" | "summary_text" | "reasoning_text":
                self.text(part.get("text"))
            case "refusal":
                self.text(part.get("refusal"))
            case "image_url" | "input_image" | "computer_screenshot":
                self.image(part.get("image_url"), part.get("detail"))
            case "input_audio":
                self.audio(part.get("input_audio"))
            case "file" | "input_file":
                file = part.get("file", part)
                self.file(file.get("file_data") if isinstance(file, Mapping) else None)
            case _:
                self.anything(part)

    def image(self, image: object, detail: object = None) -> None:
        """An image by URL (`data:` or remote), as a string or as `{url, detail}`; without one, by id."""
        if isinstance(image, Mapping):
            detail = image.get("detail")
            image = image.get("url")
        low_detail = detail == "low"
        size = size_of(image)
        self.tokens += self.family.images.tokens(size or ASSUMED_SIZE, low_detail=low_detail)
        if not (self.family.images_published and (size or low_detail)):
            self.exact = False

    def audio(self, audio: object) -> None:
        """A sound, `{data: base64, format}`, by its length in bytes."""
        data, form = (audio.get("data"), audio.get("format")) if isinstance(audio, Mapping) else (None, None)
        rate = RAW_AUDIO_BYTES_PER_SECOND if form in ("wav", "pcm16") else COMPRESSED_AUDIO_BYTES_PER_SECOND
        self.assume(1 + _decoded_size(data) * AUDIO_TOKENS_PER_SECOND // rate)

    def file(self, data: object) -> None:
        """A file, by its length in bytes if it is in the body."""
        pages = 1 + _decoded_size(data) // FILE_BYTES_PER_PAGE if isinstance(data, str) else UNSEEN_FILE_PAGES
        self.assume(pages * FILE_TOKENS_PER_PAGE)

    def anything(self, value: object) -> None:
        """A structure without a rule: all strings that a model might read.

        Iterative, because the client decides how deep it nests.
        """
        self.exact = False
        pending = [value]
        while pending:
            match pending.pop():
                case str() as text:
                    self.text(text)
                case list() as items:
                    pending.extend(items)
                case Mapping() as members:
                    for key, member in members.items():
                        if key in _NOT_READ:
                            continue
                        if isinstance(member, str) and self._not_text(key, member):
                            continue
                        pending.append(member)

    def _not_text(self, key: object, value: str) -> bool:
        """Count a string that stands for something else than text; False if it is text."""
        if key == "encrypted_content":
            self.assume(len(value) // ENCRYPTED_CHARS_PER_TOKEN)
        elif key in _IMAGE_MEMBERS or value.startswith("data:image/"):
            self.image(value)
        elif key in _DATA_MEMBERS or value.startswith("data:"):
            self.file(value)
        else:
            return False
        return True


def _decoded_size(base64_text: object) -> int:
    return len(base64_text) * 3 // 4 if isinstance(base64_text, str) else 0
