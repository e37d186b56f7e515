"""A flow -> all that the page shows of one call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mitmproxy import contentviews

from aoai_gateway.inspect.views.contentviews import facts_of
from aoai_gateway.inspect.views.facts import Facts, operation_of
from aoai_gateway.wire.content_coding import readable
from aoai_gateway.wire.secrets import SECRET_HEADERS
from aoai_gateway.workbench import child
from aoai_gateway.workbench.shape import answer_shape, request_shape, whole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mitmproxy.http import HTTPFlow, Message

    from aoai_gateway.config.models import Config
    from aoai_gateway.tokens import Counter

AT_ONCE = 128 * 1024
"""Bytes of both bodies that are read on the event loop; larger ones in a process of their own."""

MOST_COUNTED = 1_000
"""Messages whose tokens are counted."""

MOST_ATTEMPT = 4_000
"""Characters of what a failed attempt answered."""

SHOWN_METADATA = (
    "gateway_conversation",
    "gateway_held",
    "gateway_clamped",
    "gateway_degraded",
    "gateway_dry_run",
    "gateway_run_by",
)


async def document(
    flow: HTTPFlow, attempts: Sequence[HTTPFlow], config: Config | None, counter: Counter
) -> dict[str, Any]:
    """Give one call: ``request``, ``answer``, ``messages`` (tokens of each), ``story``, ``attempts``, …"""
    request, answer = content_of(flow.request), content_of(flow.response)
    facts = facts_of(contentviews.make_metadata(flow.response or flow.request, flow))
    asked = Facts(facts.operation, facts.deployment, content_type=facts.content_type, status=facts.status)
    if len(request) + len(answer) <= AT_ONCE:
        shown = {"request": request_shape(request), "answer": answer_shape(answer, asked) if answer else None}
    else:
        shown = await child.perform(child.Shape(asked), request, answer)
    operation, in_path = operation_of(flow.request.path)
    deployment = str(flow.metadata.get("gateway_deployment") or in_path)
    small = len(request) <= AT_ONCE
    tokens = _tokens(counter, operation, request, config.model_of(deployment) if config else None, small)
    return {
        "id": flow.id,
        "operation": operation,
        "method": flow.request.method,
        "path": flow.request.path,
        "headers": _headers(flow.request),
        "answer_headers": _headers(flow.response) if flow.response is not None else [],
        "request_bytes": len(request),
        "answer_bytes": len(answer),
        "kept": flow.response is None or flow.response.raw_content is not None,
        **shown,
        "messages": tokens,
        "price": _price(config, deployment),
        "story": _lines(flow.metadata.get("gateway_story")),
        "timeline": flow.metadata.get("gateway_timeline", []),
        "queue_ms": flow.metadata.get("gateway_queue_ms"),
        "chunks": flow.metadata.get("gateway_chunk_times_ms", []),
        "gaps": [flow.metadata.get(f"gateway_chunk_gap_{which}_ms") for which in ("p50", "max")],
        "attempts": [_attempt(each) for each in attempts],
        "noted": {name.removeprefix("gateway_"): str(flow.metadata[name])
                  for name in SHOWN_METADATA if name in flow.metadata},
        "comment": flow.comment,
    }  # fmt: skip


def content_of(message: Message | None) -> bytes:
    """Give a message's body, decoded."""
    if message is None or message.raw_content is None:
        return b""
    return readable(message.raw_content, message.headers.get("content-encoding"))


def _tokens(
    counter: Counter, operation: str, request: bytes, model: str | None, small: bool
) -> list[dict[str, Any]]:
    if not small:
        return []
    try:
        counts = counter.count_messages(operation, whole(request), model, at_most=MOST_COUNTED)
    except RecursionError:
        return []
    return [{"tokens": count.tokens, "exact": count.exact} for count in counts]


def _price(config: Config | None, deployment: str) -> dict[str, float] | None:
    price = config.price_of(deployment) if config is not None and deployment else None
    if price is None:
        return None
    cached = price.input if price.cached_input is None else price.cached_input
    return {"input": price.input, "output": price.output, "cached_input": cached}


def _headers(message: Message) -> list[list[str]]:
    pairs = message.headers.items(multi=True)
    return [[name, value] for name, value in pairs if name.lower() not in SECRET_HEADERS]


def _lines(story: object) -> list[str]:
    return [str(line) for line in story] if isinstance(story, list) else []


def _attempt(flow: HTTPFlow) -> dict[str, Any]:
    response = flow.response
    return {
        "number": flow.metadata.get("gateway_attempt"),
        "backend": str(flow.metadata.get("gateway_backend", "")),
        "reason": str(flow.metadata.get("gateway_reason", "")),
        "comment": flow.comment,
        "status": response.status_code if response is not None else None,
        "headers": _headers(response) if response is not None else [],
        "answer": content_of(response)[:MOST_ATTEMPT].decode(errors="replace"),
    }
