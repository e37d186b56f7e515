"""Content views of a request as code: mitmweb shows no command's output in lines, but it can copy a view."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mitmproxy import contentviews, exceptions, http

if TYPE_CHECKING:
    from collections.abc import Callable

    from mitmproxy.contentviews import Metadata, SyntaxHighlight
    from mitmproxy.flow import Flow

NOT_CHOSEN = 0.1
"""Below every view of the content itself: it is there to be picked."""

NOT_OURS = -1.0

HIGHLIGHT: dict[str, SyntaxHighlight] = {"python": "none", "js": "javascript", "curl": "none"}


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
