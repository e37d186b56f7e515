"""The admin listener of several workers: it asks each of them on its Unix socket, and shows them as one.

Every worker has the listener of a single gateway (:mod:`~aoai_gateway.admin.listener`) on its socket; it is
that one which decides who may ask, and what a control does. Here requests are handed on as they came:

- ``GET /api/status`` and ``GET /metrics`` to all, and the answers are put together, with a member
  ``workers`` in the status: for each of them ``number``, ``pid``, ``status``, ``started``, ``starts``
  and ``last_end`` (a sentence);
- controls to all, since what is switched is each process's own; the answer is the first worker's;
- everything else (the page) to one.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aoai_gateway.admin.answers import ReadInTimeHandler
from aoai_gateway.admin.merging import merged_status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from aoai_gateway.admin.merging import WorkersMetrics

SECONDS = 10.0
"""Seconds that one worker may take to answer."""

PASSED_ON = ("Authorization", "Content-Type", "Host", "Origin", "Sec-Fetch-Site", "Accept")
"""Headers that decide who may ask."""

NOT_PASSED_BACK = frozenset({"content-length", "connection", "date", "transfer-encoding", "server"})


@dataclass(frozen=True, slots=True)
class Reply:
    """What a worker answered. ``headers``: as they came, without framing."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


async def ask(
    where: Path, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes = b""
) -> Reply:
    """Send one request over a Unix socket. Raises OSError (TimeoutError is one), or ValueError."""
    async with asyncio.timeout(SECONDS):
        reader, writer = await asyncio.open_unix_connection(str(where))
        try:
            sent = {"Host": "localhost", **(headers or {}), "Content-Length": str(len(body))}
            head = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
            writer.write(f"{method} {path} HTTP/1.0\r\n{head}\r\n".encode("latin-1") + body)
            answer = await reader.read(-1)
        finally:
            writer.close()
    head_bytes, _, content = answer.partition(b"\r\n\r\n")
    first, *lines = head_bytes.decode("latin-1").split("\r\n")
    pairs = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    kept = tuple((name, value) for name, value in pairs if name.lower() not in NOT_PASSED_BACK)
    return Reply(int(first.split(" ")[1]), kept, content)


class FleetHandler(ReadInTimeHandler):
    """Hands a request to workers.

    ``sockets``: where they are asked; ``workers``: what is known of each; ``metrics``: what they counted.
    """

    def initialize(
        self,
        sockets: Callable[[], Sequence[Path]],
        workers: Callable[[], list[dict[str, Any]]],
        metrics: WorkersMetrics,
    ) -> None:
        """Take what the application gives."""
        self.sockets, self.workers, self.metrics = sockets, workers, metrics

    async def prepare(self) -> None:
        """Answer a request of any method."""
        path = self.request.path
        if path in ("/api/status", "/metrics") and self.request.method == "GET":
            await self._together(path)
        elif self.request.method == "POST":
            self._pass_back(self._first((await self._ask_all()).values()))
        else:
            await self._of_one()

    async def _together(self, path: str) -> None:
        replies = await self._ask_all()
        good = [reply for reply in replies.values() if reply is not None and reply.status == 200]
        refused = self._first(replies.values())
        if not good or (refused is not None and refused.status in (401, 403, 404)):
            self._pass_back(refused)
            return
        for name, value in good[0].headers:
            self.set_header(name, value)
        if path == "/metrics":
            said = {
                name: reply.body.decode() if reply is not None and reply.status == 200 else None
                for name, reply in replies.items()
            }
            self.finish(self.metrics.together(said))
            return
        document = merged_status([json.loads(reply.body) for reply in good])
        document["workers"] = self.workers()
        self.finish(json.dumps(document, separators=(",", ":")))

    async def _of_one(self) -> None:
        for where in self.sockets():
            reply = await self._ask(where)
            if reply is not None:
                self._pass_back(reply)
                return
        self._pass_back(None)

    async def _ask_all(self) -> dict[str, Reply | None]:
        """Return the replies by the names of the workers' sockets."""
        sockets = self.sockets()
        replies = await asyncio.gather(*map(self._ask, sockets))
        return {where.name: reply for where, reply in zip(sockets, replies, strict=True)}

    async def _ask(self, where: Path) -> Reply | None:
        given = self.request.headers
        headers = {name: given[name] for name in PASSED_ON if name in given}
        try:
            return await ask(
                where, self.request.method or "", self.request.uri or "", headers, self.request.body
            )
        except (OSError, ValueError, IndexError):
            # It is just being replaced.
            return None

    @staticmethod
    def _first(replies: Iterable[Reply | None]) -> Reply | None:
        """Return the answer that counts: what one process could do was done, even if the others could not."""
        answers = (reply for reply in replies if reply is not None)
        return min(answers, key=lambda reply: reply.status, default=None)

    def _pass_back(self, reply: Reply | None) -> None:
        if reply is None:
            self.set_status(503)
            self.set_header("Content-Type", "application/json")
            self.finish(json.dumps({"error": {"message": "No worker answers just now."}}))
            return
        self.set_status(reply.status)
        for name, value in reply.headers:
            self.set_header(name, value)
        self.finish(reply.body)
