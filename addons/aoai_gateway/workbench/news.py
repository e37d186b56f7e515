"""News for the pages that follow the calls. Each page has its own, so all of them hear at once."""

from __future__ import annotations

import asyncio


class News:
    """Whether a page has something to hear, or has been closed."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.closed = False

    def tell(self) -> None:
        """Wake the page's stream."""
        self._event.set()

    def close(self) -> None:
        """Wake it for the last time: the page is gone."""
        self.closed = True
        self._event.set()

    def heard(self) -> None:
        """Wait for the next news; after this call, send all that there is."""
        if not self.closed:
            self._event.clear()

    async def wait(self, seconds: float) -> bool:
        """Wait for news, for so many seconds at most. False if there were none."""
        try:
            await asyncio.wait_for(self._event.wait(), seconds)
        except TimeoutError:
            return False
        return True
