"""The bodies of messages: read on the event loop where they are small, elsewhere where they are not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aoai_gateway.wire.content_coding import NotDecodedError, decode, readable
from aoai_gateway.workbench import child

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mitmproxy.http import Message


async def read(function: Callable[..., Any], messages: Sequence[Message | None], *more: Any) -> Any:
    """Call a function of a module with the decoded bodies of messages, and more arguments.

    Raises what the function says of its arguments (`child.FAULTS`), and ChildError.
    """
    contents = [_small(message) for message in messages]
    known = [content for content in contents if content is not None]
    if len(known) < len(contents):
        return await read_elsewhere(function, messages, *more)
    size = sum(len(each) for each in (*known, *more) if isinstance(each, bytes))
    return await child.by_size(size, function, *known, *more)


async def read_elsewhere(function: Callable[..., Any], messages: Sequence[Message | None], *more: Any) -> Any:
    """Do the same in a process of its own, however small the bodies are."""
    codings = [
        message.headers.get("content-encoding") if message is not None else None for message in messages
    ]
    raws = [(message.raw_content if message is not None else None) or b"" for message in messages]
    return await child.perform(with_contents, function, codings, *raws, *more)


def with_contents(function: Callable[..., Any], codings: Sequence[str | None], *raws_and_more: Any) -> Any:
    """Decode as many bodies as there are codings, and call a function with them and the rest."""
    raws, more = raws_and_more[: len(codings)], raws_and_more[len(codings) :]
    return function(*(readable(raw, coding) for raw, coding in zip(raws, codings, strict=True)), *more)


def begin_of(message: Message | None, characters: int) -> str:
    """Return how a body begins, as text; of one that is large when it is decoded, nothing."""
    if message is None or not message.raw_content:
        return ""
    raw, coding = message.raw_content, message.headers.get("content-encoding")
    try:
        content = decode(raw, coding, child.SMALL)
    except NotDecodedError:
        return ""
    return content[: 4 * characters].decode(errors="replace")[:characters]


def _small(message: Message | None) -> bytes | None:
    """Return a decoded body, or None where that is large, or cannot be decoded."""
    if message is None or not message.raw_content:
        return b""
    try:
        content = decode(message.raw_content, message.headers.get("content-encoding"), child.SMALL)
    except NotDecodedError:
        return None
    return content if len(content) <= child.SMALL else None
