"""How long an answer may plausibly take at a backend, learned from the answers it gave.

A non-streaming answer's headers come when the whole completion is done, so a constant deadline is
either so long that a hanging backend holds a call for minutes, or so short that a long completion is
sent (and billed) twice. What a backend has shown before bounds it better.
"""

from __future__ import annotations

from dataclasses import dataclass, field

SAMPLES_NEEDED = 5
"""Below this many answers nothing is known about a backend."""

WEIGHT = 0.2
"""Weight of a new sample in the moving averages."""

MARGIN = 4.0
"""How many times longer than expected an answer may take before it is implausible."""

FADE = 0.98
"""What is left of the slowest time at every sample after it."""

FLOOR = 10.0
"""Seconds below which no deadline is set, whatever the history: queues at a busy backend are normal."""


@dataclass(slots=True)
class Slowest:
    """The slowest of the samples, where old ones fade."""

    samples: int = 0
    amount: float = 0.0

    def learn(self, amount: float) -> None:
        """Take in a sample."""
        self.amount = max(amount, self.amount * FADE)
        self.samples += 1

    def known(self) -> float | None:
        """Give it, once there are enough samples."""
        return self.amount if self.samples >= SAMPLES_NEEDED else None


@dataclass(slots=True)
class Speed:
    """Moving averages of one backend: seconds per answer, and seconds per output token of longer ones."""

    samples: int = 0
    seconds: float = 0.0
    seconds_per_token: float = 0.0
    first_byte: Slowest = field(default_factory=Slowest)
    """Of streams: seconds until the first thing that is no preamble."""
    whole: Slowest = field(default_factory=Slowest)
    """Of other answers: seconds until they are there."""
    whole_per_token: Slowest = field(default_factory=Slowest)
    answer: Slowest = field(default_factory=Slowest)
    """Of all answers, streams included: seconds until their last byte."""
    answer_per_token: Slowest = field(default_factory=Slowest)

    def learn_answer(self, seconds: float, output_tokens: int) -> None:
        """Take in a complete answer, streamed or not, that has taken so long until its last byte."""
        self.answer.learn(seconds)
        self.answer_per_token.learn(seconds / max(1, output_tokens))

    def answered_within(self, max_output_tokens: int | None) -> float | None:
        """Seconds within which even the slowest answers of late were complete; None: unknown."""
        slowest, per_token = self.answer.known(), self.answer_per_token.known()
        if slowest is None or per_token is None or max_output_tokens is None:
            return slowest
        return min(slowest, per_token * max_output_tokens)

    def learn(self, seconds: float, output_tokens: int) -> None:
        """Take in one complete answer. ``seconds``: from the sending of the request to its last byte."""
        per_token = seconds / max(1, output_tokens)
        if self.samples == 0:
            self.seconds, self.seconds_per_token = seconds, per_token
        else:
            # A slow answer counts at once, fast ones only slowly make up for it: the
            # estimate leans to the careful side.
            self.seconds = max(self._blend(self.seconds, seconds), 0.5 * seconds)
            self.seconds_per_token = max(self._blend(self.seconds_per_token, per_token), 0.5 * per_token)
        self.samples += 1
        self.whole.learn(seconds)
        self.whole_per_token.learn(per_token)

    @staticmethod
    def _blend(old: float, new: float) -> float:
        return (1 - WEIGHT) * old + WEIGHT * new

    def plausible(self, max_output_tokens: int | None) -> float | None:
        """Seconds after which an answer of at most so many tokens is implausible; None: unknown.

        Without a bound on the completion nothing can be said.
        """
        if self.samples < SAMPLES_NEEDED or max_output_tokens is None:
            return None
        return max(FLOOR, MARGIN * (self.seconds + self.seconds_per_token * max_output_tokens))

    def head_within(self, max_output_tokens: int | None, *, stream: bool) -> float | None:
        """Seconds within which even the slowest answers of late have begun; None: unknown."""
        if stream:
            return self.first_byte.known()
        slowest, per_token = self.whole.known(), self.whole_per_token.known()
        if slowest is None or per_token is None or max_output_tokens is None:
            return None
        return max(slowest, per_token * max_output_tokens)
