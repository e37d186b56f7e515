"""The views *Prompt* and *Completion*, as mitmproxy's content views, and their registration."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from mitmproxy import contentviews, ctx, exceptions, flow, hooks, http
from mitmproxy.contentviews import InteractiveContentview, Metadata

from aoai_gateway.inspect.views import completion, prompt
from aoai_gateway.inspect.views.facts import Facts, operation_of
from aoai_gateway.inspect.views.yaml_reader import EditError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mitmproxy.contentviews import SyntaxHighlight

    from aoai_gateway.tokens import Counter

PRIORITY = 5.0
"""The rank above mitmproxy's own views for JSON (1) and for what it takes for GraphQL (2)."""

NOT_OURS = -1.0

_HEADERS = ("retry-after", "retry-after-ms", "x-should-retry")


class EditRefusedError(exceptions.CommandError, ValueError):
    """An edit that was not understood: a ValueError as the API has it, in a form that the console shows."""


class PromptContentview(InteractiveContentview):
    """Requests: messages, tools and parameters as YAML. In mitmproxy's console it can be edited.

    Args:
        counter: counts tokens, with the encodings that it has.
        model_of: the base model behind a virtual deployment, if known.

    """

    name = "Prompt"
    syntax_highlight: SyntaxHighlight = "yaml"

    def __init__(self, counter: Counter, model_of: Callable[[str], str | None]) -> None:
        self._counter = counter
        self._model_of = model_of

    def prettify(self, data: bytes, metadata: Metadata) -> str:
        """Lay out a request's body, or a realtime client's message."""
        facts = facts_of(metadata)
        deployment = facts.name("gateway_deployment") or facts.deployment
        return prompt.show(data, facts, self._counter, self._model_of(deployment) if deployment else None)

    def reencode(self, prettified: str, metadata: Metadata) -> bytes:
        """Put an edited layout back into JSON. Raises `EditRefusedError` if it cannot."""
        data = metadata.original_data
        message = metadata.http_message or metadata.websocket_message
        if data is None and message is not None:
            data = message.content  # mitmproxy 12.2 does not give the original data
        if data is None:
            raise EditRefusedError("Nothing was changed: the body that was edited is not there.")
        try:
            content = prompt.reencode(prettified, data, facts_of(metadata))
        except EditError as error:
            raise EditRefusedError(f"Nothing was changed: {error}.") from None
        if metadata.flow is not None:
            _show_soon(metadata.flow)
        return content

    def render_priority(self, data: bytes, metadata: Metadata) -> float:
        """Take requests of Azure OpenAI's operations, and the messages of a realtime client."""
        if data.lstrip()[:1] != b"{":
            return NOT_OURS
        message = metadata.websocket_message
        if message is not None:
            return PRIORITY if message.from_client and facts_of(metadata).operation else NOT_OURS
        is_request = isinstance(metadata.http_message, http.Request)
        return PRIORITY if is_request and facts_of(metadata).operation else NOT_OURS


class CompletionContentview(contentviews.Contentview):
    """Responses: the text that the model wrote, its tool calls, usage, timing, filter verdicts; errors."""

    name = "Completion"
    syntax_highlight: SyntaxHighlight = "none"

    def prettify(self, data: bytes, metadata: Metadata) -> str:
        """Lay out a response's body, or a realtime server's message."""
        facts = facts_of(metadata)
        if metadata.websocket_message is not None:
            return completion.show_message(data, facts)
        return completion.show(data, facts)

    def render_priority(self, data: bytes, metadata: Metadata) -> float:
        """Take the answers to Azure OpenAI's operations, and the messages of a realtime server."""
        if not data:
            return NOT_OURS
        facts = facts_of(metadata)
        message = metadata.websocket_message
        if message is not None:
            return PRIORITY if not message.from_client and facts.operation else NOT_OURS
        if not isinstance(metadata.http_message, http.Response):
            return NOT_OURS
        ours = facts.operation or "gateway_call" in facts.metadata
        readable = data.lstrip()[:1] == b"{" or completion.is_stream(data, facts)
        return PRIORITY if ours and readable else NOT_OURS


def facts_of(metadata: Metadata) -> Facts:
    """What the flow of some content tells about it."""
    owner, message = metadata.flow, metadata.http_message
    content_type = (metadata.content_type or "").lower()
    if not isinstance(owner, http.HTTPFlow):
        return Facts(content_type=content_type)
    operation, deployment = operation_of(owner.request.path)
    response = message if isinstance(message, http.Response) else None
    return Facts(
        operation=operation,
        deployment=deployment,
        status=response.status_code if response else None,
        content_type=content_type,
        headers={n: response.headers[n] for n in _HEADERS if n in response.headers} if response else {},
        metadata=owner.metadata,
        comment=owner.comment,
    )


def facts_in(flow: http.HTTPFlow, message: http.Message) -> Facts:
    """What a flow tells about one of its messages."""
    return facts_of(contentviews.make_metadata(message, flow))


def _show_soon(edited: flow.Flow) -> None:
    """Have the console draw the flow again once it has its new content: by itself, it does not."""
    with contextlib.suppress(RuntimeError):  # no event loop, and so no viewer
        loop = asyncio.get_running_loop()
        loop.call_soon(lambda: ctx.master.addons.trigger(hooks.UpdateHook([edited])))


def register(counter: Counter, model_of: Callable[[str], str | None]) -> None:
    """Put both views among mitmproxy's; again, after a reload, changes nothing."""
    if "prompt" not in contentviews.registry:
        contentviews.add(PromptContentview(counter, model_of))
        contentviews.add(CompletionContentview())
