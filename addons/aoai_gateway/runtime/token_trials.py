"""Tokens that only Azure verifies, until it has accepted them.

Where a client's tokens are not verified here, any caller can make tokens up. So a call with a token that no
backend has accepted yet takes nothing of what the client has: no quota, no share of turns and of memory. Its
trial ends when a backend accepts the token, or after a moment: a wrong token is refused at once. There is a
bound of trials at a time, of which one address has half, so that made-up tokens do not flood backends
either. Accepted tokens are remembered by their digests.
"""

from __future__ import annotations

import asyncio
from hashlib import blake2b
from http import HTTPStatus

from aoai_gateway.bounded import Bounded
from aoai_gateway.runtime.fair_turns import FairTurns
from aoai_gateway.wire import errors

MOST_ACCEPTED = 50_000
"""Tokens that are remembered; some 10 MB. The one unused for longest goes."""

TRIALS = 32
"""Calls at a time with tokens that were not accepted yet."""

TRIAL_SECONDS = 2.0
"""After which a backend would have refused a wrong token, so that it is busy with the answer."""

PATIENCE_SECONDS = 10.0
"""The time in which a trial begins."""


class Trial:
    """One call with a token that was not accepted yet; it ends by itself after a moment."""

    def __init__(self, turns: FairTurns, address: str) -> None:
        self._turns = turns
        self._address = address
        self._is_over = False
        self._timer = asyncio.get_running_loop().call_later(TRIAL_SECONDS, self.end)

    def end(self) -> None:
        """Make room for the next one; a second time does nothing."""
        if not self._is_over:
            self._is_over = True
            self._timer.cancel()
            self._turns.leave(self._address)


class TokenTrials:
    """The tokens that backends have accepted, and the trials of others."""

    def __init__(self, patience: float = PATIENCE_SECONDS) -> None:
        self._accepted: Bounded[bytes, bool] = Bounded(MOST_ACCEPTED)
        self._turns = FairTurns(TRIALS)
        self._patience = patience

    def is_accepted(self, token: str) -> bool:
        """Whether a backend has accepted the token."""
        return self._accepted.get(_digest(token)) is not None

    def answered(self, token: str, status: int) -> None:
        """Learn from the status of a backend's answer to a call with the token."""
        if status == HTTPStatus.SWITCHING_PROTOCOLS or 200 <= status < 300:
            self._accepted.put(_digest(token), True)
        elif status == 401:
            self._accepted.forget(_digest(token))

    async def begin(self, address: str) -> Trial:
        """Begin a trial for a call from an address. Raises GatewayError (429) if there is no room in time."""
        try:
            async with asyncio.timeout(self._patience):
                await self._turns.enter(address, 1)
        except TimeoutError:
            text = "Too many tokens are in use that no backend has accepted yet."
            raise errors.rate_limited(text, 1.0, code="too_many_new_tokens") from None
        return Trial(self._turns, address)


def _digest(token: str) -> bytes:
    return blake2b(token.encode("utf-8", "surrogatepass"), digest_size=16).digest()
