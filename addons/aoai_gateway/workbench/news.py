"""That there is something new for a page. Each page that follows has its own, so all hear of it at once."""

from __future__ import annotations

import asyncio


class News:
    """Whether a page has something to hear, or has been closed."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.closed = False

    def tell(self) -> None:
        """Wake who waits."""
        self._event.set()

    def close(self) -> None:
        """Wake it for the last time: the page is gone."""
        self.closed = True
        self._event.set()

    def heard(self) -> None:
        """Wait for what comes next; after this, look at what there is."""
        if not self.closed:
            self._event.clear()

    async def wait(self, seconds: float) -> bool:
        """Wait for news, for so long at most. Whether there are some."""
        try:
            await asyncio.wait_for(self._event.wait(), seconds)
        except TimeoutError:
            return False
        return True
