"""The content view *Story*: beside a call's request and answer, what was decided in between."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mitmproxy import contentviews

if TYPE_CHECKING:
    from mitmproxy.contentviews import Metadata
    from mitmproxy.flow import Flow

NOT_CHOSEN = 0.1
"""Below every view of the content itself: it is there to be picked."""

NONE_HERE = -1.0


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
        return NOT_CHOSEN if metadata.flow is not None and story(metadata.flow) else NONE_HERE
