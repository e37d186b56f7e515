"""A WebSocket on a connection that tornado has let go of: frames in, frames out, at the deployment's pace."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, Protocol

from tornado.iostream import IOStream, StreamClosedError
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import CloseConnection, Message, Ping, TextMessage

from aoai_simulator.replies import Pace, compact


class Answering(Protocol):
    """What says what the server says."""

    turn: Any

    def begin(self) -> list[dict[str, Any]]:
        """What is said once the session is open."""

    def receive(self, message: Any) -> list[dict[str, Any]]:
        """Answer a message."""

    def finish(self, status: str = "completed") -> list[dict[str, Any]]:
        """End the response under way."""


class WebSocket:
    """One session on one connection."""

    def __init__(self, stream: IOStream, session: Answering, pace: Pace) -> None:
        self._stream = stream
        self._session = session
        self._pace = pace
        self._socket = Connection(ConnectionType.SERVER)
        self._speaking: asyncio.Task[None] | None = None
        self._parts: list[str] = []

    async def serve(self) -> None:
        """Serve until one side closes. Raises StreamClosedError if the client hangs up without a close."""
        self._stream.set_nodelay(True)
        try:
            await self._say(self._session.begin())
            while self._socket.state is ConnectionState.OPEN:
                self._socket.receive_data(await self._stream.read_bytes(65_536, partial=True))
                await self._take()
        finally:
            if self._speaking is not None:
                self._speaking.cancel()
                with suppress(asyncio.CancelledError, StreamClosedError):
                    await self._speaking

    async def _take(self) -> None:
        for event in self._socket.events():
            if isinstance(event, Ping):
                await self._stream.write(self._socket.send(event.response()))
            elif isinstance(event, CloseConnection):
                with suppress(StreamClosedError):
                    await self._stream.write(self._socket.send(event.response()))
                return
            elif isinstance(event, Message):
                piece = event.data if isinstance(event.data, str) else bytes(event.data).decode()
                self._parts.append(piece)
                if event.message_finished:
                    text = "".join(self._parts)
                    self._parts.clear()
                    await self._answer(text)

    async def _answer(self, text: str) -> None:
        try:
            message = json.loads(text)
        except ValueError:
            message = None
        before = self._session.turn
        await self._say(self._session.receive(message))
        if self._session.turn is not None and self._session.turn is not before:
            self._speaking = asyncio.create_task(self._speak(self._session.turn))

    async def _speak(self, turn: Any) -> None:
        if self._pace.first_token:
            await asyncio.sleep(self._pace.first_token)
        for delta in turn.deltas:
            if turn.over:
                return
            await self._say([delta])
            turn.said += 1
            # An instant response, too, lets what the client says meanwhile have its turn.
            await asyncio.sleep(1 / self._pace.tokens_per_second if self._pace.tokens_per_second else 0)
        if not turn.over:
            await self._say(self._session.finish())

    async def _say(self, events: Iterable[Mapping[str, Any]]) -> None:
        for event in events:
            if self._socket.state is ConnectionState.OPEN:
                await self._stream.write(self._socket.send(TextMessage(compact(event).decode())))
