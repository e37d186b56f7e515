"""Prompts of named clients, redacted, into a file of their own: ``record_prompts``.

A prompt is read, redacted and written in its sink's thread. Patterns are the administrator's, and texts
any client's, so a match may take for ever: ``regex`` lets other threads run meanwhile, and ends after a time.
What could not be redacted in that time is not written.
"""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING, Any

import regex

from aoai_gateway.usage.lines import line_of
from aoai_gateway.usage.record import written_time

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from aoai_gateway.config.sinks import RecordPrompts
    from aoai_gateway.engine.call import Call
    from aoai_gateway.usage.lines import JsonLinesWriter
    from aoai_gateway.usage.sink import Record
    from aoai_gateway.wire.masking import KnownSecrets

SCHEMA = 1

MEMBERS = ("instructions", "system", "messages", "input", "prompt")
"""Members of a body that are its prompt, in the dialects of all operations."""

LARGEST_BODY = 1024 * 1024
"""Bytes; decoding a larger one would hold up the event loop, from any thread."""

SMALL_BODY = 128 * 1024
"""Bytes that are decoded in a few milliseconds, of any text."""

MOST_VALUES = 32_000
"""Lists, objects and commas, about as many as values, of a larger one.

The decoder lets no other thread run, and takes its time for values rather than for text: up to 33 ms for
1 MB of empty lists, and 6 ms for so many values. Commas within texts count,
as telling them apart takes as long.
"""

LONGEST_INTEGER = 20
"""Digits; any integer that means something to an API has 64 bits."""

MOST_WAITING = 64 * 1024 * 1024
"""Bytes of bodies that may wait to be written; beyond, prompts are dropped and counted."""

SECONDS = 1.0
"""The time for redacting one prompt."""

REDACTED = "[redacted]"

_BASE64 = re.compile(r"(?:data:[^,]{0,200},)?[A-Za-z0-9+/_-]{1000,}={0,2}", re.ASCII)
"""Images, audio and files: no text."""


def prompt_of(call: Call, secrets: Iterable[KnownSecrets]) -> dict[str, Any] | None:
    """Take what is to be written of a call; None of one without a prompt.

    ``secrets``: what is masked, wherever it is.
    """
    if call.body is None or not call.body.raw or not call.target.operation.has_prompt:
        return None
    return {
        "schema": SCHEMA,
        "time": written_time(call.started + call.unix_offset),
        "call": call.id,
        "client": call.client.name,
        "deployment": call.deployment or None,
        "operation": call.target.operation.name,
        "body": call.body.raw,
        "secrets": tuple(secrets),
    }


def weight(record: Record) -> int:
    """Return the bytes of a prompt that waits."""
    return len(record["body"])


class PromptWriter:
    """Writes prompts as lines of JSON. ``prompt`` has the members that are the prompt, with redacted strings.

    ``left_out`` says why there is none.
    """

    def __init__(self, settings: RecordPrompts, lines: JsonLinesWriter, *, seconds: float = SECONDS) -> None:
        self._patterns = [regex.compile(pattern) for pattern in settings.redact]
        self._lines = lines
        self._seconds = seconds

    def write(self, records: Sequence[Record]) -> int:
        """Write a line for each."""
        return self._lines.write([line_of(self._line(record)) for record in records])

    def close(self) -> None:
        """Nothing is open."""
        self._lines.close()

    def _line(self, record: Record) -> dict[str, Any]:
        line = {name: value for name, value in record.items() if name not in ("body", "secrets")}
        try:
            prompt = self._prompt(record["body"], record["secrets"])
        except _LeftOutError as why:
            return line | {"prompt": None, "left_out": str(why)}
        return line | {"prompt": prompt, "left_out": None}

    def _prompt(self, body: bytes, secrets: Sequence[KnownSecrets]) -> dict[str, Any]:
        if len(body) > LARGEST_BODY:
            raise _LeftOutError(f"the body has more than {LARGEST_BODY:,} bytes")
        if len(body) > SMALL_BODY and sum(map(body.count, b"[{,")) > MOST_VALUES:
            raise _LeftOutError(
                f"the body has more than {SMALL_BODY:,} bytes, and more than {MOST_VALUES:,} lists, "
                "objects and commas"
            )
        redaction = _Redaction(self._patterns, secrets, time.monotonic() + self._seconds)
        try:
            document = json.loads(body, parse_int=_integer)
            if not isinstance(document, dict):
                raise ValueError
            return {name: redaction.of(document[name]) for name in MEMBERS if name in document}
        except TimeoutError:
            raise _LeftOutError(f"it could not be redacted within {self._seconds:g} s") from None
        except (ValueError, RecursionError):
            raise _LeftOutError("the body is no JSON that could be read") from None


def _integer(digits: str) -> int | str:
    return int(digits) if len(digits) <= LONGEST_INTEGER else digits


class _LeftOutError(Exception):
    pass


class _Redaction:
    """Of one prompt. Raises TimeoutError."""

    def __init__(
        self, patterns: Sequence[regex.Pattern[str]], secrets: Sequence[KnownSecrets], until: float
    ) -> None:
        self._patterns = patterns
        self._secrets = secrets
        self._until = until

    def of(self, value: Any) -> Any:
        """Redact all strings of a value, keys included."""
        match value:
            case str():
                return self._text(value)
            case list():
                return [self.of(each) for each in value]
            case dict():
                return {self._text(name): self.of(each) for name, each in value.items()}
            case _:
                return value

    def _text(self, text: str) -> str:
        if _BASE64.fullmatch(text):
            return f"[{len(text):,} characters of data]"
        for secrets in self._secrets:
            text = secrets.mask_text(text)
        for pattern in self._patterns:
            left = self._until - time.monotonic()
            if left <= 0:
                raise TimeoutError
            text = pattern.sub(REDACTED, text, timeout=left, concurrent=True)
        return text
