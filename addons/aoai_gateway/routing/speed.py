"""How long an answer may plausibly take at a backend, learned from the answers it gave.

Only answers that came teach it, by the tokens that came, never by figures that a client put into its request.
It leans to the side of waiting: the slowest answers of late count, not the usual ones, and a call whose
prompt is larger than any that they had may take longer in proportion.
"""

from __future__ import annotations

from dataclasses import dataclass, field

SAMPLES_NEEDED = 5
"""Below this many answers nothing is known about a backend."""

MARGIN = 4.0
"""How many times longer than the slowest of late an answer may take before it is implausible."""

FADE = 0.98
"""The factor of the slowest time at every sample after it."""

USUAL_PROMPT = 4_000
"""Bytes of a prompt up to which its size makes no difference to how long an answer takes."""


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
    """Of streams: until the first thing that is no preamble."""
    whole: Largest = field(default_factory=Largest)
    """Of other answers: until they are there."""
    whole_per_token: Largest = field(default_factory=Largest)
    streams_prompt: Largest = field(default_factory=Largest)
    wholes_prompt: Largest = field(default_factory=Largest)
    answer: Largest = field(default_factory=Largest)
    """Of all answers, streams included: until their last byte."""
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
