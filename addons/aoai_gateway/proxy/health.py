"""Answers for orchestrators: is the process alive, may it get traffic.

Ready means: a configuration is in force, and the gateway is listening (or it would not be asked) and not
about to leave. Whether Azure is busy, or the store of shared counters out of reach, is no reason to take a
pod out of the pool: the status is 200 still, and the body says ``degraded``, and why.
"""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING, Any

from mitmproxy import http

from aoai_gateway.proxy.own_responses import error_response
from aoai_gateway.runtime.trouble import troubles
from aoai_gateway.state.memory import MemoryState
from aoai_gateway.wire import errors
from aoai_gateway.wire.spans import rfc3339

if TYPE_CHECKING:
    from aoai_gateway.runtime.gateway import Gateway
    from aoai_gateway.state import State

LIVE = frozenset({"/health/live", "/healthz", "/health/liveliness", "/health/liveness"})
"""The last two are LiteLLM's."""
PATHS = (b"/health", b"/readyz", b"/powerproxy/")
"""How the paths of all probes begin."""

POWERPROXY_LIVE = "/powerproxy/health/liveness"
"""PowerProxy's own path; its probes want a 204."""
REACHED = re.compile(r"(?:/anthropic(?:/v1)?|/openai(?:/v1)?)?(?:/|/api/hello)?")
"""The paths at which programs ask with a HEAD, and without a key, whether their base address is reachable:
Claude Code at that address itself, or at ``/api/hello`` below it."""
READY = frozenset({"/health/ready", "/readyz", "/health/readiness"})
"""The last one is LiteLLM's."""


def answer(gateway: Gateway, method: str, path: str) -> http.Response | None:
    """Answer a health probe; None if the request is none."""
    path = path.partition("?")[0]
    if path == POWERPROXY_LIVE and method in ("GET", "HEAD"):
        return http.Response.make(204, b"", {"cache-control": "no-store"})
    if path in LIVE or path == POWERPROXY_LIVE:
        return _json(200, {"status": "alive"}, method)
    if path in READY:
        leaving = gateway.leaving and not gateway.has_successor
        ready = gateway.setup is not None and not leaving
        if ready:
            gateway.readiness_polls.note(time.monotonic())
        return _json(200 if ready else 503, readiness(gateway, ready), method)
    return None


def answer_reached(path: str) -> http.Response | None:
    """Answer a HEAD by which a program asks whether a base address is reachable; None if it is another path.

    The answer is empty, and the same with any key or none: it tells nothing, and nothing is forwarded.
    """
    if not REACHED.fullmatch(path.partition("?")[0]):
        return None
    return http.Response.make(200, b"", {"cache-control": "no-store"})


def readiness(gateway: Gateway, ready: bool) -> dict[str, Any]:
    """Tell the gateway's state in a few words: no key is needed for it, so it holds names and states.

    Why a backend is out is what its peers have said; that is for the status page.
    """
    now = time.monotonic()
    reasons = [trouble.for_strangers() for trouble in troubles(gateway)]
    status = "draining" if gateway.leaving else "starting"
    if ready:
        status = "degraded" if reasons else "ready"
    backends = []
    if gateway.setup is not None:
        for backend in gateway.setup.table.backends:
            available = gateway.engine.breaks.on(backend, now) is None
            backends.append({"name": backend.name, "available": available})
    return {
        "status": status,
        "calls": len(gateway.calls),
        "state": state_in_words(gateway.state),
        "backends": backends,
        "reasons": reasons,
    }


def state_in_words(state: State) -> str:
    """Where the counters live: ``memory``, ``shared``, or since when the shared store is lost."""
    since = state.degraded_since
    if since is not None:
        return f"degraded since {rfc3339(since)}"
    return "memory" if isinstance(state, MemoryState) else "shared"


def _json(status: int, document: dict[str, Any], method: str) -> http.Response:
    if method not in ("GET", "HEAD"):
        return error_response(errors.method_not_allowed(method, ("GET", "HEAD")))
    body = json.dumps(document).encode()
    headers = {"content-type": "application/json", "cache-control": "no-store"}
    return http.Response.make(status, body, headers)
