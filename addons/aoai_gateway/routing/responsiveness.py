"""How fast a backend answers, and whether it still does: what tells a slow answer from a hanging backend.

*Speed*: how long an answer may plausibly take, learned from the answers that the backend gave. Only answers
that came teach it, by the tokens that came, never by figures that a client put into its request. It leans to
the side of waiting: the slowest answers of late count, not the usual ones, and a call whose prompt is larger
than any that they had may take longer in proportion.

*Liveness*: a backend that hangs refuses nothing. Every call that is sent to it is lost until its own deadline
has passed, and for an answer that is no stream that is minutes. But its calls are evidence for each other.
When nothing at all has come from a backend, on any connection, for longer than two of its calls can plausibly
have waited for their first byte, then it is not these calls that are slow.

Before that, a backend is doubtful: nothing has come from it since two calls were sent, and one of them waits
for longer than the slowest one lately. These calls are not given up; further ones are better sent elsewhere.

One call alone never makes a backend silent: it may think for long, and sending it again would be billed
twice. A backend that was found to be silent stays so until something is heard of it, so a single probe is
enough to find that it still is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

SAMPLES_NEEDED = 5
"""Below this many answers nothing is known about a backend."""

MARGIN = 4.0
"""How many times longer than the slowest of late an answer may take before it is implausible."""

FADE = 0.98
"""The factor of the slowest time at every sample after it."""

USUAL_PROMPT = 4_000
"""Bytes of a prompt up to which its size makes no difference to how long an answer takes."""

LONGER = 2.0
"""How many times longer than the slowest one lately a call waits before it counts as evidence."""

LONGER_IN_SILENCE = 1.2
"""How many times longer, at a backend that is silent."""

SHORTEST = 2.0
"""Seconds of silence that mean nothing, however fast the backend was."""

WITNESSES = 2
"""How many calls must wait in vain before the backend, and not the call, is the cause."""

AGAIN_SECONDS = 0.25
"""How soon to ask again, when nothing better is known."""


@dataclass(slots=True)
class Largest:
    """The largest of the samples, where old ones fade."""

    samples: int = 0
    amount: float = 0.0

    def learn(self, amount: float) -> None:
        """Take in a sample."""
        faded = self.amount * FADE
        self.amount = amount if amount > faded else faded
        self.samples += 1

    def raise_to(self, amount: float) -> None:
        """Take in that a sample would have been larger than this."""
        self.amount = max(amount, self.amount)

    def known(self) -> float | None:
        """Return it, once there are enough samples."""
        return self.amount if self.samples >= SAMPLES_NEEDED else None


@dataclass(slots=True)
class Speed:
    """The slowest of one backend's answers of late. Times in seconds, prompts in bytes."""

    thinks: bool = False
    """Whether its model has thought before an answer: then nothing is foretold."""
    first_byte: Largest = field(default_factory=Largest)
    """The time of streams until the first event that is no preamble."""
    whole: Largest = field(default_factory=Largest)
    """The time of other answers until they are there."""
    whole_per_token: Largest = field(default_factory=Largest)
    streams_prompt: Largest = field(default_factory=Largest)
    wholes_prompt: Largest = field(default_factory=Largest)
    answer: Largest = field(default_factory=Largest)
    """The time of all answers, streams included, until their last byte."""
    answer_per_token: Largest = field(default_factory=Largest)

    def learn_answer(self, seconds: float, output_tokens: int) -> None:
        """Take in a complete answer, streamed or not, that has taken so long until its last byte."""
        self.answer.learn(seconds)
        self.answer_per_token.learn(seconds / max(1, output_tokens))

    def answered_within(self, output_tokens: int | None) -> float | None:
        """Seconds within which even the slowest answers of late were complete; None: unknown."""
        slowest, per_token = self.answer.known(), self.answer_per_token.known()
        if slowest is None or per_token is None or output_tokens is None:
            return slowest
        return min(slowest, per_token * output_tokens)

    def written_within(self, seconds: float) -> float:
        """Tokens that even the slowest answers of late had written after so long; 0 if that is not known."""
        per_token = self.answer_per_token.known()
        return seconds / per_token if per_token else 0.0

    def learn(self, seconds: float, output_tokens: int, prompt: int = 0) -> None:
        """Take in one complete answer. ``seconds``: from the sending of the request to its last byte."""
        self.whole.learn(seconds)
        self.whole_per_token.learn(seconds / max(1, output_tokens))
        self.wholes_prompt.learn(prompt)

    def learn_begin(self, seconds: float, prompt: int = 0) -> None:
        """Take in how long a stream took to begin."""
        self.first_byte.learn(seconds)
        self.streams_prompt.learn(prompt)

    def cut_off(self, seconds: float, *, stream: bool) -> None:
        """Take in that an answer was given up after so long. It only ever raises what is plausible.

        Were that not learned, a backend that became slow would be cut off, and its answers billed, for ever.
        """
        (self.first_byte if stream else self.whole).raise_to(seconds)

    def head_within(self, max_output_tokens: int | None, *, stream: bool, prompt: int = 0) -> float | None:
        """Seconds within which even the slowest answers of late have begun; None: unknown."""
        if stream:
            slowest, seen = self.first_byte.known(), self.streams_prompt
        else:
            slowest, seen = self._whole_within(max_output_tokens), self.wholes_prompt
        if slowest is None:
            return None
        return slowest * max(1.0, prompt / max(seen.amount, USUAL_PROMPT))

    @staticmethod
    def plausible(slowest: float) -> float:
        """Seconds after which an answer is implausible, where the slowest ones took so long."""
        return MARGIN * slowest

    def _whole_within(self, max_output_tokens: int | None) -> float | None:
        slowest, per_token = self.whole.known(), self.whole_per_token.known()
        if slowest is None or per_token is None or max_output_tokens is None:
            return None
        return max(slowest, per_token * max_output_tokens)


@dataclass(slots=True)
class _Pending:
    sent: float
    within: float | None
    """Seconds in which the slowest one lately had its first byte; None: nothing is known."""


class Liveness:
    """One backend's signs of life. ``heard``: when something last came from it (the caller's clock).

    ``whole``: those of the endpoint that it is at. When that is silent, so is each backend there.
    """

    __slots__ = ("_pending", "_whole", "heard", "silent")

    def __init__(self, whole: Liveness | None = None) -> None:
        self._whole = whole
        self.heard = -math.inf
        self.silent = False
        self._pending: dict[str, _Pending] = {}

    def __bool__(self) -> bool:
        """Whether there is anything to remember."""
        return self.silent or bool(self._pending)

    @property
    def whole_silent(self) -> bool:
        """Whether all of its endpoint was found to be silent, too."""
        return self._whole is not None and self._whole.silent

    def sent(self, call_id: str, now: float, within: float | None) -> None:
        """Note that a call is sent, which should have its first byte within so many seconds."""
        self._pending[call_id] = pending = _Pending(now, within)
        if self._whole is not None:
            self._whole._pending[call_id] = pending

    def ended(self, call_id: str) -> None:
        """Note that nothing more is expected for a call."""
        self._pending.pop(call_id, None)
        if self._whole is not None:
            self._whole.ended(call_id)

    def hear(self, now: float) -> None:
        """Note that bytes of any kind came. In virtual time, ``now`` may be when a stream will end."""
        self.heard = max(now, self.heard)
        self.silent = False
        if self._whole is not None:
            self._whole.heard = max(now, self._whole.heard)
            self._whole.silent = False

    def is_lost(self, call_id: str, now: float) -> bool:
        """Whether it is no use to wait for a call any longer."""
        # Both are asked: each remembers what it finds.
        lost = self._is_lost(call_id, now)
        return (self._whole is not None and self._whole.is_lost(call_id, now)) or lost

    def _is_lost(self, call_id: str, now: float) -> bool:
        if self.silent and self.heard > min((p.sent for p in self._pending.values()), default=math.inf):
            self.silent = False
        if not self.silent:
            witnesses = sum(self._waits_in_vain(each, LONGER, now) for each in self._pending.values())
            self.silent = witnesses >= WITNESSES
        pending = self._pending.get(call_id)
        return self.silent and pending is not None and self._waits_in_vain(pending, LONGER_IN_SILENCE, now)

    def is_doubtful(self, now: float) -> bool:
        """Whether nothing has come since calls were sent, and one waits longer than the slowest one lately.

        It is too early to give any of them up, but others are better sent elsewhere, where there is room. A
        stream that pauses, or whose client reads slowly, was sent earlier, and says nothing.
        """
        if now - self.heard < SHORTEST or len(self._pending) < WITNESSES:
            return False
        since = [each for each in self._pending.values() if each.sent >= self.heard]
        return len(since) >= WITNESSES and any(
            self._waits_in_vain(each, LONGER_IN_SILENCE, now) for each in since
        )

    def ask_again(self, call_id: str, now: float) -> float:
        """Return the time at which to ask next whether a call is lost; infinite if nothing is known of it."""
        pending = self._pending.get(call_id)
        if pending is None or pending.within is None:
            return math.inf
        factor = LONGER_IN_SILENCE if self.silent else LONGER
        due = max(pending.sent, self.heard) + max(SHORTEST, factor * pending.within)
        if self._whole is not None:
            due = min(due, self._whole.ask_again(call_id, now))
        return max(due, now + AGAIN_SECONDS)

    def _waits_in_vain(self, pending: _Pending, factor: float, now: float) -> bool:
        if pending.within is None:
            return False
        return now - max(pending.sent, self.heard) >= max(SHORTEST, factor * pending.within) - 1e-6
