"""The prompt of a request: its texts, and the tokens of everything else, its tools among that.

An image, a sound or a file is never counted as text (a megabyte of base64 is not a million tokens).
Unpublished rules are assumed, each assumption a named constant, and make the prompt inexact: good
enough to reserve with; the returned usage settles it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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


# --- tools ---------------------------------------------------------------------------------------
#
# The formula of the OpenAI cookbook ("Counting tokens for chat completions with tool calls"), checked by
# its authors for gpt-3.5, gpt-4 and gpt-4o with flat parameters:
#
#     per function  7 (10 for gpt-3.5 and gpt-4) + tokens of "name:description"
#                   + 3 if it has properties
#     per property  3 + tokens of "name:type:description"
#                   - 3 if it has an enum, + 3 + tokens of the value for each of its values
#     once          12
#
# Descriptions lose a final full stop. Nested schemas and the schema of a structured output follow the
# same rule, by assumption; the cost of a built-in tool is not published.

_FUNCTIONS_END = 12
_PROPERTIES_START = 3
_PROPERTY = 3
_ENUM_START = -3
_ENUM_VALUE = 3

_CHECKED_SCHEMA = frozenset(("type", "properties", "required"))
_CHECKED_PROPERTY = frozenset(("type", "description", "enum"))
# Members of a schema node that hold values or names, not schemas.
_NO_SCHEMAS = frozenset(("properties", "enum", "required", "type", "const", "default", "examples"))


def add_tools(prompt: Prompt, tools: object, functions: object = None) -> None:
    """Tools of chat completions or Responses, and chat's older `functions`."""
    definitions = list(_mappings(functions))
    for tool in _mappings(tools):
        definition = tool.get("function", tool)  # Responses has the members on the tool itself
        if tool.get("type", "function") == "function" and isinstance(definition, Mapping):
            definitions.append(definition)
        else:
            prompt.assume(prompt.family.per_function)
            prompt.anything(tool)
    for definition in definitions:
        prompt.tokens += prompt.family.per_function
        _described(prompt, definition.get("name"), definition.get("description"))
        _schema(prompt, definition.get("parameters"))
    if definitions:
        prompt.tokens += _FUNCTIONS_END


def add_output_schema(prompt: Prompt, schema: object) -> None:
    """`{name, description, schema}` of a structured output."""
    if isinstance(schema, Mapping):
        prompt.assume(prompt.family.per_function)
        _described(prompt, schema.get("name"), schema.get("description"))
        _schema(prompt, schema.get("schema"))


def _mappings(value: object) -> Iterable[Mapping[str, Any]]:
    return (item for item in value if isinstance(item, Mapping)) if isinstance(value, list) else ()


def _described(prompt: Prompt, name: object, description: object, type_: str | None = None) -> None:
    if not isinstance(description, str):
        description = ""
        prompt.exact = False
    words = [name if isinstance(name, str) else "", description.removesuffix(".")]
    if type_ is not None:
        words.insert(1, type_)
    prompt.text(":".join(words))


def _schema(prompt: Prompt, schema: object) -> None:
    """Iterative, because the client decides how deep a schema nests."""
    if isinstance(schema, Mapping) and not schema.keys() <= _CHECKED_SCHEMA:
        prompt.exact = False
        prompt.text(schema.get("description"))
    pending = [schema]
    while pending:
        node = pending.pop()
        if isinstance(node, list):
            pending.extend(node)
        elif isinstance(node, Mapping):
            _enum(prompt, node.get("enum"))
            properties = node.get("properties")
            if isinstance(properties, Mapping) and properties:
                prompt.tokens += _PROPERTIES_START
                for name, value in properties.items():
                    _property(prompt, name, value)
                    pending.append(value)
            pending.extend(inner for key, inner in node.items() if key not in _NO_SCHEMAS)


def _property(prompt: Prompt, name: object, value: object) -> None:
    prompt.tokens += _PROPERTY
    if not isinstance(value, Mapping):
        value = {}
    if not value.keys() <= _CHECKED_PROPERTY:
        prompt.exact = False
    type_ = value.get("type")
    if isinstance(type_, list):  # ["string", "null"]
        type_ = "|".join(item for item in type_ if isinstance(item, str))
        prompt.exact = False
    _described(prompt, name, value.get("description"), type_ if isinstance(type_, str) else "")


def _enum(prompt: Prompt, values: object) -> None:
    if isinstance(values, list) and values:
        prompt.tokens += _ENUM_START
        for value in values:
            prompt.tokens += _ENUM_VALUE
            if isinstance(value, str):
                prompt.text(value)
            else:
                prompt.assume(1)
