"""Content views beside *Prompt* and *Completion*: a call's story, its code (see `snippets`), and comparisons.

Left to themselves, mitmproxy's views take a text for binary once enough of it is not ASCII, as the lines of a
comparison's table are, and show a hex dump. And mitmweb shows no command's output in lines, but it can copy a
view; so code is one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mitmproxy import contentviews, exceptions, http

from aoai_gateway.inspect import snippets
from aoai_gateway.inspect.client_replay import as_call
from aoai_gateway.inspect.compare import NOWHERE
from aoai_gateway.inspect.views.attachments import byte_size
from aoai_gateway.wire.content_coding import readable
from aoai_gateway.wire.gateway_error import GatewayError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mitmproxy.contentviews import Metadata, SyntaxHighlight
    from mitmproxy.flow import Flow

CHOSEN = 2.0

NOT_CHOSEN = 0.1
"""Below every view of the content itself: it is there to be picked."""

NOT_OURS = -1.0

LARGEST = 1024 * 1024
"""Bytes of a call that are written on the event loop."""

HIGHLIGHT: dict[str, SyntaxHighlight] = {"python": "none", "js": "javascript", "curl": "none"}


def story(of: Flow) -> list[str]:
    """Return what was told of a flow's call, a line for each decision; empty if nothing was."""
    told = of.metadata.get("gateway_story")
    return [str(line) for line in told] if isinstance(told, list | tuple) else []


class StoryContentview(contentviews.Contentview):
    """Every decision that was taken for the call, in order, with the time since its begin."""

    name = "Story"

    def prettify(self, data: bytes, metadata: Metadata) -> str:
        """Return the story of the flow that the content is of."""
        if metadata.flow is None or not (told := story(metadata.flow)):
            raise ValueError("no story was kept of this call")
        return "\n".join(told) + "\n"

    def render_priority(self, data: bytes, metadata: Metadata) -> float:
        """Be offered where there is a story, and never be chosen without being asked."""
        return NOT_CHOSEN if metadata.flow is not None and story(metadata.flow) else NOT_OURS


class SnippetContentview(contentviews.Contentview):
    """A call as code that makes it; the key is an environment variable there.

    Args:
        language: as in ``gateway.snippet``.
        write: gives the code for a flow; raises CommandError where that cannot be.

    """

    def __init__(self, language: str, write: Callable[[Flow], str]) -> None:
        self._language = language
        self._write = write

    @property
    def name(self) -> str:
        """What is picked in the menu; mitmweb asks for it by a path that takes no brackets."""
        return f"Code {self._language}"

    @property
    def syntax_highlight(self) -> SyntaxHighlight:
        """The language, as far as mitmproxy knows it."""
        return HIGHLIGHT[self._language]

    def prettify(self, data: bytes, metadata: Metadata) -> str:
        """Return the code."""
        if metadata.flow is None:
            raise ValueError("there is no call")
        try:
            return self._write(metadata.flow)
        except exceptions.CommandError as error:
            raise ValueError(str(error)) from None

    def render_priority(self, data: bytes, metadata: Metadata) -> float:
        """Be offered for requests, and never be chosen without being asked."""
        return NOT_CHOSEN if isinstance(metadata.http_message, http.Request) else NOT_OURS


class ComparisonContentview(contentviews.Contentview):
    """Answers to the same prompt, side by side."""

    name = "Comparison"

    def prettify(self, data: bytes, metadata: Metadata) -> str:
        """Return the text."""
        return data.decode("utf-8", "replace")

    def render_priority(self, data: bytes, metadata: Metadata) -> float:
        """Take the answers of comparisons."""
        flow = metadata.flow
        is_one = isinstance(flow, http.HTTPFlow) and flow.request.host == NOWHERE
        return CHOSEN if is_one and isinstance(metadata.http_message, http.Response) else NOT_OURS


def written(language: str, shown: Flow) -> str:
    """Write a flow's call as code, on the event loop, where mitmproxy asks for it.

    Raises CommandError where it is no call, is large, or the format is unknown.
    """
    call = as_call(shown)
    body = readable(call.request.raw_content, call.request.headers.get("content-encoding"))
    if len(body) > LARGEST:
        raise exceptions.CommandError(
            f"The call has {byte_size(len(body))}, which is too much here; the workbench copies it as code."
        )
    try:
        return snippets.code(body, language, head_of(shown, call))
    except GatewayError as error:
        raise exceptions.CommandError(error.message) from None


def head_of(shown: Flow, call: http.HTTPFlow) -> snippets.Request:
    """Return the request of a flow without its body; ``call`` is what `as_call` makes of the flow."""
    headers = tuple((k, v) for k, v in call.request.headers.items(multi=True))
    return snippets.Request(address_of(shown, call), call.request.method, call.request.path, headers, b"")


def address_of(shown: Flow, call: http.HTTPFlow) -> str:
    """Return the gateway's address as the client of a flow knows it."""
    connection = shown.client_conn
    scheme = "https" if connection.tls else "http"
    host = call.request.headers.get("host")
    if host is None or "gateway_attempt" in shown.metadata:
        # What was sent to a backend names the backend.
        name, port = connection.sockname[:2] if connection.sockname else ("127.0.0.1", 8080)
        host = f"[{name}]:{port}" if ":" in name else f"{name}:{port}"
    return f"{scheme}://{host}"
