"""The content view *Comparison*: the answer of a comparison's flow, as the text that it is.

Left to themselves, mitmproxy's views take a text for binary once enough of it is not ASCII, as the lines of a
table are, and show a hex dump.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mitmproxy import contentviews, http

from aoai_gateway.inspect.compare import NOWHERE

if TYPE_CHECKING:
    from mitmproxy.contentviews import Metadata

CHOSEN = 2.0
NOT_OURS = -1.0


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
