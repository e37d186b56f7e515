"""A flow -> all that the page shows of one call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aoai_gateway.inspect.picked_views import story
from aoai_gateway.inspect.views.contentviews import facts_in
from aoai_gateway.inspect.views.facts import Facts
from aoai_gateway.wire.content_coding import NotDecodedError, decode
from aoai_gateway.wire.secrets import SECRET_HEADERS, redact_target
from aoai_gateway.workbench import bodies
from aoai_gateway.workbench.calls import can_be_run, kind_of
from aoai_gateway.workbench.counting import CountMessages
from aoai_gateway.workbench.sessions import session_of
from aoai_gateway.workbench.shape import shapes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mitmproxy.http import HTTPFlow, Message

    from aoai_gateway.config.models import Config
    from aoai_gateway.workbench.counting import Counting

MOST_COUNTED = 1_000
"""Messages whose tokens are counted, of requests of so many bytes: `MOST_BYTES_COUNTED`."""

MOST_BYTES_COUNTED = 64 * 1024

MOST_ATTEMPT = 4_000
"""Characters that are shown of a failed attempt's answer."""

SHOWN_METADATA = (
    "gateway_conversation",
    "gateway_held",
    "gateway_clamped",
    "gateway_degraded",
    "gateway_dry_run",
    "gateway_run_by",
)


async def document(
    flow: HTTPFlow, attempts: Sequence[HTTPFlow], config: Config | None, counting: Counting
) -> tuple[dict[str, Any], bytes]:
    """Return one call: ``messages`` (tokens of each), ``story``, ``attempts``, …, and its bodies as JSON.

    Those are the members ``request`` and ``answer``, without braces (see `shape.shapes`): they may be large.
    """
    facts = facts_in(flow, flow.response or flow.request)
    asked = Facts(facts.operation, facts.deployment, content_type=facts.content_type, status=facts.status)
    content_type = flow.request.headers.get("content-type", "")
    shown = await bodies.read(shapes, (flow.request, flow.response), asked, content_type)
    operation, in_path = kind_of(flow.request.method, flow.request.path)
    deployment = str(flow.metadata.get("gateway_deployment") or in_path)
    model = config.model_of(deployment) if config is not None else None
    return {
        "id": flow.id,
        "operation": operation,
        "can_be_run": can_be_run(operation),
        "session": await session_of(flow),
        "method": flow.request.method,
        "path": redact_target(flow.request.path),
        "headers": _headers(flow.request),
        "answer_headers": _headers(flow.response) if flow.response is not None else [],
        "request_bytes": _size(flow.request),
        "answer_bytes": _size(flow.response),
        "kept": flow.response is None or flow.response.raw_content is not None,
        "messages": await _tokens(counting, operation, flow.request, model),
        "price": _price(config, deployment),
        "story": story(flow),
        "timeline": flow.metadata.get("gateway_timeline", []),
        "queue_ms": flow.metadata.get("gateway_queue_ms"),
        "chunks": flow.metadata.get("gateway_chunk_times_ms", []),
        "gaps": [flow.metadata.get(f"gateway_chunk_gap_{which}_ms") for which in ("p50", "max")],
        "attempts": [_attempt(each) for each in attempts],
        "noted": {name.removeprefix("gateway_"): str(flow.metadata[name])
                  for name in SHOWN_METADATA if name in flow.metadata},
        "comment": flow.comment,
    }, shown  # fmt: skip


def _size(message: Message | None) -> int:
    return len(message.raw_content or b"") if message is not None else 0


async def _tokens(
    counting: Counting, operation: str, request: Message, model: str | None
) -> list[dict[str, Any]]:
    try:
        content = decode(
            request.raw_content or b"", request.headers.get("content-encoding"), MOST_BYTES_COUNTED
        )
    except NotDecodedError:
        return []
    if not 0 < len(content) <= MOST_BYTES_COUNTED:
        return []
    counts = await counting.count(CountMessages(operation, model, MOST_COUNTED), content)
    return [{"tokens": count.tokens, "exact": count.exact} for count in counts]


def _price(config: Config | None, deployment: str) -> dict[str, float] | None:
    price = config.price_of(deployment) if config is not None and deployment else None
    if price is None:
        return None
    cached = price.input if price.cached_input is None else price.cached_input
    return {"input": price.input, "output": price.output, "cached_input": cached}


def _headers(message: Message) -> list[list[str]]:
    pairs = message.headers.items(multi=True)
    # Some are addresses, such as a referer's.
    return [[name, redact_target(value)] for name, value in pairs if name.lower() not in SECRET_HEADERS]


def _attempt(flow: HTTPFlow) -> dict[str, Any]:
    response = flow.response
    return {
        "number": flow.metadata.get("gateway_attempt"),
        "backend": str(flow.metadata.get("gateway_backend", "")),
        "reason": str(flow.metadata.get("gateway_reason", "")),
        "comment": flow.comment,
        "status": response.status_code if response is not None else None,
        "headers": _headers(response) if response is not None else [],
        "answer": bodies.begin_of(response, MOST_ATTEMPT),
    }
