"""An error of the gateway's own, and how it is written: as the body and the headers of an answer, as an event
at the end of a stream.

The client always reads ``{"error": {"code", "message", "type", "param"}}`` with the status that Azure OpenAI
would send, because that is what every SDK turns into a typed exception (another dialect has its own shape:
`wire.dialects`). Which errors there are: `wire.errors`, `wire.credential_errors`, `wire.session_messages`.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Self

Header = tuple[str, str]

LONGEST_HONOURED_SECONDS = 60.0
"""The longest hint that every SDK obeys: openai-node and openai-python up to 2.51 ignore hints above 60 s."""

_UNPRINTABLE = re.compile(r"[^ -~]+")
_LONGEST_QUOTE = 80


@dataclass(eq=False)
class GatewayError(Exception):
    """An answer that the gateway gives itself, to be sent instead of a backend's.

    ``code`` is one of the strings in the tables of the modules that make them. ``headers`` are to be added to
    the answer, beside ``content-type: application/json``. Nothing in it is secret: it may be logged and shown
    as it is.
    """

    status: int
    code: str
    message: str
    type: str = "invalid_request_error"
    param: str | None = None
    headers: tuple[Header, ...] = ()

    def __str__(self) -> str:
        return f"{self.status} {self.code}: {self.message}"

    def __reduce__(self) -> tuple[object, ...]:
        """Be whole when it is pickled: an exception's own way leaves out what was given by name."""
        fields = (self.status, self.code, self.message, self.type, self.param, self.headers)
        return type(self), fields

    def without_frames(self) -> Self:
        """Return it, for a call to keep: the frames that it came through hold that call, which would stay."""
        self.__context__ = self.__cause__ = None
        return self.with_traceback(None)

    def as_dict(self) -> dict[str, str | None]:
        """The value of the body's ``error`` member."""
        return {"code": self.code, "message": self.message, "type": self.type, "param": self.param}

    def body(self) -> bytes:
        """The response body: JSON in ASCII, so that no odd name in a message can break its encoding."""
        return json.dumps({"error": self.as_dict()}).encode()


def retry_headers(seconds: float) -> tuple[Header, ...]:
    """The headers that make SDKs come back after ``seconds``.

    Up to 60 s: ``retry-after-ms`` and ``retry-after``, both rounded up and at least 1 (openai-node answers
    ``retry-after-ms: 0`` with an instant retry). Beyond, SDKs would ignore the hint and retry within
    seconds, so it is the true ``retry-after`` with ``x-should-retry: false``, which all of them obey, and
    no milliseconds. An infinite wait has no ``retry-after``.
    """
    if not math.isfinite(seconds):
        return (("x-should-retry", "false"),)
    if seconds > LONGEST_HONOURED_SECONDS:
        return (("retry-after", str(rounded_up(seconds))), ("x-should-retry", "false"))
    return (
        ("retry-after-ms", str(max(1, rounded_up(seconds * 1000)))),
        ("retry-after", str(max(1, rounded_up(seconds)))),
    )


def stream_error_event(
    operation_name: str, error: GatewayError, *, mid_event: bool = False, sequence_number: int = 0
) -> bytes:
    """The bytes to append to an event stream that broke, so that the client sees a failure.

    Never followed by ``[DONE]``: openai-python takes a cleanly closed body for a complete answer, with or
    without it. Checked against openai-python 3.x and openai-node 6.x, which both raise ``APIError``:

    - chat and completions: an unnamed event whose data has a truthy ``error``;
    - responses: an event named ``error``. Node raises for the name, Python only for a truthy ``error`` in
      the data (it *yields* the flat form of the specification), so the data carries both forms.

    ``mid_event`` says that the client has part of an event already. The blank line that is put before then
    dispatches that part, and as half a JSON text it makes the SDKs raise their JSON parser's exception
    instead: loud, but no ``APIError``. An event stream has no way to take back what was sent of an event,
    so don't get there: pass on whole events only, as ``StreamReader.feed`` does, and where it could not
    (an event over its limit) rather cut the connection, which SDKs report as ``APIConnectionError``.
    """
    details = error.as_dict()
    before = b"\n\n" if mid_event else b""
    if operation_name != "responses":
        return before + b"data: " + json.dumps({"error": details}).encode() + b"\n\n"
    # "type" names the event in the flat form; the error's own type is in the nested one.
    data = {**details, "type": "error", "sequence_number": sequence_number, "error": details}
    return before + b"event: error\ndata: " + json.dumps(data).encode() + b"\n\n"


def rounded_up(value: float) -> int:
    """Return the next whole number."""
    # 16.1 * 1000 is 16100.000000000002 in binary; a hint is not to grow by that.
    return math.ceil(round(value, 6))


def quoted(text: str) -> str:
    """A name that came from outside: printable ASCII, bounded, in quotes."""
    clean = _UNPRINTABLE.sub("?", text)
    return f"'{clean[:_LONGEST_QUOTE]}…'" if len(clean) > _LONGEST_QUOTE else f"'{clean}'"
