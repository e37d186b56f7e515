"""Which AOAI operation a request line names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import parse_qs, unquote

MEDIA = frozenset(
    {"audio/transcriptions", "audio/translations", "audio/speech", "images/generations", "images/edits"}
)
"""What is asked of a deployment and has no completion."""

DEPLOYMENT_OPERATIONS = frozenset({"chat/completions", "completions", "embeddings"}) | MEDIA
"""Operations whose classic form has the deployment in the path."""

CLAUDE = ("messages", "messages/count_tokens")
"""Operations of Anthropic's API, below ``/anthropic/v1``; all that is known of it here."""

RESPONSES = ("responses", "responses/compact", "responses/input_tokens")

RESPONSES_SOCKET = "responses/socket"
"""Responses over a WebSocket: no path of Azure's has this name."""

_API_VERSION = re.compile(r"\d{4}-\d{2}-\d{2}(-preview)?")
_V1_VERSIONS = frozenset({"", "v1", "preview", "latest"})


@dataclass(frozen=True, slots=True)
class Target:
    """An operation, and where it was found.

    `deployment` is the path's (classic form) and None where the body names it; `item` is the id of a
    stored response, `part` what is asked of it (`input_items`, `cancel`). `api_version` is `v1` for
    the v1 form. `parts` are the segments of a path to what lives at the resource, for `things`.
    `stream_after` is the number of the event after which the stream of a stored response is asked for.
    """

    operation: str
    method: str
    api_version: str
    deployment: str | None = None
    item: str | None = None
    part: str = ""
    parts: tuple[str, ...] = ()
    stream_after: int | None = None

    @property
    def date(self) -> str:
        """The api-version's date; v1 counts as later than every date."""
        return "9999-99-99" if self.api_version == "v1" else self.api_version[:10]


@lru_cache(maxsize=1024)
def parse_target(method: str, target: str) -> Target | None:
    """Read a request target in origin form; None means that AOAI would answer "Resource not found"."""
    path, _, query = target.partition("?")
    parts = path.split("/")
    if parts[:3] == ["", "anthropic", "v1"]:
        operation = "/".join(parts[3:])
        return Target(operation, method, "v1") if method == "POST" and operation in CLAUDE else None
    if len(parts) < 3 or parts[0] or parts[1] != "openai":
        return None
    version = parse_qs(query, keep_blank_values=True).get("api-version", [""])[0]
    if parts[2] == "v1":
        if version not in _V1_VERSIONS:
            return None
        if parts[3:] == ["realtime"] and method == "GET":
            return _realtime("v1", query)
        if parts[3:] == ["responses"] and method == "GET":
            return Target(RESPONSES_SOCKET, method, "v1")
        return _operation(method, "v1", parts[3:], None, query)
    if not _API_VERSION.fullmatch(version):
        return None
    if parts[2:] == ["realtime"] and method == "GET":
        return _realtime(version, query)
    if parts[2] == "deployments":
        if len(parts) < 5 or not parts[3] or "/".join(parts[4:]) not in DEPLOYMENT_OPERATIONS:
            return None
        return _operation(method, version, parts[4:], unquote(parts[3]))
    if method == "POST" and "/".join(parts[2:]) in DEPLOYMENT_OPERATIONS:
        return None
    return _operation(method, version, parts[2:], None, query)


def is_v1_with_date(target: str) -> bool:
    """Whether a request target is one of the v1 API with an api-version of the classic one."""
    path, _, query = target.partition("?")
    versions = parse_qs(query).get("api-version", [""])
    return path.startswith("/openai/v1/") and _API_VERSION.fullmatch(versions[0]) is not None


def _stream_after(query: str) -> int | None:
    named = parse_qs(query)
    if named.get("stream") != ["true"]:
        return None
    after = named.get("starting_after", ["-1"])[0]
    return int(after) if after.isdecimal() else -1


def _realtime(version: str, query: str) -> Target:
    """Read the query of a session, which names its deployment; that of a transcription need not."""
    named = parse_qs(query)
    names = named.get("deployment") or named.get("model")
    return Target("realtime", "GET", version, names[0] if names else None)


def _operation(
    method: str, version: str, parts: list[str], deployment: str | None, query: str = ""
) -> Target | None:
    path = "/".join(parts)
    if method == "POST" and path in (*DEPLOYMENT_OPERATIONS, *RESPONSES):
        return Target(path, method, version, deployment)
    if parts[0] == "models" and len(parts) <= 2 and method == "GET":
        return Target("models", method, version, item=unquote(parts[1]) if len(parts) == 2 else None)
    if parts[0] == "responses" and len(parts) in (2, 3):
        part = parts[2] if len(parts) == 3 else ""
        if (method, part) in {("GET", ""), ("DELETE", ""), ("GET", "input_items"), ("POST", "cancel")}:
            after = _stream_after(query) if (method, part) == ("GET", "") else None
            return Target("responses", method, version, item=unquote(parts[1]), part=part, stream_after=after)
    if deployment is not None or parts[0] == "responses":
        return None
    return Target(parts[0], method, version, parts=tuple(unquote(part) for part in parts))
