"""Uploads on their way from the disk to a backend, as fast as that takes them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from mitmproxy.proxy.layers.http import RequestData, SendHttp

from aoai_gateway.wire.stored import BLOCK

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mitmproxy.connection import Server
    from mitmproxy.proxy.layer import CommandGenerator

    from aoai_gateway.proxy.stream_context import StreamContext
    from aoai_gateway.wire.stored import Pieces

LOOK_SECONDS = 0.1
"""The time between two looks whether a backend that takes nothing of an upload has answered."""


def send_blocks(here: StreamContext, content: Pieces, server: Server, idle: float) -> CommandGenerator[bool]:
    """Send what is on disk, for as long as its client is there and the backend has not answered.

    Returns whether all was sent. Raises TimeoutError if the backend takes nothing for ``idle`` seconds.
    """
    blocks = content.blocks()
    while True:
        block = yield from here.wait_for(_next_block(here, blocks, server, idle))
        if here.client_has_gone() or here.answer_has_begun() or server not in here.layer.connections:
            # What that means, its own events tell.
            return False
        if block is None:
            return True
        yield SendHttp(RequestData(here.id, block), server)


async def _next_block(
    here: StreamContext, blocks: Iterator[bytes], server: Server, seconds: float
) -> bytes | None:
    """Wait until the backend has taken enough, and read the next block, in a thread. None at the end.

    It waits no longer once the backend answers. Raises TimeoutError.
    """
    assert here.call is not None
    async with asyncio.timeout(seconds):
        taken = asyncio.ensure_future(here.gateway.written_out(here.client.id, server))
        try:
            while not (await asyncio.wait({taken}, timeout=LOOK_SECONDS))[0]:
                if here.answer_has_begun():
                    return None
        finally:
            taken.cancel()
        return await here.gateway.reader.disk.run(here.call.client.name, BLOCK, next, blocks, None)
