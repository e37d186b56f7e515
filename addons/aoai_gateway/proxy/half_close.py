"""Clients that have sent all they will, and may still read their answers.

A client that sends no more (FIN) may have closed its socket, may have died, or may only have shut its sending
side. The FIN is the same. The difference shows when the client is sent something: a closed socket resets the
connection (RFC 9293 §3.6.1, SHLD-3), a half-closed one takes the bytes. So a client whose answer is not there
yet is sent bytes that are part of any answer, and its connection is watched for a reset:

- Before the answer has begun, the begin of its status line, a byte at a time. All status lines of the
  gateway begin in the same way, and where a line is cut into packets means nothing. An interim response
  (100) would be seen by the client, and HTTP/1.0 knows none.
- Between the events of a stream that pauses, a comment, which readers of events ignore.

Every other part of an answer does the same. The first question is asked at once, so a hang-up is noticed
after a round trip; the next ones ever more rarely, for a client that leaves later, or that has a relay
between, which passes a half-closed connection on and learns from its own reset that its client has left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mitmproxy.http import Response

STATUS_LINE = b"HTTP/1.1 "
"""How the status line of each answer begins."""

COMMENT = b":\n\n"
"""A comment in a stream of events (WHATWG HTML §9.2.6)."""

EVENT_ENDS = (b"\n\n", b"\r\n\r\n", b"\r\r")

_SECOND_LOOK, _LOOKS = 0.01, 1.0
"""Seconds between two looks for a reset: after the first one, and at most. The first one comes at once: of a
client on the same machine, the reset is there then."""

_FIRST_PAUSE, _STREAM_PAUSE = 1.0, 15.0
"""Seconds after a question until the next one: at first, and at most in a stream."""

_STREAM_QUIET = 0.2
"""The pause of a stream after which a comment is sent: its next event may be near."""


class HalfClose:
    """When a client that may have left is looked at, and when it is sent something. Monotonic seconds.

    ``in_stream``: whether a stream to it has begun.
    """

    def __init__(self, now: float, *, in_stream: bool) -> None:
        self._asked = now
        self._pause = _STREAM_QUIET if in_stream else 0.0
        self._look = 0.0
        self._ahead = 0
        """Bytes of the next answer's status line that have gone out."""
        self._between_events = True

    def rest_of(self, head: bytes) -> bytes:
        """Return what is left to be sent of an answer's head, and begin anew."""
        assert head.startswith(STATUS_LINE)
        ahead = self._ahead
        self._ahead, self._between_events = 0, True
        return head[ahead:]

    def next_look(self) -> float:
        """Return the seconds until the next look."""
        seconds, self._look = self._look, min(max(_SECOND_LOOK, 2 * self._look), _LOOKS)
        return seconds

    def question(
        self, now: float, response: Response | None, tail: bytes, *, is_promised: bool
    ) -> bytes | None:
        """Return what is to be sent now for the sake of the question, if it is time, and if anything fits.

        ``response``: the answer, if it has begun; ``tail``: the last bytes of its body that have gone out
        since the last look, which this is; ``is_promised``: whether it may have only so many bytes.
        """
        begun = response is not None
        if tail:
            # A part of the answer is a question, too.
            self._asked, self._between_events = now, tail.endswith(EVENT_ENDS)
        pause = min(self._pause, _STREAM_PAUSE) if begun else self._pause
        if now - self._asked < pause or (begun and is_promised):
            return None
        question = self._fitting(response)
        if question is not None:
            self._asked, self._pause = now, max(_FIRST_PAUSE, 2 * self._pause)
        return question

    def _fitting(self, response: Response | None) -> bytes | None:
        if response is None:
            byte = STATUS_LINE[self._ahead : self._ahead + 1]
            self._ahead += len(byte)
            return byte or None
        kind, coding = (response.headers.get(f"content-{name}", "").lower() for name in ("type", "encoding"))
        is_read = kind.startswith("text/event-stream") and coding in ("", "identity")
        return COMMENT if is_read and self._between_events else None
